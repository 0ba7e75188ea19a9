package rdma

import (
	"fmt"
	"iter"
	"time"

	"github.com/fabrid/fabrid/admission"
	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/verbs"
)

// queueMu guards what comes to a queue from outside its shard. Nothing is
// locked under it.
type queueMu struct{}

// queueDrained is the class of the wait for a queue's work requests.
type queueDrained struct{}

// maxSGE bounds the elements of a work request: more make it larger than what
// they save.
const maxSGE = 16

// requestFootprint is what a request costs beside its capsule, and queueFootprint
// what a queue does beside its requests: itself, its controller, its connection.
// They are measured, on a busy queue over RoCEv2: rings grow as they are used.
const (
	requestFootprint = 2560
	queueFootprint   = 16 << 10
)

var (
	errNotEstablished = &transport.Cause{Word: "not_established", Text: "rdma: connection not established in time"}
	errNoConnect      = &transport.Cause{Word: "no_connect", Text: "rdma: no successful Connect command in time"}
	errFlushed        = &transport.Cause{Word: "flushed", Text: "rdma: work requests flushed"}
)

// A queue is the fabric of one queue of a target: [transport.Fabric] for the
// core, [transport.Entrant] for its life.
//
// Everything below outside belongs to the queue's shard, from the run of create
// on. What happens elsewhere, such as an event of the connection manager, is
// posted. A queue goes down in one place, fail, on its shard, and is released
// by its life.
type queue struct {
	l       *Listener
	v       *vector
	id      *rdmacm.ID
	offer   // checked
	life    transport.Life
	outside outside

	core    transport.Queue
	cq      verbs.CQ
	qp      verbs.QP
	body    *body
	free    requestList
	failed  requestList
	rx      receiver
	tx      sender
	from    admission.Host
	host    *hostHeld // of the pool, that the queue is one of
	held    int64     // bytes of data buffers
	flusher shard.Flusher
	stage

	stageTimer shard.Timer // until established, then until connected
	flushTimer shard.Timer // bounds leaving, and the wait for the cause of a flush
	stallTimer shard.Timer // while work requests are under way
}

// A stage is what has become of a queue, on its shard.
type stage struct {
	accepted  bool // the host has, or will get, our REP
	live      bool // established: capsules go to the core
	connected bool // a Connect command has succeeded
	leaving   bool // Disconnect: takes nothing new, sends what it has
	leaveWhy  error
	down      bool // Down was called, or would have been
}

// outside is how others reach a queue's shard: each task is posted for one
// purpose.
type outside struct {
	mu    lockdep.Mutex[queueMu]
	cause error // guarded by mu: why it has to go down
	leave error // guarded by mu: why it is asked to leave

	create, established, lost, asked, drain, force shard.Task

	drained lockdep.Completion[queueDrained]
}

func newQueue(l *Listener, id *rdmacm.ID, accepted offer) *queue {
	q := &queue{l: l, v: l.vectors[id.Vector()], id: id, offer: accepted}
	o := &q.outside
	o.create.Fn = q.runCreate
	o.established.Fn = q.runEstablished
	o.lost.Fn = q.runLost
	o.asked.Fn = q.runAsked
	o.drain.Fn = q.runDrain
	o.force.Fn = q.force
	q.flusher.Fn = q.flush
	q.stageTimer.Fn = q.stageOver
	q.flushTimer.Fn = q.flushOver
	q.stallTimer.Fn = q.stalled
	return q
}

// event takes an event of the connection, in the connection manager's handler.
func (q *queue) event(ev *rdmacm.Event) {
	switch ev.Type {
	case rdmacm.Established:
		q.v.shard.Post(&q.outside.established)
	case rdmacm.TimewaitExit: // Disconnected was before
	default:
		q.lose(eventError(ev))
	}
}

// lose has the queue go down. It may be called from any goroutine.
func (q *queue) lose(cause error) {
	q.outside.mu.Lock()
	first := q.outside.cause == nil
	if first {
		q.outside.cause = cause
	}
	q.outside.mu.Unlock()
	if first {
		q.life.Withdraw(cause)
		q.v.shard.Post(&q.outside.lost)
	}
}

func (q *queue) leaveCause() error {
	q.outside.mu.Lock()
	defer q.outside.mu.Unlock()
	return q.outside.cause
}

func (q *queue) runLost() {
	if q.cq != nil { // else runCreate sees it, or will never run
		q.fail(q.leaveCause())
	}
}

// askToLeave has the queue disconnect. It may be called from any goroutine.
func (q *queue) askToLeave(cause error) {
	q.outside.mu.Lock()
	if q.outside.leave == nil {
		q.outside.leave = cause
	}
	q.outside.mu.Unlock()
	q.v.shard.Post(&q.outside.asked)
}

func (q *queue) runAsked() {
	q.outside.mu.Lock()
	cause := q.outside.leave
	q.outside.mu.Unlock()
	switch {
	case q.cq == nil: // still being made, elsewhere: runCreate will see it
		q.lose(cause)
	case q.live:
		q.Disconnect(cause)
	default:
		q.fail(cause)
	}
}

// capsuleSize is how long a command capsule may be. Admin queues carry no data
// in capsules: the host does not know yet how much there may be.
func (c *Config) capsuleSize(qid uint16) int {
	if qid == 0 {
		return nvme.CommandSize
	}
	return nvme.CommandSize + c.InlineDataSize
}

// footprint is what a queue is charged, in bytes.
func (c *Config) footprint(qid uint16, depth int) int64 {
	per := requestFootprint
	if qid == 0 || !c.UseSRQ {
		per += c.capsuleSize(qid)
	} else {
		per += slotsPer * slotFootprint
	}
	return queueFootprint + int64(depth)*int64(per)
}

func (q *queue) usesSRQ() bool { return q.v.srq != nil && q.qid != 0 }

// allocate makes what needs no shard.
func (q *queue) allocate() error {
	sh := shape{q.depth, q.l.cfg.capsuleSize(q.qid)}
	if q.usesSRQ() {
		sh.capsule = 0
	}
	b := q.l.spares.take(sh)
	if b == nil {
		var err error
		if b, err = q.l.newBody(sh); err != nil {
			return err
		}
		q.l.countMRs(b.mem.registered())
	}
	q.body = b
	for r := range b.requests() {
		q.initRequest(r, r.Index)
	}
	q.rx.batch = b.batch
	if q.usesSRQ() {
		q.rx.shared, q.rx.shelf = q.v.srq, b.shelf
		return nil
	}
	q.rx.own = b.own
	for i := range q.rx.own {
		q.rx.own[i].init(i, b.mem.buf[i*sh.capsule:(i+1)*sh.capsule], b.mem.lkey)
		q.rx.repost.push(&q.rx.own[i])
	}
	return nil
}

// runCreate makes the queue on its shard and accepts the connection.
func (q *queue) runCreate() {
	q.v.pool.join(q, q.from)
	if cause := q.leaveCause(); cause != nil {
		q.fail(cause)
		return
	}
	if err := q.makeQP(); err != nil {
		q.reject(transport.WithReason("create", err))
		return
	}
	core, err := q.l.cfg.Core.Open(q, transport.QueueParam{
		Shard:  q.v.shard,
		Local:  q.id.LocalAddr(),
		Remote: q.id.RemoteAddr(),
		QID:    q.qid,
		Depth:  q.depth,
		Limits: q.l.cfg.limits(q.id.LocalAddr().Addr()),
		Life:   &q.life,
	})
	if err != nil {
		q.reject(transport.WithReason("open", err))
		return
	}
	q.core = core
	q.life.SetQueue(core)
	q.accepted = true
	q.v.shard.Arm(&q.stageTimer, q.v.shard.Now()+q.l.cfg.EstablishTimeout)
	if err := q.id.Accept(q.qp, rdmacm.ConnParam{
		PrivateData:    nvme.RDMACMReply{CRQSIZE: uint16(q.depth)}.AppendTo(nil),
		InitiatorDepth: uint8(q.tx.maxReads),
		FlowControl:    true,
		RNRRetryCount:  7,
		SRQ:            q.rx.shared != nil,
		QPN:            q.qp.Num(),
	}); err != nil {
		q.fail(transport.WithReason("accept", fmt.Errorf("rdma: queue %d: accept: %w", q.qid, err)))
	}
}

// makeQP makes completion queue and queue pair and posts the receives: the host
// may send as soon as it has our REP.
func (q *queue) makeQP() error {
	attr := &q.l.attr
	q.tx.init(q, attr)
	recvs := q.depth
	var srq verbs.SRQ
	if q.rx.shared != nil {
		// However many the others leave it: a host that sends more than its
		// queue is deep must not overrun the completion queue.
		recvs, srq = len(q.rx.shared.receives), q.rx.shared.srq
	}
	sends := q.tx.room + q.tx.maxReads
	if n := recvs + sends + 1; n > attr.MaxCQE {
		return fmt.Errorf("rdma: queue %d: %d completion queue entries of %d", q.qid, n, attr.MaxCQE)
	}
	cq, err := q.l.pd.CreateCQ(verbs.CQAttr{Vector: q.id.Vector(), Size: recvs + sends + 1, Handler: q.completed})
	if err != nil {
		return fmt.Errorf("rdma: queue %d: %w", q.qid, err)
	}
	q.cq = cq
	init := verbs.QPInitAttr{
		SendCQ: cq, RecvCQ: cq, SRQ: srq,
		MaxSendWR:  sends,
		MaxSendSGE: q.tx.maxSGE,
		MaxRecvSGE: 1,
		Event: func(err error) {
			q.fail(transport.WithReason("qp_error", fmt.Errorf("rdma: queue %d: queue pair: %w", q.qid, err)))
		},
	}
	if srq == nil {
		init.MaxRecvWR = q.depth
	}
	if q.qp, err = q.l.pd.CreateQP(init); err != nil {
		return fmt.Errorf("rdma: queue %d: %w", q.qid, err)
	}
	if err := q.qp.Modify(verbs.Init); err != nil {
		return fmt.Errorf("rdma: queue %d: %w", q.qid, err)
	}
	q.repost()
	if q.down {
		return q.life.Cause()
	}
	return nil
}

// reject refuses a queue that has been admitted.
func (q *queue) reject(cause error) {
	_ = q.l.refuse(q.id, cause)
	q.fail(cause)
}

func (q *queue) runEstablished() {
	if q.down || q.leaving || !q.life.Move(transport.Live) {
		return
	}
	q.live = true
	if q.connected {
		q.v.shard.Disarm(&q.stageTimer)
	} else {
		q.v.shard.Arm(&q.stageTimer, q.v.shard.Now()+q.l.cfg.ConnectTimeout)
	}
	q.deliver()
}

// stageOver reaps a host that stays half-open or silent.
func (q *queue) stageOver() {
	if q.live {
		q.fail(errNoConnect)
	} else {
		q.fail(errNotEstablished)
	}
}

// Disconnect implements [transport.Fabric].
func (q *queue) Disconnect(cause error) {
	if q.down || q.leaving {
		return
	}
	q.leaving, q.leaveWhy = true, cause
	q.life.Leave(cause)
	q.v.shard.Arm(&q.flushTimer, q.v.shard.Now()+q.l.cfg.FlushTimeout)
	q.v.shard.Flush(&q.flusher) // nothing may be under way
}

func (q *queue) flushOver() {
	if q.leaving {
		q.fail(q.leaveWhy)
	} else {
		q.fail(errFlushed)
	}
}

// progress takes the next step of a queue that leaves, if it is due.
func (q *queue) progress() {
	switch {
	case q.down:
		if q.rx.posted == 0 && q.tx.outstanding() == 0 {
			q.outside.drained.Complete()
		}
	case q.leaving && q.tx.sent():
		q.fail(q.leaveWhy)
	}
}

// fail takes the queue down: the one place, whatever the causes and however
// many. It is not called while the core is on the stack, but from runCreate.
func (q *queue) fail(cause error) {
	if q.down {
		return
	}
	q.down = true
	q.v.shard.Disarm(&q.stageTimer)
	q.v.shard.Disarm(&q.flushTimer)
	q.v.shard.Disarm(&q.stallTimer)
	q.life.BeginRelease(cause)
	if q.accepted && q.l.cfg.Events.Down != nil {
		q.l.cfg.Events.Down(q.id.RemoteAddr(), q.qid, cause)
	}
	for rc := q.rx.parked.pop(); rc != nil; rc = q.rx.parked.pop() {
		q.drop(rc)
	}
	if q.core != nil {
		q.core.Down(cause)
	}
	// The provider moves the queue pair, if it has it, and takes leave; both are
	// no longer possible only where they are no longer needed.
	_ = q.id.Disconnect()
	if q.qp != nil {
		_ = q.qp.Modify(verbs.Err)
	}
	for r := range q.made() {
		q.abandon(r)
	}
	q.v.shard.Flush(&q.flusher)
}

// made returns the queue's requests, as far as there are any.
func (q *queue) made() iter.Seq[*request] {
	if q.body == nil {
		return func(func(*request) bool) {}
	}
	return q.body.requests()
}

// abandon ends what the fabric was going to do for a request, as far as the
// provider has no part in it.
func (q *queue) abandon(r *request) {
	switch r.state {
	case reqReserving, reqPullWait:
		q.v.pool.leave(r)
		q.dataFailed(r)
	case reqPulling:
		if r.pull.err == nil {
			r.pull.err = errDown
		}
		q.tx.pulls.remove(r)
		if r.pull.reads == 0 {
			q.dataFailed(r)
		}
	case reqBouncing:
		q.v.pool.leave(r)
		r.state = reqCompleted
		q.tx.completed.push(r)
	}
}

// Drain implements [transport.Entrant]. Force is not waited for: on a shard that
// is stuck it never comes, and on any other it does before what Free wants there.
func (q *queue) Drain(deadline time.Time) {
	q.v.shard.Post(&q.outside.drain)
	if q.outside.drained.Completed() {
		return
	}
	var t *time.Timer
	if q.body != nil {
		t = q.body.timer
		t.Reset(time.Until(deadline))
	} else { // it was never made
		t = time.NewTimer(time.Until(deadline))
	}
	defer t.Stop()
	select {
	case <-q.outside.drained.Done():
	case <-t.C:
		q.v.shard.Post(&q.outside.force) // a closed shard flushes nothing
	}
}

func (q *queue) runDrain() {
	q.fail(q.life.Cause()) // if the cause came from elsewhere
	q.progress()
}

// force flushes what the provider did not: it forgets what was posted, and then
// nothing of it is the provider's any more.
func (q *queue) force() {
	if q.qp != nil {
		_ = q.qp.Modify(verbs.Reset)
	}
	q.rx.posted = 0
	for r := range q.made() {
		switch r.state {
		case reqSending:
			q.tx.sending--
			q.release(r)
		case reqPulling:
			q.tx.readsOut -= r.pull.reads
			r.pull.reads = 0
			q.dataFailed(r)
		}
	}
	q.progress()
}

// Free implements [transport.Entrant]. Orphaned requests keep their buffers,
// which come home when they are completed. It waits for the shard as long as
// that takes: until the queue pair is destroyed there, packets may go to the
// queue's memory.
func (q *queue) Free(orphans int) {
	// The connection first: the provider has the queue pair until then.
	_ = q.id.Destroy()
	_ = q.v.shard.Run(func() {
		q.v.pool.part(q)
		if q.qp != nil {
			_ = q.qp.Destroy()
		}
		if q.cq != nil {
			_ = q.cq.Destroy()
		}
	})
	q.giveUpBody(orphans)
	q.v.unreserveShared(q)
	q.l.remove(q)
}
