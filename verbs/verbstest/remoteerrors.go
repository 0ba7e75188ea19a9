package verbstest

import (
	"github.com/fabrid/fabrid/verbs"
)

// A badAccess is a way to reach for memory that is not to be reached. aim spoils
// wr, which reaches for all of m with its key and is allowed to.
type badAccess struct {
	name string
	attr func(*Attr)
	aim  func(e *env, p *Pair, m *Memory, wr *verbs.SendWR)
}

var badAccesses = []badAccess{
	{"with another key", nil, func(e *env, p *Pair, m *Memory, wr *verbs.SendWR) { wr.RKey += 1 << 8 }},
	{"with the key of another time", nil, func(e *env, p *Pair, m *Memory, wr *verbs.SendWR) { wr.RKey ^= 1 }},
	{"with the key 0", nil, func(e *env, p *Pair, m *Memory, wr *verbs.SendWR) { wr.RKey = 0 }},
	{"with a key beyond all", nil, func(e *env, p *Pair, m *Memory, wr *verbs.SendWR) { wr.RKey = 0xffffffff }},
	{"with the key for local memory", nil, func(e *env, p *Pair, m *Memory, wr *verbs.SendWR) {
		if p.B.hasLKey {
			wr.RKey = p.B.lkey
		} else {
			wr.RKey = 0
		}
	}},
	{"one byte beyond", nil, func(e *env, p *Pair, m *Memory, wr *verbs.SendWR) { wr.RemoteAddr++ }},
	{"one byte before", nil, func(e *env, p *Pair, m *Memory, wr *verbs.SendWR) { wr.RemoteAddr-- }},
	{"after the end", nil, func(e *env, p *Pair, m *Memory, wr *verbs.SendWR) { wr.RemoteAddr += uint64(len(m.Buf)) }},
	{"at address 0", nil, func(e *env, p *Pair, m *Memory, wr *verbs.SendWR) { wr.RemoteAddr = 0 }},
	{"at the end of all addresses", nil, func(e *env, p *Pair, m *Memory, wr *verbs.SendWR) {
		wr.RemoteAddr = ^uint64(0) - uint64(len(m.Buf)) + 1
	}},
	{"across the end of all addresses", nil, func(e *env, p *Pair, m *Memory, wr *verbs.SendWR) { wr.RemoteAddr = ^uint64(0) - 5 }},
	{"to memory for another use", nil, func(e *env, p *Pair, m *Memory, wr *verbs.SendWR) {
		access := verbs.AccessLocalWrite | verbs.AccessRemoteRead
		if wr.Opcode == verbs.WRRDMARead {
			access = verbs.AccessLocalWrite | verbs.AccessRemoteWrite
		}
		wr.RKey = p.B.RegMR(m.Buf, m.IOVA, access).RKey()
	}},
	{"to memory for local use", nil, func(e *env, p *Pair, m *Memory, wr *verbs.SendWR) {
		wr.RKey = p.B.RegMR(m.Buf, m.IOVA, verbs.AccessLocalWrite).RKey()
	}},
	{"to memory of another PD", nil, func(e *env, p *Pair, m *Memory, wr *verbs.SendWR) {
		other := NewSide(e.T, "B's other PD", e.b)
		wr.RKey = other.RegMR(m.Buf, m.IOVA, allAccess).RKey()
	}},
	{"to deregistered memory", nil, func(e *env, p *Pair, m *Memory, wr *verbs.SendWR) {
		mr := p.B.RegMR(m.Buf, m.IOVA, allAccess)
		wr.RKey = mr.RKey()
		p.B.Dereg(mr)
	}},
	{"to memory never registered", nil, func(e *env, p *Pair, m *Memory, wr *verbs.SendWR) {
		wr.RKey = p.B.AllocMR(len(m.Buf)).RKey()
	}},
	{"to invalidated memory", nil, func(e *env, p *Pair, m *Memory, wr *verbs.SendWR) {
		wr.RKey = fastRegister(p.B, p.B.AllocMR(len(m.Buf)), m.Buf, m.IOVA, allAccess, 1)
		p.B.Post(verbs.SendWR{WRID: 5, Opcode: verbs.WRLocalInv, Flags: verbs.SendSignaled, RKey: wr.RKey})
		p.B.Expect(Invalidated(5))
	}},
	{"with the key of the registration before", nil, func(e *env, p *Pair, m *Memory, wr *verbs.SendWR) {
		mr := p.B.AllocMR(len(m.Buf))
		wr.RKey = fastRegister(p.B, mr, m.Buf, m.IOVA, allAccess, 1)
		p.B.Post(verbs.SendWR{WRID: 5, Opcode: verbs.WRLocalInv, Flags: verbs.SendSignaled, RKey: wr.RKey})
		p.B.Expect(Invalidated(5))
		fastRegister(p.B, mr, m.Buf, m.IOVA, allAccess, 2)
	}},
	{"over a queue pair that does not allow it", func(a *Attr) { a.AccessB = verbs.AccessLocalWrite }, func(e *env, p *Pair, m *Memory, wr *verbs.SendWR) {}},
}

func remoteErrorChecks() (checks []check) {
	for _, op := range []struct {
		name string
		op   verbs.WROpcode
	}{
		{"RDMA WRITE", verbs.WRRDMAWrite},
		{"RDMA WRITE with immediate", verbs.WRRDMAWriteWithImm},
		{"RDMA READ", verbs.WRRDMARead},
	} {
		for _, bad := range badAccesses {
			checks = append(checks, check{op.name + " " + bad.name, needs(func(e *env) {
				accessRefused(e, op.op, bad, 1000)
				accessRefused(e, op.op, bad, 3*e.cfg.MTU+8)
			}, op.op)})
		}
	}
	return append(checks,
		check{"the right key and bounds", rightBounds},
		check{"nothing needs no key", needs(nothingNeedsNoKey, immediate...)},
		check{"SEND with invalidate makes a key invalid", sendInvalidates},
		check{"SEND with invalidate of a wrong key", func(e *env) {
			badInvalidate(e, func(p *Pair) uint32 { return p.B.AllocMR(10).RKey() + 1<<8 })
		}},
		check{"SEND with invalidate of an invalid key", func(e *env) {
			badInvalidate(e, func(p *Pair) uint32 { return p.B.AllocMR(10).RKey() })
		}},
		check{"SEND with invalidate of a key that is no fast registration's", func(e *env) {
			badInvalidate(e, func(p *Pair) uint32 { return p.B.RegMR(make([]byte, 10), 0, allAccess).RKey() })
		}},
		check{"SEND with invalidate of another PD's key", func(e *env) {
			badInvalidate(e, func(p *Pair) uint32 {
				// A PD of the same device, with a connection of its own.
				other := Connect(e.T, e.a, e.b, DefaultAttr(e.cfg.MTU))
				return fastRegister(other.B, other.B.AllocMR(10), make([]byte, 10), 0, allAccess, 1)
			})
		}},
	)
}

// accessRefused has A reach for n bytes of B's memory in a way that is not
// allowed: A's work request fails, B's memory is untouched, all of it, and both
// ends go to Err and flush what is left, in order.
func accessRefused(e *env, op verbs.WROpcode, bad badAccess, n int) {
	var mods []func(*Attr)
	if bad.attr != nil {
		mods = append(mods, bad.attr)
	}
	p := e.pair(mods...)
	m := p.B.Memory(n, 1, allAccess)
	local := Filled(n, 2)
	wr := verbs.SendWR{
		WRID: 20, Opcode: op, SG: p.A.SG(local),
		RemoteAddr: m.IOVA, RKey: m.MR.RKey(), Imm: 1,
	}
	bad.aim(e, p, m, &wr)
	p.A.PostRecv(10, Bufs(2, 10)...)
	p.B.PostRecv(30, Bufs(2, 10)...)
	p.B.ExpectState(verbs.RTS)
	one := p.A.SG(make([]byte, 1))
	p.A.Post(
		wr,
		verbs.SendWR{WRID: 21, SG: one}, // flushed: visible, though not signaled
		verbs.SendWR{WRID: 22, Opcode: verbs.WRRDMARead, Flags: verbs.SendFence, SG: one, RemoteAddr: m.IOVA, RKey: m.MR.RKey()},
	)

	opcode := verbs.WCRDMAWrite
	if op == verbs.WRRDMARead {
		opcode = verbs.WCRDMARead
	}
	first := p.A.Next()
	status := verbs.WCRemAccessErr
	if bad.attr != nil && first.Status == verbs.WCRemInvReqErr {
		status = first.Status // [IBTA] 9.7.5.2.4 lets responders choose here
	}
	failed := verbs.WC{WRID: 20, Opcode: opcode, Status: status, QPN: p.A.QP.Num()}
	if err := compare(first, failed); err != nil {
		e.Errorf("A: %v", err)
	}
	// B's receives are untouched by the two that follow: B is in Err.
	expectFlushed(e, p.A, []uint64{21, 22}, []uint64{10, 11})
	expectFlushed(e, p.B, nil, []uint64{30, 31})
	for _, s := range []*Side{p.A, p.B} {
		s.ExpectEvent()
		s.ExpectState(verbs.Err)
		s.ExpectNoEvent()
	}
	m.ExpectAt("after a refused access", 0, nil)
	if op == verbs.WRRDMARead {
		p.A.ExpectBytes("where a refused RDMA READ went", local, Filled(n, 2))
	}
}

// expectFlushed expects those sends and receives to be flushed, each queue in
// its order; the two have none between them.
func expectFlushed(e *env, s *Side, sends, recvs []uint64) {
	e.Helper()
	for range len(sends) + len(recvs) {
		wc := s.Next()
		switch {
		case wc.Status != verbs.WCWRFlushErr || wc.QPN != s.QP.Num():
			e.Fatalf("%s: completion %s, want a flush", s.Name, describe(wc))
		case len(sends) > 0 && wc.WRID == sends[0]:
			sends = sends[1:]
		case len(recvs) > 0 && wc.WRID == recvs[0]:
			recvs = recvs[1:]
		default:
			e.Fatalf("%s: flushed WRID %d, left are sends %v and receives %v", s.Name, wc.WRID, sends, recvs)
		}
	}
}

// rightBounds reaches every edge of what is allowed.
func rightBounds(e *env) {
	p := e.pair()
	for _, at := range []struct {
		iova uint64
		off  uint64
		n    int
	}{
		{0, 0, 1000}, {0, 999, 1}, {0, 0, 1}, {5000, 0, 1000}, {5000, 500, 500},
		{^uint64(0) - 1000, 0, 1000}, {^uint64(0) - 1000, 999, 1},
	} {
		buf := Filled(1000, 1)
		mr := p.B.RegMR(buf, at.iova, allAccess)
		src, dst := Filled(at.n, 2), make([]byte, at.n)
		p.A.Post(
			verbs.SendWR{WRID: 1, Opcode: verbs.WRRDMAWrite, Flags: verbs.SendSignaled, SG: p.A.SG(src), RemoteAddr: at.iova + at.off, RKey: mr.RKey()},
			verbs.SendWR{WRID: 2, Opcode: verbs.WRRDMARead, Flags: verbs.SendSignaled, SG: p.A.SG(dst), RemoteAddr: at.iova + at.off, RKey: mr.RKey()},
		)
		p.A.Expect(Wrote(1), Read(2))
		p.A.ExpectBytes("read back", dst, src)
		want := Filled(1000, 1)
		copy(want[at.off:], src)
		p.B.ExpectBytes("written", buf, want)
		p.B.Dereg(mr)
	}
}

// nothingNeedsNoKey: key and address of an RDMA of length zero are not looked
// at ([IBTA] 9.7.4.1.5).
func nothingNeedsNoKey(e *env) {
	p := e.pair()
	p.B.PostRecv(9, nil)
	p.A.Post(
		verbs.SendWR{WRID: 1, Opcode: verbs.WRRDMAWrite, Flags: verbs.SendSignaled, RemoteAddr: 1, RKey: 0xbad},
		verbs.SendWR{WRID: 2, Opcode: verbs.WRRDMARead, Flags: verbs.SendSignaled, RemoteAddr: 2, RKey: 0xbad},
		verbs.SendWR{WRID: 3, Opcode: verbs.WRRDMAWriteWithImm, Flags: verbs.SendSignaled, RemoteAddr: 3, RKey: 0xbad, Imm: 4},
	)
	p.A.Expect(Wrote(1), Read(2), Wrote(3))
	want := Received(9, 0)
	want.Flags, want.Imm = verbs.WCWithImm, 4
	p.B.Expect(want)
}

// sendInvalidates has A use a key of B's and then invalidate it, after which it
// is of no use.
func sendInvalidates(e *env) {
	p := e.pair()
	mr := p.B.AllocMR(100)
	buf := Filled(100, 1)
	key := fastRegister(p.B, mr, buf, 7, allAccess, 0x33)
	if mr.RKey() != key {
		e.Errorf("RKey after registration is %#x, want %#x", mr.RKey(), key)
	}
	p.B.PostRecv(1, Bufs(3, 10)...)
	src := Filled(100, 2)
	p.A.Post(
		verbs.SendWR{WRID: 1, Opcode: verbs.WRRDMAWrite, SG: p.A.SG(src), RemoteAddr: 7, RKey: key},
		verbs.SendWR{WRID: 2, Opcode: verbs.WRSendWithInv, Flags: verbs.SendSignaled, SG: p.A.SG(src[:10]), RKey: key},
	)
	p.A.Expect(Sent(2))
	want := Received(1, 10)
	want.Flags, want.InvRKey = verbs.WCWithInvalidate, key
	p.B.Expect(want)
	p.B.ExpectBytes("written before the invalidation", buf, src)

	p.A.Post(verbs.SendWR{WRID: 3, Opcode: verbs.WRRDMAWrite, SG: p.A.SG(make([]byte, 100)), RemoteAddr: 7, RKey: key})
	p.A.Expect(Failed(Wrote(3), verbs.WCRemAccessErr))
	expectFlushed(e, p.B, nil, []uint64{2, 3})
	p.B.ExpectBytes("after the invalidation", buf, src)
}

// badInvalidate has A invalidate a key that it cannot: B's receive fails and B
// goes to Err. What A hears is up to the provider: the message has arrived
// ([IBTA] 9.9.6.3, class J, has it acknowledged).
func badInvalidate(e *env, key func(p *Pair) uint32) {
	p := e.pair()
	rkey := key(p)
	p.B.PostRecv(1, Bufs(2, 10)...)
	p.A.Post(verbs.SendWR{WRID: 2, Opcode: verbs.WRSendWithInv, Flags: verbs.SendSignaled, SG: p.A.SG(make([]byte, 10)), RKey: rkey})
	wc := p.B.Next()
	if wc.WRID != 1 || wc.Status == verbs.WCSuccess || wc.Status == verbs.WCWRFlushErr {
		e.Errorf("B: completion %s, want receive 1 to fail", describe(wc))
	}
	p.B.Expect(Flushed(Received(2, 0)))
	p.B.ExpectEvent()
	p.B.ExpectState(verbs.Err)
	if wc := p.A.Next(); wc.WRID != 2 {
		e.Errorf("A: completion %s, want that of WRID 2", describe(wc))
	}
}
