package host_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
)

// A command for which the controller has no path is tried every second, however
// often, until there is one or the time for that is over.
func TestNoPath(t *testing.T) {
	for _, x := range []struct {
		name     string
		s        nvme.Status
		fastFail time.Duration
		ctrlLoss time.Duration
		fails    int
		after    time.Duration
		ok       bool
	}{
		{"inaccessible", nvme.ANAInaccessible, host.Off, 0, 30, 30 * time.Second, true},
		{"change", nvme.ANATransition, host.Off, host.Forever, 3000, 3000 * time.Second, true},
		{"for too long", nvme.ANAInaccessible, 4500 * time.Millisecond, 0, 1000, 4500 * time.Millisecond, false},
		{"given up as a lost one", nvme.ANATransition, host.Off, 60 * time.Second, 1000, time.Minute, false},
		{"no time", nvme.ANAInaccessible, host.Off, host.Off, 1, 0, false},
		{"persistent loss", nvme.ANAPersistentLoss, host.Off, 0, 1, 0, false},
		{"DNR", nvme.ANAInaccessible.WithDNR(), host.Off, 0, 1, 0, false},
	} {
		t.Run(x.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				cfg := w.config()
				cfg.FastIOFailTMO, cfg.CtrlLossTMO = x.fastFail, x.ctrlLoss
				c := w.connect(cfg)
				n := w.namespace(c)
				w.refuse(x.fails, x.s)
				start := time.Now()
				err := n.Read(context.Background(), 3, make([]byte, 512))
				if (err == nil) != x.ok || time.Since(start) != x.after {
					t.Errorf("%v after %v", err, time.Since(start))
				}
				var pe *host.PathError
				var ce *host.CommandError
				if err != nil && (!errors.As(err, &pe) || pe.Unknown || pe.LBA != 3 || !errors.As(err, &ce) || !errors.Is(err, x.s)) {
					t.Errorf("error %#v", err)
				}
				w.dialer.set(func() { w.dialer.mangle = nil })
				w.disconnect(c)
			})
		})
	}
}

// A controller says which state its groups are in, and when that changes: then
// what waits for a path is tried at once.
func TestANAChange(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		state := nvme.ANAStateInaccessible
		var aer *transport.HostRequest
		w.identify(func(id *nvme.IdentifyController) {
			id.CMIC |= nvme.CMICANA
			id.OAES |= nvme.AsyncConfigANA
			id.ANAGRPMAX, id.NANAGRPID = 1, 1
		})
		identify := w.dialer.mangle
		var asked nvme.AsyncEventConfig
		w.dialer.mangle = func(qid uint16, r *transport.HostRequest) {
			c := nvme.Command(r.Command[:])
			switch {
			case qid != 0 && !c.IsFabrics():
				r.Completion.Status = state.Status()
			case c.IsFabrics():
			case c.Opcode() == uint8(nvme.AdminIdentify) && c.CNS() == nvme.CNSNamespace:
				r.Data[92] = 1 // ANAGRPID
			case c.Opcode() == uint8(nvme.AdminSetFeatures) && c.FID() == nvme.FeatureAsyncEventConfig:
				asked, r.Completion.Status = nvme.AsyncEventConfig(c.CDW(11)), nvme.Success
			case c.Opcode() == uint8(nvme.AdminGetLogPage) && c.GetLogPage().LID == nvme.LogANA:
				log := nvme.ANALog{Groups: []nvme.ANAGroup{{ID: 1, State: state}}}
				r.Completion.Status = nvme.Success
				copy(r.Data, log.AppendTo(nil))
			default:
				identify(qid, r)
			}
		}
		w.dialer.swallow = func(qid uint16, c nvme.Command) bool {
			return qid == 0 && !c.IsFabrics() && c.Opcode() == uint8(nvme.AdminAsyncEventRequest)
		}
		c := w.connect(w.config())
		n := w.namespace(c)
		if s := n.ANAState(); s != nvme.ANAStateInaccessible || asked&nvme.AsyncConfigANA == 0 {
			t.Errorf("state %v, events %#x", s, uint32(asked))
		}
		read := async(func() error { return n.Read(context.Background(), 0, make([]byte, 512)) })
		time.Sleep(100 * time.Millisecond)
		start := time.Now()
		q := w.dialer.admin
		w.must(q.Shard().Run(func() {
			state = nvme.ANAOptimized
			aer, q.swallowed = q.swallowed[0], nil
			aer.Err, aer.Completion = nil, nvme.Completion{Result: uint64(nvme.EventANAChange)}
			aer.Done(aer)
		}))
		w.must(<-read)
		if d := time.Since(start); d != 0 {
			t.Errorf("read %v after the change", d)
		}
		synctest.Wait()
		if s := n.ANAState(); s != nvme.ANAOptimized {
			t.Errorf("state %v", s)
		}
		if k := len(q.swallowed); k != 1 {
			t.Errorf("%d Asynchronous Event Requests outstanding", k)
		}
		w.disconnect(c)
	})
}
