package rdma

import (
	"context"
	"errors"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fabrid/fabrid/admission"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/verbs/roce"
	"github.com/fabrid/fabrid/workqueue"
)

// A rocePair is a host and a target over RoCEv2, on loopback.
type rocePair struct {
	testing.TB
	hostDev, dev     *roce.Device
	hostShard, shard *shard.Shard
	l                *Listener
	d                *Dialer
}

var rocePairs byte // so far: each has a network of its own

// newRoCEPair makes a pair. When the test has ended it is taken down.
func newRoCEPair(t testing.TB, core *testCore, mod func(c *Config)) *rocePair {
	t.Helper()
	rocePairs++
	open := func(last byte) (*roce.Device, *shard.Shard) {
		s, err := shard.New(shard.Config{})
		if err != nil {
			t.Fatal(err)
		}
		d, err := roce.Open(roce.Config{Shard: s, Addr: netip.AddrFrom4([4]byte{127, 43, rocePairs, last})})
		if err != nil {
			t.Fatal(err)
		}
		return d, s
	}
	n := &rocePair{TB: t}
	n.hostDev, n.hostShard = open(1)
	n.dev, n.shard = open(2)
	cm := rdmacm.New(rdmacm.Config{})
	gate := &transport.Gate{
		Queues:  new(transport.Queues),
		Delete:  workqueue.New(workqueue.Config{Name: "delete"}),
		Connect: workqueue.New(workqueue.Config{Name: "connect"}),
		Budget:  admission.New(admission.Config{}).NewPort(admission.Limits{}),
	}
	cfg := Config{
		CM: cm, Provider: n.dev, Addr: netip.AddrPortFrom(n.dev.Addr().Addr(), 4420), Shards: []*shard.Shard{n.shard},
		Core: core, Gate: gate,
	}
	mod(&cfg)
	var err error
	if n.l, err = Listen(cfg); err != nil {
		t.Fatal(err)
	}
	if n.d, err = NewDialer(DialerConfig{CM: cm, Provider: n.hostDev, Shards: []*shard.Shard{n.hostShard}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(n.l.Shutdown(wctx(t)), cm.Close(), n.hostDev.Close(), n.dev.Close(), n.hostShard.Close(), n.shard.Close()); err != nil {
			t.Error(err)
		}
		gate.Delete.Destroy()
		gate.Connect.Destroy()
	})
	return n
}

func (n *rocePair) param(qid uint16, depth int) transport.HostQueueParam {
	h := transport.HostQueueParam{Remote: n.l.Addr(), QID: qid, Depth: depth, MaxData: 1 << 20}
	if qid != 0 {
		h.InCapsule, h.CNTLID = 4096, 1
	}
	return h
}

// cpuTime is what the process has used of all CPUs: unlike the rate, it tells
// nearly the same on a busy machine.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkCycle is a host that connects an admin and an I/O queue, each with its
// Connect command, and leaves: a cycle of a storm, with both ends in one process.
func BenchmarkCycle(b *testing.B) {
	for name, srq := range map[string]bool{"plain": false, "SRQ": true} {
		b.Run(name, func(b *testing.B) {
			core := newTestCore()
			core.size, core.forget = 4096, true
			n := newRoCEPair(b, core, func(c *Config) { c.UseSRQ = srq })
			var failed atomic.Int64
			dial := func(qid uint16, depth int) transport.HostQueue {
				q, err := n.d.Dial(context.Background(), n.param(qid, depth))
				if err != nil {
					failed.Add(1)
					return nil
				}
				r := newReq(func(cmd nvme.Command) { cmd.PutConnect(nvme.ConnectCommand{SQSize: uint16(depth - 1)}) }, make([]byte, nvme.ConnectDataSize))
				if runErr := q.Shard().Run(func() { err = q.Submit(&r.HostRequest) }); runErr != nil || err != nil {
					failed.Add(1)
					return q
				}
				if <-r.done; r.Err != nil {
					failed.Add(1)
				}
				return q
			}
			b.ReportAllocs()
			cpu := cpuTime(b)
			b.SetParallelism(64 / runtime.GOMAXPROCS(0))
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					for _, q := range []transport.HostQueue{dial(1, 128), dial(0, adminQueueSize)} {
						if q != nil {
							q.Disconnect()
						}
					}
				}
			})
			st, cycles := n.dev.Stats(), float64(b.N)
			b.ReportMetric(float64(cpuTime(b)-cpu)/cycles/1e3, "cpu-us/op")
			b.ReportMetric(float64(st.SendCalls)/cycles, "sends/op")
			b.ReportMetric(float64(st.Trains)/cycles, "trains/op")
			b.ReportMetric(float64(st.PacketsSent+st.PacketsReceived)/cycles, "packets/op")
			b.ReportMetric(cycles/b.Elapsed().Seconds(), "cycles/s")
			if f := failed.Load(); f > 0 {
				b.Errorf("%d failures", f)
			}
		})
	}
}
