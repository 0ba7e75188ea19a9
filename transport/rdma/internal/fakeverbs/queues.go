package fakeverbs

import (
	"fmt"
	"slices"

	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
)

// A cq is a completion queue. It calls its handler at the end of a round.
type cq struct {
	dev       *Device
	pd        *pd
	shard     *shard.Shard
	vector    int
	size      int
	handler   func([]verbs.WC)
	wcs, work []verbs.WC
	users     int
	destroyed bool
	flusher   shard.Flusher
}

func (p *pd) CreateCQ(a verbs.CQAttr) (verbs.CQ, error) {
	if a.Vector < 0 || a.Vector >= len(p.dev.shards) || a.Size < 1 || a.Size > p.dev.attr.MaxCQE || a.Handler == nil {
		return nil, fmt.Errorf("verbs: create CQ of %d entries on vector %d", a.Size, a.Vector)
	}
	c := &cq{dev: p.dev, pd: p, shard: p.dev.shards[a.Vector], vector: a.Vector, size: a.Size, handler: a.Handler}
	c.flusher.Fn = c.flush
	p.dev.CQs.Add(1)
	p.users.Add(1)
	return c, nil
}

func (c *cq) push(wc verbs.WC) {
	if len(c.wcs) == c.size {
		panic(fmt.Sprintf("fakeverbs: CQ of %d entries overrun", c.size))
	}
	c.wcs = append(c.wcs, wc)
	c.shard.Flush(&c.flusher)
}

// forget removes the completions of a queue pair that is destroyed.
func (c *cq) forget(qpn uint32) {
	c.wcs = slices.DeleteFunc(c.wcs, func(wc verbs.WC) bool { return wc.QPN == qpn })
}

func (c *cq) flush() {
	if c.destroyed || len(c.wcs) == 0 {
		return
	}
	c.wcs, c.work = c.work[:0], c.wcs
	c.handler(c.work)
}

func (c *cq) Destroy() error {
	if c.users > 0 || c.destroyed {
		return fmt.Errorf("verbs: destroy CQ: %d users, destroyed %t", c.users, c.destroyed)
	}
	c.destroyed = true
	c.dev.CQs.Add(-1)
	c.pd.users.Add(-1)
	return nil
}

// A recv is a receive that was posted.
type recv struct {
	wrid uint64
	sg   []verbs.SGE
}

func (r *recv) len() int {
	n := 0
	for _, s := range r.sg {
		n += len(s.Buf)
	}
	return n
}

// A recvQueue is a ring of receives.
type recvQueue struct {
	ring       []recv
	maxSGE     int
	head, tail int
}

func newRecvQueue(size, maxSGE int) recvQueue {
	q := recvQueue{ring: make([]recv, size), maxSGE: maxSGE}
	for i := range q.ring {
		q.ring[i].sg = make([]verbs.SGE, 0, maxSGE)
	}
	return q
}

func (q *recvQueue) posted() int { return q.tail - q.head }

func (q *recvQueue) post(wrs []verbs.RecvWR) error {
	if len(wrs) > len(q.ring)-q.posted() {
		return verbs.ErrQueueFull
	}
	for i := range wrs {
		if len(wrs[i].SG) > q.maxSGE {
			return verbs.ErrTooManySGE
		}
	}
	for i := range wrs {
		r := &q.ring[q.tail%len(q.ring)]
		r.wrid, r.sg = wrs[i].WRID, append(r.sg[:0], wrs[i].SG...)
		q.tail++
	}
	return nil
}

func (q *recvQueue) take() *recv {
	if q.head == q.tail {
		return nil
	}
	q.head++
	return &q.ring[(q.head-1)%len(q.ring)]
}

// An srq is a shared receive queue.
type srq struct {
	dev       *Device
	pd        *pd
	shard     *shard.Shard
	vector    int
	q         recvQueue
	users     int
	destroyed bool
	waiting   []*qp // whose peers' messages wait for a receive
}

func (p *pd) CreateSRQ(a verbs.SRQAttr) (verbs.SRQ, error) {
	if a.Vector < 0 || a.Vector >= len(p.dev.shards) || a.MaxWR < 1 || a.MaxWR > p.dev.attr.MaxSRQWR || a.MaxSGE < 1 || a.MaxSGE > p.dev.attr.MaxSGE {
		return nil, fmt.Errorf("verbs: create SRQ of %d receives with %d elements on vector %d", a.MaxWR, a.MaxSGE, a.Vector)
	}
	p.dev.SRQs.Add(1)
	p.users.Add(1)
	return &srq{dev: p.dev, pd: p, shard: p.dev.shards[a.Vector], vector: a.Vector, q: newRecvQueue(a.MaxWR, a.MaxSGE)}, nil
}

func (s *srq) PostRecv(wrs []verbs.RecvWR) error {
	if s.destroyed {
		return fmt.Errorf("verbs: post to a destroyed SRQ")
	}
	if err := s.q.post(wrs); err != nil {
		return err
	}
	for _, q := range s.waiting {
		q.shard.Flush(&q.respondFlusher)
	}
	s.waiting = s.waiting[:0]
	return nil
}

func (s *srq) Posted() int { return s.q.posted() }

func (s *srq) Destroy() error {
	if s.users > 0 || s.destroyed {
		return fmt.Errorf("verbs: destroy SRQ: %d users, destroyed %t", s.users, s.destroyed)
	}
	s.destroyed = true
	s.dev.SRQs.Add(-1)
	s.pd.users.Add(-1)
	return nil
}
