package verbstest

import (
	"fmt"
	"time"

	"github.com/fabrid/fabrid/verbs"
)

var sharedChecks = []check{
	{"queue pairs share an SRQ", srqShared},
	{"an SRQ runs low", srqLow},
	{"an SRQ takes what it was made for", srqFull},
	{"an SRQ outlives queue pairs that fail", srqOutlives},
	{"a receive of an SRQ that is too small", srqTooSmall},
	{"an SRQ that is used cannot be destroyed", srqUsed},
	{"no receives on a queue pair with an SRQ", srqNoOwnReceives},
	{"many queue pairs at once", manyQPs},
}

// A star is several pairs of queue pairs, those at B on one SRQ.
type star struct {
	*Pair
	srq  verbs.SRQ
	a, b []verbs.QP
}

func newStar(e *env, count, receives int) *star {
	attr := DefaultAttr(e.cfg.MTU)
	st := &star{Pair: &Pair{A: NewSide(e.T, "A", e.a), B: NewSide(e.T, "B", e.b)}}
	initB := attr.Init
	if receives > 0 {
		st.srq = st.B.CreateSRQ(receives, 4)
		initB.SRQ = st.srq
	}
	for i := range count {
		a, b := st.A.CreateQP(attr.Init), st.B.CreateQP(initB)
		attr.PSNA, attr.PSNB = uint32(i)*0x3_3333, uint32(i)*0x5_5555
		st.ConnectQPs(a, b, attr)
		st.a, st.b = append(st.a, a), append(st.b, b)
	}
	st.A.QP, st.B.QP = st.a[0], st.b[0]
	return st
}

// post posts receives with IDs from id on to the SRQ.
func (st *star) post(id uint64, bufs ...[]byte) {
	st.B.t.Helper()
	wrs := make([]verbs.RecvWR, len(bufs))
	for i, b := range bufs {
		wrs[i] = verbs.RecvWR{WRID: id + uint64(i), SG: st.B.SG(b)}
	}
	st.B.Do("post receive to SRQ", func() error { return st.srq.PostRecv(wrs) })
}

func (st *star) expectPosted(want int) {
	st.B.t.Helper()
	got := 0
	st.B.Do("query SRQ", func() error { got = st.srq.Posted(); return nil })
	if got != want {
		st.B.t.Errorf("%d receives are posted to the SRQ, want %d", got, want)
	}
}

func (st *star) send(i int, id uint64, data []byte) {
	st.A.t.Helper()
	wr := []verbs.SendWR{{WRID: id, Flags: verbs.SendSignaled, SG: st.A.SG(data)}}
	st.A.Do("post send", func() error { return st.a[i].PostSend(wr) })
}

// srqShared sends over several queue pairs: each message takes the oldest
// receive and completes as one of the queue pair it came over.
func srqShared(e *env) {
	st := newStar(e, 3, 64)
	bufs := Bufs(60, 3000)
	st.post(0, bufs...)
	st.expectPosted(60)
	for k := range 20 {
		for i := range st.a {
			st.send(i, uint64(k), Filled(100*k+i, k*3+i))
		}
	}
	next := make(map[uint32]int)
	taken := make(map[uint64]bool)
	index := make(map[uint32]int)
	for i, q := range st.b {
		index[q.Num()] = i
	}
	for range 60 {
		wc := st.B.Next()
		i, ok := index[wc.QPN]
		if !ok || wc.Status != verbs.WCSuccess || wc.Opcode != verbs.WCRecv || taken[wc.WRID] || wc.WRID >= 60 {
			e.Fatalf("B: completion %s", describe(wc))
		}
		taken[wc.WRID] = true
		k := next[wc.QPN]
		next[wc.QPN]++
		st.B.ExpectBytes(fmt.Sprintf("message %d of QP %d", k, i), bufs[wc.WRID][:wc.ByteLen], Filled(100*k+i, k*3+i))
	}
	sent := make(map[uint32]uint64)
	for range 60 {
		wc := st.A.Next()
		if wc.Status != verbs.WCSuccess || wc.WRID != sent[wc.QPN] {
			e.Fatalf("A: completion %s, want WRID %d", describe(wc), sent[wc.QPN])
		}
		sent[wc.QPN]++
	}
	st.expectPosted(0)
}

// srqLow has messages wait for receives, and all of them get one in the end.
func srqLow(e *env) {
	st := newStar(e, 4, 16)
	const each = 8
	for k := range each {
		for i := range st.a {
			st.send(i, uint64(k), Filled(10, 1))
		}
	}
	got := make(map[uint32]int)
	for id := range uint64(4 * each) {
		st.post(id, make([]byte, 10))
		wc := st.B.Next()
		if wc.Status != verbs.WCSuccess || wc.WRID != id || wc.ByteLen != 10 {
			e.Fatalf("B: completion %s, want receive %d", describe(wc), id)
		}
		got[wc.QPN]++
	}
	for _, q := range st.b {
		if got[q.Num()] != each {
			e.Errorf("QP %#x received %d messages, want %d", q.Num(), got[q.Num()], each)
		}
	}
	for range 4 * each {
		if wc := st.A.Next(); wc.Status != verbs.WCSuccess {
			e.Fatalf("A: completion %s", describe(wc))
		}
	}
}

func srqFull(e *env) {
	s := NewSide(e.T, "A", e.a)
	srq := s.CreateSRQ(4, 2)
	wrs := make([]verbs.RecvWR, 5)
	expectRefused(e, s, verbs.ErrQueueFull, func() error { return srq.PostRecv(wrs) })
	s.Do("post", func() error { return srq.PostRecv(wrs[:3]) })
	expectRefused(e, s, verbs.ErrQueueFull, func() error { return srq.PostRecv(wrs[:2]) })
	s.Do("post", func() error { return srq.PostRecv(wrs[:1]) })
	expectRefused(e, s, verbs.ErrQueueFull, func() error { return srq.PostRecv(wrs[:1]) })
	long := []verbs.RecvWR{{SG: s.SG(Bufs(3, 1)...)}}
	other := s.CreateSRQ(4, 2)
	expectRefused(e, s, verbs.ErrTooManySGE, func() error { return other.PostRecv(long) })
	s.Do("count", func() error {
		if n, m := srq.Posted(), other.Posted(); n != 4 || m != 0 {
			e.Errorf("%d and %d receives are posted, want 4 and 0", n, m)
		}
		return nil
	})
}

// srqOutlives: a queue pair in Err or destroyed leaves the receives to others.
func srqOutlives(e *env) {
	st := newStar(e, 3, 8)
	st.post(0, Bufs(8, 10)...)
	st.B.Do("to Err", func() error { return st.b[0].Modify(verbs.Err) })
	st.B.Destroy(st.b[1])
	st.B.ExpectNone(10 * time.Millisecond)
	st.expectPosted(8)
	st.send(2, 1, Filled(10, 1))
	want := Received(0, 10)
	want.QPN = st.b[2].Num()
	st.B.Expect(want)
	st.expectPosted(7)
}

// srqTooSmall fails the queue pair that the message came over, and no other.
func srqTooSmall(e *env) {
	st := newStar(e, 2, 8)
	st.post(0, Bufs(4, 10)...)
	st.send(0, 1, make([]byte, 11))
	wc := st.B.Next()
	if wc.WRID != 0 || wc.Status != verbs.WCLocLenErr || wc.QPN != st.b[0].Num() {
		e.Errorf("B: completion %s, want %v of receive 0", describe(wc), verbs.WCLocLenErr)
	}
	st.A.Expect(Failed(Sent(1), verbs.WCRemInvReqErr))
	st.expectPosted(3)
	st.send(1, 2, make([]byte, 10))
	want := Received(1, 10)
	want.QPN = st.b[1].Num()
	st.B.Expect(want)
}

func srqUsed(e *env) {
	st := newStar(e, 1, 8)
	err := st.B.Try(st.srq.Destroy)
	if err == nil {
		e.Fatal("an SRQ that a QP uses was destroyed")
	}
	st.post(0, make([]byte, 10)) // as good as ever
	st.send(0, 1, make([]byte, 10))
	st.B.Expect(Received(0, 10))
}

func srqNoOwnReceives(e *env) {
	st := newStar(e, 1, 8)
	wrs := []verbs.RecvWR{{WRID: 1, SG: st.B.SG(make([]byte, 10))}}
	if err := st.B.Try(func() error { return st.b[0].PostRecv(wrs) }); err == nil {
		e.Error("posted a receive to a QP with an SRQ")
	}
	st.expectPosted(0)
}

// manyQPs has 32 connections carry data both ways at the same time.
func manyQPs(e *env) {
	const count, each, n = 32, 12, 2500
	st := newStar(e, count, 0)
	recv := func(s *Side, qps []verbs.QP) map[uint32][][]byte {
		all := make(map[uint32][][]byte)
		for _, q := range qps {
			bufs := Bufs(each, n)
			all[q.Num()] = bufs
			wrs := make([]verbs.RecvWR, each)
			for i, b := range bufs {
				wrs[i] = verbs.RecvWR{WRID: uint64(i), SG: s.SG(b)}
			}
			s.Do("post receive", func() error { return q.PostRecv(wrs) })
		}
		return all
	}
	gotA, gotB := recv(st.A, st.a), recv(st.B, st.b)
	send := func(s *Side, qps []verbs.QP, seed int) {
		for i, q := range qps {
			var wrs []verbs.SendWR
			for k := range each {
				wrs = append(wrs, verbs.SendWR{WRID: uint64(k), Flags: verbs.SendSignaled, SG: s.SG(Filled(n, seed+i*each+k))})
			}
			s.Do("post send", func() error { return q.PostSend(wrs) })
		}
	}
	send(st.A, st.a, 0)
	send(st.B, st.b, 1<<16)
	for _, s := range []*Side{st.A, st.B} {
		sends, recvs := make(map[uint32]uint64), make(map[uint32]uint64)
		for range 2 * count * each {
			wc := s.Next()
			next := sends
			if wc.Opcode == verbs.WCRecv {
				next = recvs
			}
			if wc.Status != verbs.WCSuccess || wc.WRID != next[wc.QPN] {
				e.Fatalf("%s: completion %s, want WRID %d", s.Name, describe(wc), next[wc.QPN])
			}
			next[wc.QPN]++
		}
	}
	for i := range count {
		for k := range each {
			st.A.ExpectBytes("received", gotA[st.a[i].Num()][k], Filled(n, 1<<16+i*each+k))
			st.B.ExpectBytes("received", gotB[st.b[i].Num()][k], Filled(n, i*each+k))
		}
	}
}
