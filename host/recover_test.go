package host_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
)

// sent notes when commands with an opcode are sent on I/O queues.
func (w *world) sent(op nvme.IOOpcode) func() []time.Duration {
	start := time.Now()
	var at []time.Duration
	w.dialer.set(func() {
		w.dialer.watch = func(qid uint16, c nvme.Command) {
			if qid != 0 && !c.IsFabrics() && c.Opcode() == uint8(op) {
				w.dialer.set(func() { at = append(at, time.Since(start)) })
			}
		}
	})
	return func() (all []time.Duration) {
		w.dialer.set(func() { all = at })
		return all
	}
}

// A write that was lost with its controller may be executed late. Until that is
// over nothing is written: neither the same again, nor anything new, which a late
// write would undo. Reads do not wait.
func TestLateWrite(t *testing.T) {
	for _, x := range []struct {
		name   string
		edit   func(*nvme.IdentifyController)
		losses int
		want   time.Duration
	}{
		{"traffic based keep alive", func(id *nvme.IdentifyController) {}, 1, 15 * time.Second},
		{"command based keep alive", func(id *nvme.IdentifyController) { id.CTRATT &^= nvme.CTRATTTBKAS }, 1, 10 * time.Second},
		{"CQT", func(id *nvme.IdentifyController) { id.CQT = 2500 }, 1, 17500 * time.Millisecond},
		{"KAS", func(id *nvme.IdentifyController) { id.KAS = 60 }, 1, 18 * time.Second},
		{"another loss meanwhile", func(id *nvme.IdentifyController) {}, 3, 15 * time.Second},
	} {
		t.Run(x.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.identify(x.edit)
				cfg := w.config()
				cfg.ReconnectDelay = time.Second
				c, l := w.connectLogged(cfg)
				n := w.namespace(c)
				w.swallow(1, nvme.IOWrite)
				data := bytes.Repeat([]byte{3}, 512)
				writes := w.sent(nvme.IOWrite)
				lost := async(func() error { return n.Write(context.Background(), 0, data) })
				synctest.Wait()
				start := time.Now()
				for range x.losses {
					w.cut(adminQueue)
					l.wait(t, "reconnected")
				}
				fresh := async(func() error { return n.Write(context.Background(), 8, data) })
				zero := async(func() error { return n.WriteZeroes(context.Background(), 16, 1, false) })
				w.must(n.Read(context.Background(), 0, make([]byte, 512)))
				w.must(n.Flush(context.Background()))
				if d := time.Since(start); d != time.Duration(x.losses)*time.Second {
					t.Errorf("read after %v", d)
				}
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				if err := n.Write(ctx, 24, data); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("a write that does not wait so long: %v", err)
				}
				w.must(<-lost)
				w.must(<-fresh)
				w.must(<-zero)
				if got, want := writes(), []time.Duration{0, x.want, x.want}; fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("writes sent at %v, want %v", got, want)
				}
				w.must(n.Compare(context.Background(), 0, data))
				w.must(n.Write(context.Background(), 0, data)) // at once
				if d := time.Since(start); d != x.want {
					t.Errorf("the last write after %v", d)
				}
				w.disconnect(c)
			})
		})
	}
}

// A controller that still answers is disabled: what it had it does not execute
// any more, so that nothing waits.
func TestQuiesce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		cfg := w.config()
		cfg.ReconnectDelay = time.Second
		c, l := w.connectLogged(cfg)
		n := w.namespace(c)
		w.swallow(2, nvme.IOWrite)
		data := bytes.Repeat([]byte{3}, 512)
		lost := async(func() error { return n.Write(context.Background(), 0, data) })
		other := async(func() error { return n.Write(context.Background(), 1, data) }) // on the other queue
		synctest.Wait()
		disabled := false
		w.dialer.set(func() {
			w.dialer.watch = func(qid uint16, c nvme.Command) {
				if qid == 0 && c.IsFabrics() && c.FCTYPE() == nvme.FabricsPropertySet {
					if p := c.Property(); p.Offset == nvme.PropertyCC && !nvme.CC(p.Value).EN() {
						disabled = true
					}
				}
			}
		})
		start := time.Now()
		w.cut(ioQueue)
		l.wait(t, "reconnected")
		w.must(<-lost)
		w.must(<-other)
		if d := time.Since(start); d != time.Second || !disabled {
			t.Errorf("written after %v, the controller was disabled: %v", d, disabled)
		}
		w.disconnect(c)
	})
}

// What a controller refuses because we have disabled it is sent again.
func TestQuiesceRefuses(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c, l := w.connectLogged(w.config())
		n := w.namespace(c)
		w.swallow(2, nvme.IOWrite)
		data := bytes.Repeat([]byte{3}, 512)
		one := async(func() error { return n.Write(context.Background(), 0, data) })
		two := async(func() error { return n.Write(context.Background(), 0, data) }) // on the other queue
		synctest.Wait()
		queues := w.dialer.all[1:]
		w.dialer.set(func() {
			w.dialer.watch = func(_ uint16, c nvme.Command) {
				if c.IsFabrics() && c.FCTYPE() == nvme.FabricsPropertySet {
					w.dialer.set(func() { w.dialer.watch = nil })
					go func() {
						_ = queues[0].Shard().Run(func() { queues[0].answer(nvme.CommandSequenceError.WithDNR()) })
					}()
					synctest.Wait()
				}
			}
		})
		w.must(queues[1].Shard().Run(func() { queues[1].Shard().Post(&queues[1].cut) }))
		l.wait(t, "reconnected")
		w.must(<-one)
		w.must(<-two)
		w.disconnect(c)
	})
}

// A controller that does not become not ready is not taken for one that does.
func TestQuiesceFails(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		cfg := w.config()
		cfg.ReconnectDelay = time.Second
		c, l := w.connectLogged(cfg)
		n := w.namespace(c)
		w.swallow(1, nvme.IOWrite)
		lost := async(func() error { return n.Write(context.Background(), 0, make([]byte, 512)) })
		synctest.Wait()
		w.dialer.set(func() {
			w.dialer.mangle = func(qid uint16, r *transport.HostRequest) {
				c := nvme.Command(r.Command[:])
				if c.IsFabrics() && c.FCTYPE() == nvme.FabricsPropertyGet && c.Property().Offset == nvme.PropertyCSTS {
					r.Completion.Result |= 1
				}
			}
		})
		start := time.Now()
		w.cut(ioQueue)
		l.wait(t, "reconnected")
		w.must(<-lost)
		if d := time.Since(start); d < 20*time.Second || d > 21*time.Second {
			t.Errorf("written after %v, want 5 s to disable, and 15 s", d)
		}
		w.disconnect(c)
	})
}

// Without keep alive nobody knows when a lost controller is done: a write that
// the loss interrupts fails. A read does not.
func TestNoKeepAlive(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		cfg := w.config()
		cfg.KATO = host.Off
		c := w.connect(cfg)
		n := w.namespace(c)
		w.swallow(2, nvme.IOWrite, nvme.IORead)
		write := async(func() error { return n.Write(context.Background(), 7, make([]byte, 1024)) })
		read := async(func() error { return n.Read(context.Background(), 0, make([]byte, 512)) })
		synctest.Wait()
		w.cut(adminQueue)
		err := <-write
		var pe *host.PathError
		if !errors.As(err, &pe) || !pe.Unknown || !errors.Is(err, host.ErrLost) || pe.Command != "Write" || pe.LBA != 7 || pe.Blocks != 2 || pe.NSID != 1 {
			t.Errorf("the write: %v", err)
		}
		w.must(<-read)
		w.disconnect(c)
	})
}

// CtrlLossTMO counts from the loss, whatever an attempt may take.
func TestCtrlLossDuringAttempt(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		cfg := w.config()
		cfg.CtrlLossTMO = 25 * time.Second
		c, l := w.connectLogged(cfg)
		w.dialer.set(func() { w.dialer.stall = true })
		start := time.Now()
		w.unplug()
		l.wait(t, "dead")
		if d := time.Since(start); d != 25*time.Second {
			t.Errorf("given up after %v", d)
		}
		if k := len(w.dialer.adminDials()) - 1; k != 1 {
			t.Errorf("%d attempts", k)
		}
		if err := c.Cause(); !errors.Is(err, host.ErrLost) {
			t.Errorf("cause: %v", err)
		}
		w.disconnect(c)
	})
}

// What fails after FastIOFailTMO says whether it may have been executed.
func TestFastIOFailSays(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		cfg := w.config()
		cfg.FastIOFailTMO, cfg.CtrlLossTMO = 3*time.Second, host.Forever
		c, l := w.connectLogged(cfg)
		n := w.namespace(c)
		w.swallow(1, nvme.IOWrite)
		sent := async(func() error { return n.Write(context.Background(), 0, make([]byte, 512)) })
		synctest.Wait()
		start := time.Now()
		w.cut(adminQueue)
		l.wait(t, "lost")
		synctest.Wait() // the I/O queues are taken down, too
		unsent := async(func() error { return n.Write(context.Background(), 0, make([]byte, 512)) })
		for _, x := range []struct {
			err     error
			unknown bool
		}{{<-sent, true}, {<-unsent, false}} {
			var pe *host.PathError
			if !errors.As(x.err, &pe) || pe.Unknown != x.unknown || !errors.Is(x.err, host.ErrLost) || time.Since(start) != 3*time.Second {
				t.Errorf("unknown %v: %v after %v", x.unknown, x.err, time.Since(start))
			}
		}
		l.wait(t, "reconnected")
		w.must(n.Write(context.Background(), 0, make([]byte, 512)))
		if d := time.Since(start); d != 15*time.Second { // who was told of a failure writes something else
			t.Errorf("the next write after %v", d)
		}
		w.disconnect(c)
	})
}

// A status that speaks of a passing state is given time, more each time.
func TestBackoff(t *testing.T) {
	for _, x := range []struct {
		fails, max int
		s          nvme.Status
		tries      int
		after      time.Duration
		ok         bool
	}{
		{3, 0, nvme.NamespaceNotReady, 4, 700 * time.Millisecond, true},
		{9, 0, nvme.CommandInterrupted, 6, 3100 * time.Millisecond, false},
		{3, 0, nvme.InternalError, 4, 0, true},
		{9, -1, nvme.NamespaceNotReady, 1, 0, false},
		{30, 30, nvme.NamespaceNotReady, 31, 1302300 * time.Millisecond, true}, // a minute at most
	} {
		bubble(t, func(t *testing.T, w *world) {
			cfg := w.config()
			cfg.MaxRetries = x.max
			c := w.connect(cfg)
			n := w.namespace(c)
			tries := w.refuse(x.fails, x.s)
			start := time.Now()
			err := n.Flush(context.Background())
			if (err == nil) != x.ok || int(tries.Load()) != x.tries || time.Since(start) != x.after {
				t.Errorf("%d times %v: %v after %d tries and %v", x.fails, x.s, err, tries.Load(), time.Since(start))
			}
			w.dialer.set(func() { w.dialer.mangle = nil })
			w.disconnect(c)
		})
	}
}
