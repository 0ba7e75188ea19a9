package roce

import (
	"fmt"

	"github.com/fabrid/fabrid/verbs"
)

// The completer: what the peer's responder answers.

// response takes in a packet of the requester's PSN space.
func (r *requester) response(p *packet) {
	q := r.qp
	if p.opFlags&opIsReadResp != 0 {
		r.readResponse(p)
		return
	}
	if p.opcode != opAcknowledge {
		return // an ATOMIC ACKNOWLEDGE: we ask for none
	}
	switch s := p.aeth.syndrome; {
	case isAck(s):
		r.ack(p.psn.Add(1))
	case isRNR(s):
		r.rnr(p.psn, s)
	case s == synNAKSequence:
		q.eng.stats.NAKsReceived++
		r.ack(p.psn)
		if r.una == p.psn && r.outstanding() && q.state == verbs.RTS {
			r.repair(false)
		}
	case isNAK(s):
		q.eng.stats.NAKsReceived++
		r.fatal(p.psn, s)
	}
}

// ack takes in that everything before end is acknowledged. An RDMA READ that
// has not been answered whole bounds that: an ACK beyond it tells that
// responses were lost.
func (r *requester) ack(end PSN) {
	if end.Sub(r.una) <= 0 || end.Sub(r.sent) > 0 {
		return // old, or of what was never sent
	}
	end, gap := r.bound(end)
	r.advanceUna(end)
	if gap && r.qp.state == verbs.RTS {
		r.repair(false)
	}
}

// bound returns end, or the PSN of the first RDMA READ response that is missing
// if that comes before.
func (r *requester) bound(end PSN) (PSN, bool) {
	sq := &r.qp.sq
	if len(r.reads) > 0 {
		if w := sq.at(r.reads[0].wqe); end.Sub(w.psn.Add(w.got)) > 0 {
			return w.psn.Add(w.got), true
		}
		return end, false
	}
	// Those that are to be asked for again.
	for i := sq.cur; i != sq.tail && sq.at(i).started; i++ {
		w := sq.at(i)
		if w.op == verbs.WRRDMARead && end.Sub(w.psn.Add(w.got)) > 0 {
			return w.psn.Add(w.got), true
		}
	}
	return end, false
}

// advanceUna moves una to end, which is after it or equal, and completes what
// that completes.
func (r *requester) advanceUna(end PSN) {
	q := r.qp
	if end.Sub(r.una) <= 0 {
		return
	}
	r.alone = r.probed && end == r.una.Add(1)
	r.una = end
	r.progress = q.now()
	r.repaired, r.silent, r.probe, r.probed = false, false, false, false
	r.answered(end, r.progress)
	if q.timer.Armed() && r.rnrUntil == 0 && q.timer.Deadline() > r.due() {
		q.eng.shard.Arm(&q.timer, r.due()) // it was armed when we knew less
	}
	r.retries, r.rnrRetries = q.attr.RetryCnt, q.attr.RNRRetry
	r.skip()
	r.reap()
	if !r.outstanding() {
		r.alone = false
		r.land(r.inflight)
	}
	if q.state == verbs.RTS && q.sq.cur != q.sq.tail {
		q.eng.wantSend(q)
	}
}

// skip moves the cursor past what was about to be sent again and has turned out
// to have arrived.
func (r *requester) skip() {
	q := r.qp
	for ; q.sq.cur != q.sq.tail; q.sq.cur++ {
		w := q.sq.at(q.sq.cur)
		if !w.started {
			return
		}
		if !w.isLocal() && r.una.Sub(w.end()) < 0 {
			r.pkt = max(r.pkt, r.una.Sub(w.psn))
			return
		}
		r.pkt = 0
	}
}

// reap completes work requests from the oldest on, in order.
func (r *requester) reap() {
	q := r.qp
	for q.sq.head != q.sq.cur {
		w := q.sq.at(q.sq.head)
		if w.isLocal() {
			if !w.done {
				return
			}
		} else if r.una.Sub(w.end()) < 0 {
			r.reapPart(w)
			return
		} else if w.op != verbs.WRRDMARead {
			r.landed(w, w.packets)
		}
		q.completeSend(w)
		w.release()
		q.sq.head++
	}
	r.reapCurrent()
}

// reapCurrent counts the packets that have arrived of the work request that is
// being sent.
func (r *requester) reapCurrent() {
	q := r.qp
	if q.sq.cur == q.sq.tail {
		return
	}
	if w := q.sq.at(q.sq.cur); w.started && !w.isLocal() {
		r.reapPart(w)
	}
}

// reapPart counts the packets that have arrived of a SEND or WRITE that has
// not arrived whole. w.got is how many were counted before.
func (r *requester) reapPart(w *wqe) {
	if w.op == verbs.WRRDMARead {
		return
	}
	if n := r.una.Sub(w.psn); n > w.got {
		r.landed(w, n)
	}
}

// landed counts the first n packets of w as arrived.
func (r *requester) landed(w *wqe, n int) {
	if n -= w.got; n > 0 {
		w.got += n
		r.land(n)
		r.grow(n)
	}
}

// readResponse takes in a packet of the answer to an RDMA READ. Its data is
// taken in order only.
func (r *requester) readResponse(p *packet) {
	q := r.qp
	if len(r.reads) == 0 {
		return
	}
	w := q.sq.at(r.reads[0].wqe)
	missing := w.psn.Add(w.got)
	switch d := p.psn.Sub(missing); {
	case d < 0:
		return // it came before
	case d > 0:
		if p.psn.Sub(r.sent) < 0 {
			r.repair(false)
		}
		return
	}
	off := w.got * q.mtu
	n := min(q.mtu, w.length-off)
	if len(p.payload) != n {
		r.advanceUna(w.psn) // what was asked for before has been done
		if q.state == verbs.RTS {
			r.failWQE(w, verbs.WCBadRespErr, fmt.Errorf("roce: QP %#x: RDMA READ response of %d bytes, want %d", q.num, len(p.payload), n))
		}
		return
	}
	scatter(w.sg, off, p.payload)
	w.got++
	charge := readCharge(n, 1)
	w.charged -= charge
	q.eng.returnReadBudget(charge)
	r.awaited--
	q.path.land(1)
	q.path.grow(1)
	if w.got == r.reads[0].end {
		copy(r.reads, r.reads[1:])
		r.reads = r.reads[:len(r.reads)-1]
	}
	r.advanceUna(missing.Add(1))
}

// rnr takes in that the receiver was not ready for the packet at p. One that
// is not on its way (because it is about to be sent again) will tell itself.
func (r *requester) rnr(p PSN, syndrome uint8) {
	q := r.qp
	r.ack(p)
	if r.una != p || !r.outstanding() || q.state != verbs.RTS {
		return
	}
	q.eng.stats.RNRsReceived++
	r.retries, r.silent = q.attr.RetryCnt, false // it is there
	if r.rnrRetries == 0 {
		r.failAt(p, verbs.WCRNRRetryExcErr, fmt.Errorf("roce: QP %#x: the peer posts no receive", q.num))
		return
	}
	if r.rnrRetries != 7 { // 7: for ever
		r.rnrRetries--
	}
	r.goBack()
	r.rnrUntil = q.now() + rnrDelay(syndrome)
	q.eng.shard.Arm(&q.timer, r.rnrUntil)
}

var nakStatus = map[uint8]verbs.WCStatus{
	synNAKInvalid:      verbs.WCRemInvReqErr,
	synNAKAccess:       verbs.WCRemAccessErr,
	synNAKOperational:  verbs.WCRemOpErr,
	synNAKInvalidRDReq: verbs.WCRemInvReqErr,
}

// fatal takes in that the peer refuses the packet at p for good.
func (r *requester) fatal(p PSN, syndrome uint8) {
	q := r.qp
	status, ok := nakStatus[syndrome]
	if !ok || p.Sub(r.una) < 0 || p.Sub(r.sent) >= 0 {
		return
	}
	r.failAt(p, status, fmt.Errorf("roce: QP %#x: NAK %#02x of PSN %#x: %v", q.num, syndrome, p, status))
}

// failAt fails the queue pair because of the work request that uses PSN p;
// everything before it has been done.
func (r *requester) failAt(p PSN, status verbs.WCStatus, err error) {
	q := r.qp
	end, _ := r.bound(p)
	r.advanceUna(end)
	for i := q.sq.head; i != q.sq.tail; i++ {
		w := q.sq.at(i)
		if w.started && !w.isLocal() && p.Sub(w.psn) >= 0 && p.Sub(w.end()) < 0 {
			w.status = status
			break
		}
	}
	q.fail(err)
}

// repair sends again after a loss. Of a loss that a NAK or a gap tells of, more
// news is no news; what is lost again is left to the timer.
func (r *requester) repair(timeout bool) {
	q := r.qp
	if !timeout && r.repaired {
		return
	}
	r.repaired, r.probed, r.alone = !timeout, timeout, false
	if r.retries == 0 {
		r.failAt(r.una, verbs.WCRetryExcErr, fmt.Errorf("roce: QP %#x: no answer from %v", q.num, q.path.remote.Addr()))
		return
	}
	r.retries--
	if r.awaited > 0 {
		q.eng.trainsAfter = q.now() + readCare
	}
	r.lost()
	r.progress = q.now()
	r.goBack()
}

// expired is called when the timer fires: the end of a wait that an RNR NAK
// asked for, or perhaps a loss.
func (r *requester) expired() {
	q := r.qp
	if q.state != verbs.RTS {
		return
	}
	now := q.now()
	if r.rnrUntil != 0 {
		r.rnrUntil, r.progress = 0, now
		q.eng.wantSend(q)
		q.eng.shard.Arm(&q.timer, r.due())
		return
	}
	if !r.outstanding() {
		return
	}
	if q.eng.blocked {
		r.progress = now // it may not have left us yet
	}
	if due := r.due(); now < due {
		q.eng.shard.Arm(&q.timer, due)
		return
	}
	switch {
	case r.alone:
		r.repair(false)
	case !r.probed && r.pto != 0:
		r.probe, r.probed = true, true
		q.eng.wantSend(q)
	default:
		q.eng.stats.Timeouts++
		r.roundTrip.expired(now, r.progress)
		r.silent = true
		r.repair(true)
	}
	if q.state == verbs.RTS {
		q.eng.shard.Arm(&q.timer, r.due())
	}
}
