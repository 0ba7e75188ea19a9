package rdma

import (
	"unsafe"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
)

// A body is the memory of a queue that no device knows of itself: most of what a
// queue costs to make. It is used again for another of the same shape.
type body struct {
	shape
	mem   memory
	reqs  []request
	own   []receive
	shelf *shelf
	batch []*transport.Request
}

// A shape is what bodies may differ in.
type shape struct {
	depth   int
	capsule int // bytes of the queue's own receives; 0: it has none
}

// bytes is what a body takes, roughly.
func (s shape) bytes() int {
	per := s.capsule + int(unsafe.Sizeof(request{})+unsafe.Sizeof(receive{}))
	if s.capsule == 0 {
		per += slotsPer * slotFootprint
	}
	return s.depth * per
}

// spareBytes bounds what a listener keeps of bodies that no queue has.
const spareBytes = 8 << 20

// spares are bodies that no queue has. Hosts come and go, and in a storm all the
// time: what one leaves the next takes.
type spares struct {
	mu    lockdep.Mutex[sparesMu]
	list  []*body // guarded by mu, oldest first
	bytes int     // guarded by mu
}

type sparesMu struct{} // innermost

// take returns a body of the shape, nil if there is none.
func (s *spares) take(sh shape) *body {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.list) - 1; i >= 0; i-- {
		if b := s.list[i]; b.shape == sh {
			s.removeLocked(i)
			return b
		}
	}
	return nil
}

// put keeps a body, and forgets the oldest if they are too many.
func (s *spares) put(b *body) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, b)
	s.bytes += b.shape.bytes()
	for s.bytes > spareBytes {
		s.removeLocked(0)
	}
}

func (s *spares) removeLocked(i int) {
	s.bytes -= s.list[i].shape.bytes()
	copy(s.list[i:], s.list[i+1:])
	last := len(s.list) - 1
	s.list[last] = nil
	s.list = s.list[:last]
}

// newBody makes a body. It may be called from any goroutine.
func (l *Listener) newBody(sh shape) (*body, error) {
	mem, err := newMemory(l.pd, sh.depth*(sh.capsule+nvme.CompletionSize))
	if err != nil {
		return nil, err
	}
	b := &body{shape: sh, mem: mem, reqs: make([]request, sh.depth), batch: make([]*transport.Request, 0, sh.depth)}
	n := maxChunks(l.cfg.MaxData)
	chunks, segs := make([]chunk, sh.depth*n), make([][]byte, sh.depth*n)
	for i := range b.reqs {
		b.reqs[i].chunks = chunks[i*n : i*n : (i+1)*n]
		b.reqs[i].segs = segs[i*n : i*n : (i+1)*n]
	}
	if sh.capsule == 0 {
		b.shelf = newShelf(sh.depth)
	} else {
		b.own = make([]receive, sh.depth)
	}
	return b, nil
}

// giveUpBody is the end of the queue's use of its body. Nothing of the queue runs
// any more. Only what is all there, and known to no device, is used again.
func (q *queue) giveUpBody(orphans int) {
	b := q.body
	if b == nil {
		return // it was never made
	}
	n := 0
	for r := q.free.head; r != nil; r = r.next {
		n++
	}
	if orphans == 0 && n == q.depth && b.mem.mr == nil {
		clear(b.batch[:cap(b.batch)])
		q.l.spares.put(b)
		return
	}
	q.l.countMRs(-b.mem.registered())
	_ = b.mem.free()
}
