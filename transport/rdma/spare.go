package rdma

import (
	"iter"
	"time"
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
	reqs  [][]request // chunks of requestChunk, made one after the other as they are needed
	made  int         // requests in them
	own   []receive
	shelf *shelf
	batch []*transport.Request
	timer *time.Timer // of Drain, stopped
}

// A shape is what bodies may differ in.
type shape struct {
	depth   int
	capsule int // bytes of the queue's own receives; 0: it has none
}

// bytes is what a body takes, roughly.
func (b *body) bytes() int {
	n := len(b.mem.buf) + b.made*int(unsafe.Sizeof(request{})) + len(b.own)*int(unsafe.Sizeof(receive{}))
	if b.shelf != nil {
		n += b.shelf.made * slotFootprint
	}
	return n
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
	s.bytes += b.bytes()
	for s.bytes > spareBytes {
		s.removeLocked(0)
	}
}

func (s *spares) removeLocked(i int) {
	s.bytes -= s.list[i].bytes()
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
	b := &body{
		shape: sh, mem: mem,
		reqs:  make([][]request, 0, (sh.depth+requestChunk-1)/requestChunk),
		batch: make([]*transport.Request, 0, sh.depth),
		timer: time.NewTimer(time.Hour),
	}
	b.timer.Stop()
	if sh.capsule == 0 {
		b.shelf = newShelf(sh.depth)
	} else {
		b.own = make([]receive, sh.depth)
	}
	return b, nil
}

// requestChunk is how many requests are made at once. A host that comes and goes
// uses a few of its depth.
const requestChunk = 8

// request returns a request that was made.
func (b *body) request(i int) *request { return &b.reqs[i/requestChunk][i%requestChunk] }

// requests returns those that were made.
func (b *body) requests() iter.Seq[*request] {
	return func(yield func(*request) bool) {
		for i := range b.made {
			if !yield(b.request(i)) {
				return
			}
		}
	}
}

// makeRequests makes a chunk of requests, of which there are fewer than the depth.
func (q *queue) makeRequests() {
	b, n := q.body, maxChunks(q.l.cfg.MaxData)
	all := make([]request, min(requestChunk, b.depth-b.made))
	chunks, segs := make([]chunk, len(all)*n), make([][]byte, len(all)*n)
	b.reqs = append(b.reqs, all)
	for i := range all {
		all[i].chunks = chunks[i*n : i*n : (i+1)*n]
		all[i].segs = segs[i*n : i*n : (i+1)*n]
		q.initRequest(&all[i], b.made)
		b.made++
	}
}

// initRequest makes a request one of the queue's, and free.
func (q *queue) initRequest(r *request, index int) {
	b := q.body
	cqes := b.mem.buf[b.depth*b.capsule:]
	r.init(q, index, cqes[index*nvme.CompletionSize:][:nvme.CompletionSize:nvme.CompletionSize])
	q.free.push(r)
}

// takeRequest returns a free request, nil if the host has as many commands
// outstanding as it may.
func (q *queue) takeRequest() *request {
	if q.free.head == nil && q.body.made < q.body.depth {
		q.makeRequests()
	}
	return q.free.pop()
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
	if orphans == 0 && n == b.made && b.mem.mr == nil {
		clear(b.batch[:cap(b.batch)])
		q.l.spares.put(b)
		return
	}
	q.l.countMRs(-b.mem.registered())
	_ = b.mem.free()
}
