package loop

import (
	"github.com/fabrid/fabrid/shard"
)

// pageSize is the size of a data buffer: a compromise between the length of the
// lists for large commands and the waste for small ones.
const pageSize = 16 << 10

// slabPages is how many pages are allocated at once.
const slabPages = 64

// A pool is the data buffers of a shard's queues. It grows up to a bound and
// never shrinks. Who finds no room waits, first come first served; a request
// takes all it needs at once, so those that wait hold nothing.
type pool struct {
	shard   *shard.Shard
	free    [][]byte
	unmade  int // pages that may still be allocated
	total   int
	waiting slotList
	flusher shard.Flusher
}

func newPool(s *shard.Shard, bytes int64) *pool {
	p := &pool{shard: s, unmade: int(bytes / pageSize)}
	p.total = p.unmade
	p.flusher.Fn = p.serve
	return p
}

func pagesFor(n int) int { return (n + pageSize - 1) / pageSize }

// take appends pages for n bytes to to, cut to that length, if there are enough
// and nobody waits.
func (p *pool) take(to [][]byte, n int) ([][]byte, bool) {
	if p.waiting.first != nil {
		return to, false
	}
	return p.takeNow(to, n)
}

func (p *pool) takeNow(to [][]byte, n int) ([][]byte, bool) {
	need := pagesFor(n)
	for len(p.free) < need {
		if p.unmade == 0 {
			return to, false
		}
		k := min(slabPages, p.unmade)
		p.unmade -= k
		slab := make([]byte, k*pageSize)
		for ; len(slab) > 0; slab = slab[pageSize:] {
			p.free = append(p.free, slab[:pageSize:pageSize])
		}
	}
	for ; n > 0; n -= pageSize {
		last := len(p.free) - 1
		to = append(to, p.free[last][:min(n, pageSize)])
		p.free = p.free[:last]
	}
	return to, true
}

// give takes pages back. Those who wait are served at the end of the round.
func (p *pool) give(pages [][]byte) {
	for i, b := range pages {
		p.free = append(p.free, b[:pageSize])
		pages[i] = nil
	}
	if p.waiting.first != nil {
		p.shard.Flush(&p.flusher)
	}
}

// serve gives those who wait what there is.
func (p *pool) serve() {
	for s := p.waiting.first; s != nil; s = p.waiting.first {
		var ok bool
		if s.pages, ok = p.takeNow(s.pages, s.want); !ok {
			return
		}
		p.waiting.pop()
		s.waits = false
		s.conn.served(s)
	}
}

// used is the number of pages that are not free.
func (p *pool) used() int { return p.total - p.unmade - len(p.free) }
