package rdma

import (
	"errors"
	"fmt"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/verbs"
)

// Kinds of work requests, in the upper byte of their ID. The rest is an index.
const (
	wrRecv uint64 = iota + 1
	wrSend
	wrWrite
	wrRead
	wrRegMR
	wrLocalInv
)

const wrKindShift = 56

func wrid(kind uint64, index int) uint64 { return kind<<wrKindShift | uint64(index) }

func wrKind(id uint64) uint64 { return id >> wrKindShift }
func wrIndex(id uint64) int   { return int(id & (1<<wrKindShift - 1)) }

// A receive is a buffer that a capsule arrives in, the queue's own or shared, or
// where it has gone from there.
type receive struct {
	buf    []byte
	sge    [1]verbs.SGE
	index  int
	n      int             // bytes of the capsule in it
	shared *sharedReceives // whose it is
	shelf  *shelf          // or whose slot
	chunks []chunk         // of a slot: the data, if any
	next   *receive
}

// data is what came behind the command.
func (rc *receive) data() []byte {
	n := rc.n - nvme.CommandSize
	if len(rc.chunks) > 0 {
		return rc.chunks[0].bytes()[:n:n]
	}
	return rc.buf[nvme.CommandSize:rc.n:rc.n]
}

func (rc *receive) init(index int, buf []byte, lkey uint32) {
	rc.index, rc.buf = index, buf[:len(buf):len(buf)]
	rc.sge[0] = verbs.SGE{Buf: rc.buf, LKey: lkey}
}

func (rc *receive) wr() verbs.RecvWR {
	return verbs.RecvWR{WRID: wrid(wrRecv, rc.index), SG: rc.sge[:]}
}

// A receiver is the receiving half of a target's queue.
type receiver struct {
	own     []receive       // empty if the receives are shared
	shared  *sharedReceives // nil if they are not
	inPlace int             // shared receives that hold capsules of the queue
	shelf   *shelf          // where others have gone
	posted  int             // own receives that the provider has
	repost  receiveList     // own receives to be posted at the end of the round
	parked  receiveList     // capsules that wait for the queue to be live, or for a request
	batch   []*transport.Request
}

func (rx *receiver) receive(id uint64) *receive {
	if rx.shared != nil {
		return &rx.shared.receives[wrIndex(id)]
	}
	return &rx.own[wrIndex(id)]
}

// put gives a receive back, to be posted again at the end of the round.
func (q *queue) put(rc *receive) {
	switch {
	case rc.shared != nil:
		q.rx.inPlace--
		rc.shared.put(rc)
	case rc.shelf != nil:
		if len(rc.chunks) > 0 {
			q.v.pool.giveBack(q, rc.chunks)
			rc.chunks = rc.chunks[:0]
		}
		rc.shelf.free.push(rc)
	default:
		q.rx.repost.push(rc)
		q.v.shard.Flush(&q.flusher)
	}
}

// completed is the handler of the queue's CQ.
func (q *queue) completed(wcs []verbs.WC) {
	for i := range wcs {
		wc := &wcs[i]
		switch wrKind(wc.WRID) {
		case wrRecv:
			q.received(wc)
		case wrSend:
			q.sendDone(wc)
		case wrRead:
			q.readDone(wc)
		case wrWrite: // not signalled: it failed, and what follows is flushed
			q.check(wc)
		}
	}
	q.deliver()
	q.progress()
}

// check takes the queue down if a work request failed. A flush has its cause
// elsewhere, and that is on its way.
func (q *queue) check(wc *verbs.WC) {
	switch wc.Status {
	case verbs.WCSuccess:
	case verbs.WCWRFlushErr:
		if !q.down && !q.flushTimer.Armed() {
			q.v.shard.Arm(&q.flushTimer, q.v.shard.Now()+q.l.cfg.FlushTimeout)
		}
	default:
		q.fail(&transport.Cause{Word: word(wc.Status.String()), Text: fmt.Sprintf("rdma: queue %d: %s: %v", q.qid, wrNames[wrKind(wc.WRID)], wc.Status)})
	}
}

var wrNames = [...]string{wrRecv: "RECV", wrSend: "SEND", wrWrite: "RDMA WRITE", wrRead: "RDMA READ", wrRegMR: "REG_MR", wrLocalInv: "LOCAL_INV"}

// received takes a capsule, or what became of a receive.
func (q *queue) received(wc *verbs.WC) {
	rc := q.rx.receive(wc.WRID)
	if rc.shared != nil {
		rc.shared.held.Add(1)
		q.rx.inPlace++
	} else {
		q.rx.posted--
	}
	if wc.Status == verbs.WCSuccess && wc.ByteLen < nvme.CommandSize {
		q.fail(&transport.Cause{Word: "short_capsule", Text: fmt.Sprintf("rdma: queue %d: capsule of %d bytes", q.qid, wc.ByteLen)})
	}
	q.check(wc)
	if wc.Status != verbs.WCSuccess || q.down || q.leaving {
		q.drop(rc)
		return
	}
	rc.n = int(min(uint64(wc.ByteLen), uint64(len(rc.buf))))
	if rc.shared != nil {
		if q.rx.parked.len == q.depth { // own receives are no more
			q.drop(rc)
			q.fail(&transport.Cause{Word: "too_many_commands", Text: fmt.Sprintf("rdma: queue %d: more than %d commands outstanding", q.qid, q.depth)})
			return
		}
		rc = q.shelve(rc)
	}
	q.rx.parked.push(rc)
}

// drop gives up a receive whose contents nobody wants. The queue's own are not
// posted any more: the queue leaves.
func (q *queue) drop(rc *receive) {
	if rc.shared != nil || rc.shelf != nil {
		q.put(rc)
	}
}

// deliver brings parked capsules to the core, as far as there are requests.
func (q *queue) deliver() {
	if !q.live || q.down || q.leaving || q.rx.parked.head == nil {
		return
	}
	batch := q.rx.batch[:0]
	for q.rx.parked.head != nil {
		r := q.takeRequest()
		if r == nil {
			break
		}
		r.begin(q.rx.parked.pop(), q.l.cfg.MaxData)
		batch = append(batch, &r.Request)
	}
	if len(batch) > 0 {
		q.core.Receive(batch)
	}
}

// repost posts the queue's own receives that have come home.
func (q *queue) repost() {
	if q.rx.repost.head == nil || q.down || q.leaving {
		return
	}
	wrs := q.v.recvs[:0]
	for rc := q.rx.repost.head; rc != nil; rc = rc.next {
		wrs = append(wrs, rc.wr())
	}
	q.v.recvs = wrs
	q.rx.repost = receiveList{}
	if err := q.qp.PostRecv(wrs); err != nil {
		q.fail(transport.WithReason("post", fmt.Errorf("rdma: queue %d: post %d receives: %w", q.qid, len(wrs), err)))
		return
	}
	q.rx.posted += len(wrs)
}

var errDown = errors.New("rdma: queue down")
