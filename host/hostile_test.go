package host_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
)

// The longest time that CRTO can say is long, and not none.
func TestLongestReadyTimeout(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.readyLate(3*time.Second, func(c nvme.CAP) nvme.CAP { return c.WithCRWMS(true).WithTO(1) }, 0xFFFF)
		start := time.Now()
		c := w.connect(w.config())
		if d := time.Since(start); d < 3*time.Second {
			t.Errorf("connected after %v", d)
		}
		w.disconnect(c)
	})
}

// A controller that answers each Asynchronous Event Request at once does not
// make us remember more than the user has been told.
func TestEventFlood(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		const flood, mark = 1000, 0xF100D
		var requests, told atomic.Int32
		w.dialer.watch = func(_ uint16, c nvme.Command) {
			if nvme.AdminOpcode(c.Opcode()) == nvme.AdminAsyncEventRequest && requests.Add(1) <= flood {
				c.PutKeepAlive() // which is answered at once
				c.SetCDW(15, mark)
			}
		}
		w.dialer.mangle = func(_ uint16, r *transport.HostRequest) {
			if nvme.Command(r.Command[:]).CDW(15) == mark {
				r.Completion.Result = uint64(nvme.MakeAsyncEvent(nvme.AsyncVendor, 0, 0))
			}
		}
		cfg := w.config()
		release := make(chan struct{})
		cfg.Events.AsyncEvent = func(nvme.AsyncEvent) { <-release; told.Add(1) }
		c := w.connect(cfg)
		time.Sleep(time.Second)
		if n := requests.Load(); n > 2 {
			t.Errorf("%d events are remembered for a user who is busy with the first", n)
		}
		w.must(w.namespace(c).Flush(context.Background())) // not held up
		close(release)
		time.Sleep(time.Second)
		if n := told.Load(); n != flood {
			t.Errorf("told of %d events of %d", n, flood)
		}
		w.disconnect(c)
	})
}
