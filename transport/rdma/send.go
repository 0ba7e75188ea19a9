package rdma

import (
	"fmt"
	"time"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/verbs"
)

// A sender is the sending half of a target's queue. Its send queue has room
// entries for responses with their WRITEs, and maxReads for READs, which never
// compete for each other's.
type sender struct {
	maxSGE   int
	room     int // entries for responses, in all
	avail    int // of them, now
	maxReads int // READs that the host answers at once
	maxRead  int // bytes of a READ

	moved time.Duration // when a work request last completed, or the first was posted

	completed requestList // responses to be posted, as far as there is room
	sending   int         // responses posted
	pulls     requestList // requests whose READs are not all posted
	readsOut  int         // READs posted
}

func (tx *sender) init(q *queue, attr *verbs.DeviceAttr) {
	tx.maxSGE = max(1, min(maxSGE, attr.MaxSGE))
	tx.maxRead = q.l.cfg.MaxReadSize
	tx.maxReads = max(1, min(q.offer.reads, attr.MaxQPInitRd, 255))
	// The data of the largest command in the pool's memory, its response, and
	// one WRITE and one response for every request.
	tx.room = 2*q.depth + (maxChunks(q.l.cfg.MaxData)+tx.maxSGE-1)/tx.maxSGE + 1
	tx.avail = tx.room
}

// outstanding is how many work requests will complete visibly.
func (tx *sender) outstanding() int { return tx.sending + tx.readsOut }

// sent reports whether all responses are with the host.
func (tx *sender) sent() bool { return tx.completed.head == nil && tx.sending == 0 }

// own returns the request of which tr is part.
func (q *queue) own(tr *transport.Request) *request { return q.body.request(tr.Index) }

// Reserve implements [transport.Fabric].
func (q *queue) Reserve(tr *transport.Request, n int) bool {
	r := q.own(tr)
	r.must("Reserve", reqCore)
	q.v.pool.release(r)
	r.Data = nil
	switch r.need = n; {
	case n == 0:
		return true
	case q.down, n < 0, n > q.l.cfg.MaxData:
		q.failLater(r)
	case q.v.pool.grant(r):
		r.setData(n)
		return true
	default:
		r.state = reqReserving
		q.v.pool.wait(r)
	}
	return false
}

// Pull implements [transport.Fabric].
func (q *queue) Pull(tr *transport.Request) {
	r := q.own(tr)
	r.must("Pull", reqCore)
	switch {
	case r.Length == 0:
		q.core.DataReady(tr, nil)
	case q.down, !r.SGLStatus.OK():
		q.failLater(r)
	case !r.ptr.keyed: // in place: the receive is ours until the completion
		from := r.ptr.offset
		r.segs = append(r.segs[:0], r.recv.data()[from:from+r.Length:from+r.Length])
		r.Data = r.segs
		q.core.DataReady(tr, nil)
	default:
		q.v.pool.release(r)
		if r.need = r.Length; q.v.pool.grant(r) {
			q.startPull(r)
			return
		}
		r.state = reqPullWait
		q.v.pool.wait(r)
	}
}

// Cancel implements [transport.Fabric].
func (q *queue) Cancel(tr *transport.Request) bool {
	r := q.own(tr)
	if r.state != reqReserving && r.state != reqPullWait {
		return false
	}
	q.v.pool.leave(r)
	r.state = reqCore
	return true
}

// bufferReady goes on with a request that has got what it waited for.
func (q *queue) bufferReady(r *request) {
	switch r.state {
	case reqReserving:
		r.state = reqCore
		r.setData(r.need)
		q.core.DataReady(&r.Request, nil)
	case reqPullWait:
		q.startPull(r)
	case reqBouncing:
		q.bounce(r)
		q.complete(r)
	}
}

func (q *queue) startPull(r *request) {
	r.setData(r.Length)
	r.state = reqPulling
	q.tx.pulls.push(r)
	q.v.shard.Flush(&q.flusher)
}

// failLater tells the core at the end of the round that there will be no data.
func (q *queue) failLater(r *request) {
	r.state = reqFailing
	q.failed.push(r)
	q.v.shard.Flush(&q.flusher)
}

// dataFailed tells the core that there will be no data.
func (q *queue) dataFailed(r *request) {
	err := r.pull.err
	if err == nil {
		err = errDown
	}
	r.state = reqCore
	q.core.DataReady(&r.Request, err)
}

// readDone takes the completion of a READ. They complete in order, so when the
// last has, all of the data is there.
func (q *queue) readDone(wc *verbs.WC) {
	r := q.body.request(wrIndex(wc.WRID))
	q.tx.readsOut--
	q.tx.moved = q.v.shard.Now()
	r.pull.reads--
	if wc.Status != verbs.WCSuccess && r.pull.err == nil {
		r.pull.err = fmt.Errorf("rdma: queue %d: RDMA READ of %d bytes: %v", q.qid, r.Length, wc.Status)
		q.tx.pulls.remove(r)
	}
	q.check(wc)
	switch {
	case r.state != reqPulling || r.pull.reads > 0:
	case r.pull.err != nil:
		// If this is a flush whose cause is still on its way, fail tells the core
		// that there will be no data, after Down.
		if q.down {
			q.dataFailed(r)
		}
	case r.pull.posted == r.Length:
		r.state = reqCore
		q.core.DataReady(&r.Request, nil)
	}
	if q.tx.pulls.head != nil {
		q.v.shard.Flush(&q.flusher)
	}
}

// Complete implements [transport.Fabric].
func (q *queue) Complete(tr *transport.Request) {
	r := q.own(tr)
	r.must("Complete", reqCore)
	if !q.connected && r.Command.IsFabrics() && r.Command.FCTYPE() == nvme.FabricsConnect && r.Completion.Status.OK() {
		q.connected = true
		if q.live {
			q.v.shard.Disarm(&q.stageTimer)
		}
	}
	r.write = r.Completion.Status.OK() && r.Length > 0 && r.ptr.keyed &&
		r.Command.Direction() == nvme.ControllerToHost
	// The command is read for the last time above. From here on the host may
	// send another into its buffer.
	q.put(r.recv)
	r.recv, r.Command = nil, nil
	if !r.write {
		q.v.pool.release(r)
	}
	if q.down || !q.needsBounce(r) {
		q.complete(r)
		return
	}
	q.v.pool.release(r)
	if r.need = min(total(r.Data), r.Length); q.v.pool.grant(r) {
		q.bounce(r)
		q.complete(r)
		return
	}
	r.state = reqBouncing
	q.v.pool.wait(r)
}

// needsBounce reports whether the data must be copied before it can be sent:
// the core has lent memory that the device does not know, or in more pieces
// than the send queue has room for.
func (q *queue) needsBounce(r *request) bool {
	if !r.write || total(r.Data) == 0 {
		return false
	}
	if !q.v.pool.dma && !r.fromPool() {
		return true
	}
	return q.writes(r)+1 > q.tx.room
}

func (q *queue) bounce(r *request) {
	lent := r.Data
	// setData makes Data of segs, of which lent may be part.
	r.segs = make([][]byte, 0, cap(r.segs))
	r.setData(r.need)
	to, off := 0, 0
	for _, b := range lent {
		for len(b) > 0 && to < len(r.Data) {
			n := copy(r.Data[to][off:], b)
			b = b[n:]
			if off += n; off == len(r.Data[to]) {
				to, off = to+1, 0
			}
		}
	}
}

// complete lines the response up for the end of the round.
func (q *queue) complete(r *request) {
	r.state = reqCompleted
	r.wrs = 1
	if r.write {
		r.wrs += q.writes(r)
	}
	q.tx.completed.push(r)
	q.v.shard.Flush(&q.flusher)
}

func total(data [][]byte) int {
	n := 0
	for _, b := range data {
		n += len(b)
	}
	return n
}

// writes is how many WRITEs the data takes.
func (q *queue) writes(r *request) int {
	n := 0
	for _, b := range r.Data {
		if len(b) > 0 {
			n++
		}
	}
	return (n + q.tx.maxSGE - 1) / q.tx.maxSGE
}

// flush posts what the round has led to: receives, and in one chain the WRITEs
// of all responses, their SENDs, and READs.
func (q *queue) flush() {
	for r := q.failed.pop(); r != nil; r = q.failed.pop() {
		q.dataFailed(r)
	}
	if q.down {
		q.flushDown()
		return
	}
	// Before the responses: with each of them the host gets the right to send
	// one more command.
	q.repost()
	if q.down {
		q.flushDown()
		return
	}
	wrs, sges := q.v.sends[:0], q.v.sges[:0]
	n := 0
	for r := q.tx.completed.head; r != nil && r.wrs <= q.tx.avail; r = r.next {
		wrs, sges = q.appendWrites(wrs, sges, r)
		q.tx.avail -= r.wrs
		n++
	}
	idle := q.tx.outstanding() == 0
	for range n {
		r := q.tx.completed.pop()
		r.state = reqSending
		sges = append(sges, r.cqe)
		wrs = append(wrs, q.response(r, sges[len(sges)-1:]))
	}
	q.tx.sending += n
	if q.tx.pulls.head != nil {
		wrs, sges = q.appendReads(wrs, sges)
	}
	q.v.sends, q.v.sges = wrs, sges
	if len(wrs) > 0 {
		if idle {
			q.watch()
		}
		if err := q.qp.PostSend(wrs); err != nil {
			q.unposted(wrs)
			q.fail(transport.WithReason("post", fmt.Errorf("rdma: queue %d: post %d work requests: %w", q.qid, len(wrs), err)))
		}
	}
	if q.down {
		q.flushDown()
		return
	}
	q.progress()
}

// flushDown ends the requests that are completed when nothing is sent any
// more.
func (q *queue) flushDown() {
	for r := q.tx.completed.pop(); r != nil; r = q.tx.completed.pop() {
		q.release(r)
	}
	q.progress()
}

// appendWrites appends the WRITEs of a response's data.
func (q *queue) appendWrites(wrs []verbs.SendWR, sges []verbs.SGE, r *request) ([]verbs.SendWR, []verbs.SGE) {
	if !r.write {
		return wrs, sges
	}
	left, addr := r.Length, r.ptr.address
	first := len(sges)
	size := 0
	end := func() {
		wrs = append(wrs, verbs.SendWR{
			WRID:       wrid(wrWrite, r.Index),
			Opcode:     verbs.WRRDMAWrite,
			SG:         sges[first:len(sges):len(sges)],
			RemoteAddr: addr,
			RKey:       r.ptr.key,
		})
		addr += uint64(size)
		first, size = len(sges), 0
	}
	for i, b := range r.Data {
		// Never more than the host has room for.
		if b = b[:min(len(b), left)]; len(b) == 0 {
			continue
		}
		left -= len(b)
		size += len(b)
		sges = append(sges, verbs.SGE{Buf: b, LKey: q.dataKey(r, i)})
		if len(sges)-first == q.tx.maxSGE {
			end()
		}
	}
	if size > 0 {
		end()
	}
	return wrs, sges
}

// dataKey is the local key of a segment of a request's data.
func (q *queue) dataKey(r *request, segment int) uint32 {
	if q.v.pool.dma {
		return q.v.pool.lkey
	}
	return r.chunks[segment].slab.lkey
}

// response makes the SEND of a response. It invalidates the host's key if the
// host asked for it, also with an error.
func (q *queue) response(r *request, sg []verbs.SGE) verbs.SendWR {
	r.Completion.Put(r.cqe.Buf)
	wr := verbs.SendWR{
		WRID:   wrid(wrSend, r.Index),
		Opcode: verbs.WRSend,
		Flags:  verbs.SendSignaled,
		SG:     sg[:1:1],
	}
	if r.ptr.invalidate {
		wr.Opcode, wr.RKey = verbs.WRSendWithInv, r.ptr.key
	}
	return wr
}

// appendReads appends READs, as many as the host answers at once. Each is
// signalled: the next waits for it.
func (q *queue) appendReads(wrs []verbs.SendWR, sges []verbs.SGE) ([]verbs.SendWR, []verbs.SGE) {
	for q.tx.readsOut < q.tx.maxReads {
		r := q.tx.pulls.head
		if r == nil {
			break
		}
		p := &r.pull
		first, size := len(sges), 0
		for len(sges)-first < q.tx.maxSGE && size < q.tx.maxRead && p.seg < len(r.Data) {
			b := r.Data[p.seg][p.off:]
			b = b[:min(len(b), q.tx.maxRead-size)]
			sges = append(sges, verbs.SGE{Buf: b, LKey: q.dataKey(r, p.seg)})
			size += len(b)
			if p.off += len(b); p.off == len(r.Data[p.seg]) {
				p.seg, p.off = p.seg+1, 0
			}
		}
		wrs = append(wrs, verbs.SendWR{
			WRID:       wrid(wrRead, r.Index),
			Opcode:     verbs.WRRDMARead,
			Flags:      verbs.SendSignaled,
			SG:         sges[first:len(sges):len(sges)],
			RemoteAddr: r.ptr.address + uint64(p.posted),
			RKey:       r.ptr.key,
		})
		p.posted += size
		p.reads++
		q.tx.readsOut++
		if p.posted == r.Length {
			q.tx.pulls.pop()
		}
	}
	return wrs, sges
}

// unposted takes back what a post that failed had counted.
func (q *queue) unposted(wrs []verbs.SendWR) {
	for i := range wrs {
		r := q.body.request(wrIndex(wrs[i].WRID))
		switch wrKind(wrs[i].WRID) {
		case wrSend:
			q.tx.avail += r.wrs
			q.tx.sending--
			r.state = reqCompleted
			q.tx.completed.push(r)
		case wrRead:
			r.pull.reads--
			q.tx.readsOut--
		}
	}
}

var errStalled = &transport.Cause{Word: "stalled", Text: "rdma: the host takes nothing any more"}

// pressedStall is what StallTimeout is divided by for a host that takes nothing
// while others wait for the buffers that it holds.
const pressedStall = 8

// watch begins to look whether the host takes what is sent: it may withhold
// its receives for ever, with all the buffers that we hold for it.
func (q *queue) watch() {
	q.tx.moved = q.v.shard.Now()
	if !q.stallTimer.Armed() {
		q.v.shard.Arm(&q.stallTimer, q.tx.moved+q.l.cfg.StallTimeout/pressedStall)
	}
}

func (q *queue) stalled() {
	now, full, pressed := q.v.shard.Now(), q.l.cfg.StallTimeout, q.l.cfg.StallTimeout/pressedStall
	switch since := now - q.tx.moved; {
	case q.tx.outstanding() == 0: // watch begins anew
	case since >= full, since >= pressed && (q.held > 0 && q.v.pool.missedBy(q) || q.hoards()):
		q.fail(errStalled)
	case since >= pressed:
		q.v.shard.Arm(&q.stallTimer, min(now+pressed, q.tx.moved+full))
	default:
		q.v.shard.Arm(&q.stallTimer, q.tx.moved+pressed)
	}
}

// sendDone takes the completion of a response. Its WRITEs were before it in the
// send queue, so they are done as well, and the request is free.
func (q *queue) sendDone(wc *verbs.WC) {
	r := q.body.request(wrIndex(wc.WRID))
	q.tx.avail += r.wrs
	q.tx.sending--
	q.tx.moved = q.v.shard.Now()
	q.release(r)
	q.check(wc)
	if q.tx.completed.head != nil {
		q.v.shard.Flush(&q.flusher)
	}
}

// release ends a request: the fabric and the provider are done with it.
func (q *queue) release(r *request) {
	q.v.pool.release(r)
	q.core.Sent(&r.Request)
	r.Data = nil
	r.state = reqFree
	q.free.pushFront(r) // the next command finds it in the caches
}
