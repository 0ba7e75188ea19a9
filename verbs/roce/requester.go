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

// Bounds of the retransmission timer. It follows the measured round trip, so
// that it does not depend on what the peer's device claims for itself, and
// runs whatever the timeout that was agreed: a peer that wants none would keep
// for ever what is charged for it.
const (
	rtoMin   = 50 * time.Millisecond
	rtoStart = 250 * time.Millisecond
	rtoMax   = 4 * time.Second
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

	// reads are the RDMA READs that were asked for and have not been answered
	// whole, oldest first, as indices of the send queue.
	reads []uint64

	window     int  // packets of SEND and WRITE that may be in flight
	inflight   int  // that are; also charged to the path
	acked      int  // acknowledged since the window last grew
	sinceAck   int  // packets sent since one that asked for an ACK
	lossy      bool // there was a loss
	recovering bool // there was one of PSNs before recovered: more is part of it
	recovered  PSN
	repaired   bool // una was found missing and is on its way again

	retries, rnrRetries int
	progress            time.Duration // when the peer last acknowledged something new
	rnrUntil            time.Duration // nothing is sent before
	rto, srtt           time.Duration
	timing              bool // a round trip is being measured
	timedPSN            PSN
	timedAt             time.Duration
}

func (r *requester) init(q *queuePair) {
	depth := q.attr.MaxRdAtomic
	*r = requester{qp: q, una: PSN(q.attr.SQPSN & psnMask), window: windowStart, rto: rtoStart}
	r.sent, r.next = r.una, r.una
	r.reads = make([]uint64, 0, max(depth, 0))
	r.retries, r.rnrRetries = q.attr.RetryCnt, q.attr.RNRRetry
}

// abandon gives back what is charged for packets and data in flight.
func (r *requester) abandon() {
	r.land(r.inflight)
	for _, i := range r.reads {
		r.uncharge(r.qp.sq.at(i))
	}
	r.reads = r.reads[:0]
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
	switch {
	case !w.started:
		return r.next
	case w.op == verbs.WRRDMARead:
		return w.psn.Add(w.got)
	}
	return w.psn.Add(r.pkt)
}

// outstanding reports whether anything that was sent is not acknowledged.
func (r *requester) outstanding() bool { return r.una != r.cursor() }

func (r *requester) uncharge(w *wqe) {
	if w.charged != 0 {
		r.qp.eng.returnReadBudget(w.charged)
		w.charged = 0
	}
}

// send sends up to budget packets and reports whether there is more that could
// be sent at once.
func (r *requester) send(b *txBatch, budget int) (more bool) {
	q := r.qp
	if r.rnrUntil > q.now() {
		return false
	}
	if !r.outstanding() {
		r.progress = q.now() // the timer runs from the first packet
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
		if budget == 0 || b.full() {
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

// sendRead asks for what is missing of an RDMA READ. It reports false when it
// has to wait for others to be answered.
func (r *requester) sendRead(b *txBatch, w *wqe) bool {
	q := r.qp
	if len(r.reads) == cap(r.reads) {
		if cap(r.reads) == 0 {
			r.failWQE(w, verbs.WCLocQPOpErr, fmt.Errorf("roce: QP %#x: RDMA READ: the peer answers none", q.num))
		}
		return false // the last response wakes us
	}
	off := w.got * q.mtu
	left := w.length - off
	if !q.eng.takeReadBudget(q, left) {
		return false // the engine wakes us
	}
	w.charged = left
	h := packet{bth: bth{opcode: opReadRequest, ackReq: true, destQP: q.attr.DestQPN, psn: w.psn.Add(w.got)},
		reth: reth{va: w.raddr + uint64(off), rkey: w.rkey, length: uint32(left)}}
	b.begin(q.path, &h, 0)
	b.end(0)
	r.reads = append(r.reads, q.sq.cur)
	r.sinceAck = 0
	r.went(h.psn, w.end(), true)
	r.advance()
	return true
}

// sendData sends the next packet of a SEND or an RDMA WRITE. pause says that it
// is somebody else's turn after it.
func (r *requester) sendData(b *txBatch, w *wqe, pause bool) {
	q := r.qp
	off := r.pkt * q.mtu
	n := min(q.mtu, w.length-off)
	first, last := r.pkt == 0, r.pkt == w.packets-1
	h := packet{bth: bth{opcode: dataOpcode(w.op, first, last), destQP: q.attr.DestQPN, psn: w.psn.Add(r.pkt)},
		reth: reth{va: w.raddr, rkey: w.rkey, length: uint32(w.length)}, imm: w.imm, ieth: w.rkey}
	h.se = last && w.flags&verbs.SendSolicited != 0 && w.op != verbs.WRRDMAWrite
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
		b.gather(w.sg, off, n)
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
	if answered && !r.timing && p.Sub(r.sent) >= 0 {
		r.timing, r.timedPSN, r.timedAt = true, p, r.qp.now()
	}
	r.sent = end
}

// armTimer sees to it that the timer runs while something is unacknowledged.
func (r *requester) armTimer() {
	if q := r.qp; !q.timer.Armed() {
		r.progress = q.now()
		q.eng.shard.Arm(&q.timer, q.now()+r.rto)
	}
}

// goBack sends again from the oldest PSN that is not acknowledged.
func (r *requester) goBack() {
	q := r.qp
	r.land(r.inflight)
	for _, i := range r.reads {
		r.uncharge(q.sq.at(i))
	}
	r.reads = r.reads[:0]
	r.timing = false
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
	if w := q.sq.at(q.sq.cur); q.sq.cur != q.sq.tail && w.started && w.op != verbs.WRRDMARead {
		r.pkt = max(0, r.una.Sub(w.psn)) // a READ is asked for from got on
	}
	q.eng.stats.Retransmits++
	q.eng.wantSend(q)
}

// lost shrinks the window, once for all that is lost of what is in flight.
func (r *requester) lost() {
	if r.recovering {
		return
	}
	r.lossy, r.recovering, r.recovered = true, true, r.sent
	r.window = max(windowMin, r.window/2)
	r.acked = 0
	r.qp.path.window = max(windowMin, r.qp.path.window/2)
}

// grow widens the window for n packets acknowledged: by as many as were
// acknowledged until the first loss, then by one for each window.
func (r *requester) grow(n int) {
	q := r.qp
	q.path.window = min(pathWindowMax, q.path.window+n)
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
