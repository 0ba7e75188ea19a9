package host_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fabrid/fabrid/admission"
	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/transport/loop"
	"github.com/fabrid/fabrid/workqueue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	subNQN  = "nqn.2025-01.example:sub"
	hostNQN = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-000000000001"
)

var (
	addr   = netip.MustParseAddrPort("192.0.2.1:4420")
	hostID = nvme.UUID{0: 1, 15: 2}
)

// A world is a target with one subsystem and a memory device of 1 MiB, behind a
// listener of the loop fabric, and a dialer with faults.
type world struct {
	t      testing.TB
	target *target.Target
	sub    *target.Subsystem
	port   *target.Port
	dev    *bdev.Faulty

	targetShards, hostShards []*shard.Shard
	gate                     *transport.Gate
	budget                   *admission.Budget // what gate charges
	network                  *loop.Network
	listener                 *loop.Listener // nil while nobody listens
	loopConfig               loop.Config
	dialer                   *dialer
}

// newWorld makes a world: in a bubble of synctest with simulated shards, else
// with real ones.
func newWorld(t testing.TB, sim bool, sub target.SubsystemConfig) *world {
	t.Helper()
	w := &world{
		t: t, target: target.New(target.Config{}),
		budget: admission.New(admission.Config{}), network: loop.NewNetwork(),
	}
	w.gate = &transport.Gate{
		Queues:  new(transport.Queues),
		Delete:  workqueue.New(workqueue.Config{Name: "delete"}),
		Connect: workqueue.New(workqueue.Config{Name: "connect"}),
		Budget:  w.budget.NewPort(admission.Limits{}),
	}
	for range 2 {
		w.targetShards = append(w.targetShards, w.newShard(sim, "target"))
		w.hostShards = append(w.hostShards, w.newShard(sim, "host"))
	}
	mem, err := bdev.NewMemory(bdev.MemoryConfig{Size: 1 << 20, BlockSize: 512})
	w.must(err)
	w.dev = bdev.NewFaulty(mem)
	if sub.NQN == "" {
		sub.NQN, sub.AllowAnyHost = subNQN, true
	}
	w.sub, err = w.target.AddSubsystem(sub)
	w.must(err)
	_, err = w.sub.AddNamespace(target.NamespaceConfig{NSID: 1, Device: struct{ bdev.Device }{w.dev}}) // it gives nothing back
	w.must(err)
	w.port, err = w.target.AddPort(target.PortConfig{ID: 1, Addresses: []target.Address{
		{TRTYPE: nvme.TransportLoop, ADRFAM: nvme.AddressIPv4, TRADDR: "192.0.2.1", TRSVCID: "4420"},
	}})
	w.must(err)
	w.must(w.port.Link(w.sub))
	w.loopConfig = loop.Config{MaxData: 64 << 10}
	w.listen()
	d, err := w.network.NewDialer(w.hostShards...)
	w.must(err)
	w.dialer = &dialer{inner: d}
	return w
}

func (w *world) newShard(sim bool, name string) *shard.Shard {
	if sim {
		return shard.NewSim(shard.Config{Name: name})
	}
	s, err := shard.New(shard.Config{Name: name})
	w.must(err)
	return s
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// listen starts the listener.
func (w *world) listen() {
	w.t.Helper()
	cfg := w.loopConfig
	cfg.Addr, cfg.Shards = addr, w.targetShards
	cfg.Core, cfg.Gate = w.port, w.gate
	var err error
	w.listener, err = w.network.Listen(cfg)
	w.must(err)
}

// readyLate has controllers take so long until CSTS.RDY, and say of it what edit
// makes of CAP and, unless it is zero, crto.
func (w *world) readyLate(d time.Duration, edit func(nvme.CAP) nvme.CAP, crto uint64) {
	ready := time.Now().Add(d)
	w.dialer.set(func() {
		w.dialer.mangle = func(_ uint16, r *transport.HostRequest) {
			c := nvme.Command(r.Command[:])
			if !c.IsFabrics() || c.FCTYPE() != nvme.FabricsPropertyGet {
				return
			}
			switch c.Property().Offset {
			case nvme.PropertyCSTS:
				if time.Now().Before(ready) {
					r.Completion.Result = 0
				}
			case nvme.PropertyCAP:
				r.Completion.Result = uint64(edit(nvme.CAP(r.Completion.Result)))
			case nvme.PropertyCRTO:
				if crto != 0 {
					r.Completion.Status, r.Completion.Result = nvme.Success, crto
				}
			}
		}
	})
}

// identify has Identify Controller say what edit makes of it.
func (w *world) identify(edit func(*nvme.IdentifyController)) {
	w.dialer.set(func() {
		w.dialer.mangle = func(qid uint16, r *transport.HostRequest) {
			c := nvme.Command(r.Command[:])
			if qid == 0 && !c.IsFabrics() && c.Opcode() == uint8(nvme.AdminIdentify) && c.CNS() == nvme.CNSController {
				var id nvme.IdentifyController
				if err := id.Parse(r.Data); err != nil {
					w.t.Error(err)
				}
				edit(&id)
				copy(r.Data, id.AppendTo(nil))
			}
		}
	})
}

// refuse has the next k commands of I/O queues end with a status, and returns
// how many have been sent.
func (w *world) refuse(k int, s nvme.Status) *atomic.Int32 {
	tries := new(atomic.Int32)
	w.dialer.set(func() {
		w.dialer.mangle = func(qid uint16, r *transport.HostRequest) {
			if qid != 0 {
				if tries.Add(1) <= int32(k) {
					r.Completion.Status = s
				}
			}
		}
	})
	return tries
}

// swallow has commands with an opcode vanish on I/O queues, the next k of them.
func (w *world) swallow(k int, ops ...nvme.IOOpcode) {
	var left atomic.Int32
	left.Store(int32(k))
	w.dialer.set(func() {
		w.dialer.swallow = func(qid uint16, c nvme.Command) bool {
			if qid == 0 || c.IsFabrics() || !slices.Contains(ops, nvme.IOOpcode(c.Opcode())) {
				return false
			}
			return left.Add(-1) >= 0
		}
	})
}

// cut has a queue go down, and it alone: nothing of it reaches the target's end.
func (w *world) cut(pick func(*dialer) *faultyQueue) {
	w.dialer.set(func() {
		q := pick(w.dialer)
		q.Shard().Post(&q.cut)
	})
}

func adminQueue(d *dialer) *faultyQueue { return d.admin }
func ioQueue(d *dialer) *faultyQueue    { return d.io }

// unplug ends the listener: queues go down and nobody answers any more.
func (w *world) unplug() {
	w.t.Helper()
	if w.listener != nil {
		w.must(w.listener.Shutdown(context.Background()))
		w.listener = nil
	}
}

// close ends the world and checks that nothing is left.
func (w *world) close() {
	w.t.Helper()
	w.unplug()
	w.gate.Delete.Drain()
	if c := w.gate.Queues.Counts(); c.Total() != 0 || len(w.gate.Queues.All()) != 0 {
		w.t.Errorf("queues left: %+v", c)
	}
	if u := w.budget.Stats().Used; u != (admission.Usage{}) {
		w.t.Errorf("still charged: %+v", u)
	}
	w.must(w.target.Close())
	if c := w.target.Counts(); c.Controllers != 0 || c.Queues != 0 {
		w.t.Errorf("left in the target: %+v", c)
	}
	w.gate.Delete.Destroy()
	w.gate.Connect.Destroy()
	w.must(w.dev.Close())
	for _, s := range append(w.targetShards, w.hostShards...) {
		w.must(s.Close())
	}
}

func (w *world) config() host.Config {
	return host.Config{
		Dialer: w.dialer, Remote: addr, NQN: subNQN, HostNQN: hostNQN, HostID: hostID,
		NrIOQueues: 2, QueueSize: 32,
	}
}

func (w *world) connect(cfg host.Config) *host.Controller {
	w.t.Helper()
	c, err := host.Connect(context.Background(), cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// connectLogged is connect with a log of the controller's events.
func (w *world) connectLogged(cfg host.Config) (*host.Controller, *eventLog) {
	w.t.Helper()
	l := newEventLog()
	cfg.Events = l.events()
	return w.connect(cfg), l
}

func (w *world) disconnect(c *host.Controller) {
	w.t.Helper()
	if err := c.Disconnect(context.Background()); err != nil {
		w.t.Errorf("disconnect: %v", err)
	}
	if s := c.State(); s != host.Dead {
		w.t.Errorf("state %v after Disconnect", s)
	}
}

func (w *world) namespace(c *host.Controller) *host.Namespace {
	w.t.Helper()
	n, err := c.Namespace(1)
	w.must(err)
	return n
}

// A dialer passes dials on, and makes faults on demand.
type dialer struct {
	inner transport.Dialer

	mu    sync.Mutex
	dials []dial
	// swallow, if set, says which commands the target never sees.
	swallow func(qid uint16, c nvme.Command) bool
	// watch, if set, is told every command before it is sent.
	watch func(qid uint16, c nvme.Command)
	// mangle, if set, may change what a command ended with.
	mangle func(qid uint16, r *transport.HostRequest)
	// stall makes dials wait for the end of their context.
	stall bool
	// lag, if set, runs between the end of a queue's commands and its Down.
	lag func()
	// admin is the last admin queue, io the last I/O queue, all all.
	admin, io *faultyQueue
	all       []*faultyQueue
}

type dial struct {
	at  time.Time
	qid uint16
}

func (d *dialer) set(fn func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fn()
}

// adminDials is when admin queues were dialed.
func (d *dialer) adminDials() []time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []time.Time
	for _, x := range d.dials {
		if x.qid == 0 {
			all = append(all, x.at)
		}
	}
	return all
}

func (d *dialer) Dial(ctx context.Context, p transport.HostQueueParam) (transport.HostQueue, error) {
	d.mu.Lock()
	d.dials = append(d.dials, dial{time.Now(), p.QID})
	stall := d.stall
	d.mu.Unlock()
	if stall {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	q := &faultyQueue{d: d, qid: p.QID}
	down := p.Down
	p.Down = func(cause error) {
		q.giveBack()
		d.mu.Lock()
		lag := d.lag
		d.mu.Unlock()
		if lag != nil {
			lag()
		}
		down(cause)
	}
	q.cut.Fn = func() {
		q.isCut = true
		p.Down(errors.New("cut"))
	}
	var err error
	q.HostQueue, err = d.inner.Dial(ctx, p)
	if err != nil {
		return nil, err
	}
	d.set(func() {
		d.all = append(d.all, q)
		if p.QID == 0 {
			d.admin = q
		} else {
			d.io = q
		}
	})
	return q, nil
}

type faultyQueue struct {
	transport.HostQueue
	d         *dialer
	qid       uint16
	swallowed []*transport.HostRequest
	isCut     bool
	cut       shard.Task // ends what was swallowed, and tells that the queue is down
}

func (q *faultyQueue) Submit(r *transport.HostRequest) error {
	q.d.mu.Lock()
	swallow, watch, mangle := q.d.swallow, q.d.watch, q.d.mangle
	q.d.mu.Unlock()
	c := nvme.Command(r.Command[:])
	if q.isCut {
		return transport.ErrQueueDown
	}
	if watch != nil {
		watch(q.qid, c)
	}
	if swallow != nil && swallow(q.qid, c) {
		q.swallowed = append(q.swallowed, r)
		return nil
	}
	if mangle != nil {
		done := r.Done
		r.Done = func(r *transport.HostRequest) {
			r.Done = done
			mangle(q.qid, r)
			done(r)
		}
		if err := q.HostQueue.Submit(r); err != nil {
			r.Done = done
			return err
		}
		return nil
	}
	return q.HostQueue.Submit(r)
}

// answer ends the commands that were swallowed with a status.
func (q *faultyQueue) answer(s nvme.Status) {
	all := q.swallowed
	q.swallowed = nil
	for _, r := range all {
		r.Err, r.Completion = nil, nvme.Completion{Status: s}
		r.Done(r)
	}
}

func (q *faultyQueue) giveBack() {
	all := q.swallowed
	q.swallowed = nil
	for _, r := range all {
		r.Err = transport.ErrQueueDown
		r.Done(r)
	}
}

func (q *faultyQueue) Disconnect() {
	_ = q.Shard().Run(q.giveBack)
	q.HostQueue.Disconnect()
}

// log collects events.
type eventLog struct {
	mu  sync.Mutex
	all []string
	at  []time.Time
	c   chan string
}

func newEventLog() *eventLog { return &eventLog{c: make(chan string, 1024)} }

func (l *eventLog) note(s string) {
	l.mu.Lock()
	l.all, l.at = append(l.all, s), append(l.at, time.Now())
	l.mu.Unlock()
	l.c <- s
}

// wait waits for the given event, over others. After the controller's death no
// other comes.
func (l *eventLog) wait(t testing.TB, want string) {
	t.Helper()
	timeout := time.After(time.Hour)
	for got := ""; got != want; {
		select {
		case got = <-l.c:
		case <-timeout:
			got = "nothing"
		}
		if got != want && (got == "dead" || got == "nothing") {
			l.mu.Lock()
			defer l.mu.Unlock()
			t.Fatalf("no event %q; there were %q", want, l.all)
		}
	}
}

func (l *eventLog) events() host.Events {
	return host.Events{
		Lost:              func(error) { l.note("lost") },
		ConnectFailed:     func(int, error) { l.note("connect failed") },
		Reconnected:       func(int) { l.note("reconnected") },
		Dead:              func(error) { l.note("dead") },
		NamespacesChanged: func() { l.note("namespaces changed") },
		DiscoveryChanged:  func() { l.note("discovery changed") },
		Warning:           func(err error) { l.note("warning: " + err.Error()) },
	}
}
