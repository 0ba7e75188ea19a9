package target

import (
	"errors"
	"fmt"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
)

// A request is what the core keeps per command, in an array of its queue by
// the index of the transport's request. It is in use from Receive until the
// fabric's Complete:
//
//	begin ── wrong ─────────────────────────────────────┐
//	  │ data from the host: Pull     ┐                  │
//	  │ data to the host: Reserve    ├─ dataReady ─ run ┤ complete
//	  │ none                         ┘     ^    └ start ┘
//	  └────────────────────────────────────┘      │  ^
//	                                        device└──┘ opDone
//
// A command of several steps (a range of many, a piece of what is too long for
// one op, a namespace of all) goes from opDone to its next step, in a turn of its
// own.
type request struct {
	q   *queue
	r   *transport.Request
	cmd *command
	ns  *Namespace // of an I/O command

	offset, length uint64 // of an I/O command, on the device, in bytes
	lba            uint64 // that an error is about, for the log
	result         uint64 // of the completion

	stage    stage
	recalled bool // an Asynchronous Event Request that no event has ended
	aborted  bool // Abort has asked for its end, and it goes on at most to the end of its step
	tallied  bool // tally.begin was told

	steps *steps // nil before the first command that has some
	op    bdev.Op
}

// A stage is where a request is, for those who want it to end early.
type stage uint8

const (
	stageFree    stage = iota // the fabric's
	stageCore                 // with the core, which is at it
	stageFabric               // Pull or Reserve was called, and DataReady is due
	stageDevice               // a device has its op
	stageLine                 // in the line for memory of its namespace
	stageTurn                 // its turn is posted
	stageEvent                // an Asynchronous Event Request that waits
	stageParked               // in queue.parked
	stageForeign              // an Abort that waits for another shard
)

// steps is how far a command of several steps has got.
type steps struct {
	turn    shard.Task // goes on with the next
	next    int        // the range that comes, or the namespace that was last
	done    uint64     // bytes of the range
	to      uint64     // Copy: where the range goes
	writing bool       // Copy: of the piece, the write
	buf     []byte     // memory of the namespace's, or nil
	data    [1][]byte

	ahead, behind *request // in the line for it; guarded by bounce.mu
}

// Errors that are made once.
var (
	errNoKATO  error = nvme.KeepAliveInvalid.WithDNR()
	errAborted error = nvme.AbortedSQDeletion // without DNR: elsewhere, or later, it may go well

	// errLeaving is a command that comes when the queue is leaving. It is not
	// answered: a host would try it again at once, a few times, and give up. It
	// waits until the connection is gone and the host knows.
	errLeaving = fmt.Errorf("target: queue leaving: %w", errAborted)
)

// invalidField returns Invalid Field in Command for the field at that byte of
// the command.
func invalidField(field string, offset int) error { return invalidBit(field, offset, 0) }

// invalidBit is invalidField for a field that begins with that bit of the byte.
func invalidBit(field string, offset int, bit uint8) error {
	return &nvme.FieldError{Status: nvme.InvalidField.WithDNR(), Field: field, Offset: offset, Bit: bit}
}

// Fields that every command has.
var (
	errOpcode error = &nvme.FieldError{Status: nvme.InvalidOpcode.WithDNR(), Field: "OPC", Offset: offOpcode}
	errFUSE         = invalidBit("FUSE", offFlags, 0)
	errPSDT         = invalidBit("PSDT", offFlags, 6)
	errLength error = &nvme.FieldError{Status: nvme.SGLInvalidDataLength.WithDNR(), Field: "DPTR", Offset: offDPTR}
)

// Byte offsets of fields that every command has.
const (
	offOpcode = 0
	offFlags  = 1
	offNSID   = 4
	offDPTR   = 24
)

// begin takes a command that has arrived.
func (rq *request) begin(r *transport.Request) {
	q := rq.q
	q.held++
	rq.r, rq.cmd, rq.ns, rq.result, rq.lba = r, nil, nil, 0, 0
	rq.stage, rq.recalled, rq.aborted = stageCore, false, false
	if rq.tallied = q.qid != 0; rq.tallied {
		q.tally.begin(q.shard().Now())
	}
	if err := rq.check(); err != nil {
		if err == errLeaving && !q.down {
			rq.stage = stageParked
			q.parked = append(q.parked, rq)
			return
		}
		rq.complete(err)
		return
	}
	rq.stage = stageFabric
	switch {
	case r.Length == 0:
		rq.dataReady()
	case rq.cmd.dir == nvme.HostToController:
		q.fabric.Pull(r)
	case q.fabric.Reserve(r, r.Length):
		rq.dataReady()
	}
}

// check finds the command's row and tells what is wrong before any data is
// moved.
func (rq *request) check() error {
	q, r := rq.q, rq.r
	if q.leaving || q.down {
		return errLeaving
	}
	if !r.SGLStatus.OK() {
		return r.SGLStatus
	}
	if r.Command.FUSE() != 0 {
		return errFUSE // FUSES says that there is no fused operation
	}
	if r.Command.PSDT() != nvme.PSDTSGL {
		return errPSDT
	}
	cmd := q.find(r.Command)
	if cmd == nil {
		return errOpcode
	}
	if !cmd.always && !q.ctrl.ready.Load() {
		return q.ctrl.notReady()
	}
	rq.cmd = cmd
	var size uint64
	if cmd.size != nil {
		var err error
		if size, err = cmd.size(rq); err != nil {
			return err
		}
	}
	length := uint64(r.Length)
	if length != size && (!cmd.more || length < size || length > cmd.most) {
		return errLength
	}
	if most := q.maxData(); length > most {
		return invalidField("DPTR", offDPTR)
	}
	return nil
}

// maxData returns how many bytes a command may transfer: what MDTS says, and
// what the queue's own fabric can do.
func (q *queue) maxData() uint64 {
	most := uint64(q.param.Limits.MaxData)
	if q.ctrl != nil {
		most = min(most, q.ctrl.maxData)
	}
	return most
}

// dataReady carries the command out: its data, if any, is in place.
func (rq *request) dataReady() {
	rq.stage = stageCore
	switch {
	case rq.stopped():
	case rq.cmd.start != nil:
		rq.cmd.start(rq)
	default:
		rq.complete(rq.cmd.run(rq))
	}
}

// stopped completes the request if it is to go no further.
func (rq *request) stopped() bool {
	switch {
	case rq.q.down:
		rq.complete(errAborted) // nothing is submitted any more: its end was waited for
	case rq.aborted:
		rq.complete(nvme.AbortRequested)
	default:
		return false
	}
	return true
}

// inSteps makes the request one of several steps, of which none is done.
func (rq *request) inSteps() *steps {
	s := rq.steps
	if s == nil {
		s = new(steps)
		s.turn.Fn = rq.takeTurn
		rq.steps = s
	}
	s.next, s.done, s.to, s.writing = 0, 0, 0, false
	return s
}

// again goes on with the next step in a round of its own: a device that never
// waits would do them all at once, for each command of a batch, and the shard is
// everybody's.
func (rq *request) again() {
	if rq.q.shard().Post(&rq.steps.turn) {
		rq.stage = stageTurn
		return
	}
	rq.cmd.step(rq)
}

// takeTurn runs on the shard when the turn has come.
func (rq *request) takeTurn() {
	rq.stage = stageCore
	rq.cmd.step(rq)
}

// complete ends the request. It is the one place where an error becomes a
// status. The request is not the core's any more when it returns.
func (rq *request) complete(err error) {
	q, r := rq.q, rq.r
	c := &r.Completion
	*c = nvme.Completion{CID: r.Command.CID(), SQHD: q.nextSQHD(), Result: rq.result}
	if err != nil {
		rq.fail(err)
	}
	if q.tally != nil {
		q.tally.count(rq, q.qid)
		if rq.tallied {
			q.tally.end(q.shard().Now())
		}
	}
	if rq.steps != nil && rq.steps.buf != nil {
		rq.giveBuffer()
	}
	rq.ns, rq.stage = nil, stageFree
	q.fabric.Complete(r)
	q.held--
	if q.leaving || q.down {
		q.settle()
	}
}

// fail sets the completion to an error, and notes in the log of the controller
// what field, or which block, it was about.
func (rq *request) fail(err error) {
	q, c := rq.q, &rq.r.Completion
	c.Status = nvme.StatusOf(err)
	fe, ok := errors.AsType[*nvme.FieldError](err)
	switch {
	case !ok && c.Status.Type() != nvme.SCTMedia:
	case q.ctrl == nil:
		if !ok {
			break
		}
		// Not yet connected: there is no log, but a Connect's result says it.
		switch c.Status.Base() {
		case nvme.ConnectInvalidParameters, nvme.ConnectInvalidHost:
			c.Result = uint64(fe.ConnectResult())
		}
	case !q.ctrl.isDiscovery(): // which has no such log
		q.ctrl.logError(rq, fe)
		c.Status = c.Status.WithMore()
	}
}

// reply copies page, or as much of it as was asked for, to the host's data;
// what was asked for beyond its end is zero.
func (rq *request) reply(page []byte) {
	for _, d := range rq.r.Data {
		n := copy(d, page)
		clear(d[n:])
		page = page[n:]
	}
}

// dataAt copies the host's data from byte off on to b and returns how many
// bytes there were.
func (rq *request) dataAt(b []byte, off int) int {
	n := 0
	for _, d := range rq.r.Data {
		if off >= len(d) {
			off -= len(d)
			continue
		}
		n += copy(b[n:], d[off:])
		off = 0
	}
	return n
}

// dataError is what a request ends with whose data could not be moved.
func dataError(err error) error {
	if s, ok := errors.AsType[nvme.Status](err); ok {
		return s
	}
	return fmt.Errorf("%w: %w", nvme.DataTransferError, err)
}
