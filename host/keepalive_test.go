package host_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
)

func isKeepAlive(c nvme.Command) bool {
	return !c.IsFabrics() && c.Opcode() == uint8(nvme.AdminKeepAlive)
}

// An idle host sends a Keep Alive every KATO/4, as the controller counts any
// traffic; a busy one none; and a controller that does not gets one every
// KATO/2 whatever else is sent.
func TestKeepAlive(t *testing.T) {
	for _, tbkas := range []bool{true, false} {
		bubble(t, func(t *testing.T, w *world) {
			var at []time.Duration
			start := time.Now()
			w.dialer.watch = func(qid uint16, c nvme.Command) {
				if qid == 0 && isKeepAlive(c) {
					w.dialer.set(func() { at = append(at, time.Since(start)) })
				}
			}
			if !tbkas {
				w.dialer.mangle = func(_ uint16, r *transport.HostRequest) {
					c := nvme.Command(r.Command[:])
					if !c.IsFabrics() && c.Opcode() == uint8(nvme.AdminIdentify) && c.CNS() == nvme.CNSController {
						var id nvme.IdentifyController
						if err := id.Parse(r.Data); err != nil {
							t.Error(err)
						}
						id.CTRATT &^= nvme.CTRATTTBKAS
						copy(r.Data, id.AppendTo(nil))
					}
				}
			}
			cfg := w.config()
			cfg.KATO = 8 * time.Second
			c := w.connect(cfg)
			n := w.namespace(c)
			time.Sleep(13 * time.Second) // idle
			period := 4 * time.Second
			if tbkas {
				period = 2 * time.Second
			}
			synctest.Wait()
			var idle []time.Duration
			for d := period; d < 13*time.Second; d += period {
				if tbkas && d == period {
					continue // the connect was traffic
				}
				idle = append(idle, d)
			}
			if !slices.Equal(at, idle) {
				t.Errorf("TBKAS %v: idle Keep Alives at %v, want %v", tbkas, at, idle)
			}
			if n, longest := c.KeepAlives(); n != uint64(len(at)) || longest != 0 {
				t.Errorf("%d Keep Alives were answered, after %v at most; %d were sent", n, longest, len(at))
			}
			at = nil
			for range 60 { // busy
				time.Sleep(500 * time.Millisecond)
				w.must(n.Flush(context.Background()))
			}
			switch {
			case tbkas && len(at) != 0:
				t.Errorf("TBKAS: busy Keep Alives at %v", at)
			case !tbkas && (len(at) < 7 || len(at) > 8):
				t.Errorf("busy Keep Alives at %v", at)
			}
			if c.State() != host.Live || c.Reconnects() != 0 {
				t.Errorf("state %v, %d reconnects", c.State(), c.Reconnects())
			}
			w.disconnect(c)
		})
	}
}

// No answer to a Keep Alive within KATO: the connection is given up, and made
// again after ReconnectDelay.
func TestKeepAliveUnanswered(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c, l := w.connectLogged(w.config())
		var sent time.Time
		w.dialer.set(func() {
			w.dialer.swallow = func(_ uint16, c nvme.Command) bool {
				if isKeepAlive(c) {
					sent = time.Now()
				}
				return isKeepAlive(c)
			}
		})
		l.wait(t, "lost")
		if d := time.Since(sent); d != host.DefaultKATO {
			t.Errorf("given up %v after the Keep Alive", d)
		}
		if err := c.Cause(); !errors.Is(err, host.ErrLost) || !strings.Contains(err.Error(), "Keep Alive within 5s") {
			t.Errorf("cause %v", err)
		}
		w.dialer.set(func() { w.dialer.swallow = nil })
		lost := time.Now()
		l.wait(t, "reconnected")
		if d := time.Since(lost); d != host.DefaultReconnectDelay {
			t.Errorf("reconnected after %v", d)
		}
		w.must(w.namespace(c).Flush(context.Background()))
		w.disconnect(c)
	})
}

// slowDialer takes its time for I/O queues.
type slowDialer struct {
	transport.Dialer
	wait time.Duration
}

func (d slowDialer) Dial(ctx context.Context, p transport.HostQueueParam) (transport.HostQueue, error) {
	if p.QID != 0 {
		time.Sleep(d.wait)
	}
	return d.Dialer.Dial(ctx, p)
}

// The controller is kept alive while the I/O queues are still being connected.
func TestKeepAliveWhileConnecting(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		cfg := w.config()
		cfg.Dialer, cfg.NrIOQueues = slowDialer{w.dialer, 4 * time.Second}, 4
		alive := 0
		w.dialer.watch = func(_ uint16, c nvme.Command) {
			if isKeepAlive(c) {
				w.dialer.set(func() { alive++ })
			}
		}
		c := w.connect(cfg)
		if alive < 4 {
			t.Errorf("%d Keep Alives in 16s", alive)
		}
		w.must(w.namespace(c).Flush(context.Background()))
		w.disconnect(c)
	})
}
