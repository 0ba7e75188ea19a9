package rdma

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/fabrid/fabrid/admission"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/transport/rdma/internal/fakeverbs"
	"github.com/fabrid/fabrid/workqueue"
)

var (
	hostAddr   = netip.MustParseAddr("192.0.2.1")
	targetAddr = netip.MustParseAddr("192.0.2.2")
	portal     = netip.AddrPortFrom(targetAddr, 4420)
)

// A world is a host and a target on a network, with all that they need.
type world struct {
	testing.TB
	net          fakeverbs.Network
	shards       []*shard.Shard
	hostShards   []*shard.Shard
	dev, hostDev *fakeverbs.Device
	cm, hostCM   *rdmacm.CM
	gate         *transport.Gate
	deleteWQ     *workqueue.Queue
	budget       *admission.Budget
	queues       transport.Queues
	core         *testCore
	l            *Listener
	d            *Dialer
	refused      chan error
	listening    chan error
	others       byte // hosts beside the first
}

type worldConfig struct {
	shards  int
	limits  admission.Config
	options fakeverbs.Options
	wait    time.Duration // at the gate
	mod     func(c *Config)
	core    func(c *testCore)
}

// newWorld makes a world. When the test has ended, all of it is taken down and
// nothing may be left.
func newWorld(t testing.TB, wc worldConfig) *world {
	t.Helper()
	w := &world{TB: t, core: newTestCore(), refused: make(chan error, 4096), listening: make(chan error, 64)}
	newShards := func(name string) []*shard.Shard {
		var all []*shard.Shard
		for range max(1, wc.shards) {
			s, err := shard.New(shard.Config{Name: name})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, s)
		}
		return all
	}
	w.shards, w.hostShards = newShards("target"), newShards("host")
	w.dev = w.net.NewDevice(targetAddr, w.shards, wc.options)
	w.hostDev = w.net.NewDevice(hostAddr, w.hostShards, wc.options)
	w.cm, w.hostCM = rdmacm.New(rdmacm.Config{}), rdmacm.New(rdmacm.Config{})
	w.deleteWQ = workqueue.New(workqueue.Config{Name: "delete"})
	w.budget = admission.New(wc.limits)
	w.gate = &transport.Gate{
		Queues: &w.queues, Delete: w.deleteWQ, Connect: workqueue.New(workqueue.Config{Name: "connect"}),
		Budget: w.budget.NewPort(admission.Limits{}), Wait: wc.wait,
	}
	if wc.core != nil {
		wc.core(w.core)
	}
	cfg := Config{
		CM: w.cm, Provider: w.dev.Provider(), Addr: portal, Shards: w.shards,
		Core: w.core, Gate: w.gate,
		PoolSize: 8 << 20,
		Events: Events{
			Refused:   func(_ netip.AddrPort, err error) { w.refused <- err },
			Listening: func(_ netip.AddrPort, err error) { w.listening <- err },
		},
	}
	if wc.mod != nil {
		wc.mod(&cfg)
	}
	var err error
	if w.l, err = Listen(cfg); err != nil {
		t.Fatal(err)
	}
	if w.d, err = NewDialer(DialerConfig{CM: w.hostCM, Provider: w.hostDev.Provider(), Shards: w.hostShards}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.close)
	return w
}

func (w *world) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	check := func(what string, err error) {
		if err != nil {
			w.Errorf("%s: %v", what, err)
		}
	}
	check("shut down", w.l.Shutdown(ctx))
	w.deleteWQ.Destroy()
	w.gate.Connect.Destroy()
	if n := w.queues.Counts().Total(); n != 0 {
		w.Errorf("%d queues are in the list", n)
	}
	// What storage answers last is given back after its buffers are home.
	w.until("everything that was charged", func() bool { return w.budget.Stats().Used == admission.Usage{} })
	if s := w.l.Stats(); s != (Stats{}) {
		w.Errorf("the listener holds %+v", s)
	}
	if s := w.d.Stats(); s != (DialerStats{}) {
		w.Errorf("the dialer holds %+v", s)
	}
	if n := w.cm.Len(); n != 0 {
		w.Errorf("%d IDs are left", n)
	}
	check("close CM", w.hostCM.Close())
	check("close CM", w.cm.Close())
	for _, s := range append(w.hostShards, w.shards...) {
		check("close shard", s.Close())
	}
	check("target", w.dev.Leftovers())
	check("host", w.hostDev.Leftovers())
	for i, q := range w.core.all() {
		for _, p := range q.problems {
			w.Errorf("queue %d: %s", i, p)
		}
		if q.downs != 1 || !q.quiesced || !q.destroyed {
			w.Errorf("queue %d: %d calls of Down, quiesced %t, destroyed %t", i, q.downs, q.quiesced, q.destroyed)
		}
	}
}

func wctx(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// A client is a connected queue of the host, for the test's goroutine.
type client struct {
	w    *world
	q    transport.HostQueue
	core *testQueue
	down chan error
	inc  int
}

func (w *world) param(qid uint16, depth int) transport.HostQueueParam {
	p := transport.HostQueueParam{Remote: portal, QID: qid, Depth: depth, MaxData: 1 << 20}
	if qid != 0 {
		p.InCapsule, p.CNTLID = DefaultInlineDataSize, 1
	}
	return p
}

func (w *world) dial(qid uint16, depth int) *client {
	w.Helper()
	return w.dialParam(w.param(qid, depth))
}

func (w *world) dialParam(p transport.HostQueueParam) *client {
	w.Helper()
	c := &client{w: w, down: make(chan error, 4), inc: p.InCapsule}
	p.Down = func(cause error) { c.down <- cause }
	q, err := w.d.Dial(wctx(w.TB), p)
	if err != nil {
		w.Fatal(err)
	}
	c.q = q
	c.core = <-w.core.opened
	w.Cleanup(q.Disconnect) // before the world's: cleanups run last first
	return c
}

// connect sends a Connect command, so that the target keeps the queue.
func (c *client) connect() *client {
	c.w.Helper()
	r := newReq(func(cmd nvme.Command) { cmd.PutConnect(nvme.ConnectCommand{SQSize: 31}) }, make([]byte, nvme.ConnectDataSize))
	c.ok(r)
	return c
}

// A req is a host's request that a test waits for.
type req struct {
	transport.HostRequest
	done chan struct{}
}

func newReq(put func(cmd nvme.Command), data []byte) *req {
	r := &req{done: make(chan struct{}, 1)}
	put(nvme.MakeCommand(r.Command[:]))
	r.Data = data
	r.Done = func(*transport.HostRequest) { r.done <- struct{}{} }
	return r
}

func ioReq(op nvme.IOOpcode, off int, data []byte) *req {
	return newReq(func(cmd nvme.Command) {
		cmd.SetOpcode(uint8(op))
		cmd.SetNSID(1)
		cmd.SetCDW(10, uint32(off))
		cmd.SetCDW(13, uint32(off)^0x5a5a)
	}, data)
}

// submit submits requests in one batch.
func (c *client) submit(rs ...*req) {
	c.w.Helper()
	var err error
	if e := c.q.Shard().Run(func() {
		for _, r := range rs {
			if err = c.q.Submit(&r.HostRequest); err != nil {
				return
			}
		}
	}); e != nil || err != nil {
		c.w.Fatalf("submit: %v %v", e, err)
	}
}

func (c *client) wait(rs ...*req) {
	c.w.Helper()
	timeout := time.After(20 * time.Second)
	for i, r := range rs {
		select {
		case <-r.done:
		case <-timeout:
			c.w.Fatalf("request %d of %d is not done", i, len(rs))
		}
	}
}

func (c *client) do(rs ...*req) {
	c.w.Helper()
	c.submit(rs...)
	c.wait(rs...)
}

// ok does requests that must succeed.
func (c *client) ok(rs ...*req) {
	c.w.Helper()
	c.do(rs...)
	for i, r := range rs {
		if r.Err != nil || !r.Completion.Status.OK() {
			c.w.Fatalf("request %d of %d: %v, %v", i, len(rs), r.Err, r.Completion.Status)
		}
		if !nvme.Command(r.Command[:]).IsFabrics() && uint32(r.Completion.Result) != nvme.Command(r.Command[:]).CDW(13) {
			c.w.Fatalf("request %d of %d got the completion of another", i, len(rs))
		}
	}
}

// onTarget runs fn on the shard of the target's end.
func (c *client) onTarget(fn func()) {
	c.w.Helper()
	if err := c.core.p.Shard.Run(fn); err != nil {
		c.w.Fatal(err)
	}
}

func withPort(a netip.AddrPort, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr(), port)
}

// shortTimer is closed when a timer of the shard has fired, and so has every
// other that was due before.
func shortTimer(s *shard.Shard, d time.Duration) <-chan struct{} {
	fired := make(chan struct{})
	t := &shard.Timer{Fn: func() { close(fired) }}
	_ = s.Run(func() { s.Arm(t, s.Now()+d) })
	return fired
}

// postable returns what posts fn to the shard without allocating.
func postable(s *shard.Shard, fn func()) func() {
	t := &shard.Task{Fn: fn}
	return func() { s.Post(t) }
}
