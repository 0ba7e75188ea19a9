package roce

import (
	"github.com/fabrid/fabrid/verbs"
	"github.com/fabrid/fabrid/verbs/internal/soft"
)

// A qpMemory is what a queue pair is made of beside itself, at its first size.
// Whoever holds it has it alone.
type qpMemory struct {
	ring    []wqe
	sges    []verbs.SGE
	recvSG  []verbs.SGE
	answers []answer
	done    []doneRead
	reads   []readPart
	rq      *soft.RecvQueue // empty, of one that had its own
}

// spares keep memory of queue pairs and completion queues that are gone. In a
// storm they come and go all the time, and it is most of what they cost to make.
// The zero value is ready. It belongs to the shard.
type spares struct {
	qps []qpMemory
	cqs [][]verbs.WC
}

// Bounds of what is kept: a queue pair of the largest kind has 48 KiB.
const (
	spareQPs  = 128
	spareSGEs = firstRing * maxSGE // elements of receives, as many as a first ring of sends has
	spareCQs  = 2 * spareQPs
	spareWCs  = 64 // entries of a completion queue
)

// takeQP returns memory, if there is some: its parts may be too small, or none.
func (s *spares) takeQP() (m qpMemory) {
	if n := len(s.qps) - 1; n >= 0 {
		m, s.qps[n] = s.qps[n], qpMemory{}
		s.qps = s.qps[:n]
	}
	return m
}

// putQP takes the memory of q, which is in Reset, out of use, and in no table.
func (s *spares) putQP(q *queuePair) {
	m := qpMemory{
		ring: q.sq.ring, sges: q.sq.sges, rq: q.rq,
		recvSG: q.resp.recvSG, answers: q.resp.answers.ring, done: q.resp.reads.ring, reads: q.req.reads,
	}
	q.sq, q.rq = sendQueue{}, nil
	q.resp, q.req = responder{qp: q}, requester{qp: q}
	if len(m.ring) > firstRing || len(m.answers) > firstRing || m.rq != nil && m.rq.Elements() > spareSGEs || len(s.qps) == spareQPs {
		return
	}
	clear(m.sges)
	clear(m.recvSG)
	s.qps = append(s.qps, m)
}

// takeCQ returns room for completions, maybe none.
func (s *spares) takeCQ() (wcs []verbs.WC) {
	if n := len(s.cqs) - 1; n >= 0 {
		wcs, s.cqs[n] = s.cqs[n], nil
		s.cqs = s.cqs[:n]
	}
	return wcs
}

func (s *spares) putCQ(wcs []verbs.WC) {
	if n := cap(wcs); n > 0 && n <= spareWCs && len(s.cqs) < spareCQs {
		s.cqs = append(s.cqs, wcs[:0])
	}
}

// room returns s with n elements, or new memory if it has not so many.
func room[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}
