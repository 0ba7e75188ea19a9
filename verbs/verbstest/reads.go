package verbstest

import (
	"fmt"

	"github.com/fabrid/fabrid/verbs"
)

var readChecks = []check{
	{"RDMA READs beyond MaxRdAtomic wait", func(e *env) { manyReads(e, 2, 16, 3000) }},
	{"RDMA READs one at a time", func(e *env) { manyReads(e, 1, 12, 10_000) }},
	{"RDMA READs of more than a window", func(e *env) { manyReads(e, 4, 8, 1<<20) }},
	{"RDMA READs and others in turn", readsAndOthers},
	{"no RDMA READs allowed", noReadsAllowed},
}

func manyReads(e *env, depth, count, n int) {
	p := e.pair(func(a *Attr) { a.QP.MaxRdAtomic, a.QP.MaxDestRd = depth, depth })
	m := p.B.Memory(n+count, 1, verbs.AccessRemoteRead)
	bufs := Bufs(count, n)
	var wrs []verbs.SendWR
	var want []verbs.WC
	for i, b := range bufs {
		wrs = append(wrs, verbs.SendWR{
			WRID: uint64(i), Opcode: verbs.WRRDMARead, Flags: verbs.SendSignaled,
			SG: p.A.SG(b), RemoteAddr: m.IOVA + uint64(i), RKey: m.MR.RKey(),
		})
		want = append(want, Read(uint64(i)))
	}
	p.A.Post(wrs...)
	p.A.Expect(want...)
	for i, b := range bufs {
		p.A.ExpectBytes(fmt.Sprintf("RDMA READ %d", i), b, m.Buf[i:i+n])
	}
}

// readsAndOthers posts what may overtake nothing behind READs that wait.
func readsAndOthers(e *env) {
	const n = 5000
	p := e.pair(func(a *Attr) { a.QP.MaxRdAtomic, a.QP.MaxDestRd = 1, 1 })
	m := p.B.Memory(2*n, 1, allAccess)
	old := append([]byte(nil), m.Buf[:n]...)
	data := Filled(n, 2)
	first, second := make([]byte, n), make([]byte, n)
	p.B.PostRecv(7, make([]byte, 1))
	read := func(id uint64, b []byte) verbs.SendWR {
		return verbs.SendWR{WRID: id, Opcode: verbs.WRRDMARead, Flags: verbs.SendSignaled, SG: p.A.SG(b), RemoteAddr: m.IOVA, RKey: m.MR.RKey()}
	}
	p.A.Post(
		read(1, first),
		verbs.SendWR{WRID: 2, Opcode: verbs.WRRDMAWrite, Flags: verbs.SendSignaled | verbs.SendFence, SG: p.A.SG(data), RemoteAddr: m.IOVA, RKey: m.MR.RKey()},
		read(3, second),
		verbs.SendWR{WRID: 4, Flags: verbs.SendSignaled, SG: p.A.SG(make([]byte, 1))},
	)
	p.A.Expect(Read(1), Wrote(2), Read(3), Sent(4))
	p.B.Expect(Received(7, 1))
	p.A.ExpectBytes("read before the WRITE", first, old)
	p.A.ExpectBytes("read after the WRITE", second, data)
}

// noReadsAllowed: with no depth a READ cannot be carried out; it fails rather
// than wait for ever.
func noReadsAllowed(e *env) {
	p := e.pair(func(a *Attr) { a.QP.MaxRdAtomic, a.QP.MaxDestRd = 0, 0 })
	m := p.B.Memory(10, 1, verbs.AccessRemoteRead)
	p.A.Post(verbs.SendWR{WRID: 1, Opcode: verbs.WRRDMARead, SG: p.A.SG(make([]byte, 10)), RemoteAddr: m.IOVA, RKey: m.MR.RKey()})
	wc := p.A.Next()
	if wc.WRID != 1 || wc.Status == verbs.WCSuccess {
		e.Errorf("completion %s, want an error", describe(wc))
	}
	p.A.ExpectEvent()
	p.A.ExpectState(verbs.Err)
}
