package verbstest

import (
	"github.com/fabrid/fabrid/verbs"
)

var localErrorChecks = []check{
	{"SEND from memory with a wrong key", func(e *env) {
		badLocal(e, verbs.WRSend, func(p *Pair, buf []byte) uint32 { return 0xbad00 })
	}},
	{"SEND from memory beyond its registration", func(e *env) {
		badLocal(e, verbs.WRSend, func(p *Pair, buf []byte) uint32 { return p.A.RegMR(buf[:len(buf)-1], 0, allAccess).LKey() })
	}},
	{"SEND from memory of another PD", func(e *env) {
		badLocal(e, verbs.WRSend, func(p *Pair, buf []byte) uint32 {
			return NewSide(e.T, "A's other PD", e.a).RegMR(buf, 0, allAccess).LKey()
		})
	}},
	{"RDMA WRITE from deregistered memory", func(e *env) {
		badLocal(e, verbs.WRRDMAWrite, func(p *Pair, buf []byte) uint32 {
			mr := p.A.RegMR(buf, 0, allAccess)
			key := mr.LKey()
			p.A.Dereg(mr)
			return key
		})
	}},
	{"RDMA READ to memory that may not be written", func(e *env) {
		badLocal(e, verbs.WRRDMARead, func(p *Pair, buf []byte) uint32 { return p.A.RegMR(buf, 0, 0).LKey() })
	}},
	{"receive into memory with a wrong key", func(e *env) {
		badReceiveMemory(e, func(p *Pair, buf []byte) uint32 { return 0xbad00 })
	}},
	{"receive into memory that may not be written", func(e *env) {
		badReceiveMemory(e, func(p *Pair, buf []byte) uint32 { return p.B.RegMR(buf, 0, 0).LKey() })
	}},
	{"receive into deregistered memory", func(e *env) {
		badReceiveMemory(e, func(p *Pair, buf []byte) uint32 {
			mr := p.B.RegMR(buf, 0, allAccess)
			key := mr.LKey()
			p.B.Dereg(mr)
			return key
		})
	}},
	{"an opcode that is none", unknownOpcode},
}

// badLocal has A post memory that it may not use: what was posted before
// completes, the work request fails without a packet, the rest is flushed, and
// B never hears of it.
func badLocal(e *env, op verbs.WROpcode, key func(p *Pair, buf []byte) uint32) {
	p := e.pair()
	m := p.B.Memory(100, 1, allAccess)
	buf := make([]byte, 100)
	p.B.PostRecv(1, Bufs(2, 100)...)
	opcode := map[verbs.WROpcode]verbs.WCOpcode{
		verbs.WRSend: verbs.WCSend, verbs.WRRDMAWrite: verbs.WCRDMAWrite, verbs.WRRDMARead: verbs.WCRDMARead,
	}[op]
	p.A.Post(verbs.SendWR{WRID: 1, Flags: verbs.SendSignaled, SG: p.A.SG(make([]byte, 7))})
	p.A.Expect(Sent(1))
	p.A.Post(
		verbs.SendWR{WRID: 2, Opcode: op, SG: []verbs.SGE{{Buf: buf, LKey: key(p, buf)}}, RemoteAddr: m.IOVA, RKey: m.MR.RKey()},
		verbs.SendWR{WRID: 3, SG: p.A.SG(make([]byte, 7))},
	)
	p.A.Expect(
		verbs.WC{WRID: 2, Opcode: opcode, Status: verbs.WCLocProtErr},
		Flushed(Sent(3)),
	)
	p.A.ExpectEvent()
	p.A.ExpectState(verbs.Err)
	p.B.Expect(Received(1, 7))
	p.B.ExpectState(verbs.RTS)
	m.ExpectAt("after a work request that failed at home", 0, nil)
}

// badReceiveMemory has B post a receive that it cannot take anything in with:
// the fault is B's, and A hears of it.
func badReceiveMemory(e *env, key func(p *Pair, buf []byte) uint32) {
	p := e.pair()
	buf := Filled(100, 1)
	lkey := key(p, buf)
	p.B.Do("post receive", func() error {
		return p.B.QP.PostRecv([]verbs.RecvWR{{WRID: 1, SG: []verbs.SGE{{Buf: buf, LKey: lkey}}}})
	})
	p.B.PostRecv(2, make([]byte, 100))
	sg := p.A.SG(Filled(100, 2))
	p.A.Post(verbs.SendWR{WRID: 3, SG: sg}, verbs.SendWR{WRID: 4, SG: sg})
	p.B.Expect(Failed(Received(1, 0), verbs.WCLocProtErr), Flushed(Received(2, 0)))
	p.A.Expect(Failed(Sent(3), verbs.WCRemOpErr), Flushed(Sent(4)))
	for _, s := range []*Side{p.A, p.B} {
		s.ExpectEvent()
		s.ExpectState(verbs.Err)
	}
	p.B.ExpectBytes("memory that may not be written", buf, Filled(100, 1))
}

// unknownOpcode is refused at the post, or fails.
func unknownOpcode(e *env) {
	p := e.pair()
	wrs := []verbs.SendWR{{WRID: 1, Opcode: 200, SG: p.A.SG(make([]byte, 10))}}
	err := p.A.Try(func() error { return p.A.QP.PostSend(wrs) })
	if err != nil {
		p.A.ExpectState(verbs.RTS)
		return
	}
	if wc := p.A.Next(); wc.WRID != 1 || wc.Status != verbs.WCLocQPOpErr {
		e.Errorf("completion %s, want %v", describe(wc), verbs.WCLocQPOpErr)
	}
	p.A.ExpectState(verbs.Err)
}

// refusedOpcode: what a provider does not have is refused at the post, or
// fails; it does not wait for ever.
func refusedOpcode(e *env, op verbs.WROpcode) {
	p := e.pair()
	m := p.B.Memory(10, 1, allAccess)
	p.B.PostRecv(5, make([]byte, 10))
	wrs := []verbs.SendWR{{WRID: 1, Opcode: op, SG: p.A.SG(make([]byte, 10)), RemoteAddr: m.IOVA, RKey: m.MR.RKey()}}
	if err := p.A.Try(func() error { return p.A.QP.PostSend(wrs) }); err != nil {
		p.A.ExpectState(verbs.RTS)
		return
	}
	if wc := p.A.Next(); wc.WRID != 1 || wc.Status == verbs.WCSuccess || wc.Status == verbs.WCWRFlushErr {
		e.Errorf("completion %s, want an error", describe(wc))
	}
	p.A.ExpectState(verbs.Err)
}
