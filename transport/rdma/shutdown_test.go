package rdma

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/shard"
)

// orphan leaves the target with a buffer that a command holds which storage
// does not answer, and returns what answers it.
func (w *world) orphan() (answer func()) {
	w.Helper()
	c := w.dial(1, 8)
	c.submit(ioReq(nvme.IOWrite, 0, pattern(100_000, 1)))
	w.until("the write", func() bool {
		n := 0
		c.onTarget(func() { n = len(c.core.held) })
		return n == 1
	})
	c.onTarget(func() {
		q := c.core
		r := q.held[0]
		q.state[r.Index] = atReserve
		if !q.f.Reserve(r, 4096) {
			w.Error("no buffer")
		}
		q.state[r.Index] = atCore
	})
	c.q.Disconnect()
	w.settle()
	return func() { c.onTarget(func() { c.core.complete(c.core.held[0], nvme.Success) }) }
}

func orphaning(mod func(c *Config)) worldConfig {
	return worldConfig{
		mod: func(c *Config) {
			if mod != nil {
				mod(c)
			}
			c.QuiesceTimeout = 10 * time.Millisecond
		},
		core: func(c *testCore) { c.hold = func(cmd nvme.Command) bool { return cmd.Opcode() == opWrite } },
	}
}

// Whoever waits for the buffers, all of them are told.
func TestConcurrentShutdowns(t *testing.T) {
	w := newWorld(t, orphaning(nil))
	answer := w.orphan()
	first, second := w.l.vectors[0].home(), w.l.vectors[0].home()
	errs := make(chan error, 3)
	var wg lockdep.WaitGroup[struct{ shutdowns struct{} }]
	for range cap(errs) {
		wg.Go(func() { errs <- w.l.Shutdown(wctx(t)) })
	}
	answer()
	for _, home := range []<-chan struct{}{first, second} {
		select {
		case <-home:
		case <-time.After(20 * time.Second):
			t.Error("still waiting")
		}
	}
	wg.Wait()
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// A shutdown does not wait for a shard that is stuck longer than it may.
func TestShutdownOfAStuckShard(t *testing.T) {
	w := newWorld(t, worldConfig{})
	stuck, ctx := make(chan struct{}), context.Background()
	w.shards[0].Post(taskOf(func() { <-stuck }))
	ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	var wg lockdep.WaitGroup[struct{ stuck struct{} }]
	wg.Go(func() { done <- w.l.Shutdown(ctx) })
	select {
	case err := <-done:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("shut down: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the shutdown waits for the shard")
	}
	close(stuck)
	wg.Wait()
}

// What the device lent does not wait for storage: once nobody waits for a
// shutdown any more, the queues' last release gives it back.
func TestExpiredShutdown(t *testing.T) {
	for name, mod := range map[string]func(c *Config){
		"plain": nil,
		"SRQ":   func(c *Config) { c.UseSRQ, c.SRQSize = true, 64 },
	} {
		for _, key := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				wc := orphaning(mod)
				wc.options.NoDMALKey = !key
				w := newWorld(t, wc)
				answer := w.orphan()
				expired, cancel := context.WithCancel(context.Background())
				cancel()
				if err := w.l.Shutdown(expired); !errors.Is(err, context.Canceled) {
					t.Errorf("shut down with buffers out: %v", err)
				}
				w.deleteWQ.Flush()
				if err := w.dev.Leftovers(); err != nil {
					t.Errorf("orphans keep the device: %v", err)
				}
				answer()
				if err := w.l.Shutdown(wctx(t)); err != nil {
					t.Error(err)
				}
			})
		}
	}
	t.Run("queues", func(t *testing.T) {
		w := newWorld(t, worldConfig{mod: func(c *Config) { c.DrainTimeout = 50 * time.Millisecond }})
		w.dial(1, 8)
		w.net.HoldFlushes(true)
		expired, cancel := context.WithCancel(context.Background())
		cancel()
		if err := w.l.Shutdown(expired); !errors.Is(err, context.Canceled) {
			t.Errorf("shut down with queues: %v", err)
		}
		w.deleteWQ.Flush()
		w.until("the last release", func() bool { return w.l.Stats().Queues == 0 })
		w.deleteWQ.Flush()
		w.net.HoldFlushes(false)
		if err := w.dev.Leftovers(); err != nil {
			t.Errorf("the device is kept: %v", err)
		}
	})
}

// What is told of an ID after it was given up does not concern its successor.
func TestStaleLoss(t *testing.T) {
	w := newWorld(t, worldConfig{mod: func(c *Config) { c.RetryInterval = 10 * time.Millisecond }})
	id := func() *rdmacm.ID {
		w.l.mu.Lock()
		defer w.l.mu.Unlock()
		return w.l.id
	}
	old := id()
	lose := func(id *rdmacm.ID) {
		if err := w.l.handle(id, &rdmacm.Event{Type: rdmacm.AddrChange, Err: errTest}); err != nil {
			t.Error(err)
		}
	}
	lose(old)
	if err := <-w.listening; !errors.Is(err, errTest) {
		t.Errorf("told %v", err)
	}
	lose(old) // the supervisor knows
	if err := <-w.listening; err != nil {
		t.Errorf("not listening again: %v", err)
	}
	fresh := id()
	<-shortTimer(w.shards[0], 50*time.Millisecond)
	select {
	case err := <-w.listening:
		t.Errorf("a good listener was made anew: %v", err)
	default:
	}
	lose(old)
	lose(fresh)
	if err := <-w.listening; !errors.Is(err, errTest) {
		t.Errorf("told %v", err)
	}
	if err := <-w.listening; err != nil {
		t.Errorf("not listening again: %v", err)
	}
}

func taskOf(fn func()) *shard.Task { return &shard.Task{Fn: fn} }
