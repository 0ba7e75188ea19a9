package verbstest

import (
	"time"

	"github.com/fabrid/fabrid/verbs"
)

var orderChecks = []check{
	{"completions come in the order of posting", needs(completionsInOrder, immediate...)},
	{"unsignaled work completes silently", unsignaledIsSilent},
	{"SQSigAll makes all work visible", sigAll},
	{"receives complete in the order of posting", receivesInOrder},
	{"writes are there before the SEND after them", writesBeforeSend},
	{"fence waits for RDMA READs", fence},
	{"a batch is one post", batchOfAll},
}

// completionsInOrder posts one of everything, fast and slow, in one batch.
func completionsInOrder(e *env) {
	p := e.pair()
	m := p.B.Memory(100_000, 1, allAccess)
	mr := p.A.AllocMR(100)
	key := mr.RKey()&^0xff | 7
	p.B.PostRecv(100, Bufs(2, 20_000)...)
	big, small := p.A.SG(make([]byte, 20_000)), p.A.SG(make([]byte, 1))
	local := make([]byte, 100)
	wrs := []verbs.SendWR{
		{Opcode: verbs.WRRDMARead, SG: big, RemoteAddr: m.IOVA, RKey: m.MR.RKey()},
		{Opcode: verbs.WRSend, SG: small},
		{Opcode: verbs.WRRegMR, MR: mr, Buf: local, RKey: key},
		{Opcode: verbs.WRRDMAWrite, SG: big, RemoteAddr: m.IOVA + 50_000, RKey: m.MR.RKey()},
		{Opcode: verbs.WRRDMARead, SG: small, RemoteAddr: m.IOVA, RKey: m.MR.RKey()},
		{Opcode: verbs.WRLocalInv, RKey: key},
		{Opcode: verbs.WRSendWithImm, SG: big, Imm: 5},
		{Opcode: verbs.WRRDMARead, SG: big, RemoteAddr: m.IOVA, RKey: m.MR.RKey()},
	}
	var want []verbs.WC
	for i := range wrs {
		wrs[i].WRID = uint64(i)
		wrs[i].Flags = verbs.SendSignaled
	}
	want = []verbs.WC{Read(0), Sent(1), Registered(2), Wrote(3), Read(4), Invalidated(5), Sent(6), Read(7)}
	p.A.Post(wrs...)
	p.A.Expect(want...)
	withImm := Received(101, 20_000)
	withImm.Flags, withImm.Imm = verbs.WCWithImm, 5
	p.B.Expect(Received(100, 1), withImm)
}

func unsignaledIsSilent(e *env) {
	p := e.pair()
	m := p.B.Memory(100, 1, allAccess)
	p.B.PostRecv(1, Bufs(3, 10)...)
	sg := p.A.SG(make([]byte, 10))
	p.A.Post(
		verbs.SendWR{WRID: 1, SG: sg},
		verbs.SendWR{WRID: 2, Opcode: verbs.WRRDMAWrite, SG: sg, RemoteAddr: m.IOVA, RKey: m.MR.RKey()},
		verbs.SendWR{WRID: 3, Opcode: verbs.WRRDMARead, SG: sg, RemoteAddr: m.IOVA, RKey: m.MR.RKey()},
		verbs.SendWR{WRID: 4, Flags: verbs.SendSignaled, SG: sg},
		verbs.SendWR{WRID: 5, SG: sg},
	)
	p.A.Expect(Sent(4))
	p.B.Expect(Received(1, 10), Received(2, 10), Received(3, 10))
	p.A.ExpectNone(100 * time.Millisecond)
}

func sigAll(e *env) {
	p := e.pair(func(a *Attr) { a.Init.SQSigAll = true })
	p.B.PostRecv(1, Bufs(2, 10)...)
	sg := p.A.SG(make([]byte, 10))
	p.A.Post(verbs.SendWR{WRID: 1, SG: sg}, verbs.SendWR{WRID: 2, Flags: verbs.SendSignaled, SG: sg})
	p.A.Expect(Sent(1), Sent(2))
	p.B.Expect(Received(1, 10), Received(2, 10))
}

func receivesInOrder(e *env) {
	p := e.pair()
	bufs := Bufs(64, 3000)
	p.B.PostRecv(1, bufs...)
	var wrs []verbs.SendWR
	var want []verbs.WC
	for i := range 64 {
		n := i * 37
		wrs = append(wrs, verbs.SendWR{WRID: uint64(i), SG: p.A.SG(Filled(n, i))})
		want = append(want, Received(uint64(i)+1, n))
	}
	wrs[63].Flags = verbs.SendSignaled
	p.A.Post(wrs...)
	p.B.Expect(want...)
	p.A.Expect(Sent(63))
	for i, b := range bufs {
		p.B.ExpectBytes("a message", b[:i*37], Filled(i*37, i))
	}
}

// writesBeforeSend looks at the written memory from within the handler of the
// SEND's receive.
func writesBeforeSend(e *env) {
	p := e.pair()
	const n = 100_000
	m := p.B.Memory(n, 1, allAccess)
	p.B.PostRecv(1, make([]byte, 4))
	data := Filled(n, 2)
	seen := make(chan error, 1)
	p.B.Do("set the handler", func() error {
		p.B.OnCompletion = func([]verbs.WC) bool {
			seen <- Same(m.Buf, data)
			return false
		}
		return nil
	})
	p.A.Post(
		verbs.SendWR{WRID: 1, Opcode: verbs.WRRDMAWrite, SG: p.A.SG(data), RemoteAddr: m.IOVA, RKey: m.MR.RKey()},
		verbs.SendWR{WRID: 2, Flags: verbs.SendSignaled, SG: p.A.SG(make([]byte, 4))},
	)
	p.B.Expect(Received(1, 4))
	if err := <-seen; err != nil {
		e.Errorf("when the SEND had come: %v", err)
	}
	p.A.Expect(Sent(2))
}

// fence reads into a buffer, and sends that buffer behind a fence: what is sent
// is what was read.
func fence(e *env) {
	p := e.pair()
	const n = 50_000
	m := p.B.Memory(n, 3, allAccess)
	buf, got := make([]byte, n), make([]byte, n)
	p.B.PostRecv(9, got)
	mr := p.A.AllocMR(n)
	key := fastRegister(p.A, mr, buf, 0, verbs.AccessLocalWrite, 1)
	sg := []verbs.SGE{{Buf: buf, LKey: key}}
	p.A.Post(
		verbs.SendWR{WRID: 1, Opcode: verbs.WRRDMARead, SG: sg, RemoteAddr: m.IOVA, RKey: m.MR.RKey()},
		verbs.SendWR{WRID: 2, Opcode: verbs.WRSend, Flags: verbs.SendFence, SG: p.A.SG(buf)},
		verbs.SendWR{WRID: 3, Opcode: verbs.WRRDMARead, SG: sg, RemoteAddr: m.IOVA, RKey: m.MR.RKey()},
		// Without the fence the key would be gone before the data has come.
		verbs.SendWR{WRID: 4, Opcode: verbs.WRLocalInv, Flags: verbs.SendFence | verbs.SendSignaled, RKey: key},
	)
	p.B.Expect(Received(9, n))
	p.A.Expect(Invalidated(4))
	p.B.ExpectBytes("what was read and sent back", got, m.Buf)
}

// batchOfAll posts 64 work requests at once and again, which turns the ring.
func batchOfAll(e *env) {
	p := e.pair()
	m := p.B.Memory(64*8, 1, allAccess)
	for round := range 5 {
		var wrs []verbs.SendWR
		data := Filled(64*8, round)
		for i := range 64 {
			wrs = append(wrs, verbs.SendWR{
				WRID: uint64(i), Opcode: verbs.WRRDMAWrite, SG: p.A.SG(data[8*i : 8*i+8]),
				RemoteAddr: m.IOVA + uint64(8*i), RKey: m.MR.RKey(),
			})
		}
		wrs[63].Flags = verbs.SendSignaled
		p.A.Post(wrs...)
		p.A.Expect(Wrote(63))
		m.ExpectAt("written", 0, data)
	}
}
