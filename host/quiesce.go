package host

import (
	"context"
	"errors"
	"time"

	"github.com/fabrid/fabrid/nvme"
)

// A controller that is lost with commands that write may still execute them, a
// while after it has been connected again: such a late write would undo a newer
// one to the same blocks. So nothing that writes is sent until the old controller
// is known to process nothing any more [Base, Communication Loss Handling],
// whether it is sent again or for the first time. What only reads does not wait.
//
// That the controller is done we know
//
//   - at once, if it still answers on its admin queue and becomes not ready when
//     it is disabled (quiesce);
//   - by time otherwise (quiesceTime).
//
// Without keep alive there is no such time: then commands that write, and that a
// loss interrupts, fail.

// disableTimeout bounds how long a lost controller is given to become not ready.
const disableTimeout = 5 * time.Second

var errNotQuiesced = errors.New("host: not disabled in time")

// quiesce disables the controller, if its admin queue still works, and reports
// whether it has become not ready: it processes no command any more.
func (s *session) quiesce() bool {
	if s.adminQueue == nil || s.adminUp.Err() != nil {
		return false
	}
	ctx, cancel := context.WithTimeoutCause(s.adminUp, disableTimeout, errNotQuiesced)
	defer cancel()
	defer context.AfterFunc(s.ctrl.stopping, cancel)() // a user who leaves does not wait
	set := func(c nvme.Command) { c.PutPropertySet(nvme.PropertyCC, uint64(s.cc.WithEN(false))) }
	if _, err := s.execUntil(ctx, ctx, s.adminQueue, s.adminQueue.submitNow, "Property Set CC", set, nil); err != nil {
		return false
	}
	return s.awaitUntil(ctx, ctx, disableTimeout, "disabled", func(c nvme.CSTS) bool { return !c.RDY() }) == nil
}

// quiesceTime is how long after its last connection has gone the controller may
// process commands: until it has noticed, which takes it up to two of the periods
// in which it counts keep alives, or three if any traffic counts, because what
// came last may have come at the beginning of a period; and then CQT. A
// controller that reports no CQT is taken to stop at once.
func (s *session) quiesceTime() time.Duration {
	kato := s.ctrl.cfg.KATO
	if kato == Off {
		return 0
	}
	id := &s.info.Identify
	if unit := time.Duration(id.KAS) * 100 * time.Millisecond; unit > 0 {
		kato = (kato + unit - 1) / unit * unit // as the controller may round it
	}
	periods := time.Duration(2)
	if id.CTRATT&nvme.CTRATTTBKAS != 0 {
		periods = 3
	}
	return periods*kato + time.Duration(id.CQT)*time.Millisecond
}
