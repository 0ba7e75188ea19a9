package soft

import "github.com/fabrid/fabrid/verbs"

// A Recv is a receive that was posted.
type Recv struct {
	WRID uint64
	SG   []verbs.SGE // into the queue's own array
	Len  int         // bytes that SG names
}

// A RecvQueue is a ring of receives: a queue pair's own, or a shared one. It
// belongs to one loop.
type RecvQueue struct {
	ring         []Recv
	sges         []verbs.SGE // maxSGE for each entry of ring
	size, maxSGE int
	head, tail   uint64 // count what was taken and posted
}

// NewRecvQueue returns a queue for size receives of at most maxSGE elements. Its
// memory grows with what is posted.
func NewRecvQueue(size, maxSGE int) *RecvQueue {
	return &RecvQueue{size: size, maxSGE: maxSGE}
}

// Reset makes an empty queue one of size receives of at most maxSGE elements, with
// the memory that it has, and reports whether it could.
func (q *RecvQueue) Reset(size, maxSGE int) bool {
	if q.Len() > 0 || maxSGE != q.maxSGE || len(q.ring) > size {
		return false
	}
	q.size = size
	return true
}

// Elements returns for how many elements of receives there is memory.
func (q *RecvQueue) Elements() int { return len(q.sges) }

// grow makes the ring n entries long.
func (q *RecvQueue) grow(n int) {
	ring, sges := make([]Recv, n), make([]verbs.SGE, n*q.maxSGE)
	for i := q.head; i != q.tail; i++ {
		slot := int(i % uint64(n))
		r := q.ring[i%uint64(len(q.ring))]
		sg := sges[slot*q.maxSGE:][:len(r.SG):q.maxSGE]
		copy(sg, r.SG)
		r.SG = sg
		ring[slot] = r
	}
	q.ring, q.sges = ring, sges
}

// Len returns how many receives are posted.
func (q *RecvQueue) Len() int { return int(q.tail - q.head) }

// Room makes room for wrs, or says why they cannot be posted.
func (q *RecvQueue) Room(wrs []verbs.RecvWR) error {
	need := q.Len() + len(wrs)
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

// Post appends receives after Room has made room for them.
func (q *RecvQueue) Post(wrs []verbs.RecvWR) {
	for i := range wrs {
		slot := int(q.tail % uint64(len(q.ring)))
		sg := q.sges[slot*q.maxSGE:][:len(wrs[i].SG):q.maxSGE]
		n := 0
		for j, s := range wrs[i].SG {
			sg[j] = s
			n += len(s.Buf)
		}
		q.ring[slot] = Recv{wrs[i].WRID, sg, n}
		q.tail++
	}
}

// Take removes the first receive. Its elements are moved to sg, which is long
// enough: the queue keeps nothing of the memory they name.
func (q *RecvQueue) Take(sg []verbs.SGE) (Recv, bool) {
	if q.head == q.tail {
		return Recv{}, false
	}
	r := q.ring[q.head%uint64(len(q.ring))]
	q.head++
	n := copy(sg, r.SG)
	clear(r.SG)
	r.SG = sg[:n]
	return r, true
}

// Drop removes the first receive and returns its ID.
func (q *RecvQueue) Drop() (wrid uint64, ok bool) {
	r, ok := q.Take(nil)
	return r.WRID, ok
}
