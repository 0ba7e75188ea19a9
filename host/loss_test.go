package host_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport"
)

// bubble runs fn in a world of simulated shards and virtual time.
func bubble(t *testing.T, fn func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true, target.SubsystemConfig{})
		fn(t, w)
		w.close()
	})
}

// async runs fn on a goroutine of its own.
func async(fn func() error) <-chan error {
	c := make(chan error, 1)
	go func() { c <- fn() }()
	return c
}

// Attempts come every 10 s exactly, and I/O waits for the one that succeeds.
func TestReconnect(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c, l := w.connectLogged(w.config())
		n := w.namespace(c)
		data := bytes.Repeat([]byte{7}, 4096)
		w.must(n.Write(context.Background(), 8, data))

		lost := time.Now()
		w.unplug()
		l.wait(t, "lost")
		if c.State() != host.Connecting || !errors.Is(c.Cause(), host.ErrLost) {
			t.Errorf("state %v, cause %v", c.State(), c.Cause())
		}
		got := make([]byte, 4096)
		read := async(func() error { return n.Read(context.Background(), 8, got) })
		ident := async(func() error {
			_, err := c.Identify(context.Background(), nvme.IdentifyCommand{CNS: nvme.CNSController})
			return err
		})
		time.Sleep(35 * time.Second)
		select {
		case err := <-read:
			t.Fatalf("the read did not wait: %v", err)
		default:
		}
		w.listen()
		w.must(<-read)
		if d := time.Since(lost); d != 40*time.Second || !bytes.Equal(got, data) {
			t.Errorf("read after %v, the right data: %v", d, bytes.Equal(got, data))
		}
		w.must(<-ident)
		l.wait(t, "reconnected")
		var at []time.Duration
		for _, d := range w.dialer.adminDials()[1:] {
			at = append(at, d.Sub(lost))
		}
		if want := []time.Duration{10 * time.Second, 20 * time.Second, 30 * time.Second, 40 * time.Second}; !slices.Equal(at, want) {
			t.Errorf("attempts at %v, want %v", at, want)
		}
		if want := []string{"lost", "connect failed", "connect failed", "connect failed", "reconnected"}; !slices.Equal(l.all, want) {
			t.Errorf("events %q, want %q", l.all, want)
		}
		if c.Reconnects() != 1 || c.State() != host.Live {
			t.Errorf("%d reconnects, state %v", c.Reconnects(), c.State())
		}
		w.disconnect(c)
	})
}

// CtrlLossTMO after the loss the controller is given up, and what waited for it
// fails.
func TestCtrlLoss(t *testing.T) {
	for _, x := range []struct {
		name       string
		delay, tmo time.Duration
		attempts   int
	}{
		{"defaults", 0, 0, 59},
		{"no multiple", 4 * time.Second, 10 * time.Second, 2},
		{"no time for an attempt", 10 * time.Second, 5 * time.Second, 0},
		{"off", 0, host.Off, 0},
	} {
		t.Run(x.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				cfg := w.config()
				cfg.ReconnectDelay, cfg.CtrlLossTMO = x.delay, x.tmo
				c, l := w.connectLogged(cfg)
				n := w.namespace(c)
				lost := time.Now()
				w.unplug()
				flush := async(func() error { return n.Flush(context.Background()) })
				l.wait(t, "dead")
				want := max(x.tmo, 0)
				if x.tmo == 0 {
					want = host.DefaultCtrlLossTMO
				}
				if d := time.Since(lost); d != want {
					t.Errorf("given up after %v, want %v", d, want)
				}
				if k := len(w.dialer.adminDials()) - 1; k != x.attempts {
					t.Errorf("%d attempts, want %d", k, x.attempts)
				}
				if err := <-flush; !errors.Is(err, host.ErrLost) {
					t.Errorf("what waited ended with %v", err)
				}
				if err := n.Flush(context.Background()); !errors.Is(err, host.ErrLost) {
					t.Errorf("what came later ended with %v", err)
				}
				if _, err := c.Identify(context.Background(), nvme.IdentifyCommand{CNS: nvme.CNSController}); !errors.Is(err, host.ErrLost) {
					t.Errorf("Identify ended with %v", err)
				}
				<-c.Done()
				w.disconnect(c)
			})
		})
	}
}

// There is no end with Forever, but Disconnect's.
func TestReconnectForever(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		cfg := w.config()
		cfg.CtrlLossTMO = host.Forever
		c := w.connect(cfg)
		n := w.namespace(c)
		w.unplug()
		flush := async(func() error { return n.Flush(context.Background()) })
		time.Sleep(24*time.Hour + time.Second)
		if k := len(w.dialer.adminDials()) - 1; k != 8640 || c.State() != host.Connecting {
			t.Errorf("%d attempts, state %v", k, c.State())
		}
		w.disconnect(c)
		if err := <-flush; !errors.Is(err, host.ErrClosed) {
			t.Errorf("what waited ended with %v", err)
		}
	})
}

// A status with DNR ends the attempts; one without does not.
func TestReconnectDNR(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c, l := w.connectLogged(w.config())
		busy := true
		w.dialer.set(func() {
			w.dialer.mangle = func(_ uint16, r *transport.HostRequest) {
				if c := nvme.Command(r.Command[:]); busy && c.IsFabrics() && c.FCTYPE() == nvme.FabricsConnect {
					r.Completion.Status = nvme.ConnectControllerBusy // without DNR
				}
			}
		})
		lost := time.Now()
		w.unplug()
		w.listen()
		l.wait(t, "connect failed")
		l.wait(t, "connect failed")
		w.dialer.set(func() { busy = false })
		w.must(w.port.Unlink(w.sub)) // unknown here from now on: DNR
		l.wait(t, "dead")
		if d := time.Since(lost); d != 30*time.Second {
			t.Errorf("given up after %v", d)
		}
		if err := c.Cause(); !host.DNR(err) || !errors.Is(err, host.ErrLost) || !errors.Is(err, nvme.ConnectInvalidParameters) {
			t.Errorf("cause %v", err)
		}
		w.disconnect(c)
	})
}

func TestFastIOFail(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		cfg := w.config()
		cfg.FastIOFailTMO = 15 * time.Second
		c, l := w.connectLogged(cfg)
		n := w.namespace(c)
		lost := time.Now()
		w.unplug()
		if err := n.Flush(context.Background()); !errors.Is(err, host.ErrLost) || time.Since(lost) != 15*time.Second {
			t.Errorf("%v after %v", err, time.Since(lost))
		}
		if err := n.Flush(context.Background()); !errors.Is(err, host.ErrLost) || time.Since(lost) != 15*time.Second {
			t.Errorf("the next: %v after %v", err, time.Since(lost))
		}
		w.listen()
		l.wait(t, "reconnected")
		w.must(n.Flush(context.Background()))
		w.disconnect(c)
	})
}

// Commands that the loss interrupted are sent again; with NoRequeue they fail.
func TestInterruptedCommands(t *testing.T) {
	for _, noRequeue := range []bool{false, true} {
		bubble(t, func(t *testing.T, w *world) {
			cfg := w.config()
			cfg.NoRequeue = noRequeue
			c, l := w.connectLogged(cfg)
			n := w.namespace(c)
			w.dev.Hold()
			data := bytes.Repeat([]byte{9}, 100<<10) // two commands
			write := async(func() error { return n.Write(context.Background(), 0, data) })
			flush := async(func() error { return n.Flush(context.Background()) })
			synctest.Wait()
			if k := w.dev.Held(); k != 3 {
				t.Errorf("%d ops at the device", k)
			}
			go func() {
				time.Sleep(time.Second)
				w.dev.Release()
			}()
			w.unplug()
			w.listen()
			l.wait(t, "reconnected")
			for _, err := range []error{<-write, <-flush} {
				if noRequeue && (!errors.Is(err, host.ErrLost) || !errors.Is(err, transport.ErrQueueDown)) || !noRequeue && err != nil {
					t.Errorf("NoRequeue %v: %v", noRequeue, err)
				}
			}
			if !noRequeue {
				w.must(n.Compare(context.Background(), 0, data))
			}
			w.disconnect(c)
		})
	}
}

// A command that is never answered leads to a reconnect, where it is tried
// again, but not for ever.
func TestIOTimeout(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c, l := w.connectLogged(w.config())
		n := w.namespace(c)
		tries := 0
		w.dialer.set(func() {
			w.dialer.swallow = func(qid uint16, c nvme.Command) bool {
				if qid != 0 && c.Opcode() == uint8(nvme.IORead) {
					tries++
					return true
				}
				return false
			}
		})
		start := time.Now()
		err := n.Read(context.Background(), 0, make([]byte, 512))
		if !errors.Is(err, host.ErrLost) || tries != host.DefaultMaxRetries+1 {
			t.Errorf("%v after %d tries", err, tries)
		}
		each := host.DefaultIOTimeout + host.DefaultReconnectDelay
		if d := time.Since(start); d != host.DefaultMaxRetries*each+host.DefaultIOTimeout {
			t.Errorf("failed after %v", d)
		}
		l.wait(t, "reconnected")
		if !strings.Contains(c.Cause().Error(), "no answer to command 0x02 within 30s") {
			t.Errorf("cause %v", c.Cause())
		}
		w.must(n.Flush(context.Background()))
		w.disconnect(c)
	})
}

// A status without DNR is tried again, after the delay that it asks for; one
// with DNR is not.
func TestStatusRetry(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c := w.connect(w.config())
		n := w.namespace(c)
		for _, x := range []struct {
			fails int
			s     nvme.Status
			tries int
			ok    bool
		}{
			{2, nvme.NamespaceNotReady, 3, true},
			{host.DefaultMaxRetries, nvme.InternalPathError, host.DefaultMaxRetries + 1, true},
			{100, nvme.NamespaceNotReady, host.DefaultMaxRetries + 1, false},
			{1, nvme.WriteFault.WithDNR(), 1, false},
		} {
			tries := w.refuse(x.fails, x.s)
			err := n.Flush(context.Background())
			if (err == nil) != x.ok || int(tries.Load()) != x.tries || err != nil && !errors.Is(err, x.s) {
				t.Errorf("%d times %v: %v after %d tries", x.fails, x.s, err, tries.Load())
			}
		}
		w.dialer.set(func() { w.dialer.mangle = nil })
		w.disconnect(c)
	})
}

func TestStatusRetryDelay(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.identify(func(id *nvme.IdentifyController) {
			id.CRDT1, id.CRDT2, id.CRDT3 = 1, 20, 0xFFFF // almost two hours
		})
		c := w.connect(w.config())
		n := w.namespace(c)
		for crd, want := range []time.Duration{100 * time.Millisecond, 100 * time.Millisecond, 2 * time.Second, time.Minute} {
			first := true
			w.dialer.set(func() {
				w.dialer.mangle = func(qid uint16, r *transport.HostRequest) {
					if qid != 0 && first {
						first = false
						r.Completion.Status = nvme.NamespaceNotReady.WithCRD(uint8(crd))
					}
				}
			})
			start := time.Now()
			w.must(n.Flush(context.Background()))
			if d := time.Since(start); d != want {
				t.Errorf("CRD %d: after %v, want %v", crd, d, want)
			}
		}
		w.disconnect(c)
	})
}

// A connection that is lost while the last namespace is identified has not lost
// the namespace: commands are ended before it is told that the queue is down.
func TestLossDuringRescan(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		l := newEventLog()
		cfg := w.config()
		cfg.Events = l.events()
		c := w.connect(cfg)
		n := w.namespace(c)
		w.dialer.set(func() {
			w.dialer.lag = synctest.Wait // those who waited for the commands go on
			w.dialer.swallow = func(qid uint16, c nvme.Command) bool {
				last := qid == 0 && !c.IsFabrics() && c.Opcode() == uint8(nvme.AdminIdentify) && c.CNS() == nvme.CNSNamespace
				if last {
					w.dialer.set(func() {
						w.dialer.swallow = nil
						w.dialer.admin.Shard().Post(&w.dialer.admin.cut)
					})
				}
				return last
			}
		})
		if _, err := w.sub.RefreshNamespace(1); err != nil {
			t.Fatal(err)
		}
		l.wait(t, "lost")
		w.dialer.set(func() { w.dialer.lag = nil })
		w.must(n.Flush(context.Background()))
		if w.namespace(c) != n {
			t.Error("another namespace")
		}
		w.disconnect(c)
	})
}

// A namespace that could not be identified this once is not gone; one of which
// the controller says so for good is.
func TestRescanFails(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		cfg := w.config()
		warned := make(chan error, 4)
		cfg.Events.Warning = func(err error) { warned <- err }
		c := w.connect(cfg)
		n := w.namespace(c)
		for _, x := range []struct {
			status nvme.Status
			gone   bool
		}{{nvme.InternalError, false}, {nvme.InvalidNamespace.WithDNR(), true}} {
			w.dialer.set(func() {
				w.dialer.mangle = func(qid uint16, r *transport.HostRequest) {
					c := nvme.Command(r.Command[:])
					if qid == 0 && !c.IsFabrics() && c.Opcode() == uint8(nvme.AdminIdentify) && c.CNS() == nvme.CNSNamespace {
						r.Completion.Status = x.status
					}
				}
			})
			if _, err := w.sub.RefreshNamespace(1); err != nil {
				t.Fatal(err)
			}
			if err := <-warned; !errors.Is(err, x.status) {
				t.Errorf("warned of %v, want %v", err, x.status)
			}
			synctest.Wait()
			if err := n.Flush(context.Background()); errors.Is(err, host.ErrNamespaceGone) != x.gone {
				t.Errorf("%v: %v", x.status, err)
			}
		}
		w.dialer.set(func() { w.dialer.mangle = nil })
		w.disconnect(c)
	})
}
