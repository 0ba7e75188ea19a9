package loop

import (
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
)

type (
	opened  struct{} // completed on the target's shard
	drained struct{} // completed on the target's shard
)

// A conn is a connection, and its target's end: [transport.Fabric] for the
// core and [transport.Entrant] for its life. What is below batch belongs to
// the target's shard.
type conn struct {
	l      *Listener
	shard  *shard.Shard
	pool   *pool
	life   transport.Life
	host   *hostQueue
	remote netip.AddrPort
	qid    uint16

	slots    []slot
	toTarget mailbox
	toHost   mailbox

	open     shard.Task // makes the core's end
	arrive   shard.Task // looks into toTarget
	depart   shard.Task // the host leaves
	dismiss  shard.Task // the listener wants it to go
	drain    shard.Task
	answered lockdep.Completion[gateAnswered]
	opened   lockdep.Completion[opened]
	drained  lockdep.Completion[drained]
	refusal  error // of the gate; after answered. Of the core; after opened

	batch   []*transport.Request
	core    transport.Queue
	done    slotList // completed, to be told and handed back at the end of the round
	flusher shard.Flusher
	leaving error // Disconnect was called: down follows at the end of the round
	down    bool
}

// Causes of an end that come from here.
var (
	errHostLeft  = &transport.Cause{Word: "host_left", Text: "loop: the host has disconnected"}
	errShutdown  = &transport.Cause{Word: "listener_shutdown", Text: "loop: listener shut down"}
	errClosed    = &transport.Cause{Word: "listener_closed", Text: "the listener is closed"}
	errPortGone  = &transport.Cause{Word: "port_gone", Text: "the port is gone"}
	errQueueGone = fmt.Errorf("loop: %w", transport.ErrQueueDown)
)

// slotFootprint is what a slot costs beside in-capsule data, on both ends.
func slotFootprint(maxData int) int64 {
	return int64(unsafe.Sizeof(slot{})) + 2*int64(pagesFor(maxData))*int64(unsafe.Sizeof([]byte{}))
}

// allocate makes what the queue needs, after its admission.
func (c *conn) allocate(depth, inline int) {
	c.slots = make([]slot, depth)
	c.batch = make([]*transport.Request, 0, depth)
	data := make([]byte, depth*inline)
	pages := make([][]byte, 2*depth*pagesFor(c.l.cfg.MaxData))
	for i := range c.slots {
		s := &c.slots[i]
		s.conn = c
		s.r.Index = i
		s.inline, data = data[:inline:inline], data[inline:]
		n := pagesFor(c.l.cfg.MaxData)
		s.pages, s.lent, pages = pages[:0:n], pages[n:n:2*n], pages[2*n:]
	}
	c.open.Fn = c.runOpen
	c.arrive.Fn = c.runArrive
	c.depart.Fn = func() { c.fail(errHostLeft) }
	c.dismiss.Fn = func() { c.Disconnect(errShutdown) }
	c.drain.Fn = c.runDrain
	c.flusher.Fn = c.flush
}

// runOpen makes the core's end, unless the end came first.
func (c *conn) runOpen() {
	defer c.opened.Complete()
	if c.down {
		c.refusal = c.life.Cause()
		return
	}
	q, err := c.l.cfg.Core.Open(c, transport.QueueParam{
		Shard: c.shard, Local: c.l.cfg.Addr, Remote: c.remote,
		QID: c.qid, Depth: len(c.slots), Limits: c.l.limits(), Life: &c.life,
	})
	if err != nil {
		c.refusal = err
		c.fail(transport.WithReason("open", err))
		return
	}
	c.core = q
	c.life.SetQueue(q)
	c.life.Move(transport.Live)
}

// runArrive takes what the host has sent.
func (c *conn) runArrive() {
	s := c.toTarget.get()
	if c.down {
		return // the host's end knows what it has outstanding
	}
	c.batch = c.batch[:0]
	for s != nil {
		next := s.next
		s.next = nil
		c.accept(s)
		c.batch = append(c.batch, &s.r)
		s = next
	}
	if len(c.batch) > 0 {
		c.core.Receive(c.batch)
	}
}

// accept makes a request of a capsule.
func (c *conn) accept(s *slot) {
	r := &s.r
	r.Command = nvme.Command(s.command[:])
	r.Data, r.Completion = nil, nvme.Completion{}
	r.Length, r.SGLStatus = 0, nvme.Success
	switch d := r.Command.SGL(); d.Type {
	case nvme.SGLOffset:
		switch {
		case r.Command.Direction() != nvme.HostToController:
			r.SGLStatus = nvme.InvalidField.WithDNR()
		case d.Address != 0 || uint64(d.Length) > uint64(len(s.inline)):
			r.SGLStatus = nvme.SGLInvalidOffset.WithDNR()
		default:
			r.Length = int(d.Length)
		}
	case nvme.SGLTransport:
		if uint64(d.Length) > uint64(len(s.data)) {
			r.SGLStatus = nvme.SGLInvalidDataLength.WithDNR()
			return
		}
		r.Length = int(d.Length)
	default:
		r.SGLStatus = nvme.SGLInvalidType.WithDNR()
	}
}

// Reserve implements [transport.Fabric].
func (c *conn) Reserve(r *transport.Request, n int) bool {
	s := &c.slots[r.Index]
	if n > c.l.cfg.MaxData {
		panic(fmt.Sprintf("loop: reserve %d bytes, the limit is %d", n, c.l.cfg.MaxData))
	}
	var ok bool
	if s.pages, ok = c.pool.take(s.pages, n); ok {
		s.lend()
		return true
	}
	c.wait(s, n, false)
	return false
}

// Pull implements [transport.Fabric].
func (c *conn) Pull(r *transport.Request) {
	s := &c.slots[r.Index]
	if r.Command.SGL().Type == nvme.SGLOffset {
		s.lent = append(s.lent[:0], s.inline[:r.Length])
		r.Data = s.lent
		c.core.DataReady(r, nil)
		return
	}
	var ok bool
	if s.pages, ok = c.pool.take(s.pages, r.Length); !ok {
		c.wait(s, r.Length, true)
		return
	}
	c.fill(s)
}

// wait puts s in the pool's list. On a queue that is down, where nobody would
// take it out again, it is failed at the end of the round.
func (c *conn) wait(s *slot, n int, pull bool) {
	s.want, s.pull, s.waits = n, pull, true
	c.pool.waiting.push(s)
	if c.down {
		c.shard.Flush(&c.flusher)
	}
}

// Cancel implements [transport.Fabric].
func (c *conn) Cancel(r *transport.Request) bool {
	s := &c.slots[r.Index]
	if !s.waits {
		return false
	}
	c.pool.waiting.remove(s)
	s.waits = false
	c.pool.give(nil) // others may have waited behind it
	return true
}

// served is told by the pool that s has got its pages.
func (c *conn) served(s *slot) {
	if s.pull {
		c.fill(s)
		return
	}
	s.lend()
	c.core.DataReady(&s.r, nil)
}

// fill copies the host's data to the pages of s.
func (c *conn) fill(s *slot) {
	r := &s.r
	s.lend()
	if c.down { // the memory may not be the fabric's any more
		c.core.DataReady(r, errQueueGone)
		return
	}
	from := s.data
	for _, b := range s.pages {
		from = from[copy(b, from):]
	}
	c.core.DataReady(r, nil)
}

// Complete implements [transport.Fabric].
func (c *conn) Complete(r *transport.Request) {
	s := &c.slots[r.Index]
	if !c.down && r.Completion.Status.OK() && r.Command.Direction() == nvme.ControllerToHost {
		to := s.data[:r.Length]
		for _, b := range r.Data {
			to = to[copy(to, b):]
		}
	}
	c.pool.give(s.pages)
	s.pages = s.pages[:0]
	c.done.push(s)
	c.shard.Flush(&c.flusher)
}

// Disconnect implements [transport.Fabric].
func (c *conn) Disconnect(cause error) {
	if c.down || c.leaving != nil {
		return
	}
	c.life.Leave(cause)
	c.leaving = cause
	c.shard.Flush(&c.flusher)
}

// flush runs at the end of a round: completions go to the host, all of a round
// at once.
func (c *conn) flush() {
	if c.down {
		c.failWaiting()
	}
	first := c.done.take()
	for s := first; s != nil; s = s.next {
		c.core.Sent(&s.r)
		s.r.Data = nil
	}
	if first != nil && !c.down {
		c.toHost.put(first)
		c.host.shard.Post(&c.host.answered)
	}
	if c.leaving != nil {
		c.fail(c.leaving)
	}
}

// failWaiting tells the core of requests that will get no pages any more.
func (c *conn) failWaiting() {
	for i := range c.slots {
		if s := &c.slots[i]; s.waits {
			c.pool.waiting.remove(s)
			s.waits = false
			c.core.DataReady(&s.r, errQueueGone)
		}
	}
	c.pool.give(nil) // others may have waited behind them
}

// fail takes the queue down, once. From here on nothing of the host's memory is
// touched, so the host may have it back.
func (c *conn) fail(cause error) {
	if c.down {
		return
	}
	c.down = true
	if c.core != nil {
		c.failWaiting()
		c.core.Down(cause)
	}
	c.host.downCause = cause
	c.host.shard.Post(&c.host.lost)
	if fn := c.l.cfg.Events.Down; fn != nil && c.core != nil {
		fn(c.remote, c.qid, cause)
	}
	c.life.BeginRelease(cause)
}

// Drain implements [transport.Entrant]. The queue is down, so what runs on the
// shard still is the rest of a round.
func (c *conn) Drain(deadline time.Time) {
	if !c.shard.Post(&c.drain) {
		return // closed: nothing runs there
	}
	t := time.NewTimer(time.Until(deadline))
	defer t.Stop()
	select {
	case <-c.drained.Done():
	case <-t.C:
	}
}

func (c *conn) runDrain() { c.drained.Complete() }

// Free implements [transport.Entrant]. Orphaned requests keep their pages until
// they are completed.
func (c *conn) Free(int) { c.l.remove(c) }
