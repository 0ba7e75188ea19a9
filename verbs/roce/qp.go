package roce

import (
	"fmt"
	"time"

	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
	"github.com/fabrid/fabrid/verbs/internal/soft"
)

// A queuePair is a queue pair of a reliable connection. It has three parts,
// named as in the specification and kept apart: the requester sends, the
// completer takes the answers in, the responder answers. All belong to the
// engine's shard.
type queuePair struct {
	eng            *engine
	pd             *protectionDomain
	num            uint32
	state          verbs.QPState
	sendCQ, recvCQ *completionQueue
	srq            *sharedRecvQueue
	rq             *soft.RecvQueue // without an SRQ
	sigAll         bool
	event          func(error)
	attr           verbs.QPAttr
	path           *path
	mtu            int
	readPackets    int // that one RDMA READ request asks for at most

	sq   sendQueue
	req  requester
	resp responder

	rqSGE int

	// What its consumers are to be told: see engine.notify.
	spoken  bool  // to the connection manager: the peer has sent its first request
	failure error // to event: the queue pair has gone to Err, and why

	// The engine's.
	queued  bool       // in its list of those with something to send
	next    *queuePair // in that list
	acking  bool       // in its list of those with something to acknowledge
	waiting bool       // for the read budget
	blocked bool       // for room on the path
	timer   shard.Timer
	assured assured
	ident   uint16 // IPv4 Identification of the last packet that came

	cnp      bool // a CNP is to be sent
	cnpAfter time.Duration
}

var _ verbs.QP = (*queuePair)(nil)

// make gives the queue pair its memory.
func (q *queuePair) make(sends, sge, recvs int) {
	m := q.eng.spares.takeQP()
	q.sq = newSendQueue(sends, sge, &m)
	q.req.reads, q.resp.recvSG, q.resp.answers.ring, q.resp.reads.ring = m.reads, m.recvSG, m.answers, m.done
	if q.srq != nil {
		return
	}
	if q.rq = m.rq; q.rq == nil || !q.rq.Reset(recvs, q.rqSGE) {
		q.rq = soft.NewRecvQueue(recvs, q.rqSGE)
	}
}

func (q *queuePair) Num() uint32          { return q.num }
func (q *queuePair) State() verbs.QPState { return q.state }

func (q *queuePair) Connect(attr verbs.QPAttr) error {
	if err := verbs.CheckMove(q.state, verbs.RTR); err != nil {
		return err
	}
	mtu := attr.Path.MTU
	if mtuBytes(mtuCode(mtu)) != mtu || mtu == 0 {
		return fmt.Errorf("roce: connect QP %#x: path MTU %d", q.num, mtu)
	}
	attr.MaxRdAtomic = min(max(attr.MaxRdAtomic, 0), maxRdAtom)
	attr.MaxDestRd = min(max(attr.MaxDestRd, 0), maxRdAtom)
	p, err := q.eng.pathTo(attr.Path)
	if err != nil {
		return err
	}
	q.attr, q.path, q.mtu = attr, p, mtu
	q.readPackets = readPartOf(q.eng.budget, mtu)
	q.req.init(q)
	q.resp.init(q)
	q.state = verbs.RTS
	return nil
}

func (q *queuePair) Modify(to verbs.QPState) error {
	if q.eng.qps.get(q.num) != q {
		return fmt.Errorf("roce: modify QP %#x: it is destroyed", q.num)
	}
	if err := verbs.CheckMove(q.state, to); err != nil {
		return err
	}
	switch to {
	case verbs.Init:
		q.state = verbs.Init
	case verbs.Err:
		q.enterErr()
	case verbs.Reset:
		q.forget()
	default:
		return &verbs.StateError{Op: "modify QP", From: q.state, To: to}
	}
	return nil
}

// forget is the move to Reset: what was posted is forgotten, and what has
// completed but nobody has been told yet.
func (q *queuePair) forget() {
	q.leavePath()
	q.state = verbs.Reset
	q.resp.reset()
	q.sq.forget()
	if q.rq != nil {
		for _, ok := q.rq.Drop(); ok; _, ok = q.rq.Drop() {
		}
	}
	q.sendCQ.forget(q.num)
	q.recvCQ.forget(q.num)
	q.spoken, q.failure = false, nil
}

func (q *queuePair) PostSend(wrs []verbs.SendWR) error {
	if q.state < verbs.RTS {
		return &verbs.StateError{Op: "post send", From: q.state, To: q.state}
	}
	if err := q.sq.room(wrs); err != nil {
		return err
	}
	for i := range wrs {
		q.sq.post(&wrs[i])
	}
	if q.state == verbs.Err {
		q.flushSend()
		return nil
	}
	q.eng.wantSend(q)
	return nil
}

func (q *queuePair) PostRecv(wrs []verbs.RecvWR) error {
	if q.state == verbs.Reset || q.srq != nil {
		return &verbs.StateError{Op: "post receive", From: q.state, To: q.state}
	}
	if err := q.rq.Room(wrs); err != nil {
		return err
	}
	q.rq.Post(wrs)
	if q.state == verbs.Err {
		q.flushRecv()
	}
	return nil
}

func (q *queuePair) Destroy() error {
	if q.eng.qps.get(q.num) != q {
		return fmt.Errorf("roce: destroy QP %#x: it is destroyed", q.num)
	}
	q.forget()
	q.eng.removeQP(q)
	return nil
}

// leavePath stops sending, but for what can be acknowledged already: nothing is
// in flight for us any more, and we wait for nothing.
func (q *queuePair) leavePath() {
	q.eng.shard.Disarm(&q.timer)
	if q.path == nil {
		return
	}
	q.resp.acknowledge(q.eng.batch)
	q.eng.wantFlush()
	q.cnp = false
	q.req.abandon()
	q.path.unblock(q)
	q.eng.stopWaiting(q)
	q.eng.assurer.leave(q)
	q.eng.releasePath(q.path)
	q.path = nil
}

// fail takes the QP to Err by itself, because of err. The consumer is told
// later: whoever calls fail is in the middle of something.
func (q *queuePair) fail(err error) {
	if q.state == verbs.Err || q.state == verbs.Reset {
		return
	}
	q.enterErr()
	q.failure = err
	q.eng.notify(q)
}

// tell tells what there is to tell but completions.
func (q *queuePair) tell() {
	if q.spoken {
		q.spoken = false
		if q.eng.cm != nil {
			q.eng.cm.commEst(q.num)
		}
	}
	if err := q.failure; err != nil {
		q.failure = nil
		if q.event != nil {
			q.event(err)
		}
	}
}

// enterErr is the move to Err: nothing is sent or taken in any more, and what
// was posted is flushed, in order.
func (q *queuePair) enterErr() {
	if q.state == verbs.Err {
		return
	}
	q.state = verbs.Err
	q.leavePath()
	q.resp.flush()
	q.flushSend()
	q.flushRecv()
}

// flushSend completes everything on the send queue. The work request at fault,
// if there is one, has its status already.
func (q *queuePair) flushSend() {
	for ; q.sq.head != q.sq.tail; q.sq.head++ {
		w := q.sq.at(q.sq.head)
		if w.status == verbs.WCSuccess {
			w.status = verbs.WCWRFlushErr
		}
		q.completeSend(w)
		w.release()
	}
	q.sq.cur = q.sq.tail
}

func (q *queuePair) flushRecv() {
	if q.rq == nil {
		return
	}
	for id, ok := q.rq.Drop(); ok; id, ok = q.rq.Drop() {
		q.recvCQ.push(verbs.WC{WRID: id, Status: verbs.WCWRFlushErr, Opcode: verbs.WCRecv, QPN: q.num})
	}
}

var wcOpcode = [...]verbs.WCOpcode{
	verbs.WRSend:             verbs.WCSend,
	verbs.WRSendWithInv:      verbs.WCSend,
	verbs.WRSendWithImm:      verbs.WCSend,
	verbs.WRRDMAWrite:        verbs.WCRDMAWrite,
	verbs.WRRDMAWriteWithImm: verbs.WCRDMAWrite,
	verbs.WRRDMARead:         verbs.WCRDMARead,
	verbs.WRRegMR:            verbs.WCRegMR,
	verbs.WRLocalInv:         verbs.WCLocalInv,
}

// completeSend tells the completion of w, unless it is a success that nobody
// wants to see.
func (q *queuePair) completeSend(w *wqe) {
	if w.status == verbs.WCSuccess && !q.sigAll && w.flags&verbs.SendSignaled == 0 {
		return
	}
	wc := verbs.WC{WRID: w.wrid, Status: w.status, Opcode: verbs.WCSend, QPN: q.num, ByteLen: uint32(w.length)}
	if int(w.op) < len(wcOpcode) {
		wc.Opcode = wcOpcode[w.op]
	}
	q.sendCQ.push(wc)
}

// now is the engine's time.
func (q *queuePair) now() time.Duration { return q.eng.shard.Now() }
