package rdma

import (
	"errors"
	"fmt"
	"math/bits"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/verbs"
)

var errDisconnected = errors.New("rdma: disconnected by its owner")

// hostMu guards what comes to a host's queue from outside its shard. Nothing is
// locked under it.
type hostMu struct{}

// hostFlushed and hostClosed are the classes of the waits for a host's queue.
type (
	hostFlushed struct{}
	hostClosed  struct{}
)

// A hostQueue implements [transport.HostQueue]. What is below qp belongs to the
// shard.
type hostQueue struct {
	d    *Dialer
	p    transport.HostQueueParam
	pd   verbs.PD // its own: see the package comment
	mem  memory
	lkey uint32
	dma  bool // lkey covers all memory
	id   *rdmacm.ID

	result  chan error // of the connect, once
	mu      lockdep.Mutex[hostMu]
	shard   *shard.Shard // set once, under mu, by connect
	closing bool         // guarded by mu: Disconnect was called
	lostWhy error        // guarded by mu
	lost    shard.Task
	flushed lockdep.Completion[hostFlushed]
	closed  lockdep.Completion[hostClosed]

	cq       verbs.CQ
	qp       verbs.QP
	slots    []slot
	slotBits int
	free     slotList
	pending  slotList // commands to be posted at the end of the round
	invalid  slotList // answered, with a region to be invalidated
	repost   []int    // receives to be posted
	posted   int      // receives that the provider has
	sends    int      // signalled work requests that it has
	wrs      []verbs.SendWR
	sges     []verbs.SGE
	recvs    []verbs.RecvWR
	flusher  shard.Flusher

	dialed     bool // Dial has returned it
	owned      bool // Disconnect was called: nobody wants to be told
	down       bool
	cause      error
	flushTimer shard.Timer
}

// newHostQueue makes a queue that is not connected.
func newHostQueue(d *Dialer, p transport.HostQueueParam) (*hostQueue, error) {
	q := &hostQueue{d: d, p: p, result: make(chan error, 1), slotBits: bits.Len(uint(p.Depth - 1))}
	q.lost.Fn = q.runLost
	q.flusher.Fn = q.flush
	q.flushTimer.Fn = q.force
	var err error
	if q.pd, err = d.cfg.Provider.Device().AllocPD(); err != nil {
		return nil, err
	}
	d.queues.Add(1)
	if err := q.allocate(); err != nil {
		q.Disconnect()
		return nil, err
	}
	return q, nil
}

// allocate makes what needs no shard.
func (q *hostQueue) allocate() error {
	q.lkey, q.dma = q.pd.LocalDMALKey()
	capsule := 0
	if !q.dma {
		// The device does not know the memory of requests: commands and
		// in-capsule data are copied.
		capsule = nvme.CommandSize + q.p.InCapsule
	}
	var err error
	if q.mem, err = newMemory(q.pd, q.p.Depth*(nvme.CompletionSize+capsule)); err != nil {
		return err
	}
	q.d.mrs.Add(q.mem.registered())
	q.slots = make([]slot, q.p.Depth)
	capsules := q.mem.buf[q.p.Depth*nvme.CompletionSize:]
	for i := range q.slots {
		s := &q.slots[i]
		s.index = i
		s.capsule = capsules[i*capsule : (i+1)*capsule : (i+1)*capsule]
		s.recv[0] = verbs.SGE{Buf: q.mem.buf[i*nvme.CompletionSize:][:nvme.CompletionSize:nvme.CompletionSize], LKey: q.mem.lkey}
		q.free.push(s)
	}
	q.repost = make([]int, 0, q.p.Depth)
	return nil
}

// makeQP makes completion queue and queue pair, on the shard, and posts the
// receives: the target may answer as soon as it has the first command.
func (q *hostQueue) makeQP(vector int) error {
	depth := q.p.Depth
	// REG_MR, SEND and LOCAL_INV of each slot.
	cq, err := q.pd.CreateCQ(verbs.CQAttr{Vector: vector, Size: 4*depth + 1, Handler: q.completed})
	if err != nil {
		return err
	}
	q.cq = cq
	if q.qp, err = q.pd.CreateQP(verbs.QPInitAttr{
		SendCQ: cq, RecvCQ: cq,
		MaxSendWR: 3 * depth, MaxRecvWR: depth,
		MaxSendSGE: 2, MaxRecvSGE: 1,
		Event: func(err error) { q.fail(fmt.Errorf("queue pair: %w", err)) },
	}); err != nil {
		return err
	}
	if err := q.qp.Modify(verbs.Init); err != nil {
		return err
	}
	for i := range q.slots {
		q.repost = append(q.repost, i)
	}
	return q.postReceives()
}

func (q *hostQueue) postReceives() error {
	if len(q.repost) == 0 {
		return nil
	}
	q.recvs = q.recvs[:0]
	for _, i := range q.repost {
		q.recvs = append(q.recvs, verbs.RecvWR{WRID: wrid(wrRecv, i), SG: q.slots[i].recv[:]})
	}
	q.repost = q.repost[:0]
	if err := q.qp.PostRecv(q.recvs); err != nil {
		return fmt.Errorf("post %d receives: %w", len(q.recvs), err)
	}
	q.posted += len(q.recvs)
	return nil
}

// Shard implements [transport.HostQueue].
func (q *hostQueue) Shard() *shard.Shard { return q.shard }

// lose has the queue go down. It may be called from any goroutine.
func (q *hostQueue) lose(cause error) {
	q.mu.Lock()
	if q.lostWhy == nil {
		q.lostWhy = cause
	}
	s := q.shard
	q.mu.Unlock()
	if s != nil {
		s.Post(&q.lost)
	}
}

func (q *hostQueue) runLost() {
	q.mu.Lock()
	cause := q.lostWhy
	q.mu.Unlock()
	if q.qp != nil {
		q.fail(cause)
	}
}

// fail takes the queue down: once, whatever the causes. Requests complete when
// the provider is done with their memory, or after a bound.
func (q *hostQueue) fail(cause error) {
	if q.down {
		return
	}
	q.down = true
	q.cause = fmt.Errorf("rdma: queue %d: %w: %w", q.p.QID, transport.ErrQueueDown, cause)
	q.shard.Arm(&q.flushTimer, q.shard.Now()+q.d.cfg.FlushTimeout)
	_ = q.id.Disconnect()
	if q.qp != nil {
		_ = q.qp.Modify(verbs.Err)
	}
	q.shard.Flush(&q.flusher) // perhaps nothing is posted
}

// force makes the provider forget what it did not flush in time.
func (q *hostQueue) force() {
	if !q.down { // armed by a flush without a cause
		q.fail(errFlushed)
		return
	}
	if q.qp != nil {
		_ = q.qp.Modify(verbs.Reset)
	}
	q.posted, q.sends = 0, 0
	q.shard.Flush(&q.flusher)
}

// wentDown ends the requests of a queue that is down, and tells the owner.
func (q *hostQueue) wentDown() {
	if !q.down || q.posted > 0 || q.sends > 0 || q.flushed.Completed() {
		return
	}
	q.shard.Disarm(&q.flushTimer)
	q.flushed.Complete()
	q.pending, q.invalid = slotList{}, slotList{}
	for i := range q.slots {
		if s := &q.slots[i]; s.req != nil {
			s.state = 0
			q.finish(s, q.cause)
		}
	}
	if q.dialed && !q.owned && q.p.Down != nil {
		q.p.Down(q.cause)
	}
}

// Disconnect implements [transport.HostQueue].
func (q *hostQueue) Disconnect() {
	q.mu.Lock()
	first := !q.closing
	q.closing = true
	q.mu.Unlock()
	if !first {
		q.closed.Wait()
		return
	}
	defer q.closed.Complete()
	if q.shard != nil && q.shard.Run(func() {
		q.owned = true
		q.fail(errDisconnected)
	}) == nil {
		q.flushed.Wait() // the flush timer bounds it
	}
	if q.id != nil {
		_ = q.id.Destroy()
	}
	if q.shard != nil {
		_ = q.shard.Run(func() {
			if q.qp != nil {
				_ = q.qp.Destroy()
			}
			if q.cq != nil {
				_ = q.cq.Destroy()
			}
		})
	}
	q.freeMemory()
}

func (q *hostQueue) freeMemory() {
	for i := range q.slots {
		if mr := q.slots[i].mr; mr != nil && mr.Dereg() == nil {
			q.d.mrs.Add(-1)
		}
	}
	n := q.mem.registered()
	if q.mem.free() == nil {
		q.d.mrs.Add(-n)
	}
	if q.pd.Dealloc() == nil { // else it stays counted
		q.d.queues.Add(-1)
	}
}
