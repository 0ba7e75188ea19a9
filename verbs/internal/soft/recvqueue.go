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
	ring       []Recv
	sges       []verbs.SGE // maxSGE for each entry of ring
	maxSGE     int
	head, tail uint64 // count what was taken and posted
}

// NewRecvQueue returns a queue for size receives of at most maxSGE elements.
func NewRecvQueue(size, maxSGE int) *RecvQueue {
	return &RecvQueue{ring: make([]Recv, size), sges: make([]verbs.SGE, size*maxSGE), maxSGE: maxSGE}
}

// Len returns how many receives are posted.
func (q *RecvQueue) Len() int { return int(q.tail - q.head) }

// Room reports whether wrs can be posted.
func (q *RecvQueue) Room(wrs []verbs.RecvWR) error {
	if len(wrs) > len(q.ring)-q.Len() {
		return verbs.ErrQueueFull
	}
	for i := range wrs {
		if len(wrs[i].SG) > q.maxSGE {
			return verbs.ErrTooManySGE
		}
	}
	return nil
}

// Post appends receives for which there is room.
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
