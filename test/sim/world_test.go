package sim

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fabrid/fabrid/admission"
	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/fabric"
	"github.com/fabrid/fabrid/internal/simnet"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport/loop"
	"github.com/fabrid/fabrid/transport/rdma"
	"github.com/fabrid/fabrid/verbs/roce"
)

const (
	subNQN    = "nqn.2014-08.org.example:sim"
	blockSize = 4096
	diskSize  = 32 << 20
)

var targetAddr = netip.MustParseAddr("192.0.2.1")

// hostAddr is the address of the nth host, from 1.
func hostAddr(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{192, 0, 2 + byte(n>>8), byte(n)}).Next()
}

// A world is a target and hosts on a network, in a synctest bubble.
type world struct {
	t testing.TB
	worldConfig
	net    *simnet.Net
	disk   *bdev.Faulty // outlives the target
	server              // the one that there is now
	remote netip.AddrPort

	keepAlive time.Duration
	peers     []*peer
	crowd     *crowd // nil: none
	began     time.Time
	filled    []*admission.Grant // what fillBudget took
	later     sync.WaitGroup     // what was to be done later

	halted  atomic.Pointer[chan struct{}] // nil: the target's loop runs
	stuck   bool                          // the disk answers after all only
	down    bool                          // the target takes no host any more
	removed bool                          // the target's device
}

// A server is a target on its node.
type server struct {
	node     *fabric.Node
	dev      *faultyDevice // nil: it listens within the process
	listener listener
	tgt      *target.Target
	port     *target.Port
	sub      *target.Subsystem
}

// A listener is one of any fabric.
type listener interface {
	stopListening() error
	Shutdown(ctx context.Context) error
	// held is what it has, beside the listener itself: queues, those that wait
	// too, data buffers, receives that are shared.
	held() (queues, buffers, shared int)
}

type rdmaListener struct{ *rdma.Listener }

func (l rdmaListener) stopListening() error { return l.Close() }

func (l rdmaListener) held() (queues, buffers, shared int) {
	s := l.Stats()
	return s.Queues + s.Waiting, s.Buffers, s.SharedInUse
}

type loopListener struct{ *loop.Listener }

func (l loopListener) stopListening() error {
	l.Close()
	return nil
}

func (l loopListener) held() (queues, buffers, shared int) {
	s := l.Stats()
	return s.Queues + s.Waiting, s.Pages, 0
}

// A worldConfig describes a world to be.
type worldConfig struct {
	seed   uint64
	link   simnet.Link
	limits admission.Config
	srq    bool
	loop   bool // hosts are in the target's process
}

// newWorld makes a world. It must be closed.
func newWorld(t testing.TB, cfg worldConfig) *world {
	t.Helper()
	w := &world{
		t: t, worldConfig: cfg, began: time.Now(), keepAlive: 15 * time.Second,
		net:    simnet.New(simnet.Config{Seed: cfg.seed, Link: cfg.link}),
		remote: netip.AddrPortFrom(targetAddr, fabric.DefaultPort),
	}
	w.net.Capture(t)
	memory, err := bdev.NewMemory(bdev.MemoryConfig{Size: diskSize, BlockSize: blockSize})
	if err != nil {
		t.Fatal(err)
	}
	w.disk = bdev.NewFaulty(memory)
	w.start()
	return w
}

// start starts the target.
func (w *world) start() {
	w.t.Helper()
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	var s server
	var err error
	s.tgt = target.New(target.Config{})
	s.sub, err = s.tgt.AddSubsystem(target.SubsystemConfig{NQN: subNQN, AllowAnyHost: true})
	must(err)
	_, err = s.sub.AddNamespace(target.NamespaceConfig{Device: w.disk})
	must(err)
	s.port, err = s.tgt.AddPort(target.PortConfig{ID: 1})
	must(err)
	must(s.port.Link(s.sub))
	s.node, err = fabric.NewNode(fabric.Config{Name: "target", Sim: true, Limits: w.limits})
	must(err)
	if w.loop {
		l, err := s.node.Loop().Listen(loop.Config{Core: s.port, Addr: w.remote, PoolSize: 2 << 20})
		must(err)
		s.listener = loopListener{l}
		w.server = s
		return
	}
	device, err := s.node.OpenRoCE(roce.Config{Addr: targetAddr, Network: w.net, NodeGUID: uint64(time.Now().UnixNano())})
	must(err)
	s.dev = &faultyDevice{roceDevice: device.Device}
	l, err := device.Listen(rdma.Config{Core: s.port, Provider: s.dev, PoolSize: 16 << 20, UseSRQ: w.srq})
	must(err)
	s.listener = rdmaListener{l}
	w.server = s
}

// stop ends the target in the order that a program does, and finds out whether
// anything is left of it.
func (w *world) stop() {
	w.t.Helper()
	ctx := w.t.Context()
	w.disk.Release()
	_ = w.listener.stopListening()
	if err := w.tgt.Close(); err != nil {
		w.t.Error(err)
	}
	if err := w.node.Close(ctx); err != nil {
		w.t.Error(err)
	}
	if c := w.node.Counts(); c != (fabric.Counts{}) {
		w.t.Errorf("after its end the target has %+v", c)
	}
	if c := w.tgt.Counts(); c != (target.Counts{}) {
		w.t.Errorf("after its end the target has %+v", c)
	}
	if q, b, s := w.listener.held(); q+b+s != 0 {
		w.t.Errorf("after its end the listener has %d queues, %d buffers, %d shared receives", q, b, s)
	}
	w.checkMost()
}

// close ends all, and finds out whether it does.
func (w *world) close() {
	w.t.Helper()
	w.later.Wait()
	w.resumeLoop()
	w.emptyBudget()
	for _, p := range w.peers {
		if err := p.end.close(); err != nil {
			w.t.Error(err)
		}
	}
	w.stop()
	if err := w.disk.Close(); err != nil {
		w.t.Error(err)
	}
	time.Sleep(time.Minute) // for what is on its way
	s := w.net.Stats()
	if end := s.Delivered + s.Dropped + s.Lost + s.TooLong + s.Overflowed + s.Unreachable; end != s.Sent+s.Duplicated {
		w.t.Errorf("packets on their way: of %+v", s)
	}
	time.Sleep(time.Minute)
	if n := w.net.Stats().Sent - s.Sent; n != 0 {
		w.t.Errorf("%d packets after the end of all", n)
	}
	if err := w.net.Close(); err != nil {
		w.t.Error(err)
	}
}

// setLink sets what happens to the packets of a peer on their way to the
// target.
func (w *world) setLink(p *peer, drop func(n int, b []byte) bool) error {
	l := w.link
	l.Drop = drop
	return w.net.SetLink(p.addr, targetAddr, l)
}

// fillBudget takes all that the budget has left.
func (w *world) fillBudget() {
	port := w.node.Budget().NewPort(admission.Limits{})
	for range w.limits.Target.Queues {
		g := new(admission.Grant)
		if port.Take(g, admission.Host{Addr: targetAddr}, 1) != nil {
			return
		}
		g.Connected()
		w.filled = append(w.filled, g)
	}
}

// emptyBudget gives it back.
func (w *world) emptyBudget() {
	for _, g := range w.filled {
		g.Return()
	}
	w.filled = nil
}

// checkMost finds out whether more was charged, ever, than may be. Connecting is
// not looked at: that bound is for who has no controller yet, and the count is of
// I/O queues, too.
func (w *world) checkMost() {
	w.t.Helper()
	s, most := w.node.Budget().Stats(), w.limits.Target
	for _, b := range []struct {
		what        string
		most, limit int
	}{
		{"queues", s.Most.Queues, most.Queues},
		{"hosts that wait", s.Most.Waiting, most.Waiting},
	} {
		if b.limit > 0 && b.most > b.limit {
			w.t.Errorf("the budget had room for %d %s, and let in %d", b.limit, b.what, b.most)
		}
	}
}

// left says what is left of hosts and their queues; nothing: "". orphans is how
// many buffers must be out, which are those of requests that the disk still has.
func (w *world) left(orphans int) string {
	var all []string
	note := func(what string, n int) {
		if n != 0 {
			all = append(all, fmt.Sprintf("%d %s", n, what))
		}
	}
	c, used := w.node.Counts(), w.node.Budget().Stats().Used
	note("queues waiting", c.Queues.Waiting)
	note("queues connecting", c.Queues.Connecting)
	note("queues live", c.Queues.Live)
	note("queues disconnecting", c.Queues.Disconnecting)
	note("queues releasing", c.Queues.Releasing)
	note("buffers too many", c.Buffers-orphans)
	note("queue pairs", c.QPs)
	note("queues charged", c.Admitted-len(w.filled))
	stats := w.node.Budget().Stats()
	note("bytes charged", int(c.AdmittedBytes-stats.OrphanedBytes)-len(w.filled))
	if (stats.OrphanedBytes > 0) != (orphans > 0) {
		all = append(all, fmt.Sprintf("%d bytes charged as orphaned", stats.OrphanedBytes))
	}
	note("queues charged as connecting", used.Connecting)
	note("queues charged as waiting", used.Waiting)
	note("queues reserved", used.Reserved)
	ids := 1 // that listens
	switch {
	case w.loop:
		ids = 0
	case w.down || w.removed:
		ids = min(1, c.CMIDs)
	}
	note("connection IDs too many", c.CMIDs-ids)
	t := w.tgt.Counts()
	note("controllers", t.Controllers)
	note("queues of the core", t.Queues)
	queues, _, shared := w.listener.held()
	note("queues of the listener", queues)
	note("shared receives in use", shared)
	for _, p := range w.peers {
		note("queues of "+p.name, p.end.held())
	}
	if len(all) == 0 && c.Queues.Total() != len(w.node.Queues().All()) {
		all = append(all, "lives in the list")
	}
	return strings.Join(all, ", ")
}

// within waits until nothing is left, and fails if that is too late. It returns
// how long it took.
func (w *world) within(bound time.Duration, orphans int) (time.Duration, error) {
	begin := time.Now()
	step := max(2*time.Millisecond, bound/500)
	for {
		left := w.left(orphans)
		took := time.Since(begin)
		switch {
		case left == "":
			return took, nil
		case took >= bound:
			return took, fmt.Errorf("after %v there are %s; causes %v", took, left, w.causes())
		}
		time.Sleep(min(step, bound-took))
	}
}

// causes is why queues left, that have not been freed.
func (w *world) causes() (all []string) {
	for _, l := range w.node.Queues().All() {
		i := l.Info()
		all = append(all, fmt.Sprintf("queue %d %v %s for %v: %v", i.QID, i.State, i.Step, i.Age.Round(time.Millisecond), i.Cause))
	}
	return all
}

// peer returns the host of the name, which is made if it is new: H1, H2, ...
func (w *world) peer(name string) *peer {
	w.t.Helper()
	for _, p := range w.peers {
		if p.name == name {
			return p
		}
	}
	var n int
	if _, err := fmt.Sscanf(name, "H%d", &n); err != nil || n < 1 || n > 250 {
		w.t.Fatalf("%q is not the name of a host", name)
	}
	p, err := w.newPeer(name, hostAddr(n), byte(n))
	if err != nil {
		w.t.Fatal(err)
	}
	w.peers = append(w.peers, p)
	return p
}

// afterwards lets a new host in, if the target takes one, which reads what it
// wrote and leaves.
func (w *world) afterwards() error {
	w.emptyBudget()
	if w.dev != nil {
		w.dev.swallow.Store(false)
	}
	if w.down || w.removed {
		return nil
	}
	p := w.peer("H99")
	if err := p.dial(0); err != nil {
		return err
	}
	if err := p.connectAdmin(); err != nil {
		return err
	}
	if err := p.connectIO(); err != nil {
		return err
	}
	if err := p.verifiedIO(); err != nil {
		return err
	}
	p.end.hangUp()
	if took, err := w.within(time.Second, 0); err != nil {
		return fmt.Errorf("%v after the new host has left: %w", took, err)
	}
	return nil
}

// haltLoop has the target's event loop do nothing until resumeLoop.
func (w *world) haltLoop() {
	if halted := make(chan struct{}); w.halted.CompareAndSwap(nil, &halted) {
		w.node.Shard().Post(&shard.Task{Fn: func() { <-halted }})
	}
}

func (w *world) resumeLoop() {
	if halted := w.halted.Swap(nil); halted != nil {
		close(*halted)
	}
}

var (
	errUnexpected = errors.New("that should have failed")
	errLeft       = errors.New("sim: the host has left")
)
