package roce

// An answer is something to be sent: an ACK, or what is left of the response
// to an RDMA READ.
type answer struct {
	read     bool
	again    bool // of a request that came again
	psn      PSN  // of the ACK, or of the next response packet
	msn      uint32
	syndrome uint8
	first    bool // no response packet has been sent
	reth     reth // of the RDMA READ: what is left of it
}

// An answerQueue is a ring of answers in the order of their requests. It grows
// to its size as it is needed.
type answerQueue struct {
	ring       []answer
	size       int
	head, tail uint64
	reads      int // RDMA READs in the ring
	again      int // and those that came again
}

// newAnswerQueue returns a queue for as many RDMA READs at once, as many that
// came again, an ACK between any two of them, and some NAKs. It may use ring.
func newAnswerQueue(reads int, ring []answer) answerQueue {
	return answerQueue{ring: room(ring, firstRing), size: 4*reads + firstRing}
}

func (q *answerQueue) full() bool { return q.tail-q.head == uint64(q.size) }

func (q *answerQueue) grow() {
	old := q.ring
	q.ring = make([]answer, min(2*len(old), q.size))
	for i := q.head; i != q.tail; i++ {
		q.ring[i%uint64(len(q.ring))] = old[i%uint64(len(old))]
	}
}

// count adds n to the count of answers like a.
func (q *answerQueue) count(a *answer, n int) {
	switch {
	case a.read && a.again:
		q.again += n
	case a.read:
		q.reads += n
	}
}

func (q *answerQueue) first() *answer {
	if q.head == q.tail {
		return nil
	}
	return &q.ring[q.head%uint64(len(q.ring))]
}

func (q *answerQueue) pop() {
	q.count(q.first(), -1)
	q.head++
}

// push appends a. Reads are bounded by their callers and ACKs by being merged,
// so that there is room; were there none, the answer would be lost, as it may
// be on the wire.
func (q *answerQueue) push(a answer) {
	if q.full() {
		return
	}
	if q.tail-q.head == uint64(len(q.ring)) {
		q.grow()
	}
	q.ring[q.tail%uint64(len(q.ring))] = a
	q.tail++
	q.count(&a, 1)
}

// ack appends an ACK or a NAK. A positive one takes the place of one before it.
func (q *answerQueue) ack(psn PSN, msn uint32, syndrome uint8) {
	if q.head != q.tail && syndrome == synAck {
		last := &q.ring[(q.tail-1)%uint64(len(q.ring))]
		if !last.read && last.syndrome == synAck {
			if psn.Sub(last.psn) > 0 {
				last.psn = psn
			}
			last.msn = msn
			return
		}
	}
	q.push(answer{psn: psn, msn: msn, syndrome: syndrome})
}

func (q *answerQueue) clear() { q.head, q.reads, q.again = q.tail, 0, 0 }

// A doneRead is an RDMA READ that was answered, kept in case that the answer
// was lost.
type doneRead struct {
	psn     PSN
	packets int
	reth    reth
}

// A readRing remembers the last RDMA READs, as many as may be outstanding.
type readRing struct {
	ring []doneRead
	next int
	n    int
}

func (r *readRing) add(d doneRead) {
	r.ring[r.next] = d
	r.next = (r.next + 1) % len(r.ring)
	r.n = min(r.n+1, len(r.ring))
}

// holds reports whether p asks for a part of an RDMA READ that is remembered.
func (r *readRing) holds(p *packet, mtu int) bool {
	for i := range r.n {
		d := &r.ring[i]
		k := p.psn.Sub(d.psn)
		if k < 0 || k >= d.packets || p.reth.rkey != d.reth.rkey {
			continue
		}
		// The part must start where its PSN says, and must not go beyond the end.
		off := uint64(k) * uint64(mtu)
		return p.reth.va == d.reth.va+off && uint64(p.reth.length)+off <= uint64(d.reth.length) && (p.reth.length > 0 || d.reth.length == 0)
	}
	return false
}
