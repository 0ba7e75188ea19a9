package fakeverbs

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
)

// Who has an entry of a send queue. Its memory may be touched by the peer's
// loop between an exchange of inFlight for executing and the store of executed.
const (
	queued int32 = iota
	inFlight
	executing
	executed
	canceled
)

// An entry is a work request in a send queue.
type entry struct {
	owner  *qp
	wr     verbs.SendWR
	n      int // bytes of wr.SG
	stage  atomic.Int32
	acked  bool // on the owner's loop: its end is known there
	status verbs.WCStatus
}

// A qp is a queue pair. All but inbox and acks belongs to its loop.
type qp struct {
	dev            *Device
	pd             *pd
	shard          *shard.Shard
	init           verbs.QPInitAttr
	sendCQ, recvCQ *cq
	srq            *srq
	num            uint32
	state          verbs.QPState
	destroyed      bool
	conn           verbs.QPAttr
	peer           *qp

	sq               []*entry
	head, next, tail int // oldest not completed, next to go out, next free
	reads            int // outstanding
	stopped          bool
	rq               recvQueue
	arrived          []*entry // from the peer, not carried out

	pumpFlusher    shard.Flusher
	respondFlusher shard.Flusher
	retryTimer     shard.Timer // until a peer that is gone is given up
	rnrTimer       shard.Timer // until the peer gives us up

	mu      lockdep.Mutex[wireMu]
	inbox   []*entry // guarded by mu
	acks    []*entry // guarded by mu
	inTask  shard.Task
	ackTask shard.Task
}

type wireMu struct{} // innermost

func (p *pd) CreateQP(a verbs.QPInitAttr) (verbs.QP, error) {
	d := p.dev
	s, ok1 := a.SendCQ.(*cq)
	r, ok2 := a.RecvCQ.(*cq)
	if !ok1 || !ok2 || s.destroyed || r.destroyed || s.vector != r.vector {
		return nil, errors.New("verbs: create QP: no completion queues of one vector")
	}
	if a.MaxSendWR > d.attr.MaxQPWR || a.MaxRecvWR > d.attr.MaxQPWR || a.MaxSendSGE > d.attr.MaxSGE || a.MaxRecvSGE > d.attr.MaxSGE {
		return nil, fmt.Errorf("verbs: create QP: %d sends of %d elements, %d receives of %d", a.MaxSendWR, a.MaxSendSGE, a.MaxRecvWR, a.MaxRecvSGE)
	}
	q := &qp{dev: d, pd: p, shard: s.shard, init: a, sendCQ: s, recvCQ: r}
	if a.SRQ != nil {
		q.srq, ok1 = a.SRQ.(*srq)
		if !ok1 || q.srq.destroyed || q.srq.vector != s.vector {
			return nil, errors.New("verbs: create QP: no such SRQ on the vector")
		}
		q.srq.users++
	} else {
		q.rq = newRecvQueue(a.MaxRecvWR, a.MaxRecvSGE)
	}
	q.clear()
	q.pumpFlusher.Fn = q.pump
	q.respondFlusher.Fn = q.respond
	q.retryTimer.Fn = q.giveUp
	q.rnrTimer.Fn = q.rnrOver
	q.inTask.Fn = q.receive
	q.ackTask.Fn = q.acknowledge
	s.users++
	r.users++
	d.QPs.Add(1)
	p.users.Add(1)
	d.net.addQP(q)
	return q, nil
}

// clear makes a send queue with nothing in it. Entries are new: the peer may
// still come across the old ones.
func (q *qp) clear() {
	q.sq = make([]*entry, q.init.MaxSendWR)
	for i := range q.sq {
		q.sq[i] = &entry{owner: q}
		q.sq[i].wr.SG = make([]verbs.SGE, 0, q.init.MaxSendSGE)
	}
	q.head, q.next, q.tail, q.reads, q.stopped = 0, 0, 0, 0, false
	q.rq.head, q.rq.tail = 0, 0
	q.arrived, q.peer = nil, nil
	q.shard.Disarm(&q.retryTimer)
	q.shard.Disarm(&q.rnrTimer)
}

func (q *qp) Num() uint32          { return q.num }
func (q *qp) State() verbs.QPState { return q.state }

func (q *qp) at(i int) *entry { return q.sq[i%len(q.sq)] }

func (q *qp) Connect(a verbs.QPAttr) error {
	if q.state != verbs.Init {
		return &verbs.StateError{Op: "connect QP", From: q.state, To: verbs.RTS}
	}
	if !a.Path.Remote.IsValid() || a.Path.MTU < 256 || a.Path.MTU > 4096 || a.Path.MTU&(a.Path.MTU-1) != 0 {
		return fmt.Errorf("verbs: connect QP: no path to %v with MTU %d", a.Path.Remote, a.Path.MTU)
	}
	q.state, q.conn = verbs.RTS, a
	q.peer = q.dev.net.findQP(a.DestQPN)
	q.shard.Flush(&q.respondFlusher) // what has arrived early
	return nil
}

func (q *qp) Modify(to verbs.QPState) error {
	if err := verbs.CheckMove(q.state, to); err != nil {
		return err
	}
	switch to {
	case verbs.Init:
		q.state = verbs.Init
	case verbs.Err:
		q.toErr()
	case verbs.Reset:
		q.state = verbs.Reset
		q.forget()
		q.clear()
	default:
		return &verbs.StateError{Op: "modify QP", From: q.state, To: to}
	}
	return nil
}

// forget takes all entries back from the peer.
func (q *qp) forget() {
	for i := q.head; i < q.tail; i++ {
		for e := q.at(i); !e.cancel(); {
			runtime.Gosched() // the peer's loop copies
		}
	}
	q.head = q.tail
}

// cancel takes an entry back from the peer; false: the peer is at it.
func (e *entry) cancel() bool {
	return e.stage.CompareAndSwap(queued, canceled) || e.stage.CompareAndSwap(inFlight, canceled) || e.stage.Load() != executing
}

func (q *qp) PostRecv(wrs []verbs.RecvWR) error {
	if q.destroyed || q.state == verbs.Reset {
		return &verbs.StateError{Op: "post receive", From: q.state, To: q.state}
	}
	if q.srq != nil {
		return errors.New("verbs: post receive: the queue pair has an SRQ")
	}
	if err := q.rq.post(wrs); err != nil {
		return err
	}
	if q.state == verbs.Err {
		q.flushReceives()
	} else if len(q.arrived) > 0 {
		q.shard.Flush(&q.respondFlusher)
	}
	return nil
}

func (q *qp) PostSend(wrs []verbs.SendWR) error {
	if q.destroyed || q.state != verbs.RTS && q.state != verbs.Err {
		return &verbs.StateError{Op: "post send", From: q.state, To: q.state}
	}
	if len(wrs) > len(q.sq)-(q.tail-q.head) {
		return verbs.ErrQueueFull
	}
	for i := range wrs {
		if len(wrs[i].SG) > q.init.MaxSendSGE {
			return verbs.ErrTooManySGE
		}
		if wrs[i].Opcode > verbs.WRLocalInv {
			return fmt.Errorf("verbs: post send: opcode %d", wrs[i].Opcode)
		}
	}
	for i := range wrs {
		e := q.at(q.tail)
		sg := append(e.wr.SG[:0], wrs[i].SG...)
		e.wr = wrs[i]
		e.wr.SG = sg
		e.n = 0
		for _, s := range sg {
			e.n += len(s.Buf)
		}
		e.acked, e.status = false, verbs.WCSuccess
		e.stage.Store(queued)
		q.tail++
	}
	if q.state == verbs.Err {
		q.flushSends()
	} else {
		q.shard.Flush(&q.pumpFlusher)
	}
	return nil
}

// pump sends what may go out.
func (q *qp) pump() {
	for q.state == verbs.RTS && !q.stopped && q.next < q.tail {
		e := q.at(q.next)
		local := func(ok bool, bad verbs.WCStatus) {
			e.acked = true
			e.stage.Store(executed)
			if !ok {
				e.status, q.stopped = bad, true
			}
		}
		need := verbs.Access(0)
		if e.wr.Opcode == verbs.WRRDMARead {
			need = verbs.AccessLocalWrite
			if q.reads > 0 && q.reads >= q.conn.MaxRdAtomic {
				break
			}
		}
		switch {
		case e.wr.Opcode == verbs.WRRegMR:
			local(q.pd.register(&e.wr), verbs.WCLocQPOpErr)
		case e.wr.Opcode == verbs.WRLocalInv:
			local(q.pd.invalidate(e.wr.RKey), verbs.WCLocQPOpErr)
		case !q.pd.local(e.wr.SG, need):
			local(false, verbs.WCLocProtErr)
		case e.wr.Opcode == verbs.WRRDMARead && q.conn.MaxRdAtomic == 0:
			local(false, verbs.WCLocQPOpErr)
		default:
			if e.wr.Opcode == verbs.WRRDMARead {
				q.reads++
			}
			e.stage.Store(inFlight)
			if q.peer != nil {
				q.peer.deliver(e)
			} else {
				e.unanswered()
			}
		}
		q.next++
	}
	q.retire()
}

// deliver brings an entry to q's loop, from its peer's.
func (q *qp) deliver(e *entry) {
	q.mu.Lock()
	q.inbox = append(q.inbox, e)
	q.mu.Unlock()
	q.shard.Post(&q.inTask)
}

// acknowledge takes the ends of entries from the peer.
func (q *qp) acknowledge() {
	if q.state == verbs.Err {
		if !q.dev.net.holdFlushes.Load() {
			q.flushSends()
		}
		return
	}
	if q.dev.net.holdAcks.Load() {
		return
	}
	q.mu.Lock()
	for i, e := range q.acks {
		if e.status == verbs.WCRetryExcErr {
			q.unanswered()
		} else if !e.acked {
			e.acked = true
			if e.wr.Opcode == verbs.WRRDMARead {
				q.reads--
			}
		}
		q.acks[i] = nil
	}
	q.acks = q.acks[:0]
	q.mu.Unlock()
	q.pump()
}

// unanswered is told that the peer is silent. Without a timeout that is for
// ever.
func (q *qp) unanswered() {
	if q.conn.Timeout > 0 && !q.retryTimer.Armed() {
		ack := 4096 * time.Nanosecond << q.conn.Timeout
		q.shard.Arm(&q.retryTimer, q.shard.Now()+ack*time.Duration(q.conn.RetryCnt+1))
	}
}

// giveUp ends the oldest work request: its retries have run out.
func (q *qp) giveUp() {
	if q.state == verbs.RTS && q.head < q.next {
		q.at(q.head).acked = true
		q.retire()
	}
}

// retire completes entries in order.
func (q *qp) retire() {
	for q.state == verbs.RTS && q.head < q.next {
		e := q.at(q.head)
		if !e.acked {
			return
		}
		q.head++
		if e.status != verbs.WCSuccess {
			q.complete(e, e.status)
			q.toErr()
			q.event(fmt.Errorf("work request %d: %v", e.wr.WRID, e.status))
			return
		}
		if q.init.SQSigAll || e.wr.Flags&verbs.SendSignaled != 0 {
			q.complete(e, verbs.WCSuccess)
		}
	}
}

var wcOpcodes = [...]verbs.WCOpcode{
	verbs.WRSend: verbs.WCSend, verbs.WRSendWithInv: verbs.WCSend, verbs.WRSendWithImm: verbs.WCSend,
	verbs.WRRDMAWrite: verbs.WCRDMAWrite, verbs.WRRDMAWriteWithImm: verbs.WCRDMAWrite,
	verbs.WRRDMARead: verbs.WCRDMARead, verbs.WRRegMR: verbs.WCRegMR, verbs.WRLocalInv: verbs.WCLocalInv,
}

func (q *qp) complete(e *entry, status verbs.WCStatus) {
	q.sendCQ.push(verbs.WC{WRID: e.wr.WRID, Status: status, Opcode: wcOpcodes[e.wr.Opcode], QPN: q.num})
}

func (q *qp) event(err error) {
	if q.init.Event != nil {
		q.init.Event(err)
	}
}

// toErr moves to Err and flushes.
func (q *qp) toErr() {
	q.state = verbs.Err
	q.arrived = nil
	if q.dev.net.holdFlushes.Load() {
		return
	}
	q.flushSends()
	q.flushReceives()
}

// flushSends flushes in order. An entry that the peer is at comes back by
// acknowledge, which calls this again.
func (q *qp) flushSends() {
	for q.head < q.tail {
		e := q.at(q.head)
		if !e.cancel() {
			q.shard.Post(&q.ackTask) // to look again
			return
		}
		q.head++
		q.next = max(q.next, q.head)
		q.complete(e, verbs.WCWRFlushErr)
	}
}

func (q *qp) flushReceives() {
	for r := q.rq.take(); r != nil; r = q.rq.take() {
		q.recvCQ.push(verbs.WC{WRID: r.wrid, Status: verbs.WCWRFlushErr, Opcode: verbs.WCRecv, QPN: q.num})
	}
}

func (q *qp) Destroy() error {
	if q.destroyed {
		return errors.New("verbs: QP destroyed twice")
	}
	q.destroyed = true
	q.state = verbs.Reset
	q.forget()
	q.arrived = nil
	q.shard.Disarm(&q.retryTimer)
	q.shard.Disarm(&q.rnrTimer)
	q.dev.net.removeQP(q)
	q.sendCQ.forget(q.num)
	q.recvCQ.forget(q.num)
	q.sendCQ.users--
	q.recvCQ.users--
	if q.srq != nil {
		q.srq.users--
	}
	q.dev.QPs.Add(-1)
	q.pd.users.Add(-1)
	return nil
}
