package verbstest

import (
	"time"

	"github.com/fabrid/fabrid/verbs"
)

var regionChecks = []check{
	{"a region registers, invalidates and registers again", fastLife},
	{"a registration and the SEND that names it in one batch", registerAndSend},
	{"a fast registration allows what it says", fastAccess},
	{"fast registration while valid", func(e *env) {
		badRegister(e, func(s *Side, mr verbs.MR, buf []byte, wr *verbs.SendWR) {
			fastRegister(s, mr, buf, 0, allAccess, 1)
		})
	}},
	{"fast registration of too much", func(e *env) {
		badRegister(e, func(s *Side, mr verbs.MR, buf []byte, wr *verbs.SendWR) { wr.Buf = make([]byte, 1001) })
	}},
	{"fast registration under another index", func(e *env) {
		badRegister(e, func(s *Side, mr verbs.MR, buf []byte, wr *verbs.SendWR) { wr.RKey += 1 << 8 })
	}},
	{"fast registration across the end of all addresses", func(e *env) {
		badRegister(e, func(s *Side, mr verbs.MR, buf []byte, wr *verbs.SendWR) { wr.IOVA = ^uint64(0) - 10 })
	}},
	{"fast registration of a region that is not for it", func(e *env) {
		badRegister(e, func(s *Side, mr verbs.MR, buf []byte, wr *verbs.SendWR) {
			fixed := s.RegMR(buf, 0, allAccess)
			wr.MR, wr.RKey = fixed, fixed.RKey()
		})
	}},
	{"fast registration of another PD's region", func(e *env) {
		badRegister(e, func(s *Side, mr verbs.MR, buf []byte, wr *verbs.SendWR) {
			other := NewSide(e.T, "A's other PD", e.a).AllocMR(1000)
			wr.MR, wr.RKey = other, other.RKey()
		})
	}},
	{"fast registration of no region", func(e *env) {
		badRegister(e, func(s *Side, mr verbs.MR, buf []byte, wr *verbs.SendWR) { wr.MR = nil })
	}},
	{"local invalidation of an invalid key", func(e *env) {
		badLocalInv(e, func(s *Side, mr verbs.MR) uint32 { return mr.RKey() })
	}},
	{"local invalidation twice", func(e *env) {
		badLocalInv(e, func(s *Side, mr verbs.MR) uint32 {
			key := fastRegister(s, mr, make([]byte, 10), 0, allAccess, 1)
			s.Post(verbs.SendWR{WRID: 1, Opcode: verbs.WRLocalInv, Flags: verbs.SendSignaled, RKey: key})
			s.Expect(Invalidated(1))
			return key
		})
	}},
	{"local invalidation of a wrong key", func(e *env) {
		badLocalInv(e, func(s *Side, mr verbs.MR) uint32 {
			return fastRegister(s, mr, make([]byte, 10), 0, allAccess, 1) ^ 2
		})
	}},
	{"local invalidation of a region that is not for it", func(e *env) {
		badLocalInv(e, func(s *Side, mr verbs.MR) uint32 { return s.RegMR(make([]byte, 10), 0, allAccess).RKey() })
	}},
	{"registrations that are none", registrationsThatAreNone},
	{"deregistration ends access at once", deregWhileWritten},
	{"deregistration twice", deregTwice},
}

// fastLife takes one region through several registrations. Each is good for
// its memory, at its address, under its key.
func fastLife(e *env) {
	p := e.pair()
	mr := p.B.AllocMR(1000)
	index := mr.RKey() >> 8
	for i := range 5 {
		buf := Filled(1000-i, i)
		iova := uint64(i) << 40
		key := fastRegister(p.B, mr, buf, iova, allAccess, uint8(i*50))
		if mr.RKey() != key || key>>8 != index {
			e.Errorf("registration %d: RKey %#x, want %#x", i, mr.RKey(), key)
		}
		src, dst := Filled(1000-i, 100+i), make([]byte, 1000-i)
		p.A.Post(
			verbs.SendWR{WRID: 1, Opcode: verbs.WRRDMARead, Flags: verbs.SendSignaled, SG: p.A.SG(dst), RemoteAddr: iova, RKey: key},
			verbs.SendWR{WRID: 2, Opcode: verbs.WRRDMAWrite, Flags: verbs.SendSignaled | verbs.SendFence, SG: p.A.SG(src), RemoteAddr: iova, RKey: key},
		)
		p.A.Expect(Read(1), Wrote(2))
		p.A.ExpectBytes("read", dst, Filled(1000-i, i))
		p.B.ExpectBytes("written", buf, src)
		p.B.Post(verbs.SendWR{WRID: 3, Opcode: verbs.WRLocalInv, Flags: verbs.SendSignaled, RKey: key})
		p.B.Expect(Invalidated(3))
	}
	p.A.ExpectState(verbs.RTS)
}

// registerAndSend is what a host does for a command: registration and message
// in one post; the peer uses the key as soon as it has the message.
func registerAndSend(e *env) {
	const rounds = 20
	p := e.pair()
	mr := p.A.AllocMR(4096)
	buf := make([]byte, 4096)
	p.B.PostRecv(1, Bufs(rounds, 8)...)
	p.A.PostRecv(1, Bufs(rounds, 8)...)
	for i := range rounds {
		key := mr.RKey()&^0xff | uint32(i)
		p.A.Post(
			verbs.SendWR{WRID: 100, Opcode: verbs.WRRegMR, MR: mr, Buf: buf, IOVA: 0x1000, Access: verbs.AccessLocalWrite | verbs.AccessRemoteWrite, RKey: key},
			verbs.SendWR{WRID: 101, Flags: verbs.SendSignaled, SG: p.A.SG(make([]byte, 8))},
		)
		p.B.Expect(Received(uint64(i)+1, 8))
		data := Filled(4096, i)
		p.B.Post(
			verbs.SendWR{WRID: 200, Opcode: verbs.WRRDMAWrite, SG: p.B.SG(data), RemoteAddr: 0x1000, RKey: key},
			verbs.SendWR{WRID: 201, Opcode: verbs.WRSendWithInv, Flags: verbs.SendSignaled, SG: p.B.SG(make([]byte, 8)), RKey: key},
		)
		// The SEND and the answer to it complete in any order.
		want := Received(uint64(i)+1, 8)
		want.Flags, want.InvRKey = verbs.WCWithInvalidate, key
		expectBoth(e, p.A, Sent(101), want)
		p.B.Expect(Sent(201))
		p.A.ExpectBytes("written", buf, data)
	}
}

// expectBoth expects two completions in either order.
func expectBoth(e *env, s *Side, x, y verbs.WC) {
	e.Helper()
	x.QPN, y.QPN = s.QP.Num(), s.QP.Num()
	got := s.Next()
	if compare(got, x) == nil {
		s.Expect(y)
		return
	}
	if err := compare(got, y); err != nil {
		e.Fatalf("%s: %v or %s", s.Name, err, describe(x))
	}
	s.Expect(x)
}

// fastAccess registers for one use at a time.
func fastAccess(e *env) {
	for _, c := range []struct {
		access      verbs.Access
		write, read bool
	}{
		{verbs.AccessLocalWrite | verbs.AccessRemoteWrite, true, false},
		{verbs.AccessRemoteRead, false, true},
		{0, false, false},
	} {
		for _, op := range []struct {
			op   verbs.WROpcode
			want verbs.WC
			ok   bool
		}{
			{verbs.WRRDMAWrite, Wrote(1), c.write},
			{verbs.WRRDMARead, Read(1), c.read},
		} {
			p := e.pair()
			key := fastRegister(p.B, p.B.AllocMR(10), make([]byte, 10), 0, c.access, 1)
			p.A.Post(verbs.SendWR{WRID: 1, Opcode: op.op, Flags: verbs.SendSignaled, SG: p.A.SG(make([]byte, 10)), RKey: key})
			if op.ok {
				p.A.Expect(op.want)
			} else {
				p.A.Expect(Failed(op.want, verbs.WCRemAccessErr))
			}
		}
	}
}

// badRegister posts a fast registration that bad has spoilt: it is refused at
// the post, or fails and takes the queue pair to Err.
func badRegister(e *env, bad func(s *Side, mr verbs.MR, buf []byte, wr *verbs.SendWR)) {
	p := e.pair()
	mr, buf := p.A.AllocMR(1000), make([]byte, 1000)
	wr := verbs.SendWR{WRID: 8, Opcode: verbs.WRRegMR, MR: mr, Buf: buf, Access: allAccess, RKey: mr.RKey()&^0xff | 9}
	bad(p.A, mr, buf, &wr)
	expectLocalFailure(e, p.A, wr, Registered(8))
}

func badLocalInv(e *env, key func(s *Side, mr verbs.MR) uint32) {
	p := e.pair()
	rkey := key(p.A, p.A.AllocMR(1000))
	expectLocalFailure(e, p.A, verbs.SendWR{WRID: 8, Opcode: verbs.WRLocalInv, RKey: rkey}, Invalidated(8))
}

// expectLocalFailure posts wr and one after it.
func expectLocalFailure(e *env, s *Side, wr verbs.SendWR, wc verbs.WC) {
	wrs := []verbs.SendWR{wr, {WRID: 9, SG: s.SG(make([]byte, 1))}}
	if err := s.Try(func() error { return s.QP.PostSend(wrs) }); err != nil {
		s.ExpectState(verbs.RTS)
		s.ExpectNone(10 * time.Millisecond)
		return
	}
	got := s.Next()
	if got.WRID != wc.WRID || got.Status != verbs.WCLocQPOpErr && got.Status != verbs.WCLocProtErr || got.Opcode != wc.Opcode {
		e.Errorf("completion %s, want WRID %d, %v to fail", describe(got), wc.WRID, wc.Opcode)
	}
	s.Expect(Flushed(Sent(9)))
	s.ExpectEvent()
	s.ExpectState(verbs.Err)
}

func registrationsThatAreNone(e *env) {
	s := NewSide(e.T, "A", e.a)
	attr := s.Node.Device.Attr()
	if _, err := s.PD.RegMR(nil, 0, allAccess); err == nil {
		e.Error("registered no memory")
	}
	if _, err := s.PD.RegMR(make([]byte, 100), ^uint64(0)-50, allAccess); err == nil {
		e.Error("registered memory across the end of all addresses")
	}
	for _, n := range []int{-1, 0, attr.MaxFastRegLen + 1} {
		if _, err := s.PD.AllocMR(n); err == nil {
			e.Errorf("allocated a region for %d bytes, at most are %d", n, attr.MaxFastRegLen)
		}
	}
}

// deregWhileWritten deregisters memory that the peer writes to all the while:
// when Dereg has returned, it is written no more.
func deregWhileWritten(e *env) {
	p := e.pair()
	const n = 1 << 16
	buf := make([]byte, n)
	mr := p.B.RegMR(buf, 0, allAccess)
	zero, one := make([]byte, n), make([]byte, n)
	for i := range one {
		one[i] = 0xff
	}
	wrs := make([]verbs.SendWR, 64)
	for i := range wrs {
		src := zero
		if i%2 == 1 {
			src = one
		}
		wrs[i] = verbs.SendWR{WRID: uint64(i), Opcode: verbs.WRRDMAWrite, Flags: verbs.SendSignaled, SG: p.A.SG(src), RKey: mr.RKey()}
	}
	p.A.Post(wrs...)
	p.A.Expect(Wrote(0), Wrote(1)) // under way
	p.B.Dereg(mr)
	// The memory is the test's alone again.
	Fill(buf, 1)
	for i := uint64(2); i < 64; i++ {
		if wc := p.A.Next(); wc.Status == verbs.WCRemAccessErr {
			break
		} else if wc.WRID != i || wc.Status != verbs.WCSuccess {
			e.Fatalf("A: completion %s", describe(wc))
		}
	}
	if err := Same(buf, Filled(n, 1)); err != nil {
		e.Errorf("after deregistration: %v", err)
	}
}

func deregTwice(e *env) {
	s := NewSide(e.T, "A", e.a)
	for _, mr := range []verbs.MR{s.RegMR(make([]byte, 10), 0, 0), s.AllocMR(10)} {
		s.Dereg(mr)
		if err := mr.Dereg(); err == nil {
			e.Error("deregistered twice")
		}
	}
}
