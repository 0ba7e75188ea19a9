package verbstest

import (
	"time"

	"github.com/fabrid/fabrid/verbs"
)

var receiveChecks = []check{
	{"a receive that is too small by one", func(e *env) { tooSmall(e, 100, 99) }},
	{"a receive of no bytes", func(e *env) { tooSmall(e, 1, 0) }},
	{"a receive that the last packet does not fit", func(e *env) { tooSmall(e, 5*e.cfg.MTU+1, 5*e.cfg.MTU) }},
	{"a receive that the first packet does not fit", func(e *env) { tooSmall(e, 5*e.cfg.MTU, e.cfg.MTU-1) }},
	{"a receive that is larger than the message", largerReceive},
	{"a message waits for a receive", notReady},
	{"messages wait for receives, one at a time", oftenNotReady},
	{"an RDMA WRITE with immediate waits for a receive", needs(immediateNotReady, immediate...)},
	{"a receiver that never is ready", neverReady},
	{"RDMA WRITE and READ need no receive", noReceiveNeeded},
	{"receives are posted before the connection", receiveBeforeConnect},
	{"both ends go to Err with nothing posted", errWithNothingPosted},
}

// tooSmall sends n bytes to a receive of room: a length error at the receiver,
// an invalid request at the sender ([IBTA] 9.7.4.1.6), and Err at both.
func tooSmall(e *env, n, room int) {
	p := e.pair()
	p.B.PostRecv(1, make([]byte, room), make([]byte, n))
	p.A.Post(
		verbs.SendWR{WRID: 3, SG: p.A.SG(make([]byte, n))},
		verbs.SendWR{WRID: 4, SG: p.A.SG(make([]byte, 1))},
	)
	p.B.Expect(Failed(Received(1, 0), verbs.WCLocLenErr), Flushed(Received(2, 0)))
	p.A.Expect(Failed(Sent(3), verbs.WCRemInvReqErr), Flushed(Sent(4)))
	for _, s := range []*Side{p.A, p.B} {
		s.ExpectEvent()
		s.ExpectState(verbs.Err)
		s.ExpectNoEvent()
	}
}

func largerReceive(e *env) {
	p := e.pair()
	buf := Filled(5000, 1)
	want := append([]byte(nil), buf...)
	copy(want, Filled(1025, 2))
	p.B.PostRecv(1, buf)
	p.A.Post(verbs.SendWR{WRID: 2, Flags: verbs.SendSignaled, SG: p.A.SG(Filled(1025, 2))})
	p.B.Expect(Received(1, 1025))
	p.A.Expect(Sent(2))
	p.B.ExpectBytes("received", buf, want)
}

// notReady sends with no receive posted: nothing completes until there is one.
func notReady(e *env) {
	p := e.pair()
	n := 3*e.cfg.MTU + 5
	p.A.Post(verbs.SendWR{WRID: 1, Flags: verbs.SendSignaled, SG: p.A.SG(Filled(n, 1))})
	p.A.ExpectNone(50 * time.Millisecond)
	buf := make([]byte, n)
	p.B.PostRecv(2, buf)
	p.B.Expect(Received(2, n))
	p.A.Expect(Sent(1))
	p.B.ExpectBytes("received", buf, Filled(n, 1))
}

func oftenNotReady(e *env) {
	const count = 10
	p := e.pair()
	var wrs []verbs.SendWR
	for i := range uint64(count) {
		wrs = append(wrs, verbs.SendWR{WRID: i, Flags: verbs.SendSignaled, SG: p.A.SG(Filled(100, int(i)))})
	}
	p.A.Post(wrs...)
	buf := make([]byte, 100)
	for i := range uint64(count) {
		p.B.PostRecv(50+i, buf)
		p.B.Expect(Received(50+i, 100))
		p.B.ExpectBytes("received", buf, Filled(100, int(i)))
		p.A.Expect(Sent(i))
	}
	p.A.ExpectState(verbs.RTS)
}

// immediateNotReady: the data of an RDMA WRITE with immediate needs no receive,
// its last packet does.
func immediateNotReady(e *env) {
	p := e.pair()
	n := 3 * e.cfg.MTU
	m := p.B.Memory(n, 1, allAccess)
	p.A.Post(verbs.SendWR{
		WRID: 1, Opcode: verbs.WRRDMAWriteWithImm, Flags: verbs.SendSignaled, SG: p.A.SG(Filled(n, 2)),
		RemoteAddr: m.IOVA, RKey: m.MR.RKey(), Imm: 77,
	})
	p.A.ExpectNone(20 * time.Millisecond)
	p.B.PostRecv(2, nil)
	want := Received(2, n)
	want.Flags, want.Imm = verbs.WCWithImm, 77
	p.B.Expect(want)
	p.A.Expect(Wrote(1))
	m.ExpectAt("written", 0, Filled(n, 2))
}

// neverReady has the sender give up after as many retries as it was given.
func neverReady(e *env) {
	p := e.pair(func(a *Attr) { a.QP.RNRRetry = 3 })
	p.A.Post(
		verbs.SendWR{WRID: 1, SG: p.A.SG(make([]byte, 10))},
		verbs.SendWR{WRID: 2, SG: p.A.SG(make([]byte, 10))},
	)
	p.A.Expect(Failed(Sent(1), verbs.WCRNRRetryExcErr), Flushed(Sent(2)))
	p.A.ExpectEvent()
	p.A.ExpectState(verbs.Err)
	p.B.ExpectState(verbs.RTS)
}

func noReceiveNeeded(e *env) {
	p := e.pair()
	m := p.B.Memory(10_000, 1, allAccess)
	src, dst := Filled(10_000, 2), make([]byte, 10_000)
	p.A.Post(
		verbs.SendWR{WRID: 1, Opcode: verbs.WRRDMAWrite, Flags: verbs.SendSignaled, SG: p.A.SG(src), RemoteAddr: m.IOVA, RKey: m.MR.RKey()},
		verbs.SendWR{WRID: 2, Opcode: verbs.WRRDMARead, Flags: verbs.SendSignaled, SG: p.A.SG(dst), RemoteAddr: m.IOVA, RKey: m.MR.RKey()},
	)
	p.A.Expect(Wrote(1), Read(2))
	p.A.ExpectBytes("read back", dst, src)
	p.B.ExpectNone(10 * time.Millisecond)
}

// receiveBeforeConnect posts receives in Init, as those who accept do.
func receiveBeforeConnect(e *env) {
	attr := DefaultAttr(e.cfg.MTU)
	p := &Pair{A: NewSide(e.T, "A", e.a), B: NewSide(e.T, "B", e.b)}
	p.A.QP, p.B.QP = p.A.CreateQP(attr.Init), p.B.CreateQP(attr.Init)
	bufs := Bufs(2, 100)
	p.B.PostRecv(1, bufs...)
	p.ConnectQPs(p.A.QP, p.B.QP, attr)
	p.A.Post(verbs.SendWR{WRID: 3, Flags: verbs.SendSignaled, SG: p.A.SG(Filled(100, 1))})
	p.A.Expect(Sent(3))
	p.B.Expect(Received(1, 100))
	p.B.ExpectBytes("received", bufs[0], Filled(100, 1))
}

func errWithNothingPosted(e *env) {
	p := e.pair()
	for _, s := range []*Side{p.A, p.B} {
		s.Modify(verbs.Err)
		s.ExpectState(verbs.Err)
		s.Modify(verbs.Err) // again is allowed
		s.ExpectNone(10 * time.Millisecond)
		s.ExpectNoEvent()
	}
}
