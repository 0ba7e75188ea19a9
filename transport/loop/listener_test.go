package loop_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/admission"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/transport/loop"
	"github.com/fabrid/fabrid/workqueue"
)

// core is a core whose queues do nothing.
type core struct {
	limits  transport.Limits
	refuse  error
	removed bool
	downs   int
}

func (c *core) Open(f transport.Fabric, p transport.QueueParam) (transport.Queue, error) {
	c.limits = p.Limits
	return idleQueue{c}, c.refuse
}

func (c *core) Removed() bool { return c.removed }

type idleQueue struct{ c *core }

func (idleQueue) Receive([]*transport.Request)        {}
func (idleQueue) DataReady(*transport.Request, error) {}
func (idleQueue) Sent(*transport.Request)             {}
func (q idleQueue) Down(error)                        { q.c.downs++ }
func (idleQueue) Quiesce(time.Time) int               { return 0 }
func (idleQueue) Destroy()                            {}

// A place is a listener with all that it needs, in virtual time.
type place struct {
	t       *testing.T
	core    core
	queues  transport.Queues
	wq      *workqueue.Queue
	connect *workqueue.Queue
	budget  *admission.Budget
	shard   *shard.Shard
	network *loop.Network
	l       *loop.Listener
	d       *loop.Dialer
}

func bubble(t *testing.T, limits admission.Limits, cfg loop.Config, fn func(p *place)) {
	synctest.Test(t, func(t *testing.T) {
		p := &place{
			t: t, wq: workqueue.New(workqueue.Config{Name: "delete", MaxActive: 1}),
			connect: workqueue.New(workqueue.Config{Name: "connect"}),
			budget:  admission.New(admission.Config{Target: limits}), shard: shard.NewSim(shard.Config{}), network: loop.NewNetwork(),
		}
		cfg.Addr, cfg.Shards = addr, []*shard.Shard{p.shard}
		cfg.Core, cfg.Gate = &p.core, p.gate()
		var err error
		if p.l, err = p.network.Listen(cfg); err != nil {
			t.Fatal(err)
		}
		if p.d, err = p.network.NewDialer(p.shard); err != nil {
			t.Fatal(err)
		}
		fn(p)
		if err := p.l.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if s := p.l.Stats(); s != (loop.Stats{}) {
			t.Errorf("left: %+v", s)
		}
		p.wq.Destroy()
		p.connect.Destroy()
		if u := p.budget.Stats().Used; u != (admission.Usage{}) || p.queues.Counts().Total() != 0 {
			t.Errorf("charged %+v, counts %+v", u, p.queues.Counts())
		}
		if err := p.shard.Close(); err != nil {
			t.Error(err)
		}
	})
}

func (p *place) gate() *transport.Gate {
	return &transport.Gate{Queues: &p.queues, Delete: p.wq, Connect: p.connect, Budget: p.budget.NewPort(admission.Limits{})}
}

func (p *place) dial(qid uint16) (transport.HostQueue, error) {
	return p.d.Dial(context.Background(), transport.HostQueueParam{Remote: addr, QID: qid, Depth: 32, MaxData: 4096})
}

func (p *place) mustDial(qid uint16) transport.HostQueue {
	p.t.Helper()
	q, err := p.dial(qid)
	if err != nil {
		p.t.Fatal(err)
	}
	return q
}

// hold keeps the delete workqueue busy until the function that it returns is
// called.
func (p *place) hold() (release func()) {
	var w workqueue.Work
	c := make(chan struct{})
	w.Init("held release", func() { <-c })
	p.wq.Queue(&w)
	return func() { close(c) }
}

// refused checks that err is a refusal of the given kind.
func (p *place) refused(err error, busy bool, reason string) {
	p.t.Helper()
	var r *transport.RefusedError
	if !errors.As(err, &r) || !r.Listening || r.Busy != busy || !strings.Contains(r.Reason, reason) {
		p.t.Errorf("error %v, want a refusal (busy %v) with %q", err, busy, reason)
	}
}

// An admin queue waits for the deletions that were queued before it, at most
// DefaultWait; an I/O queue does not.
func TestBarrier(t *testing.T) {
	bubble(t, admission.Limits{}, loop.Config{}, func(p *place) {
		release := p.hold()
		time.AfterFunc(time.Second, release)
		start := time.Now()
		io := p.mustDial(1)
		if d := time.Since(start); d != 0 {
			t.Errorf("an I/O queue waited %v", d)
		}
		counted := make(chan transport.Counts, 1)
		time.AfterFunc(time.Second/2, func() { counted <- p.queues.Counts() })
		admin := p.mustDial(0)
		if d := time.Since(start); d != time.Second {
			t.Errorf("an admin queue waited %v", d)
		}
		if c := <-counted; c.Waiting != 1 || c.Live != 1 {
			t.Errorf("counts %+v while it waited", c)
		}
		release = p.hold()
		start = time.Now()
		late := p.mustDial(0)
		if d := time.Since(start); d != transport.DefaultWait {
			t.Errorf("an admin queue waited %v for what does not end", d)
		}
		release()
		for _, q := range []transport.HostQueue{io, admin, late} {
			q.Disconnect()
		}
	})
}

// While a dial waits for the barrier it can be given up, and the listener
// closed.
func TestBarrierGivenUp(t *testing.T) {
	bubble(t, admission.Limits{Waiting: 1}, loop.Config{}, func(p *place) {
		release := p.hold()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		second := make(chan error, 1)
		time.AfterFunc(time.Second/2, func() {
			_, err := p.dial(0)
			second <- err
		})
		if _, err := p.d.Dial(ctx, transport.HostQueueParam{Remote: addr, Depth: 32}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("given up: %v", err)
		}
		p.refused(<-second, true, "1 more waiting on top of 1")
		if c := p.queues.Counts(); c.Total() != 0 {
			t.Errorf("counts %+v", c)
		}
		time.AfterFunc(time.Second, p.l.Close)
		_, err := p.dial(0)
		p.refused(err, true, "the listener is closed")
		release()
	})
}

// The budget bounds what there is; deletion gives it back.
func TestBudget(t *testing.T) {
	bubble(t, admission.Limits{Queues: 2}, loop.Config{}, func(p *place) {
		a, b := p.mustDial(0), p.mustDial(1)
		_, err := p.dial(2)
		p.refused(err, true, "admission: 1 more queues on top of 2 pass the limit of 2")
		a.Disconnect()
		b.Disconnect()
		p.mustDial(0).Disconnect() // behind the deletion of the others
	})
	bubble(t, admission.Limits{Bytes: 1000}, loop.Config{}, func(p *place) {
		_, err := p.dial(0)
		p.refused(err, true, "bytes")
	})
}

func TestRefusals(t *testing.T) {
	bubble(t, admission.Limits{}, loop.Config{MaxQueueSize: 16}, func(p *place) {
		for _, x := range []struct {
			qid  uint16
			size int
			want string
		}{{1, 17, "depth 17, the limit is 16"}, {0, 33, "depth 33, the limit is 32"}} {
			_, err := p.d.Dial(context.Background(), transport.HostQueueParam{Remote: addr, QID: x.qid, Depth: x.size})
			p.refused(err, false, x.want)
		}
		for _, depth := range []int{-1, 0, 1, 1 << 16} {
			if _, err := p.d.Dial(context.Background(), transport.HostQueueParam{Remote: addr, Depth: depth}); err == nil {
				t.Errorf("connected with depth %d", depth)
			}
		}
		p.core.removed = true
		_, err := p.dial(0)
		p.refused(err, true, "the port is gone")
		p.core.removed, p.core.refuse = false, errors.New("no more")
		_, err = p.dial(0)
		p.refused(err, false, "no more")
		p.core.refuse = nil
		p.l.Close()
		_, err = p.dial(0)
		var r *transport.RefusedError
		if !errors.As(err, &r) || r.Listening {
			t.Errorf("nobody listens: %v", err)
		}
	})
}

// Shutdown takes leave of every queue, and its context bounds the wait.
func TestShutdown(t *testing.T) {
	bubble(t, admission.Limits{}, loop.Config{}, func(p *place) {
		downs := 0
		var all []transport.HostQueue
		for qid := range uint16(3) {
			q, err := p.d.Dial(context.Background(), transport.HostQueueParam{
				Remote: addr, QID: qid, Depth: 32, Down: func(error) { downs++ },
			})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, q)
		}
		release := p.hold()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := p.l.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "3 queues left") {
			t.Errorf("shutdown with a busy workqueue: %v", err)
		}
		synctest.Wait()
		if downs != 3 || p.core.downs != 3 {
			t.Errorf("%d hosts and %d queues of the core were told", downs, p.core.downs)
		}
		release()
		if err := p.l.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		for _, q := range all {
			q.Disconnect()
		}
		if downs != 3 {
			t.Errorf("hosts were told %d times", downs)
		}
	})
}

func TestListen(t *testing.T) {
	bubble(t, admission.Limits{}, loop.Config{InlineDataSize: -1, MaxData: 8192}, func(p *place) {
		good := loop.Config{
			Addr: addr, Shards: []*shard.Shard{p.shard}, Core: &p.core, Gate: p.gate(),
		}
		if _, err := p.network.Listen(good); err == nil || !strings.Contains(err.Error(), "somebody listens") {
			t.Errorf("the same address again: %v", err)
		}
		good.Addr = netip.MustParseAddrPort("[2001:db8::1]:4420")
		for what, edit := range map[string]func(*loop.Config){
			"no address":                     func(c *loop.Config) { c.Addr = netip.AddrPort{} },
			"Shards, Core and all of":        func(c *loop.Config) { c.Shards = nil },
			"maximum queue size 1":           func(c *loop.Config) { c.MaxQueueSize = 1 },
			"maximum data 100":               func(c *loop.Config) { c.MaxData = 100 },
			"inline data size 100":           func(c *loop.Config) { c.InlineDataSize = 100 },
			"pool of 16384 bytes, need 1048": func(c *loop.Config) { c.PoolSize = 16384 },
			"all of Gate":                    func(c *loop.Config) { c.Gate = new(transport.Gate) },
		} {
			cfg := good
			edit(&cfg)
			if l, err := p.network.Listen(cfg); err == nil || !strings.Contains(err.Error(), what) {
				t.Errorf("%s: %v", what, err)
				if err == nil {
					l.Close()
				}
			}
		}
		if _, err := p.network.NewDialer(); err == nil {
			t.Error("a dialer without shards")
		}
		p.mustDial(0).Disconnect()
		want := transport.Limits{
			Type: nvme.TransportLoop, AdrFam: nvme.AddressLoop,
			MaxQueueDepth: loop.DefaultMaxQueueSize, MaxData: 8192, MaxDescriptors: 1,
		}
		if p.core.limits != want || p.l.Addr() != addr {
			t.Errorf("limits %+v at %v, want %+v", p.core.limits, p.l.Addr(), want)
		}
	})
}

// A queue lives where it is asked to.
func TestShardOfADial(t *testing.T) {
	bubble(t, admission.Limits{}, loop.Config{}, func(p *place) {
		other := shard.NewSim(shard.Config{Name: "other"})
		q, err := p.d.Dial(context.Background(), transport.HostQueueParam{Remote: addr, Depth: 32, Shard: other})
		if err != nil {
			t.Fatal(err)
		}
		if q.Shard() != other {
			t.Errorf("on shard %q", q.Shard().Name())
		}
		q.Disconnect()
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	})
}

// Leave is taken of all hosts while another one connects.
func TestDisconnectAllWhileConnecting(t *testing.T) {
	bubble(t, admission.Limits{}, loop.Config{}, func(p *place) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 2000 {
				p.l.DisconnectAll()
			}
		}()
		for dialing := true; dialing; {
			if q, err := p.dial(1); err == nil {
				q.Disconnect()
			}
			select {
			case <-done:
				dialing = false
			default:
			}
		}
	})
}
