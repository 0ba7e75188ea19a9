package roce

import (
	"fmt"

	"github.com/fabrid/fabrid/verbs"
	"github.com/fabrid/fabrid/verbs/internal/soft"
)

// A responder is the answering side of a queue pair.
//
// What it has to send waits in answers, in the order of the requests: an ACK
// must not overtake the responses of an earlier RDMA READ. ACKs that follow
// each other are one.
type responder struct {
	qp      *queuePair
	psn     PSN    // expected next
	msn     uint32 // messages completed
	nakSent bool   // a NAK for psn is out: more would be noise
	told    bool   // the connection manager is told that the peer is there

	// The message of which packets have come, and the last has not.
	inMessage opFlags // opIsSend, opIsWrite, or none
	recv      soft.Recv
	recvSG    []verbs.SGE // room for recv.SG
	off       int         // bytes of the message that have come
	write     reth        // va and length: what is still to come

	answers answerQueue
	reads   readRing
}

// minRNRTimer is the RNR NAK timer code that we use where the connection
// manager has no wish: 0.64 ms. Its own is 0, two thirds of a second.
const minRNRTimer = 12

func (r *responder) init(q *queuePair) {
	*r = responder{
		qp: q, psn: PSN(q.attr.RQPSN & psnMask),
		recvSG:  room(r.recvSG, q.maxRecvSGE()),
		answers: newAnswerQueue(q.attr.MaxDestRd, r.answers.ring),
		reads:   readRing{ring: room(r.reads.ring, q.attr.MaxDestRd)},
	}
}

// reset forgets the connection.
func (r *responder) reset() {
	r.endRecv()
	r.inMessage = 0
	r.answers.clear()
}

func (q *queuePair) maxRecvSGE() int {
	if q.srq != nil {
		return q.srq.maxSGE
	}
	return q.rqSGE
}

// request takes in a packet of the peer's requester.
func (r *responder) request(p *packet) {
	q := r.qp
	switch d := p.psn.Sub(r.psn); {
	case d < 0:
		r.duplicate(p)
		return
	case d > 0:
		if !r.nakSent {
			r.nakSent = true
			q.eng.stats.NAKsSent++
			q.path.suspect(q.now())
			r.answers.ack(r.psn, r.msn, synNAKSequence)
			q.eng.wantAck(q)
		}
		return
	}
	if !r.told {
		r.told, q.spoken = true, true
		q.eng.notify(q)
	}
	switch {
	case p.opFlags&opIsSend != 0:
		r.send(p)
	case p.opFlags&opIsWrite != 0:
		r.rdmaWrite(p)
	case p.opFlags&opIsReadReq != 0:
		r.rdmaRead(p)
	default: // atomics
		r.refuse(p, synNAKInvalid, verbs.WCRemInvReqErr, "atomics are not supported")
	}
}

// accept counts p as done, and acknowledges it if it asks for that.
func (r *responder) accept(p *packet) {
	r.psn = r.psn.Add(1)
	r.nakSent = false
	if p.opFlags&opEnds != 0 {
		r.msn = (r.msn + 1) & psnMask
	}
	if p.ackReq {
		r.answers.ack(p.psn, r.msn, synAck)
		r.qp.eng.wantAck(r.qp)
		r.qp.eng.assurer.heard(r.qp)
	}
}

// repeatACK sends the ACK of all that has come once more.
func (r *responder) repeatACK() {
	r.answers.ack(r.psn.Add(-1), r.msn, synAck)
	r.qp.eng.wantAck(r.qp)
}

// sequence checks that p continues the message of kind, or starts one.
func (r *responder) sequence(p *packet, kind opFlags) bool {
	starts := p.opFlags&opStarts != 0
	if r.inMessage == 0 && starts || r.inMessage == kind && !starts {
		n := len(p.payload)
		switch {
		case p.opFlags&(opIsFirst|opIsMiddle) != 0:
			if n == r.qp.mtu {
				return true
			}
		case p.opFlags&opIsLast != 0:
			if n >= 1 && n <= r.qp.mtu {
				return true
			}
		default:
			if n <= r.qp.mtu {
				return true
			}
		}
		r.refuse(p, synNAKInvalid, verbs.WCRemInvReqErr, "packet length")
		return false
	}
	r.refuse(p, synNAKInvalid, verbs.WCRemInvReqErr, "opcode sequence")
	return false
}

// send takes in a packet of a SEND.
func (r *responder) send(p *packet) {
	q := r.qp
	if !r.sequence(p, opIsSend) {
		return
	}
	if p.opFlags&opStarts != 0 {
		if !r.takeRecv(p) {
			return
		}
		r.off = 0
		if f := q.pd.dev.keys.Local(q.pd, r.recv.SG, verbs.AccessLocalWrite); f != soft.OK {
			r.failRecv(verbs.WCLocProtErr)
			r.refuse(p, synNAKOperational, verbs.WCLocProtErr, "the memory of a receive: "+f.String())
			return
		}
	}
	if len(p.payload) > r.recv.Len-r.off {
		r.failRecv(verbs.WCLocLenErr)
		r.refuse(p, synNAKInvalid, verbs.WCLocLenErr, "a SEND longer than the receive")
		return
	}
	scatter(r.recv.SG, r.off, p.payload)
	r.off += len(p.payload)
	if p.opFlags&opEnds == 0 {
		r.inMessage = opIsSend
		r.accept(p)
		return
	}
	r.inMessage = 0
	wc := verbs.WC{WRID: r.recv.WRID, Opcode: verbs.WCRecv, QPN: q.num, ByteLen: uint32(r.off)}
	if p.opFlags&opHasImm != 0 {
		wc.Imm, wc.Flags = p.imm, verbs.WCWithImm
	}
	if p.opFlags&opHasIETH != 0 {
		if !q.pd.dev.keys.Invalidate(q.pd, p.ieth) {
			// The SEND itself is good, so that it is acknowledged.
			r.failRecv(verbs.WCRemInvReqErr)
			r.accept(p)
			q.eng.sendAnswers(q)
			q.fail(fmt.Errorf("roce: QP %#x: the peer invalidates key %#x, which it must not", q.num, p.ieth))
			return
		}
		wc.InvRKey, wc.Flags = p.ieth, wc.Flags|verbs.WCWithInvalidate
	}
	r.endRecv()
	q.recvCQ.push(wc)
	r.accept(p)
}

// takeRecv takes a receive for the message of p. Without one the peer is asked
// to wait, each time that it tries; what follows p until then is out of order,
// and known to be.
func (r *responder) takeRecv(p *packet) bool {
	q := r.qp
	queue := q.rq
	if q.srq != nil {
		queue = q.srq.queue
	}
	var ok bool
	if r.recv, ok = queue.Take(r.recvSG); !ok {
		r.nakSent = true
		code := q.attr.MinRNRTimer
		if code == 0 {
			code = minRNRTimer
		}
		q.eng.stats.RNRsSent++
		r.answers.ack(p.psn, r.msn, synRNR(code))
		q.eng.wantAck(q)
	}
	return ok
}

// endRecv lets go of the receive of the message at hand.
func (r *responder) endRecv() {
	clear(r.recv.SG)
	r.recv = soft.Recv{}
}

// failRecv completes the receive of the message at hand with an error.
func (r *responder) failRecv(status verbs.WCStatus) {
	r.qp.recvCQ.push(verbs.WC{WRID: r.recv.WRID, Status: status, Opcode: verbs.WCRecv, QPN: r.qp.num})
	r.endRecv()
	r.inMessage = 0
}

// rdmaWrite takes in a packet of an RDMA WRITE.
func (r *responder) rdmaWrite(p *packet) {
	q := r.qp
	if !r.sequence(p, opIsWrite) {
		return
	}
	if p.opFlags&opStarts != 0 {
		if q.attr.RemoteAccess&verbs.AccessRemoteWrite == 0 {
			r.refuse(p, synNAKInvalid, verbs.WCRemInvReqErr, "RDMA WRITE is not allowed")
			return
		}
		n := int64(len(p.payload))
		whole := p.opFlags&opIsOnly != 0
		if l := int64(p.reth.length); l > maxMessage || whole && l != n || !whole && l <= n {
			r.refuse(p, synNAKInvalid, verbs.WCRemInvReqErr, "DMA length")
			return
		}
		if p.reth.length > 0 { // a WRITE of nothing names no memory
			if _, f := q.pd.dev.keys.Remote(q.pd, p.reth.rkey, p.reth.va, uint64(p.reth.length), verbs.AccessRemoteWrite); f != soft.OK {
				r.refuse(p, synNAKAccess, verbs.WCRemAccessErr, "RDMA WRITE: "+f.String())
				return
			}
		}
		r.write, r.off = p.reth, 0
	}
	n := uint32(len(p.payload))
	last := p.opFlags&opEnds != 0
	if n > r.write.length || last != (n == r.write.length) {
		r.refuse(p, synNAKInvalid, verbs.WCRemInvReqErr, "RDMA WRITE: more or less than the DMA length")
		return
	}
	var mem []byte
	if n > 0 {
		// Looked up for each packet: the key may have been invalidated meanwhile.
		var f soft.Fault
		if mem, f = q.pd.dev.keys.Remote(q.pd, r.write.rkey, r.write.va, uint64(n), verbs.AccessRemoteWrite); f != soft.OK {
			r.refuse(p, synNAKAccess, verbs.WCRemAccessErr, "RDMA WRITE: "+f.String())
			return
		}
	}
	if p.opFlags&opHasImm != 0 && !r.takeRecv(p) {
		return
	}
	copy(mem, p.payload)
	r.off += len(p.payload)
	r.write.va += uint64(n)
	r.write.length -= n
	r.inMessage = opIsWrite
	if last {
		r.inMessage = 0
	}
	if p.opFlags&opHasImm != 0 {
		// The receive tells of the message; what memory it names is not touched.
		q.recvCQ.push(verbs.WC{WRID: r.recv.WRID, Opcode: verbs.WCRecv, QPN: q.num,
			ByteLen: uint32(r.off), Flags: verbs.WCWithImm, Imm: p.imm})
		r.endRecv()
	}
	r.accept(p)
}

// rdmaRead takes in an RDMA READ request.
func (r *responder) rdmaRead(p *packet) {
	q := r.qp
	switch {
	case r.inMessage != 0:
		r.refuse(p, synNAKInvalid, verbs.WCRemInvReqErr, "opcode sequence")
		return
	case q.attr.RemoteAccess&verbs.AccessRemoteRead == 0 || len(r.reads.ring) == 0:
		r.refuse(p, synNAKInvalid, verbs.WCRemInvReqErr, "RDMA READ is not allowed")
		return
	case p.reth.length > maxMessage:
		r.refuse(p, synNAKInvalid, verbs.WCRemInvReqErr, "DMA length")
		return
	case r.answers.reads >= len(r.reads.ring):
		r.refuse(p, synNAKInvalid, verbs.WCRemInvReqErr, "more RDMA READs than agreed")
		return
	}
	if p.reth.length > 0 {
		if _, f := q.pd.dev.keys.Remote(q.pd, p.reth.rkey, p.reth.va, uint64(p.reth.length), verbs.AccessRemoteRead); f != soft.OK {
			r.refuse(p, synNAKAccess, verbs.WCRemAccessErr, "RDMA READ: "+f.String())
			return
		}
	}
	packets := max(1, (int(p.reth.length)+q.mtu-1)/q.mtu)
	r.msn = (r.msn + 1) & psnMask
	r.psn = r.psn.Add(packets)
	r.nakSent = false
	r.reads.add(doneRead{psn: p.psn, packets: packets, reth: p.reth})
	r.answers.push(answer{read: true, first: true, psn: p.psn, msn: r.msn, reth: p.reth})
	q.eng.wantSend(q)
}

// duplicate answers a request that has been carried out before.
func (r *responder) duplicate(p *packet) {
	q := r.qp
	q.eng.stats.Duplicates++
	q.path.suspect(q.now())
	if p.opFlags&opIsReadReq == 0 {
		if p.opFlags&(opIsSend|opIsWrite) != 0 {
			r.repeatACK()
		}
		return
	}
	// Again, or the rest of it, if it is part of one that is remembered.
	if !r.reads.holds(p, q.mtu) || r.answers.again >= len(r.reads.ring) {
		return
	}
	r.answers.push(answer{read: true, again: true, first: true, psn: p.psn, msn: r.msn, reth: p.reth})
	q.eng.wantSend(q)
}

// refuse sends a NAK for p and takes the queue pair to Err.
func (r *responder) refuse(p *packet, syndrome uint8, status verbs.WCStatus, why string) {
	q := r.qp
	q.eng.stats.NAKsSent++
	if r.answers.full() {
		q.eng.sendAnswers(q)
	}
	r.answers.ack(p.psn, r.msn, syndrome)
	q.eng.sendAnswers(q)
	q.fail(fmt.Errorf("roce: QP %#x: %s refused: %s: %v", q.num, opcodes[p.opcode].name, why, status))
}

// flush forgets what is not finished, on the way to Err.
func (r *responder) flush() {
	if r.inMessage == opIsSend {
		r.failRecv(verbs.WCWRFlushErr)
	}
	r.reset()
}

// acknowledge sends what waits before the response to an RDMA READ.
func (r *responder) acknowledge(b *txBatch) {
	if r.qp.cnp && !b.full() {
		r.qp.sendCNP(b)
	}
	for a := r.answers.first(); a != nil && !a.read && !b.full(); a = r.answers.first() {
		r.sendAck(b, a.psn, a.msn, a.syndrome)
		r.answers.pop()
	}
}

// sendAck sends an ACK or a NAK. The batch has room.
func (r *responder) sendAck(b *txBatch, psn PSN, msn uint32, syndrome uint8) {
	q := r.qp
	h := packet{bth: bth{opcode: opAcknowledge, destQP: q.attr.DestQPN, psn: psn}, aeth: aeth{syndrome, msn}}
	b.begin(q.path, &h, 0)
	b.end(0)
}

// answer sends up to budget packets of what waits to be sent, and reports
// whether there is more.
func (r *responder) answer(b *txBatch, budget int) (more bool) {
	for a := r.answers.first(); a != nil; a = r.answers.first() {
		if budget <= 0 || b.full() {
			return true
		}
		budget--
		if !a.read {
			r.sendAck(b, a.psn, a.msn, a.syndrome)
			r.answers.pop()
		} else if !r.respond(b, a) {
			return false
		}
	}
	return false
}

// respond sends one packet of the response to an RDMA READ.
func (r *responder) respond(b *txBatch, a *answer) bool {
	q := r.qp
	n := min(q.mtu, int(a.reth.length))
	var mem []byte
	if n > 0 {
		var f soft.Fault
		if mem, f = q.pd.dev.keys.Remote(q.pd, a.reth.rkey, a.reth.va, uint64(n), verbs.AccessRemoteRead); f != soft.OK {
			if a.again {
				// It was answered before, or else the peer would not have let the key
				// be invalidated: it asked again only because it was impatient.
				r.answers.pop()
				return true
			}
			r.sendAck(b, a.psn, a.msn, synNAKAccess)
			r.answers.clear() // what was done after it
			q.eng.stats.NAKsSent++
			q.fail(fmt.Errorf("roce: QP %#x: RDMA READ: %v while it was answered", q.num, f))
			return false
		}
	}
	last := n == int(a.reth.length)
	op := opReadRespMid
	switch {
	case a.first && last:
		op = opReadRespOnly
	case a.first:
		op = opReadRespFirst
	case last:
		op = opReadRespLast
	}
	h := packet{bth: bth{opcode: op, destQP: q.attr.DestQPN, psn: a.psn}, aeth: aeth{synAck, a.msn}}
	b.begin(q.path, &h, n)
	b.payload(mem)
	b.end(h.pad)
	a.first = false
	a.psn = a.psn.Add(1)
	a.reth.va += uint64(n)
	a.reth.length -= uint32(n)
	if last {
		r.answers.pop()
	}
	return true
}
