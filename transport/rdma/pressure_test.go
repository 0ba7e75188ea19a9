package rdma

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fabrid/fabrid/admission"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/verbs/roce"
	"github.com/fabrid/fabrid/workqueue"
)

// A pressure is I/O over RoCEv2 on many queues that share one SRQ: half of the
// commands read, the others write 4 KiB in the capsule.
type pressure struct {
	controllers, queues, depth int // queues of each controller
	readSize                   int
	srqSize                    int
	runtime                    time.Duration
}

// keepAlive is the time in which a Keep Alive must be answered: KATO, with most
// hosts.
const keepAlive = 5 * time.Second

// run fails the test if any queue goes down, a command fails, or a Keep Alive is
// late.
func (p pressure) run(t *testing.T) {
	network := byte(43 + p.controllers)
	open := func(last byte) (*roce.Device, *shard.Shard) {
		s, err := shard.New(shard.Config{})
		if err != nil {
			t.Fatal(err)
		}
		d, err := roce.Open(roce.Config{Shard: s, Addr: netip.AddrFrom4([4]byte{127, network, 0, last})})
		if err != nil {
			t.Fatal(err)
		}
		return d, s
	}
	hostDev, hostShard := open(1)
	dev, targetShard := open(2)
	cm := rdmacm.New(rdmacm.Config{})
	core := newTestCore()
	core.size = p.readSize + 4096
	gate := &transport.Gate{
		Queues: new(transport.Queues), Delete: workqueue.New(workqueue.Config{Name: "delete"}),
		Connect: workqueue.New(workqueue.Config{Name: "connect"}), Budget: admission.New(admission.Config{}).NewPort(admission.Limits{}),
	}
	l, err := Listen(Config{
		CM: cm, Provider: dev, Addr: netip.AddrPortFrom(dev.Addr().Addr(), 4420), Shards: []*shard.Shard{targetShard},
		Core: core, Gate: gate, UseSRQ: true, SRQSize: p.srqSize,
	})
	if err != nil {
		t.Fatal(err)
	}
	d, err := NewDialer(DialerConfig{CM: cm, Provider: hostDev, Shards: []*shard.Shard{hostShard}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(l.Shutdown(wctx(t)), cm.Close(), hostDev.Close(), dev.Close(), hostShard.Close(), targetShard.Close()); err != nil {
			t.Error(err)
		}
		gate.Delete.Destroy()
		gate.Connect.Destroy()
	}()
	dial := func(qid uint16, depth int) transport.HostQueue {
		t.Helper()
		h := transport.HostQueueParam{Remote: l.Addr(), QID: qid, Depth: depth, MaxData: 1 << 20}
		h.Down = func(cause error) { t.Errorf("queue %d: %v", qid, cause) }
		if qid != 0 {
			h.InCapsule, h.CNTLID = 4096, 1
		}
		q, err := d.Dial(wctx(t), h)
		if err != nil {
			t.Fatal(err)
		}
		c := &client{w: &world{TB: t}, q: q}
		c.connect()
		return q
	}
	var commands atomic.Int64
	var loads []*pressureQueue
	var admins []transport.HostQueue
	for range p.controllers {
		admins = append(admins, dial(0, adminQueueSize))
		for qid := range p.queues {
			loads = append(loads, newPressureQueue(p, dial(uint16(1+qid), p.depth), &commands))
		}
	}
	end := time.Now().Add(p.runtime)
	for _, x := range loads {
		x.start(t)
	}
	late := time.Duration(0)
	for time.Now().Before(end) {
		for i, a := range admins {
			r := newReq(func(cmd nvme.Command) { cmd.SetOpcode(uint8(nvme.AdminKeepAlive)) }, nil)
			sent := time.Now()
			if err := a.Shard().Run(func() { err = a.Submit(&r.HostRequest) }); err != nil {
				t.Fatal(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			select {
			case <-r.done:
			case <-time.After(10 * keepAlive):
				t.Fatalf("controller %d: no answer to a Keep Alive", i)
			}
			took := time.Since(sent)
			if late = max(late, took); r.Err != nil || took > keepAlive {
				t.Fatalf("controller %d: Keep Alive: %v after %v", i, r.Err, took)
			}
		}
	}
	for _, x := range loads {
		x.stop(t)
	}
	for _, x := range loads {
		<-x.done
		if x.err != nil {
			t.Error(x.err)
		}
	}
	s := dev.Stats()
	t.Logf("%d commands; the slowest Keep Alive took %v; %d RNR NAKs, %d retransmits", commands.Load(), late, s.RNRsSent, s.Retransmits)
	if n := l.Stats().Queues; n != len(loads)+len(admins) {
		t.Errorf("%d queues of %d", n, len(loads)+len(admins))
	}
	for _, x := range loads {
		x.q.Disconnect()
	}
	for _, a := range admins {
		a.Disconnect()
	}
}

// A pressureQueue keeps a host's queue full. Its fields are the shard's until
// done is closed.
type pressureQueue struct {
	q        transport.HostQueue
	reqs     []transport.HostRequest
	commands *atomic.Int64
	err      error
	stopping bool
	left     int
	done     chan struct{}
}

func newPressureQueue(p pressure, q transport.HostQueue, commands *atomic.Int64) *pressureQueue {
	x := &pressureQueue{q: q, reqs: make([]transport.HostRequest, p.depth), commands: commands, done: make(chan struct{})}
	into, from := make([]byte, p.readSize), pattern(4096, 1)
	for i := range x.reqs {
		r := &x.reqs[i]
		cmd := nvme.MakeCommand(r.Command[:])
		cmd.SetNSID(1)
		r.Done = x.ended
		if r.Data = into; i%2 == 0 {
			cmd.SetOpcode(opRead)
			continue
		}
		cmd.SetOpcode(opWrite)
		cmd.SetCDW(10, uint32(p.readSize))
		r.Data = from
	}
	return x
}

func (x *pressureQueue) start(t *testing.T) {
	t.Helper()
	if err := x.q.Shard().Run(func() {
		for i := range x.reqs {
			x.submit(&x.reqs[i])
		}
	}); err != nil {
		t.Fatal(err)
	}
}

func (x *pressureQueue) submit(r *transport.HostRequest) {
	if err := x.q.Submit(r); err != nil {
		x.err = err
		return
	}
	x.left++
}

func (x *pressureQueue) ended(r *transport.HostRequest) {
	x.left--
	x.commands.Add(1)
	if r.Err != nil || !r.Completion.Status.OK() {
		x.err = fmt.Errorf("%w, %v", r.Err, r.Completion.Status)
	} else if !x.stopping {
		x.submit(r)
	}
	if x.stopping && x.left == 0 {
		close(x.done)
	}
}

// stop has the queue come to an end; done is closed when it has.
func (x *pressureQueue) stop(t *testing.T) {
	t.Helper()
	if err := x.q.Shard().Run(func() {
		x.stopping = true
		if x.left == 0 {
			close(x.done)
		}
	}); err != nil {
		t.Fatal(err)
	}
}

// An SRQ much smaller than what the hosts send at once: nobody is disconnected,
// and Keep Alives are answered in time.
func TestSRQUnderPressure(t *testing.T) {
	pressure{controllers: 2, queues: 8, depth: 64, readSize: 256 << 10, srqSize: 32, runtime: time.Second}.run(t)
}
