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
	told    bool   // the connection manager knows that the peer is there

	// The message of which packets have come, and the last has not.
	inMessage opFlags // opIsSend, opIsWrite, or none
	recv      soft.Recv
	recvSG    []verbs.SGE // recv.SG, which the ring may take back
	off       int         // bytes of it that have come
	write     reth        // va and length: what is still to come

	answers answerQueue
	reads   readRing
}

// An answer is something to be sent: an ACK, or what is left of the response
// to an RDMA READ.
type answer struct {
	read     bool
	psn      PSN // of the ACK, or of the next response packet
	msn      uint32
	syndrome uint8
	first    bool // no response packet has been sent
	reth     reth // of the RDMA READ: what is left of it
}

// minRNRTimer is the RNR NAK timer code that we use where the connection
// manager has no wish: 0.64 ms. Its own is 0, two thirds of a second.
const minRNRTimer = 12

func (r *responder) init(q *queuePair) {
	sg := r.recvSG
	if sg == nil {
		sg = make([]verbs.SGE, q.maxRecvSGE())
	}
	*r = responder{qp: q, psn: PSN(q.attr.RQPSN & psnMask), recvSG: sg}
	n := max(q.attr.MaxDestRd, 0)
	r.answers.ring = make([]answer, 4*n+8)
	r.reads.ring = make([]doneRead, n)
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
			r.answers.ack(r.psn, r.msn, synNAKSequence)
			q.eng.wantSend(q)
		}
		return
	}
	if !r.told {
		r.told = true
		q.eng.peerSpoke(q.num)
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
		r.qp.eng.wantSend(r.qp)
	}
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
	if p.opFlags&opStarts != 0 && !r.takeRecv(p) {
		return
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
	r.recv = soft.Recv{}
	q.recvCQ.push(wc)
	r.accept(p)
}

// takeRecv takes a receive for the message that p starts. Without one the peer
// is asked to wait.
func (r *responder) takeRecv(p *packet) bool {
	q := r.qp
	queue := q.rq
	if q.srq != nil {
		queue = q.srq.queue
	}
	recv, ok := queue.Take()
	if !ok {
		if !r.nakSent {
			r.nakSent = true // what follows is out of order until it comes again
			code := q.attr.MinRNRTimer
			if code == 0 {
				code = minRNRTimer
			}
			q.eng.stats.RNRsSent++
			r.answers.ack(p.psn, r.msn, synRNR(code))
			q.eng.wantSend(q)
		}
		return false
	}
	n := copy(r.recvSG, recv.SG)
	recv.SG = r.recvSG[:n]
	if f := q.pd.dev.keys.Local(q.pd, recv.SG, verbs.AccessLocalWrite); f != soft.OK {
		r.recv = recv
		r.failRecv(verbs.WCLocProtErr)
		r.refuse(p, synNAKOperational, verbs.WCLocProtErr, "the memory of a receive: "+f.String())
		return false
	}
	r.recv, r.off = recv, 0
	return true
}

// failRecv completes the receive of the message at hand with an error.
func (r *responder) failRecv(status verbs.WCStatus) {
	r.qp.recvCQ.push(verbs.WC{WRID: r.recv.WRID, Status: status, Opcode: verbs.WCRecv, QPN: r.qp.num})
	r.recv, r.inMessage = soft.Recv{}, 0
}

// rdmaWrite takes in a packet of an RDMA WRITE.
func (r *responder) rdmaWrite(p *packet) {
	q := r.qp
	if !r.sequence(p, opIsWrite) {
		return
	}
	if p.opFlags&opHasImm != 0 {
		r.refuse(p, synNAKInvalid, verbs.WCRemInvReqErr, "RDMA WRITE with immediate is not supported")
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
		r.write = p.reth
	}
	n := uint32(len(p.payload))
	last := p.opFlags&opEnds != 0
	if n > r.write.length || last != (n == r.write.length) {
		r.refuse(p, synNAKInvalid, verbs.WCRemInvReqErr, "RDMA WRITE: more or less than the DMA length")
		return
	}
	if n > 0 {
		// Looked up for each packet: the key may have been invalidated meanwhile.
		mem, f := q.pd.dev.keys.Remote(q.pd, r.write.rkey, r.write.va, uint64(n), verbs.AccessRemoteWrite)
		if f != soft.OK {
			r.refuse(p, synNAKAccess, verbs.WCRemAccessErr, "RDMA WRITE: "+f.String())
			return
		}
		copy(mem, p.payload)
	}
	r.write.va += uint64(n)
	r.write.length -= n
	r.inMessage = opIsWrite
	if last {
		r.inMessage = 0
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
	if p.opFlags&opIsReadReq == 0 {
		if p.opFlags&(opIsSend|opIsWrite) != 0 {
			r.answers.ack(r.psn.Add(-1), r.msn, synAck)
			q.eng.wantSend(q)
		}
		return
	}
	// Again, or the rest of it, if it is part of one that is remembered.
	if !r.reads.holds(p, q.mtu) || r.answers.reads >= len(r.reads.ring) {
		return
	}
	r.answers.push(answer{read: true, first: true, psn: p.psn, msn: r.msn, reth: p.reth})
	q.eng.wantSend(q)
}

// refuse sends a NAK for p and takes the queue pair to Err.
func (r *responder) refuse(p *packet, syndrome uint8, status verbs.WCStatus, why string) {
	q := r.qp
	q.eng.stats.NAKsSent++
	r.answers.ack(p.psn, r.msn, syndrome)
	q.eng.sendAnswers(q)
	q.fail(fmt.Errorf("roce: QP %#x: %s refused: %s: %v", q.num, opcodes[p.opcode].name, why, status))
}

// flush forgets what is not finished, on the way to Err.
func (r *responder) flush() {
	if r.inMessage == opIsSend {
		r.failRecv(verbs.WCWRFlushErr)
	}
	r.inMessage = 0
	r.answers.clear()
}

// answer sends up to budget packets of what waits to be sent, and reports
// whether there is more.
func (r *responder) answer(b *txBatch, budget int) (more bool) {
	q := r.qp
	for a := r.answers.first(); a != nil; a = r.answers.first() {
		if budget <= 0 || b.full() {
			return true
		}
		budget--
		if !a.read {
			h := packet{bth: bth{opcode: opAcknowledge, destQP: q.attr.DestQPN, psn: a.psn}, aeth: aeth{a.syndrome, a.msn}}
			b.begin(q.path, &h, 0)
			b.end(0)
			r.answers.pop()
			continue
		}
		if !r.respond(b, a) {
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
			h := packet{bth: bth{opcode: opAcknowledge, destQP: q.attr.DestQPN, psn: a.psn}, aeth: aeth{synNAKAccess, a.msn}}
			b.begin(q.path, &h, 0)
			b.end(0)
			r.answers.pop()
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

// An answerQueue is a ring of answers in the order of their requests.
type answerQueue struct {
	ring       []answer
	head, tail uint64
	reads      int // of those in the ring
}

func (q *answerQueue) first() *answer {
	if q.head == q.tail {
		return nil
	}
	return &q.ring[q.head%uint64(len(q.ring))]
}

func (q *answerQueue) pop() {
	if a := q.first(); a.read {
		q.reads--
	}
	q.head++
}

// push appends a. Reads are bounded by their callers and ACKs by being merged,
// so that there is room; were there none, the answer would be lost, as it may
// be on the wire.
func (q *answerQueue) push(a answer) {
	if q.tail-q.head == uint64(len(q.ring)) {
		return
	}
	q.ring[q.tail%uint64(len(q.ring))] = a
	q.tail++
	if a.read {
		q.reads++
	}
}

// ack appends an ACK or a NAK. A positive one takes the place of one before it.
func (q *answerQueue) ack(psn PSN, msn uint32, syndrome uint8) {
	if q.head != q.tail && syndrome == synAck {
		last := &q.ring[(q.tail-1)%uint64(len(q.ring))]
		if !last.read && last.syndrome == synAck {
			if psn.Sub(last.psn) > 0 {
				last.psn = psn
			}
			last.msn = msn
			return
		}
	}
	q.push(answer{psn: psn, msn: msn, syndrome: syndrome})
}

func (q *answerQueue) clear() { q.head, q.reads = q.tail, 0 }

// A doneRead is an RDMA READ that was answered, kept in case that the answer
// was lost.
type doneRead struct {
	psn     PSN
	packets int
	reth    reth
}

// A readRing remembers the last RDMA READs, as many as may be outstanding.
type readRing struct {
	ring []doneRead
	next int
	n    int
}

func (r *readRing) add(d doneRead) {
	r.ring[r.next] = d
	r.next = (r.next + 1) % len(r.ring)
	r.n = min(r.n+1, len(r.ring))
}

// holds reports whether p asks for a part of an RDMA READ that is remembered.
func (r *readRing) holds(p *packet, mtu int) bool {
	for i := range r.n {
		d := &r.ring[i]
		k := p.psn.Sub(d.psn)
		if k < 0 || k >= d.packets || p.reth.rkey != d.reth.rkey {
			continue
		}
		// The part must start where its PSN says, and must not go beyond the end.
		off := uint64(k) * uint64(mtu)
		return p.reth.va == d.reth.va+off && uint64(p.reth.length)+off <= uint64(d.reth.length) && (p.reth.length > 0 || d.reth.length == 0)
	}
	return false
}
