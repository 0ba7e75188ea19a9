package roce

import (
	"errors"
	"testing"

	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
)

// A queue pair uses the memory of one that is gone, with nothing of it left in
// it, and the one that is gone has none any more. What is kept is bounded, and
// of the first size.
func TestSpares(t *testing.T) {
	inShard(t, func(t *testing.T, s *shard.Shard) {
		if err := s.Run(func() {
			d := newBare(s, playAddr, 0)
			kept := d.eng.spares
			cq, err := d.pd.CreateCQ(verbs.CQAttr{Size: 4096, Handler: func([]verbs.WC) {}})
			if err != nil {
				t.Fatal(err)
			}
			create := func(sends, recvs int) *queuePair {
				t.Helper()
				qp, err := d.pd.CreateQP(verbs.QPInitAttr{SendCQ: cq, RecvCQ: cq, MaxSendWR: sends, MaxSendSGE: 2, MaxRecvWR: recvs, MaxRecvSGE: 1})
				if err == nil {
					err = qp.Modify(verbs.Init)
				}
				if err == nil {
					err = qp.Connect(verbs.QPAttr{Path: verbs.Path{Local: playAddr, Remote: playPeer, MTU: 1024}, DestQPN: 7, MaxRdAtomic: 3, MaxDestRd: 2})
				}
				if err != nil {
					t.Fatal(err)
				}
				return qp.(*queuePair)
			}
			post := func(q *queuePair, n int) {
				t.Helper()
				buf := make([]byte, 8)
				for range n {
					err := errors.Join(
						q.PostSend([]verbs.SendWR{{SG: []verbs.SGE{{Buf: buf}, {Buf: buf}}}}),
						q.PostRecv([]verbs.RecvWR{{SG: []verbs.SGE{{Buf: buf}}}}))
					if err != nil {
						t.Fatal(err)
					}
				}
			}

			old := create(16, 4)
			post(old, 4)
			ring, rq := &old.sq.ring[0], old.rq
			if err := old.Destroy(); err != nil {
				t.Fatal(err)
			}
			q := create(12, 8)
			if &q.sq.ring[0] != ring || q.rq != rq {
				t.Error("the memory of the queue pair before is not used")
			}
			if q.sq.head != q.sq.tail || q.rq.Len() != 0 || cap(q.req.reads) != 3 || len(q.req.reads) != 0 || len(q.resp.reads.ring) != 2 || q.resp.reads.n != 0 {
				t.Errorf("a new queue pair is not empty: %+v", q)
			}
			for _, sge := range q.sq.sges {
				if sge.Buf != nil {
					t.Error("a new queue pair names memory of the one before")
				}
			}
			// What is gone does nothing, whatever is asked of it.
			if err := old.Modify(verbs.Err); err == nil {
				t.Error("a queue pair that is gone can be modified")
			}
			if old.PostSend(nil) == nil || old.PostRecv(nil) == nil || old.Destroy() == nil {
				t.Error("a queue pair that is gone takes work requests, or can go again")
			}
			post(q, 8)
			if got := q.rq.Len(); got != 8 {
				t.Errorf("%d receives of 8", got)
			}
			if err := q.PostRecv([]verbs.RecvWR{{}}); !errors.Is(err, verbs.ErrQueueFull) {
				t.Errorf("a ninth receive: %v", err)
			}

			// Of another shape, or with rings that have grown, nothing is used.
			if err := q.PostSend(make([]verbs.SendWR, 4)); err != nil {
				t.Fatal(err)
			}
			if err := q.Destroy(); err != nil {
				t.Fatal(err)
			}
			if n := len(kept.qps); n != 0 {
				t.Errorf("%d kept of a queue pair whose ring had grown", n)
			}

			wide, err := d.pd.CreateQP(verbs.QPInitAttr{SendCQ: cq, RecvCQ: cq, MaxSendWR: 1, MaxRecvWR: 16, MaxRecvSGE: maxSGE})
			if err == nil {
				err = errors.Join(wide.Modify(verbs.Init), wide.PostRecv(make([]verbs.RecvWR, 16)), wide.Destroy())
			}
			if err != nil {
				t.Fatal(err)
			}
			if n := len(kept.qps); n != 0 {
				t.Errorf("%d kept of a queue pair with %d elements of receives", n, 16*maxSGE)
			}

			var all []*queuePair
			for range spareQPs + 8 {
				all = append(all, create(1, 1))
			}
			for _, q := range all {
				if err := q.Destroy(); err != nil {
					t.Fatal(err)
				}
			}
			if n := len(kept.qps); n != spareQPs {
				t.Errorf("%d are kept, want %d", n, spareQPs)
			}
			// A ring of one entry is too small for eight.
			if q := create(64, 64); len(q.sq.ring) != firstRing || len(q.sq.sges) != 2*firstRing {
				t.Errorf("a ring of %d entries and %d elements", len(q.sq.ring), len(q.sq.sges))
			} else if err := q.Destroy(); err != nil {
				t.Fatal(err)
			}
			if err := cq.Destroy(); err != nil {
				t.Error(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
	})
}
