package rdma

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
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
	core := newTestCore()
	core.size = p.readSize + 4096
	n := newRoCEPair(t, core, func(c *Config) { c.UseSRQ, c.SRQSize = true, p.srqSize })
	dial := func(qid uint16, depth int) transport.HostQueue {
		t.Helper()
		h := n.param(qid, depth)
		h.Down = func(cause error) { t.Errorf("queue %d: %v", qid, cause) }
		q, err := n.d.Dial(wctx(t), h)
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
			var err error
			if runErr := a.Shard().Run(func() { err = a.Submit(&r.HostRequest) }); runErr != nil || err != nil {
				t.Fatal(runErr, err)
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
	s := n.dev.Stats()
	t.Logf("%d commands; the slowest Keep Alive took %v; %d RNR NAKs, %d retransmits", commands.Load(), late, s.RNRsSent, s.Retransmits)
	if got := n.l.Stats().Queues; got != len(loads)+len(admins) {
		t.Errorf("%d queues of %d", got, len(loads)+len(admins))
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
