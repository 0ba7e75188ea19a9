package rdma

import (
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/fabrid/fabrid/admission"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
)

// slabSize is what the pool takes from the system at once.
const slabSize = 1 << 20

// chunkSizes are the sizes of buffers, ascending; all divide slabSize.
var chunkSizes = [...]int{4 << 10, 16 << 10, 64 << 10, 128 << 10}

const (
	numClasses   = len(chunkSizes)
	largestChunk = 128 << 10
)

// poolShare is how many queues it takes to use up a pool, and hostShare how many
// hosts.
const (
	poolShare = 4
	hostShare = 2
)

// maxChunks is the most buffers that n bytes need.
func maxChunks(n int) int { return max(1, (n+largestChunk-1)/largestChunk) }

// A chunk is a buffer of a pool. Who has it from alloc gives it back to free.
type chunk struct {
	slab  *slab
	index uint16
}

func (c chunk) bytes() []byte {
	size := chunkSizes[c.slab.class]
	off := int(c.index) * size
	return c.slab.mem[off : off+size : off+size]
}

// A slab is a piece of memory cut into chunks of one size. A slab with nothing
// taken may be cut anew.
type slab struct {
	mem   []byte
	mr    verbs.MR // nil where a local DMA key covers all memory
	lkey  uint32
	class int
	free  []uint16                     // indices of chunks
	taken [slabSize / 4096 / 64]uint64 // the others, a bit each

	// prev and next link the slabs of a class that have free chunks; listed
	// says whether the slab is among them.
	prev, next *slab
	listed     bool
}

func (s *slab) total() int { return slabSize / chunkSizes[s.class] }

// A pool is the data buffers of a shard: bounded, outside the garbage
// collector's heap, and known to the device. Its methods are for the shard,
// unless they say otherwise.
//
// Who finds too little waits in one line, first come first served, and holds
// nothing while it waits, so that waiting for memory cannot deadlock. A queue
// that has its share waits for itself alone, and so do the queues of a host that
// has its share, so that a host that takes its data slowly does not take
// everybody's.
type pool struct {
	shard    *shard.Shard
	pd       verbs.PD
	lkey     uint32
	dma      bool // lkey covers all memory
	maxSlabs int
	share    int64 // bytes that one queue may hold
	hosts    map[admission.Host]*hostHeld

	slabs   []*slab
	empty   []*slab // slabs of no class, nothing taken
	partial [numClasses]*slab

	waiting  requestList
	serve    shard.Flusher
	returned func() // buffers have come home

	inUse atomic.Int64 // chunks that are out
	bytes atomic.Int64 // memory taken from the system
	mrs   atomic.Int64 // registrations that exist
}

func newPool(s *shard.Shard, pd verbs.PD, limit int64) *pool {
	p := &pool{shard: s, pd: pd, maxSlabs: int(limit / slabSize), share: limit / poolShare, hosts: make(map[admission.Host]*hostHeld), returned: func() {}}
	p.lkey, p.dma = pd.LocalDMALKey()
	p.serve.Fn = p.serveWaiting
	return p
}

// alloc appends chunks of n bytes together to to and returns it, or false
// if there are not enough: then nothing was taken.
func (p *pool) alloc(to []chunk, n int) ([]chunk, bool) {
	class, count := numClasses-1, maxChunks(n)
	if count == 1 {
		for class = 0; chunkSizes[class] < n; class++ {
		}
	}
	before := len(to)
	for range count {
		s := p.partial[class]
		if s == nil {
			if s = p.newSlab(class); s == nil {
				for _, c := range to[before:] {
					p.put(c)
				}
				return to[:before], false
			}
		}
		last := len(s.free) - 1
		to = append(to, chunk{s, s.free[last]})
		s.taken[s.free[last]/64] |= 1 << (s.free[last] % 64)
		if s.free = s.free[:last]; last == 0 {
			p.unlist(s)
		}
	}
	p.inUse.Add(int64(count))
	return to, true
}

// free gives chunks back and lets those who wait go on, at the end of the
// round.
func (p *pool) free(chunks []chunk) {
	if len(chunks) == 0 {
		return
	}
	for _, c := range chunks {
		p.put(c)
	}
	p.inUse.Add(-int64(len(chunks)))
	if p.waiting.head != nil {
		p.shard.Flush(&p.serve)
	}
	p.returned()
}

func (p *pool) put(c chunk) {
	s := c.slab
	bit := uint64(1) << (c.index % 64)
	if s.taken[c.index/64]&bit == 0 {
		panic(fmt.Sprintf("rdma: buffer %d of %d bytes given back twice", c.index, chunkSizes[s.class]))
	}
	s.taken[c.index/64] &^= bit
	s.free = append(s.free, c.index)
	if !s.listed {
		p.list(s)
		// Now the one that was kept, if it was, is no longer the only one.
		if n := s.next; n != nil && len(n.free) == n.total() {
			p.retire(n)
		}
	}
	// The only slab of a class that has free chunks stays what it is, even if
	// nothing of it is taken: cutting it anew for every request would cost more
	// than the request. newSlab takes it if another class needs it.
	if len(s.free) == s.total() && (s.prev != nil || s.next != nil) {
		p.retire(s)
	}
}

func (p *pool) retire(s *slab) {
	p.unlist(s)
	p.empty = append(p.empty, s)
}

// newSlab finds a slab for a class: an empty one, a new one, or one that
// another class does not use.
func (p *pool) newSlab(class int) *slab {
	var s *slab
	switch n := len(p.empty); {
	case n > 0:
		s = p.empty[n-1]
		p.empty = p.empty[:n-1]
	case len(p.slabs) < p.maxSlabs:
		if s = p.mapSlab(); s == nil {
			return nil
		}
	default:
		for _, other := range p.partial {
			if other != nil && len(other.free) == other.total() {
				s = other
				break
			}
		}
		if s == nil {
			return nil
		}
		p.unlist(s)
	}
	s.class = class
	s.free = s.free[:0]
	for i := s.total() - 1; i >= 0; i-- {
		s.free = append(s.free, uint16(i))
	}
	p.list(s)
	return s
}

// mapSlab takes memory from the system. Where that fails, the pool is as large
// as it is, and requests wait.
func (p *pool) mapSlab() *slab {
	mem, err := unix.Mmap(-1, 0, slabSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil
	}
	s := &slab{mem: mem, lkey: p.lkey, free: make([]uint16, 0, slabSize/chunkSizes[0])}
	if !p.dma {
		if s.mr, err = p.pd.RegMR(mem, 0, verbs.AccessLocalWrite); err != nil {
			_ = unix.Munmap(mem)
			return nil
		}
		s.lkey = s.mr.LKey()
		p.mrs.Add(1)
	}
	p.bytes.Add(slabSize)
	p.slabs = append(p.slabs, s)
	return s
}

func (p *pool) list(s *slab) {
	s.listed = true
	s.prev, s.next = nil, p.partial[s.class]
	if s.next != nil {
		s.next.prev = s
	}
	p.partial[s.class] = s
}

func (p *pool) unlist(s *slab) {
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		p.partial[s.class] = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	}
	s.prev, s.next, s.listed = nil, nil, false
}

// wait puts r in the line for r.need bytes; r.queue.bufferReady follows, unless
// r leaves the line. It may be at the end of the round: those before it may
// have their share.
func (p *pool) wait(r *request) {
	p.waiting.push(r)
	p.shard.Flush(&p.serve)
}

// leave takes r out of the line.
func (p *pool) leave(r *request) {
	p.waiting.remove(r)
	p.shard.Flush(&p.serve) // those behind it may fit
}

// grant allocates what r needs, unless others wait before it or its queue or
// its host has its share.
func (p *pool) grant(r *request) bool {
	return p.waiting.head == nil && !p.over(r.queue, r.need) && p.fill(r)
}

// A hostHeld is what the queues of one host hold of a pool.
type hostHeld struct {
	host   admission.Host
	held   int64 // bytes
	queues int
}

// join enters a queue, which holds nothing yet, with those of its host.
func (p *pool) join(q *queue, host admission.Host) {
	h := p.hosts[host]
	if h == nil {
		h = &hostHeld{host: host}
		p.hosts[host] = h
	}
	h.queues++
	q.host = h
}

// part takes a queue out. What its orphaned requests hold stays its host's.
func (p *pool) part(q *queue) {
	if q.host != nil {
		q.host.queues--
		p.charge(q, 0)
	}
}

// charge counts n bytes that q holds from now on, or less than nothing.
func (p *pool) charge(q *queue, n int64) {
	q.held += n
	h := q.host
	if h.held += n; h.held == 0 && h.queues == 0 {
		delete(p.hosts, h.host)
	}
}

// over reports whether n bytes more would take q, or its host, above its share.
// One request may always be.
func (p *pool) over(q *queue, n int) bool { return p.overQueue(q, n) || p.overHost(q, n) }

func (p *pool) overQueue(q *queue, n int) bool { return q.held > 0 && q.held+int64(n) > p.share }

func (p *pool) overHost(q *queue, n int) bool {
	return q.host.held > 0 && q.host.held+int64(n) > p.share*poolShare/hostShare
}

func (p *pool) fill(r *request) bool {
	var ok bool
	r.chunks, ok = p.alloc(r.chunks[:0], r.need)
	p.charge(r.queue, chunkBytes(r.chunks))
	return ok
}

// release gives back what r holds.
func (p *pool) release(r *request) {
	if len(r.chunks) > 0 {
		p.giveBack(r.queue, r.chunks)
		r.chunks = r.chunks[:0]
	}
}

// take appends one chunk of n bytes for q to to, if there is one now and q may
// have it, for somebody who does not wait.
func (p *pool) take(q *queue, to []chunk, n int) ([]chunk, bool) {
	if n > largestChunk || p.over(q, n) {
		return to, false
	}
	to, ok := p.alloc(to, n)
	if ok {
		p.charge(q, chunkBytes(to))
	}
	return to, ok
}

// giveBack frees chunks that q holds.
func (p *pool) giveBack(q *queue, chunks []chunk) {
	p.charge(q, -chunkBytes(chunks))
	p.free(chunks)
}

func chunkBytes(chunks []chunk) (n int64) {
	for _, c := range chunks {
		n += int64(chunkSizes[c.slab.class])
	}
	return n
}

func (p *pool) serveWaiting() {
	for r := p.waiting.head; r != nil; {
		if p.over(r.queue, r.need) {
			r = r.next
			continue
		}
		if !p.fill(r) {
			return
		}
		p.waiting.remove(r)
		r.queue.bufferReady(r)
		r = p.waiting.head // whom that has brought into the line, or out of it
	}
}

// missedBy reports whether other queues than q wait for buffers that q may have:
// not for those of their own share, nor of another host's.
func (p *pool) missedBy(q *queue) bool {
	for r := p.waiting.head; r != nil; r = r.next {
		if r.queue != q && !p.overQueue(r.queue, r.need) && (r.queue.host == q.host || !p.overHost(r.queue, r.need)) {
			return true
		}
	}
	return false
}

// deregister takes the memory from the device. No queue is left then, so nothing
// is allocated any more, but chunks may still be out. It is not for shards.
func (p *pool) deregister() error {
	for _, s := range p.slabs {
		if s.mr == nil {
			continue
		}
		if err := s.mr.Dereg(); err != nil {
			return fmt.Errorf("rdma: close pool of shard %s: %w", p.shard.Name(), err)
		}
		s.mr = nil
		p.mrs.Add(-1)
	}
	return nil
}

// close gives the memory back to the system, after deregister. It is called once
// nothing runs on the shard that uses the pool. While chunks are out it is an
// error and does nothing.
func (p *pool) close() error {
	if n := p.inUse.Load(); n != 0 {
		return fmt.Errorf("rdma: close pool of shard %s: %d buffers in use", p.shard.Name(), n)
	}
	for _, s := range p.slabs {
		if err := unix.Munmap(s.mem); err != nil {
			return fmt.Errorf("rdma: close pool of shard %s: munmap: %w", p.shard.Name(), err)
		}
		p.bytes.Add(-slabSize)
	}
	p.slabs, p.empty, p.partial = nil, nil, [numClasses]*slab{}
	return nil
}
