package roce

import (
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
	"github.com/fabrid/fabrid/workqueue"
)

// A benchSide is one side of BenchmarkConnect: its devices are on one shard, and
// its IDs in one connection manager.
type benchSide struct {
	b   testing.TB
	s   *shard.Shard
	cm  *rdmacm.CM
	wq  *workqueue.Queue // releases, as a target's
	all []*benchQueue
}

// A benchQueue is a queue pair that is used for one connection after another.
type benchQueue struct {
	side    *benchSide
	dev     *Device
	pd      verbs.PD
	cq      verbs.CQ
	qp      verbs.QP
	id      *rdmacm.ID
	handler rdmacm.Handler
	told    chan rdmacm.EventType
	reset   shard.Task
	release workqueue.Work
	home    chan *benchQueue // where it goes when it is released
}

func newBenchSide(b testing.TB) *benchSide {
	s, err := shard.New(shard.Config{})
	if err != nil {
		b.Fatal(err)
	}
	return &benchSide{
		b: b, s: s, cm: rdmacm.New(rdmacm.Config{}),
		wq: workqueue.New(workqueue.Config{Name: "release"}),
	}
}

func (e *benchSide) device(addr netip.Addr) *Device {
	d, err := Open(Config{Shard: e.s, Addr: addr, UDPPort: cmTestPort})
	if err != nil {
		e.b.Fatal(err)
	}
	return d
}

// queues makes n queues of a device.
func (e *benchSide) queues(d *Device, n int, home chan *benchQueue) {
	for range n {
		q := &benchQueue{side: e, dev: d, home: home, told: make(chan rdmacm.EventType, 8)}
		q.pd = must(d.AllocPD())
		q.reset.Fn = q.init
		q.release.Init("release", func() {
			if err := q.id.Destroy(); err != nil {
				e.b.Error(err)
			}
			q.side.s.Post(&q.reset)
		})
		q.handler = func(_ *rdmacm.ID, ev *rdmacm.Event) error {
			q.told <- ev.Type
			return nil
		}
		_ = e.s.Run(func() {
			q.cq = must(q.pd.CreateCQ(verbs.CQAttr{Size: 4, Handler: func([]verbs.WC) {}}))
			q.qp = must(q.pd.CreateQP(verbs.QPInitAttr{SendCQ: q.cq, RecvCQ: q.cq, MaxSendWR: 4, MaxRecvWR: 4, MaxSendSGE: 1, MaxRecvSGE: 1}))
			q.init()
		})
		e.all = append(e.all, q)
	}
}

// init makes the queue ready for a connection, on the shard. Its queue pair is
// made anew, as it would be: a number rests before it is used again.
func (q *benchQueue) init() {
	if err := q.qp.Destroy(); err != nil {
		q.side.b.Error(err)
	}
	q.qp = must(q.pd.CreateQP(verbs.QPInitAttr{SendCQ: q.cq, RecvCQ: q.cq, MaxSendWR: 4, MaxRecvWR: 4, MaxSendSGE: 1, MaxRecvSGE: 1}))
	if err := q.qp.Modify(verbs.Init); err != nil {
		q.side.b.Error(err)
	}
	q.home <- q
}

func (e *benchSide) close(devs ...*Device) {
	if err := e.cm.Close(); err != nil {
		e.b.Error(err)
	}
	e.wq.Drain()
	e.wq.Destroy()
	for _, q := range e.all {
		_ = e.s.Run(func() {
			if err := q.qp.Destroy(); err != nil {
				e.b.Error(err)
			}
			if err := q.cq.Destroy(); err != nil {
				e.b.Error(err)
			}
		})
		if err := q.pd.Dealloc(); err != nil {
			e.b.Error(err)
		}
	}
	for _, d := range devs {
		if err := d.Close(); err != nil {
			e.b.Error(err)
		}
	}
	if err := e.s.Close(); err != nil {
		e.b.Error(err)
	}
}

// accept is the handler of the listener, which takes its queues from home.
func (e *benchSide) accept(home chan *benchQueue) rdmacm.Handler {
	return func(id *rdmacm.ID, ev *rdmacm.Event) error {
		switch ev.Type {
		case rdmacm.ConnectRequest:
			q := <-home // there are as many as can be asked for, but for those that are being released
			q.id, ev.Conn.Context = ev.Conn, q
			return ev.Conn.Accept(q.qp, rdmacm.ConnParam{InitiatorDepth: 16, RNRRetryCount: 7})
		case rdmacm.Disconnected, rdmacm.ConnectError, rdmacm.Rejected:
			q := id.Context.(*benchQueue)
			e.wq.Queue(&q.release)
		}
		return nil
	}
}

// cycle connects and disconnects.
func (q *benchQueue) cycle(to netip.AddrPort) {
	b := q.side.b
	id := must(q.side.cm.NewID(q.handler))
	if err := id.Resolve(q.dev, netip.Addr{}, to); err != nil {
		b.Fatal(err)
	}
	if err := id.Connect(q.qp, rdmacm.ConnParam{ResponderResources: 16, RetryCount: 7, RNRRetryCount: 7}); err != nil {
		b.Fatal(err)
	}
	if ev := <-q.told; ev != rdmacm.Established {
		b.Errorf("told %v", ev)
	}
	_ = id.Disconnect()
	if ev := <-q.told; ev != rdmacm.Disconnected {
		b.Errorf("told %v", ev)
	}
	if err := id.Destroy(); err != nil {
		b.Error(err)
	}
	q.side.s.Post(&q.reset)
	<-q.home
}

// A benchWorld is a target with one device, and hosts with one each.
type benchWorld struct {
	target, host *benchSide
	dev          *Device
	hosts        []*Device
	listener     *rdmacm.ID
	home         chan *benchQueue // of the target
}

var benchAddr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 78, 0, 1}), 4420)

func newBenchWorld(b testing.TB, hosts int) *benchWorld {
	w := &benchWorld{target: newBenchSide(b), host: newBenchSide(b), home: make(chan *benchQueue, 2*hosts)}
	w.dev = w.target.device(benchAddr.Addr())
	w.target.queues(w.dev, 2*hosts, w.home)
	w.listener = must(w.target.cm.NewID(w.target.accept(w.home)))
	if err := w.listener.Listen(w.dev, benchAddr); err != nil {
		b.Fatal(err)
	}
	for i := range hosts {
		d := w.host.device(netip.AddrFrom4([4]byte{127, 78, 1 + byte(i>>8), byte(i)}))
		w.hosts = append(w.hosts, d)
		w.host.queues(d, 1, make(chan *benchQueue, 1))
	}
	for _, q := range w.host.all {
		<-q.home
	}
	return w
}

// cycles has the hosts connect and disconnect n times in all, and waits until
// the target has released everything.
func (w *benchWorld) cycles(n int) {
	var left atomic.Int64
	left.Store(int64(n))
	var wg sync.WaitGroup
	for _, q := range w.host.all {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				q.cycle(benchAddr)
			}
		})
	}
	wg.Wait()
	var all []*benchQueue
	for range len(w.target.all) {
		all = append(all, <-w.home)
	}
	for _, q := range all {
		w.home <- q
	}
}

func (w *benchWorld) close() {
	if err := w.listener.Destroy(); err != nil {
		w.host.b.Error(err)
	}
	w.target.close(w.dev)
	w.host.close(w.hosts...)
}

// cpuTime is what the process has used of all CPUs: unlike the rate, it tells
// the same on a busy machine.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkConnect connects and disconnects, over loopback, both ends in this
// process: hosts with an address each, to one listener. An operation is one
// connection's life.
func BenchmarkConnect(b *testing.B) {
	for _, hosts := range []int{1, 256} {
		b.Run(fmt.Sprintf("hosts=%d", hosts), func(b *testing.B) {
			w := newBenchWorld(b, hosts)
			cpu := cpuTime(b)
			b.ReportAllocs()
			b.ResetTimer()
			w.cycles(b.N)
			b.StopTimer()
			st, n := w.dev.Stats(), float64(b.N)
			b.ReportMetric(float64(cpuTime(b)-cpu)/n/1e3, "cpu-us/op")
			b.ReportMetric(n/b.Elapsed().Seconds(), "cycles/s")
			b.ReportMetric(float64(st.SendCalls)/n, "sends/op")
			b.ReportMetric(float64(st.ReceiveCalls)/n, "recvs/op")
			b.ReportMetric(float64(st.MADsSent+st.MADsReceived)/n, "MADs/op")
			w.close()
		})
	}
}

// A storm leaves nothing but what TIMEWAIT remembers, and costs no more than a
// few allocations for each connection: queue pairs use the memory of those that are gone.
func TestConnectStormLeavesNothing(t *testing.T) {
	const hosts, cycles = 8, 400
	w := newBenchWorld(t, hosts)
	w.cycles(cycles) // whatever grows to its size
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	goroutines := runtime.NumGoroutine()
	w.cycles(cycles)
	runtime.ReadMemStats(&after)
	if n := runtime.NumGoroutine(); n > goroutines {
		t.Errorf("%d goroutines, before there were %d", n, goroutines)
	}
	if n := (after.Mallocs - before.Mallocs) / cycles; n > 40 && !raceEnabled && !lockdep.Enabled {
		t.Errorf("%d allocations for a connection's life, of both ends", n)
	}
	if n := w.target.cm.Len() + w.host.cm.Len(); n != 1 { // the listener
		t.Errorf("%d IDs", n)
	}
	for _, d := range append(w.hosts, w.dev) {
		_ = d.cfg.Shard.Run(func() {
			m := d.eng.cm
			if n := len(m.conns) + len(m.peers) + len(m.peerQPs) + len(m.qpns) + m.halfOpen + m.lingering + len(d.eng.paths); n != 0 {
				t.Errorf("%v: %d things left", d.Addr(), n)
			}
			if n := m.timewait.len(); n > 2*cycles || n != len(m.timewait.until) {
				t.Errorf("%v: %d in TIMEWAIT, %d by name", d.Addr(), n, len(m.timewait.until))
			}
		})
	}
	w.close()
}
