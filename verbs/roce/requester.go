package roce

import (
	"fmt"
	"time"

	"github.com/fabrid/fabrid/verbs"
	"github.com/fabrid/fabrid/verbs/internal/soft"
)

// Windows, in packets. A queue pair starts small, grows with what is
// acknowledged, and halves on a loss.
const (
	windowStart = 64
	windowMin   = 8
	windowMax   = 256
)

// A requester is the sending side of a queue pair.
//
// PSNs una ≤ PSN < next belong to work requests that have had their turn: una is
// the oldest that is not acknowledged, sent the one after the last that ever
// was on the wire, una ≤ sent ≤ next. sendQueue.cur and pkt say what is sent
// next; after a loss they go back, and what lies between there and sent is sent
// again.
type requester struct {
	qp              *queuePair
	una, sent, next PSN
	pkt             int // packets of the work request at sendQueue.cur that are sent

	// reads are the RDMA READ requests that have not been answered whole, oldest
	// first.
	reads []readPart

	window   int  // packets of SEND and WRITE that may be in flight
	inflight int  // that are; also charged to the path
	awaited  int  // packets of READ responses that are to come; charged to the path
	acked    int  // acknowledged since the window last grew
	sinceAck int  // packets sent since one that asked for an ACK
	lossy    bool // there was a loss
	repaired bool // una was found missing and is on its way again
	silent   bool // the timer has expired, and nothing has come since
	probe    bool // one packet is to be sent, to see what has become of it
	probed   bool // it was, and nothing has come since
	alone    bool // what came was an answer to that alone

	retries, rnrRetries int
	lostBefore          time.Duration // what is lost before is part of the same loss
	progress            time.Duration // when the peer last acknowledged something new
	rnrUntil            time.Duration // nothing is sent before
	roundTrip
}

// A readPart is an RDMA READ request that was sent: of the work request with
// index wqe, the packets before end that were not asked for before. Work
// requests are asked for in parts of queuePair.readPackets packets, so that the
// receive buffer holds what is on its way. A part always ends where it ended the
// first time: a responder repeats what it remembers as one request, and not
// what it remembers as two.
type readPart struct {
	wqe uint64
	end int
}

func (r *requester) init(q *queuePair) {
	depth := q.attr.MaxRdAtomic
	reads := room(r.reads, max(depth, 0))
	*r = requester{qp: q, una: PSN(q.attr.SQPSN & psnMask), window: windowStart, roundTrip: roundTrip{rto: rtoStart}}
	r.sent, r.next = r.una, r.una
	r.reads = reads[:0:len(reads)] // no more than the peer answers at once
	r.retries, r.rnrRetries = q.attr.RetryCnt, q.attr.RNRRetry
}

// abandon gives back what is charged for packets and data in flight.
func (r *requester) abandon() {
	for _, p := range r.reads {
		if w := r.qp.sq.at(p.wqe); w.charged != 0 {
			r.qp.eng.returnReadBudget(w.charged)
			w.charged = 0
		}
	}
	r.reads = r.reads[:0]
	r.qp.path.land(r.awaited)
	r.awaited = 0
	r.land(r.inflight)
}

// land takes n packets off those in flight.
func (r *requester) land(n int) {
	n = min(n, r.inflight)
	r.inflight -= n
	r.qp.path.land(n)
}

// cursor is the PSN to be sent next.
func (r *requester) cursor() PSN {
	q := r.qp
	if q.sq.cur == q.sq.tail {
		return r.next
	}
	w := q.sq.at(q.sq.cur)
	if !w.started {
		return r.next
	}
	return w.psn.Add(r.pkt)
}

// outstanding reports whether anything that was sent is not acknowledged.
func (r *requester) outstanding() bool { return r.una != r.cursor() }

// send sends up to budget packets and reports whether there is more that could
// be sent at once.
func (r *requester) send(b *txBatch, budget int) (more bool) {
	q := r.qp
	if r.rnrUntil > q.now() {
		return false
	}
	if !r.outstanding() {
		r.progress = q.now() // the timer runs from the first packet
		r.probe = false
	}
	if r.probe {
		if b.full() {
			return true
		}
		r.sendProbe(b)
		budget--
	}
	for q.sq.cur != q.sq.tail {
		w := q.sq.at(q.sq.cur)
		if w.isLocal() {
			if !r.runLocal(w) {
				return false
			}
			continue
		}
		if !w.started && !r.start(w) {
			return false
		}
		if budget <= 0 || b.full() {
			return true
		}
		if w.op == verbs.WRRDMARead {
			if !r.sendRead(b, w) {
				break
			}
			budget--
			continue
		}
		if r.inflight >= r.window {
			break // an acknowledgement wakes us
		}
		if !q.path.room(q) {
			break // the path wakes us
		}
		r.sendData(b, w, budget == 1)
		budget--
	}
	return false
}

// start gives w its PSNs, when it is its turn. It reports false when it has to
// wait, or the queue pair has failed.
func (r *requester) start(w *wqe) bool {
	q := r.qp
	if w.flags&verbs.SendFence != 0 && len(r.reads) > 0 {
		return false // the last response wakes us
	}
	if int(w.op) >= len(wcOpcode) {
		r.failWQE(w, verbs.WCLocQPOpErr, fmt.Errorf("roce: QP %#x: work request %d: opcode %d", q.num, w.wrid, w.op))
		return false
	}
	packets := max(1, (w.length+q.mtu-1)/q.mtu)
	if w.length > maxMessage || packets > maxPSNs {
		r.failWQE(w, verbs.WCLocLenErr, fmt.Errorf("roce: QP %#x: work request %d: %d bytes", q.num, w.wrid, w.length))
		return false
	}
	if r.next.Sub(r.una) > maxPSNs-packets {
		return false // an acknowledgement wakes us
	}
	need := verbs.Access(0)
	if w.op == verbs.WRRDMARead {
		need = verbs.AccessLocalWrite
	}
	if f := q.pd.dev.keys.Local(q.pd, w.sg, need); f != soft.OK {
		r.failWQE(w, verbs.WCLocProtErr, fmt.Errorf("roce: QP %#x: work request %d: local memory: %v", q.num, w.wrid, f))
		return false
	}
	w.started = true
	w.psn = r.next
	w.packets = packets
	r.next = r.next.Add(packets)
	r.pkt = 0
	return true
}

const (
	// maxMessage is the longest message, in bytes.
	maxMessage = 1 << 31
	// maxPSNs is how many PSNs may be in use: beyond half of all of them, which is
	// before which cannot be told.
	maxPSNs = 1<<23 - 1
)

// runLocal carries out a work request that sends nothing, in its turn, and
// only once, however often the queue is sent again.
func (r *requester) runLocal(w *wqe) bool {
	q := r.qp
	if !w.done {
		if w.flags&verbs.SendFence != 0 && len(r.reads) > 0 {
			return false
		}
		keys := &q.pd.dev.keys
		ok := false
		switch w.op {
		case verbs.WRRegMR:
			ok = w.region != nil && keys.FastRegister(w.region, q.pd, w.buf, w.iova, w.access, w.rkey)
		case verbs.WRLocalInv:
			ok = keys.Invalidate(q.pd, w.rkey)
		}
		if !ok {
			r.failWQE(w, verbs.WCLocQPOpErr, fmt.Errorf("roce: QP %#x: %v of key %#x", q.num, wcOpcode[w.op], w.rkey))
			return false
		}
		w.started, w.done = true, true
		w.psn, w.packets = r.next, 0
	}
	q.sq.cur++
	r.pkt = 0
	r.reap()
	return q.state == verbs.RTS
}

// sendRead asks for the next part of an RDMA READ. It reports false when it has
// to wait for others to be answered. A peer that has fallen silent is asked for
// one packet at a time, so that it keeps no more of the budget from others.
func (r *requester) sendRead(b *txBatch, w *wqe) bool {
	q := r.qp
	if len(r.reads) == cap(r.reads) {
		if cap(r.reads) == 0 {
			r.failWQE(w, verbs.WCLocQPOpErr, fmt.Errorf("roce: QP %#x: RDMA READ: the peer answers none", q.num))
		}
		return false // the last response wakes us
	}
	end := min(w.packets, (r.pkt/q.readPackets+1)*q.readPackets)
	if r.silent {
		if len(r.reads) > 0 {
			return false
		}
		end = r.pkt + 1
	}
	if !q.path.room(q) {
		return false // the path wakes us
	}
	off := r.pkt * q.mtu
	n := min(end*q.mtu, w.length) - off
	charge := readCharge(n, end-r.pkt)
	if !q.eng.takeReadBudget(q, charge) {
		return false // the engine wakes us
	}
	w.charged += charge
	r.awaited += end - r.pkt
	q.path.inflight += end - r.pkt
	h := packet{bth: bth{opcode: opReadRequest, ackReq: true, destQP: q.attr.DestQPN, psn: w.psn.Add(r.pkt)},
		reth: reth{va: w.raddr + uint64(off), rkey: w.rkey, length: uint32(n)}}
	b.begin(q.path, &h, 0)
	b.end(0)
	r.reads = append(r.reads, readPart{q.sq.cur, end})
	r.sinceAck = 0
	r.went(h.psn, w.psn.Add(end), true)
	r.pkt = end
	if end == w.packets {
		r.advance()
	} else {
		r.armTimer()
	}
	return true
}

// sendData sends the next packet of a SEND or an RDMA WRITE. pause says that it
// is somebody else's turn after it.
func (r *requester) sendData(b *txBatch, w *wqe, pause bool) {
	q := r.qp
	h, n := q.dataPacket(w, r.pkt)
	last := r.pkt == w.packets-1
	r.sinceAck++
	// Besides at the end, and often enough, an ACK is asked for before we may
	// have to wait for one.
	if last || pause || r.sinceAck >= r.window/4 || r.inflight+1 >= r.window ||
		q.path.inflight+1 >= q.path.window || len(b.pkts)+1 == cap(b.pkts) {
		h.ackReq = true
		r.sinceAck = 0
	}
	r.went(h.psn, h.psn.Add(1), h.ackReq)
	b.begin(q.path, &h, n)
	if n > 0 {
		b.gather(w.sg, r.pkt*q.mtu, n)
	}
	b.end(h.pad)
	r.inflight++
	q.path.inflight++
	r.pkt++
	if last {
		r.advance()
	} else {
		r.armTimer()
	}
}

// dataPacket is packet k of a SEND or an RDMA WRITE, but for its payload of n
// bytes.
func (q *queuePair) dataPacket(w *wqe, k int) (h packet, n int) {
	first, last := k == 0, k == w.packets-1
	h = packet{bth: bth{opcode: dataOpcode(w.op, first, last), destQP: q.attr.DestQPN, psn: w.psn.Add(k)},
		reth: reth{va: w.raddr, rkey: w.rkey, length: uint32(w.length)}, imm: w.imm, ieth: w.rkey}
	h.se = last && w.flags&verbs.SendSolicited != 0 && w.op != verbs.WRRDMAWrite
	return h, min(q.mtu, w.length-k*q.mtu)
}

// sendProbe sends the oldest packet that is not acknowledged again, or asks for
// it, of a READ: if it, or an answer, was lost, that costs no timeout; if the
// peer is slow, one packet. The batch has room, and something is outstanding.
func (r *requester) sendProbe(b *txBatch) {
	q := r.qp
	r.probe, r.probed, r.timing = false, true, false
	q.eng.stats.Probes++
	i := q.sq.head
	w := q.sq.at(i)
	for w.isLocal() || r.una.Sub(w.end()) >= 0 {
		i++
		w = q.sq.at(i)
	}
	k := r.una.Sub(w.psn)
	h, n := packet{bth: bth{opcode: opReadRequest, destQP: q.attr.DestQPN, psn: r.una}}, 0
	if w.op == verbs.WRRDMARead {
		off := k * q.mtu
		h.reth = reth{va: w.raddr + uint64(off), rkey: w.rkey, length: uint32(min(q.mtu, w.length-off))}
	} else {
		h, n = q.dataPacket(w, k)
	}
	h.ackReq = true
	b.begin(q.path, &h, n)
	if n > 0 {
		b.gather(w.sg, k*q.mtu, n)
	}
	b.end(h.pad)
}

// dataOpcode is the opcode of a packet of a SEND or an RDMA WRITE.
func dataOpcode(op verbs.WROpcode, first, last bool) uint8 {
	write := op == verbs.WRRDMAWrite || op == verbs.WRRDMAWriteWithImm
	switch {
	case first && last:
		switch op {
		case verbs.WRSendWithInv:
			return opSendOnlyInv
		case verbs.WRSendWithImm:
			return opSendOnlyImm
		case verbs.WRRDMAWrite:
			return opWriteOnly
		case verbs.WRRDMAWriteWithImm:
			return opWriteOnlyImm
		}
		return opSendOnly
	case last:
		switch op {
		case verbs.WRSendWithInv:
			return opSendLastInv
		case verbs.WRSendWithImm:
			return opSendLastImm
		case verbs.WRRDMAWrite:
			return opWriteLast
		case verbs.WRRDMAWriteWithImm:
			return opWriteLastImm
		}
		return opSendLast
	case first && write:
		return opWriteFirst
	case first:
		return opSendFirst
	case write:
		return opWriteMiddle
	}
	return opSendMiddle
}

// advance goes on to the next work request.
func (r *requester) advance() {
	r.qp.sq.cur++
	r.pkt = 0
	r.armTimer()
}

// went counts the PSNs from p to end as sent. If they go for the first time, so
// that it is clear which packet an answer answers (Karn), and there will be one
// for p, it is used to measure a round trip.
func (r *requester) went(p, end PSN, answered bool) {
	if end.Sub(r.sent) <= 0 {
		return
	}
	if answered && p.Sub(r.sent) >= 0 {
		r.time(p, r.qp.now())
	}
	r.sent = end
}

// armTimer sees to it that the timer runs while something is unacknowledged.
func (r *requester) armTimer() {
	if q := r.qp; !q.timer.Armed() {
		r.progress = q.now()
		q.eng.shard.Arm(&q.timer, r.due())
	}
}

// due is when the timer is to fire: for the probe, if there was none, or else
// because the peer is silent. What nothing was heard of after the answer to a
// probe is lost: nothing else had been sent for long.
func (r *requester) due() time.Duration {
	switch {
	case r.alone:
		return r.progress + 2*r.srtt + time.Millisecond
	case !r.probed && r.pto != 0:
		return r.progress + r.pto
	}
	return r.progress + r.rto
}

// goBack sends again from the oldest PSN that is not acknowledged.
func (r *requester) goBack() {
	q := r.qp
	r.abandon()
	r.timing, r.probe = false, false
	r.sinceAck = 0
	for q.sq.cur = q.sq.head; q.sq.cur != q.sq.tail; q.sq.cur++ {
		w := q.sq.at(q.sq.cur)
		if !w.started {
			break
		}
		if !w.isLocal() && r.una.Sub(w.end()) < 0 {
			break
		}
	}
	r.pkt = 0
	if w := q.sq.at(q.sq.cur); q.sq.cur != q.sq.tail && w.started {
		r.pkt = max(0, r.una.Sub(w.psn))
	}
	q.eng.stats.Retransmits++
	q.eng.wantSend(q)
}

// lost shrinks the window, once in a round trip: what was sent again may be lost
// again.
func (r *requester) lost() {
	now := r.qp.now()
	if now < r.lostBefore {
		return
	}
	r.lossy, r.lostBefore = true, now+r.srtt
	r.window = max(windowMin, r.window/2)
	r.acked = 0
	r.qp.path.lost(now, r.srtt)
}

// grow widens the window for n packets acknowledged: by as many as were
// acknowledged until the first loss, then by one for each window.
func (r *requester) grow(n int) {
	r.qp.path.grow(n)
	if r.window >= windowMax {
		return
	}
	if !r.lossy {
		r.window = min(windowMax, r.window+n)
		return
	}
	if r.acked += n; r.acked >= r.window {
		r.acked = 0
		r.window++
	}
}

// failWQE fails the queue pair because of w.
func (r *requester) failWQE(w *wqe, status verbs.WCStatus, err error) {
	w.status = status
	r.qp.fail(err)
}
