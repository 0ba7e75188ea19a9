package fakeverbs

import (
	"fmt"
	"time"

	"github.com/fabrid/fabrid/verbs"
)

// receive takes what the peer has sent.
func (q *qp) receive() {
	q.mu.Lock()
	q.arrived = append(q.arrived, q.inbox...)
	clear(q.inbox)
	q.inbox = q.inbox[:0]
	q.mu.Unlock()
	q.respond()
}

// respond carries out what has arrived, in order. What does not belong to the
// connection, or arrives where there is none, is dropped as packets are.
func (q *qp) respond() {
	done := 0
	for _, e := range q.arrived {
		if q.state == verbs.Init {
			break // it will be sent again
		}
		if q.state != verbs.RTS || e.owner.num != q.conn.DestQPN {
			e.unanswered()
			done++
			continue
		}
		if needsReceive(e.wr.Opcode) && !q.haveReceive() {
			if n := e.owner.conn.RNRRetry; n < 7 && !q.rnrTimer.Armed() {
				q.shard.Arm(&q.rnrTimer, q.shard.Now()+time.Duration(n+1)*5*time.Millisecond)
			}
			break
		}
		q.shard.Disarm(&q.rnrTimer)
		done++
		if !e.stage.CompareAndSwap(inFlight, executing) {
			continue // taken back
		}
		local, remote := q.execute(e)
		e.status = remote
		e.stage.Store(executed)
		e.owner.ack(e)
		if remote != verbs.WCSuccess {
			q.toErr()
			q.event(fmt.Errorf("request of the peer: %v", local))
			return
		}
	}
	if done > 0 {
		n := copy(q.arrived, q.arrived[done:])
		clear(q.arrived[n:])
		q.arrived = q.arrived[:n]
	}
}

// rnrOver has the peer give up its oldest message.
func (q *qp) rnrOver() {
	if len(q.arrived) == 0 {
		return
	}
	if e := q.arrived[0]; e.stage.CompareAndSwap(inFlight, executing) {
		e.status = verbs.WCRNRRetryExcErr
		e.stage.Store(executed)
		e.owner.ack(e)
	}
	q.arrived = nil
}

// unanswered says that nobody answers to an entry.
func (e *entry) unanswered() {
	if e.stage.CompareAndSwap(inFlight, executing) {
		e.status = verbs.WCRetryExcErr
		e.stage.Store(executed)
		e.owner.ack(e)
	}
}

func (q *qp) ack(e *entry) {
	q.mu.Lock()
	q.acks = append(q.acks, e)
	q.mu.Unlock()
	q.shard.Post(&q.ackTask)
}

func needsReceive(o verbs.WROpcode) bool {
	switch o {
	case verbs.WRSend, verbs.WRSendWithInv, verbs.WRSendWithImm, verbs.WRRDMAWriteWithImm:
		return true
	}
	return false
}

func (q *qp) haveReceive() bool {
	if q.srq == nil {
		return q.rq.posted() > 0
	}
	if q.srq.q.posted() > 0 {
		return true
	}
	q.srq.waiting = append(q.srq.waiting, q)
	return false
}

// execute carries out a request and returns how it ended here and for the
// peer.
func (q *qp) execute(e *entry) (local, remote verbs.WCStatus) {
	wr := &e.wr
	const ok = verbs.WCSuccess
	switch wr.Opcode {
	case verbs.WRRDMARead:
		if q.conn.RemoteAccess&verbs.AccessRemoteRead == 0 {
			return verbs.WCLocAccessErr, verbs.WCRemInvReqErr
		}
		if e.n > 0 && !q.pd.remote(wr.RKey, wr.RemoteAddr, e.n, verbs.AccessRemoteRead, func(b []byte) {
			for _, s := range wr.SG {
				b = b[copy(s.Buf, b):]
			}
		}) {
			return verbs.WCLocAccessErr, verbs.WCRemAccessErr
		}
		return ok, ok
	case verbs.WRRDMAWrite, verbs.WRRDMAWriteWithImm:
		if q.conn.RemoteAccess&verbs.AccessRemoteWrite == 0 {
			return verbs.WCLocAccessErr, verbs.WCRemInvReqErr
		}
		if e.n > 0 && !q.pd.remote(wr.RKey, wr.RemoteAddr, e.n, verbs.AccessRemoteWrite, func(b []byte) { gather(b, wr.SG) }) {
			return verbs.WCLocAccessErr, verbs.WCRemAccessErr
		}
		if wr.Opcode == verbs.WRRDMAWrite {
			return ok, ok
		}
	}
	return q.consume(e)
}

func gather(to []byte, sg []verbs.SGE) {
	for _, s := range sg {
		to = to[copy(to, s.Buf):]
	}
}

// consume completes a receive with a message.
func (q *qp) consume(e *entry) (local, remote verbs.WCStatus) {
	rq := &q.rq
	if q.srq != nil {
		rq = &q.srq.q
	}
	r := rq.take()
	wc := verbs.WC{WRID: r.wrid, Opcode: verbs.WCRecv, QPN: q.num, ByteLen: uint32(e.n)}
	fail := func(local, remote verbs.WCStatus) (verbs.WCStatus, verbs.WCStatus) {
		wc.Status = local
		q.recvCQ.push(wc)
		return local, remote
	}
	if e.wr.Opcode != verbs.WRRDMAWriteWithImm {
		if e.n > r.len() {
			return fail(verbs.WCLocLenErr, verbs.WCRemInvReqErr)
		}
		if !q.pd.local(r.sg, verbs.AccessLocalWrite) {
			return fail(verbs.WCLocProtErr, verbs.WCRemOpErr)
		}
		q.scatter(r, e)
	}
	switch e.wr.Opcode {
	case verbs.WRSendWithInv:
		if !q.pd.invalidate(e.wr.RKey) {
			return fail(verbs.WCLocAccessErr, verbs.WCRemAccessErr)
		}
		wc.Flags, wc.InvRKey = verbs.WCWithInvalidate, e.wr.RKey
	case verbs.WRSendWithImm, verbs.WRRDMAWriteWithImm:
		wc.Flags, wc.Imm = verbs.WCWithImm, e.wr.Imm
	}
	q.recvCQ.push(wc)
	return verbs.WCSuccess, verbs.WCSuccess
}

// scatter copies a message into a receive.
func (q *qp) scatter(r *recv, e *entry) {
	seg, off := 0, 0
	for _, s := range e.wr.SG {
		for b := s.Buf; len(b) > 0; {
			n := copy(r.sg[seg].Buf[off:], b)
			b = b[n:]
			if off += n; off == len(r.sg[seg].Buf) {
				seg, off = seg+1, 0
			}
		}
	}
}
