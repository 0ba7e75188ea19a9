package verbstest

import (
	"errors"
	"time"

	"github.com/fabrid/fabrid/verbs"
)

var queueChecks = []check{
	{"a send queue takes what it was made for", sendQueueFull},
	{"a receive queue takes what it was made for", recvQueueFull},
	{"elements beyond the maximum", tooManySGE},
	{"Err flushes what is posted, in order", errFlushes},
	{"Err flushes what is posted later", errFlushesLater},
	{"Err flushes RDMA READs and WRITEs under way", errFlushesUnderWay},
	{"Reset forgets what is posted", resetForgets},
	{"a queue pair can be connected again", connectAgain},
	{"a peer in Err answers no more", peerInErr},
	{"destroy with work outstanding", destroyOutstanding},
	{"destroy of the peer's queue pair", destroyPeer},
	{"a queue pair number rests before it comes back", numbersRest},
}

// expectRefused posts wrs and expects nothing but the error.
func expectRefused(e *env, s *Side, want error, post func() error) {
	e.Helper()
	if err := s.Try(post); !errors.Is(err, want) {
		e.Errorf("%s: post: %v, want %v", s.Name, err, want)
	}
}

// sendQueueFull fills a send queue behind a SEND that has no receive.
func sendQueueFull(e *env) {
	const size = 8
	p := e.pair(func(a *Attr) { a.Init.MaxSendWR = size })
	sg := p.A.SG(make([]byte, 10))
	batch := func(from, n int) []verbs.SendWR {
		var wrs []verbs.SendWR
		for i := from; i < from+n; i++ {
			wrs = append(wrs, verbs.SendWR{WRID: uint64(i), Flags: verbs.SendSignaled, SG: sg})
		}
		return wrs
	}
	expectRefused(e, p.A, verbs.ErrQueueFull, func() error { return p.A.QP.PostSend(batch(0, size+1)) })
	p.A.Post(batch(0, 5)...)
	expectRefused(e, p.A, verbs.ErrQueueFull, func() error { return p.A.QP.PostSend(batch(90, 4)) })
	p.A.Post(batch(5, 3)...)
	expectRefused(e, p.A, verbs.ErrQueueFull, func() error { return p.A.QP.PostSend(batch(90, 1)) })
	p.B.PostRecv(0, Bufs(3, 10)...)
	p.A.Expect(Sent(0), Sent(1), Sent(2))
	expectRefused(e, p.A, verbs.ErrQueueFull, func() error { return p.A.QP.PostSend(batch(90, 4)) })
	p.A.Post(batch(8, 3)...)
	p.B.PostRecv(3, Bufs(8, 10)...)
	for i := range uint64(8) {
		p.A.Expect(Sent(3 + i))
	}
	for i := range uint64(11) {
		p.B.Expect(Received(i, 10))
	}
	p.A.ExpectNone(10 * time.Millisecond)
}

func recvQueueFull(e *env) {
	const size = 8
	p := e.pair(func(a *Attr) { a.Init.MaxRecvWR = size })
	batch := func(from, n int) []verbs.RecvWR {
		var wrs []verbs.RecvWR
		for i := from; i < from+n; i++ {
			wrs = append(wrs, verbs.RecvWR{WRID: uint64(i), SG: p.B.SG(make([]byte, 10))})
		}
		return wrs
	}
	post := func(wrs []verbs.RecvWR) func() error {
		return func() error { return p.B.QP.PostRecv(wrs) }
	}
	expectRefused(e, p.B, verbs.ErrQueueFull, post(batch(90, size+1)))
	p.B.Do("post receive", post(batch(0, 6)))
	expectRefused(e, p.B, verbs.ErrQueueFull, post(batch(90, 3)))
	p.B.Do("post receive", post(batch(6, 2)))
	expectRefused(e, p.B, verbs.ErrQueueFull, post(batch(90, 1)))
	sg := p.A.SG(make([]byte, 1))
	p.A.Post(verbs.SendWR{SG: sg}, verbs.SendWR{Flags: verbs.SendSignaled, SG: sg})
	p.A.Expect(Sent(0))
	p.B.Expect(Received(0, 1), Received(1, 1))
	p.B.Do("post receive", post(batch(8, 2)))
	expectRefused(e, p.B, verbs.ErrQueueFull, post(batch(90, 1)))
}

func tooManySGE(e *env) {
	p := e.pair(func(a *Attr) { a.Init.MaxSendSGE, a.Init.MaxRecvSGE = 2, 3 })
	two, three := p.A.SG(Bufs(2, 4)...), p.A.SG(Bufs(3, 4)...)
	rthree, rfour := p.B.SG(Bufs(3, 4)...), p.B.SG(Bufs(4, 4)...)
	expectRefused(e, p.A, verbs.ErrTooManySGE, func() error {
		return p.A.QP.PostSend([]verbs.SendWR{{WRID: 1, SG: two}, {WRID: 2, SG: three}})
	})
	expectRefused(e, p.B, verbs.ErrTooManySGE, func() error {
		return p.B.QP.PostRecv([]verbs.RecvWR{{WRID: 1, SG: rthree}, {WRID: 2, SG: rfour}})
	})
	p.B.Do("post receive", func() error { return p.B.QP.PostRecv([]verbs.RecvWR{{WRID: 3, SG: rthree}}) })
	p.A.Post(verbs.SendWR{WRID: 4, Flags: verbs.SendSignaled, SG: two})
	p.A.Expect(Sent(4))
	p.B.Expect(Received(3, 8))
}

// errFlushes has sends wait for a receive of the peer, and receives for a send
// of the peer, and moves the queue pair to Err.
func errFlushes(e *env) {
	p := e.pair()
	sg := p.A.SG(make([]byte, 10))
	p.A.PostRecv(10, Bufs(5, 10)...)
	p.A.Post(
		verbs.SendWR{WRID: 1, SG: sg}, verbs.SendWR{WRID: 2, SG: sg},
		verbs.SendWR{WRID: 3, Flags: verbs.SendSignaled, SG: sg}, verbs.SendWR{WRID: 4, SG: sg},
	)
	p.A.ExpectNone(5 * time.Millisecond)
	p.A.Modify(verbs.Err)
	p.A.ExpectState(verbs.Err)
	expectFlushed(e, p.A, []uint64{1, 2, 3, 4}, []uint64{10, 11, 12, 13, 14})
	p.A.ExpectNone(5 * time.Millisecond)
	p.A.ExpectNoEvent() // it was asked for
}

func errFlushesLater(e *env) {
	p := e.pair()
	p.A.Modify(verbs.Err)
	sg := p.A.SG(make([]byte, 10))
	for i := range uint64(200) { // more than the queues hold
		p.A.Post(verbs.SendWR{WRID: 2 * i, SG: sg})
		p.A.PostRecv(2*i+1, make([]byte, 10))
		expectFlushed(e, p.A, []uint64{2 * i}, []uint64{2*i + 1})
	}
	p.A.ExpectState(verbs.Err)
}

// errFlushesUnderWay stops transfers in the middle: everything that has not
// completed is flushed, in order, and the queue pair can be reset. On a busy
// machine all of it may complete before it is stopped: then it tries again.
func errFlushesUnderWay(e *env) {
	for range 20 {
		if stopUnderWay(e) {
			return
		}
	}
	e.Error("nothing was flushed")
}

func stopUnderWay(e *env) (flushed bool) {
	p := e.pair()
	m := p.B.Memory(1<<20, 1, allAccess)
	var wrs []verbs.SendWR
	for i := range uint64(32) {
		op := verbs.WRRDMAWrite
		if i%2 == 1 {
			op = verbs.WRRDMARead
		}
		wrs = append(wrs, verbs.SendWR{WRID: i, Opcode: op, Flags: verbs.SendSignaled, SG: p.A.SG(make([]byte, 1<<20)), RemoteAddr: m.IOVA, RKey: m.MR.RKey()})
	}
	p.A.Post(wrs...)
	p.A.Expect(Wrote(0))
	p.A.Modify(verbs.Err)
	for i := uint64(1); i < 32; i++ {
		wc := p.A.Next()
		flushed = flushed || wc.Status != verbs.WCSuccess
		want := verbs.WCSuccess
		if flushed {
			want = verbs.WCWRFlushErr
		}
		if wc.WRID != i || wc.Status != want {
			e.Fatalf("completion %s, want WRID %d, %v", describe(wc), i, want)
		}
	}
	p.A.ExpectNone(10 * time.Millisecond)
	p.A.Modify(verbs.Reset)
	p.A.ExpectState(verbs.Reset)
	return flushed
}

func resetForgets(e *env) {
	p := e.pair()
	sg := p.A.SG(make([]byte, 10))
	p.A.PostRecv(10, Bufs(5, 10)...)
	p.A.Post(verbs.SendWR{WRID: 1, Flags: verbs.SendSignaled, SG: sg})
	p.A.Modify(verbs.Reset)
	p.A.ExpectState(verbs.Reset)
	p.A.ExpectNone(50 * time.Millisecond)
	// The receives are gone too: the queue has room for as many as before.
	p.A.Modify(verbs.Init)
	p.A.PostRecv(20, Bufs(64, 10)...)
}

// connectAgain takes a pair through Reset to a second connection, which knows
// nothing of the first.
func connectAgain(e *env) {
	p := e.pair()
	attr := DefaultAttr(e.cfg.MTU)
	for round := range 3 {
		buf := make([]byte, 5000)
		p.B.PostRecv(1, buf)
		p.A.Post(verbs.SendWR{WRID: 2, Flags: verbs.SendSignaled, SG: p.A.SG(Filled(5000, round))})
		p.A.Expect(Sent(2))
		p.B.Expect(Received(1, 5000))
		p.B.ExpectBytes("received", buf, Filled(5000, round))
		// The one leaves work behind, the other has an error.
		p.A.Post(verbs.SendWR{WRID: 3, Flags: verbs.SendSignaled, SG: p.A.SG(make([]byte, 10))})
		p.B.Modify(verbs.Err)
		for _, s := range []*Side{p.A, p.B} {
			s.Modify(verbs.Reset)
			s.Modify(verbs.Init)
		}
		attr.PSNA += 0x10_0000
		attr.PSNB -= 0x10_0000
		p.ConnectQPs(p.A.QP, p.B.QP, attr)
	}
	p.A.ExpectNone(10 * time.Millisecond)
}

// peerInErr: the wire has no word for it, so the sender's retries run out.
func peerInErr(e *env) {
	p := e.pair(func(a *Attr) { a.QP.RetryCnt, a.QP.Timeout = 0, 12 })
	p.B.PostRecv(1, make([]byte, 10))
	p.B.Modify(verbs.Err)
	p.B.Expect(Flushed(Received(1, 0)))
	p.A.PostRecv(5, make([]byte, 10))
	sg := p.A.SG(make([]byte, 10))
	p.A.Post(verbs.SendWR{WRID: 2, SG: sg}, verbs.SendWR{WRID: 3, SG: sg})
	p.A.Expect(Failed(Sent(2), verbs.WCRetryExcErr))
	expectFlushed(e, p.A, []uint64{3}, []uint64{5})
	p.A.ExpectEvent()
	p.A.ExpectState(verbs.Err)
	p.B.ExpectNone(10 * time.Millisecond)
}

func destroyOutstanding(e *env) {
	p := e.pair()
	m := p.B.Memory(1<<20, 1, allAccess)
	p.A.PostRecv(1, Bufs(10, 10)...)
	sg := p.A.SG(make([]byte, 1<<20))
	p.A.Post(
		verbs.SendWR{WRID: 1, Opcode: verbs.WRRDMAWrite, Flags: verbs.SendSignaled, SG: sg, RemoteAddr: m.IOVA, RKey: m.MR.RKey()},
		verbs.SendWR{WRID: 2, Opcode: verbs.WRRDMARead, Flags: verbs.SendSignaled, SG: sg, RemoteAddr: m.IOVA, RKey: m.MR.RKey()},
		verbs.SendWR{WRID: 3, Flags: verbs.SendSignaled, SG: sg},
	)
	p.A.Do("destroy", func() error {
		if err := p.A.CQ.Destroy(); err == nil {
			e.Error("a CQ that a QP uses was destroyed")
		}
		return p.A.QP.Destroy()
	})
	p.A.Forget(p.A.QP)
	before := drain(p.A)
	p.A.ExpectNone(50 * time.Millisecond)
	if before > 2 {
		e.Errorf("%d completions, though the SEND had no receive", before)
	}
	p.A.ExpectNoEvent()
	p.B.ExpectState(verbs.RTS) // it does not know
}

// drain takes the completions that there are and returns how many.
func drain(s *Side) (n int) {
	for {
		select {
		case <-s.wcs:
			n++
		default:
			return n
		}
	}
}

func destroyPeer(e *env) {
	p := e.pair(func(a *Attr) { a.QP.RetryCnt, a.QP.Timeout = 0, 12 })
	p.B.Destroy(p.B.QP)
	p.A.Post(verbs.SendWR{WRID: 1, SG: p.A.SG(make([]byte, 10))})
	p.A.Expect(Failed(Sent(1), verbs.WCRetryExcErr))
	p.A.ExpectEvent()
}

// numbersRest: packets of a connection that is gone must not find another.
func numbersRest(e *env) {
	s := NewSide(e.T, "A", e.a)
	attr := DefaultAttr(e.cfg.MTU)
	seen := make(map[uint32]bool)
	for range 50 {
		qp := s.CreateQP(attr.Init)
		n := qp.Num()
		if n < 2 || n >= 1<<24-1 {
			e.Errorf("queue pair number %#x", n)
		}
		if seen[n] {
			e.Errorf("queue pair number %#x came back after %d others", n, len(seen))
		}
		seen[n] = true
		s.Destroy(qp)
	}
}
