package roce

import (
	"github.com/fabrid/fabrid/verbs"
	"github.com/fabrid/fabrid/verbs/internal/soft"
)

// A wqe is a send work request that was posted.
type wqe struct {
	wrid   uint64
	op     verbs.WROpcode
	flags  verbs.SendFlags
	sg     []verbs.SGE // into sendQueue.sges
	length int         // bytes that sg names
	raddr  uint64
	rkey   uint32
	imm    uint32

	region *soft.Region // WRRegMR
	buf    []byte
	iova   uint64
	access verbs.Access

	// Set when it is its turn to be sent, for the first time.
	started bool
	psn     PSN // the first it uses
	packets int // PSNs it uses; of an RDMA READ, response packets

	// got counts the packets that are acknowledged; of an RDMA READ, the response
	// packets that have come. What is asked for and has not come is charged to the
	// engine's read budget.
	got     int
	charged int

	done   bool // a local operation was carried out
	status verbs.WCStatus
}

// isLocal reports whether the work request sends nothing.
func (w *wqe) isLocal() bool { return w.op == verbs.WRRegMR || w.op == verbs.WRLocalInv }

// release forgets what the work request names.
func (w *wqe) release() {
	clear(w.sg)
	w.buf, w.region = nil, nil
}

// end is the PSN after the last that the work request uses.
func (w *wqe) end() PSN { return w.psn.Add(w.packets) }

// A sendQueue is a ring of send work requests, counted from the first ever
// posted: head is the oldest that has not completed, cur the one to send next,
// tail the one to be posted next; head ≤ cur ≤ tail. The ring grows to its size
// as it is needed: most queue pairs of a storm never post more than a few, and
// all of it is 200 KiB.
type sendQueue struct {
	ring            []wqe
	sges            []verbs.SGE // maxSGE for each entry of ring
	size, maxSGE    int
	head, cur, tail uint64
}

// firstRing is how long a ring is at first.
const firstRing = 8

// newSendQueue uses m for as much as it has.
func newSendQueue(size, maxSGE int, m *qpMemory) sendQueue {
	n := min(size, firstRing)
	return sendQueue{size: size, maxSGE: maxSGE, ring: room(m.ring, n), sges: room(m.sges, n*maxSGE)}
}

// grow makes the ring n entries long. Elements of what is outstanding stay where
// they are until it completes.
func (q *sendQueue) grow(n int) {
	old := *q
	q.ring, q.sges = make([]wqe, n), make([]verbs.SGE, n*q.maxSGE)
	for i := old.head; i != old.tail; i++ {
		*q.at(i) = *old.at(i)
	}
}

func (q *sendQueue) at(i uint64) *wqe { return &q.ring[i%uint64(len(q.ring))] }

// briefWRs and briefBytes are what a queue pair sends before an ACK of its own,
// instead of after it. An ACK is the smallest of packets, and so can be the last
// of a train, but no other: together they are one datagram for the kernel.
const (
	briefWRs   = 2
	briefBytes = 256
)

// brief reports whether what is to be sent next is all that is to be sent, and
// takes no time worth mentioning: such as a command, or its response.
func (q *sendQueue) brief() bool {
	n := q.tail - q.cur
	if n == 0 || n > briefWRs {
		return false
	}
	for i := q.cur; i != q.tail; i++ {
		if w := q.at(i); w.isLocal() || w.length > briefBytes && w.op != verbs.WRRDMARead {
			return false
		}
	}
	return true
}

// forget empties the queue.
func (q *sendQueue) forget() {
	for ; q.head != q.tail; q.head++ {
		q.at(q.head).release()
	}
	q.cur = q.tail
}

// room makes room for wrs, or says why they cannot be posted.
func (q *sendQueue) room(wrs []verbs.SendWR) error {
	need := int(q.tail-q.head) + len(wrs)
	if need > q.size {
		return verbs.ErrQueueFull
	}
	for i := range wrs {
		if len(wrs[i].SG) > q.maxSGE {
			return verbs.ErrTooManySGE
		}
	}
	if need > len(q.ring) {
		q.grow(min(max(need, 2*len(q.ring)), q.size))
	}
	return nil
}

// post appends a work request for which there is room.
func (q *sendQueue) post(wr *verbs.SendWR) *wqe {
	slot := int(q.tail % uint64(len(q.ring)))
	w := &q.ring[slot]
	*w = wqe{
		wrid: wr.WRID, op: wr.Opcode, flags: wr.Flags,
		raddr: wr.RemoteAddr, rkey: wr.RKey, imm: wr.Imm,
		sg: q.sges[slot*q.maxSGE:][:len(wr.SG):q.maxSGE],
	}
	for i, s := range wr.SG {
		w.sg[i] = s
		w.length += len(s.Buf)
	}
	if wr.Opcode == verbs.WRRegMR {
		w.buf, w.iova, w.access = wr.Buf, wr.IOVA, wr.Access
		if mr, ok := wr.MR.(*memoryRegion); ok {
			w.region = mr.Region
		}
	}
	q.tail++
	return w
}

// gather appends bytes [off, off+n) of what sg names to the packet that has
// been begun.
func (b *txBatch) gather(sg []verbs.SGE, off, n int) {
	for i := range sg {
		buf := sg[i].Buf
		if off >= len(buf) {
			off -= len(buf)
			continue
		}
		take := min(n, len(buf)-off)
		b.payload(buf[off : off+take])
		if n -= take; n == 0 {
			return
		}
		off = 0
	}
}

// scatter copies data to offset off of what sg names. It fits.
func scatter(sg []verbs.SGE, off int, data []byte) {
	for i := range sg {
		buf := sg[i].Buf
		if off >= len(buf) {
			off -= len(buf)
			continue
		}
		n := copy(buf[off:], data)
		if data = data[n:]; len(data) == 0 {
			return
		}
		off = 0
	}
}
