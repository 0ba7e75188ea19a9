package rdma

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fabrid/fabrid/admission"
	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/verbs"
	"github.com/fabrid/fabrid/workqueue"
)

var errTest = errors.New("the test says so")

// settle waits until the target has no queue.
func (w *world) settle() {
	w.Helper()
	w.until("the queues to be released", func() bool { return w.l.Stats().Queues == 0 })
}

func (w *world) until(what string, ok func() bool) {
	w.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(end) {
			w.Fatalf("waited for %s", what)
		}
	}
}

func TestDisconnectAll(t *testing.T) {
	w := newWorld(t, worldConfig{})
	var cs []*client
	for i := range 4 {
		cs = append(cs, w.dial(uint16(i), 8).connect())
	}
	w.l.DisconnectAll(errTest)
	for _, c := range cs {
		if cause := <-c.down; !errors.Is(cause, transport.ErrQueueDown) {
			t.Error(cause)
		}
		<-c.core.downed
		c.onTarget(func() {
			if !errors.Is(c.core.cause, errTest) {
				t.Error(c.core.cause)
			}
		})
	}
	w.settle()
	// The listener goes on.
	w.dial(1, 8).connect().ok(ioReq(nvme.IORead, 0, make([]byte, 100)))
}

// A queue that cannot be flushed is forced, and a response that was on its way
// gives its buffers back.
func TestForcedDrain(t *testing.T) {
	w := newWorld(t, worldConfig{mod: func(c *Config) { c.DrainTimeout = 50 * time.Millisecond }})
	r, core := w.connectRaw(1, 8)
	buf := make([]byte, 100_000)
	m := r.reg(buf, 0)
	w.net.HoldAcks(true)
	w.net.HoldFlushes(true)
	r.send(
		command(1, opRead, nvme.SGL{Type: nvme.SGLKeyed, Length: 100_000, Key: m.RKey()}),
		command(2, opWrite, nvme.SGL{Type: nvme.SGLKeyed, Length: 100_000, Key: m.RKey()}),
	)
	r.response()
	if err := core.p.Shard.Run(func() { core.f.Disconnect(errTest) }); err != nil {
		t.Fatal(err)
	}
	w.settle()
	if n := w.l.Stats().Buffers; n != 0 {
		t.Errorf("%d buffers in use", n)
	}
	w.net.HoldAcks(false)
	w.net.HoldFlushes(false)
}

// A shard that is stuck keeps what is its own, and everybody sees where: the
// drain ends by its deadline, and the release is in its last step.
func TestReleaseOnAStuckShard(t *testing.T) {
	w := newWorld(t, worldConfig{mod: func(c *Config) { c.DrainTimeout = 20 * time.Millisecond }})
	c := w.dial(1, 8)
	w.net.HoldFlushes(true)
	stuck := make(chan struct{})
	c.onTarget(func() {
		w.shards[0].Post(&shard.Task{Fn: func() { <-stuck }})
		c.core.f.Disconnect(errTest)
	})
	info := func() (i transport.Info) {
		for _, life := range w.queues.All() {
			i = life.Info()
		}
		return i
	}
	end := time.Now().Add(20 * time.Second)
	for info().Step != "free" && time.Now().Before(end) {
		<-time.After(time.Millisecond)
	}
	if i := info(); i.Step != "free" || i.State != transport.Releasing || i.Age <= 0 {
		t.Errorf("the release is at %+v", i)
	}
	if n := w.budget.Stats().Used.Queues; n != 1 {
		t.Errorf("%d queues are charged", n)
	}
	close(stuck)
	w.settle()
	w.net.HoldFlushes(false)
}

// Requests that storage has not given back are left to it. The target shuts
// down when they come home.
func TestOrphans(t *testing.T) {
	for _, name := range []string{"plain", "SRQ"} {
		t.Run(name, func(t *testing.T) {
			wc := variants[name]
			mod := wc.mod
			wc.mod = func(c *Config) {
				if mod != nil {
					mod(c)
				}
				c.QuiesceTimeout = 10 * time.Millisecond
			}
			wc.core = func(c *testCore) {
				c.hold = func(cmd nvme.Command) bool { return cmd.Opcode() == opWrite }
			}
			w := newWorld(t, wc)
			c := w.dial(1, 8)
			c.submit(ioReq(nvme.IOWrite, 0, pattern(4096, 1)), ioReq(nvme.IOWrite, 0, pattern(100_000, 1)))
			w.until("the writes", func() bool {
				n := 0
				c.onTarget(func() { n = len(c.core.held) })
				return n == 2
			})
			// One of them has buffers.
			c.onTarget(func() {
				q := c.core
				r := q.held[1]
				q.state[r.Index] = atReserve
				if !q.f.Reserve(r, 4096) {
					t.Error("no buffer")
				}
				q.state[r.Index] = atCore
			})
			c.q.Disconnect()
			w.settle()
			if c.core.orphans != 2 {
				t.Errorf("%d orphans", c.core.orphans)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
			defer cancel()
			if err := w.l.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("shut down with buffers out: %v", err)
			}
			c.onTarget(func() {
				q := c.core
				in := q.held[0].Command // in-capsule data is still there
				if in.SGL().Type != nvme.SGLOffset {
					t.Errorf("the command has changed: %v", in)
				}
				for _, r := range q.held {
					q.complete(r, nvme.Success)
				}
			})
		})
	}
}

// An admin queue waits for the deletions before it, but not for ever, and the
// connection manager does not wait for either.
func TestAdmissionBarrier(t *testing.T) {
	block := func(w *world) (release func()) {
		gate, started := make(chan struct{}), make(chan struct{})
		var work workqueue.Work
		work.Init("block", func() { close(started); <-gate })
		w.deleteWQ.Queue(&work)
		<-started
		return func() { close(gate) }
	}
	waiting := func(w *world, n int) {
		w.until("the queue to wait", func() bool { return w.l.Stats().Waiting == n && w.queues.Counts().Waiting == n })
	}

	t.Run("waits", func(t *testing.T) {
		w := newWorld(t, worldConfig{wait: time.Hour})
		release := block(w)
		r := w.rawHost(goodRequest(0, 32))
		waiting(w, 1)
		w.dial(1, 8) // I/O queues do not wait
		select {
		case ev := <-r.events:
			t.Errorf("event %v while deletions run", ev.Type)
		default:
		}
		release()
		r.event(rdmacm.Established)
		waiting(w, 0)
		<-w.core.opened
	})
	t.Run("bound", func(t *testing.T) {
		w := newWorld(t, worldConfig{wait: 20 * time.Millisecond})
		release := block(w)
		r := w.rawHost(goodRequest(0, 32))
		r.event(rdmacm.Established)
		release()
	})
	t.Run("host gives up", func(t *testing.T) {
		w := newWorld(t, worldConfig{wait: time.Hour})
		release := block(w)
		r := w.rawHost(goodRequest(0, 32))
		waiting(w, 1)
		if err := r.id.Disconnect(); err != nil {
			t.Fatal(err)
		}
		waiting(w, 0)
		release()
		<-w.refused
	})
	t.Run("listener closes", func(t *testing.T) {
		w := newWorld(t, worldConfig{wait: time.Hour})
		release := block(w)
		r := w.rawHost(goodRequest(0, 32))
		waiting(w, 1)
		if err := w.l.Close(); err != nil {
			t.Fatal(err)
		}
		r.event(rdmacm.Rejected)
		release()
	})
	t.Run("cap", func(t *testing.T) {
		w := newWorld(t, worldConfig{wait: time.Hour, limits: admission.Config{Target: admission.Limits{Waiting: 2}}})
		release := block(w)
		a, b := w.rawHost(goodRequest(0, 32)), w.rawHost(goodRequest(0, 32))
		waiting(w, 2)
		w.rawHost(goodRequest(0, 32)).event(rdmacm.Rejected)
		release()
		a.event(rdmacm.Established)
		b.event(rdmacm.Established)
	})
}

// A listener whose device goes away takes its queues with it, and comes back.
func TestSupervision(t *testing.T) {
	w := newWorld(t, worldConfig{mod: func(c *Config) { c.RetryInterval = 10 * time.Millisecond }})
	c := w.dial(1, 8).connect()
	if err := w.cm.RemoveDevice(wctx(t), w.l.cfg.Provider); err != nil {
		t.Fatal(err)
	}
	<-c.core.downed
	if err := <-w.listening; err == nil {
		t.Error("the loss was not told")
	}
	if err := <-w.listening; err != nil {
		t.Errorf("not listening again: %v", err)
	}
	w.dial(1, 8).connect().ok(ioReq(nvme.IORead, 0, make([]byte, 100)))
	w.settleOne()
	if err := w.l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.l.Close(); err != nil {
		t.Fatal(err)
	}
}

func (w *world) settleOne() {
	w.Helper()
	w.until("the first queue to be released", func() bool { return w.l.Stats().Queues == 1 })
}

// Connecting and disconnecting from many goroutines, from both ends, with I/O
// under way, never has more queues than the budget, and leaves nothing.
func TestStorm(t *testing.T) {
	for _, name := range []string{"plain", "SRQ", "two shards", "no DMA key"} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && name != "two shards" {
				t.Skip("long")
			}
			const limit, hosts, rounds = 6, 8, 40
			wc := variants[name]
			wc.limits = admission.Config{Target: admission.Limits{Queues: limit}}
			wc.core = func(c *testCore) { c.size = 1 << 18 }
			w := newWorld(t, wc)
			go func() { // nobody here asks which queue is whose
				for range w.core.opened {
				}
			}()
			defer close(w.core.opened)
			var connected, refused atomic.Int64
			var wg lockdep.WaitGroup[struct{ storm struct{} }]
			for h := range hosts {
				wg.Go(func() {
					r := rand.New(rand.NewPCG(uint64(h), 7))
					for range rounds {
						if w.storm(r) {
							connected.Add(1)
						} else {
							refused.Add(1)
						}
						if r.IntN(10) == 0 {
							w.l.DisconnectAll(errTest)
						}
						if q := w.budget.Stats().Most.Queues; q > limit {
							t.Errorf("%d queues of %d", q, limit)
						}
					}
				})
			}
			wg.Wait()
			t.Logf("%d connected, %d refused", connected.Load(), refused.Load())
			if connected.Load() == 0 {
				t.Error("nobody got through")
			}
			w.settle()
		})
	}
}

// storm connects once, does some I/O, and leaves.
func (w *world) storm(r *rand.Rand) bool {
	p := w.param(uint16(r.IntN(2)), 8)
	down := make(chan error, 1)
	p.Down = func(cause error) { down <- cause }
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.IntN(100))*time.Millisecond)
	defer cancel()
	q, err := w.d.Dial(ctx, p)
	if err != nil {
		return false
	}
	var reqs []*req
	for i := range r.IntN(8) {
		op := nvme.IORead
		if i%2 == 0 {
			op = nvme.IOWrite
		}
		reqs = append(reqs, ioReq(op, i*1000, make([]byte, 1+r.IntN(200_000))))
	}
	posted := 0
	_ = q.Shard().Run(func() {
		for _, x := range reqs {
			if q.Submit(&x.HostRequest) != nil {
				break
			}
			posted++
		}
	})
	if r.IntN(2) == 0 {
		q.Disconnect()
	}
	for _, x := range reqs[:posted] {
		<-x.done
	}
	q.Disconnect()
	return true
}

// Shutting down in the midst of everything.
func TestShutdownUnderLoad(t *testing.T) {
	w := newWorld(t, worldConfig{core: func(c *testCore) { c.size = 1 << 18 }})
	stop := make(chan struct{})
	var wg lockdep.WaitGroup[struct{ load struct{} }]
	for h := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(h), 9))
			for {
				select {
				case <-stop:
					return
				default:
					w.storm(r)
				}
			}
		})
	}
	for range 20 {
		<-w.core.opened
	}
	if err := w.l.Shutdown(wctx(t)); err != nil {
		t.Error(err)
	}
	close(stop)
	wg.Wait()
	if s := w.l.Stats(); s != (Stats{}) {
		t.Errorf("%+v is left", s)
	}
	if _, err := w.d.Dial(wctx(t), w.param(1, 8)); err == nil {
		t.Error("connected after the shutdown")
	}
}

// A provider that refuses a post ends the queue, and nothing of the batch is
// lost.
func TestPostFails(t *testing.T) {
	w := newWorld(t, worldConfig{
		mod:  func(c *Config) { c.DrainTimeout = 50 * time.Millisecond },
		core: func(c *testCore) { c.hold = func(nvme.Command) bool { return true } },
	})
	c := w.dial(1, 8)
	reqs := []*req{ioReq(nvme.IORead, 0, make([]byte, 20_000)), ioReq(nvme.IOWrite, 0, make([]byte, 20_000)), ioReq(nvme.IOFlush, 0, nil)}
	c.submit(reqs...)
	w.until("the commands", func() bool {
		n := 0
		c.onTarget(func() { n = len(c.core.held) })
		return n == len(reqs)
	})
	q := w.l.all()[0]
	c.onTarget(func() {
		// Behind the fabric's back: what it posts now is an error.
		if err := q.qp.Modify(verbs.Reset); err != nil {
			t.Error(err)
		}
		c.core.release()
	})
	<-c.core.downed
	c.wait(reqs...)
	w.settle()
	if n := w.l.Stats().Buffers; n != 0 {
		t.Errorf("%d buffers in use", n)
	}
	var se *verbs.StateError
	c.onTarget(func() {
		if !errors.As(c.core.cause, &se) {
			t.Error(c.core.cause)
		}
	})
}

// More memory than a command may have is refused, not waited for.
func TestReserveTooMuch(t *testing.T) {
	w := newWorld(t, worldConfig{core: func(c *testCore) { c.hold = func(nvme.Command) bool { return true } }})
	c := w.dial(1, 8)
	r := ioReq(nvme.IORead, 0, make([]byte, 100))
	c.submit(r)
	w.until("the command", func() bool {
		n := 0
		c.onTarget(func() { n = len(c.core.held) })
		return n == 1
	})
	c.onTarget(func() {
		x := c.core.held[0]
		c.core.held = nil
		c.core.state[x.Index] = atReserve
		if c.core.f.Reserve(x, DefaultMaxData+1) {
			t.Error("reserved")
		}
	})
	c.wait(r)
	if r.Err != nil || !errors.Is(r.Completion.Status, nvme.DataTransferError) {
		t.Errorf("%v, %v", r.Err, r.Completion.Status)
	}
}
