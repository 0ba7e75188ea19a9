package verbstest

import (
	"fmt"
	"time"

	"github.com/fabrid/fabrid/verbs"
)

// transferChecks move data by every opcode, in every size at which a packet
// begins or ends, from and to memory in every shape.
func transferChecks() (checks []check) {
	for _, op := range []struct {
		name string
		op   verbs.WROpcode
	}{
		{"SEND", verbs.WRSend},
		{"SEND with immediate", verbs.WRSendWithImm},
		{"SEND with invalidate", verbs.WRSendWithInv},
		{"RDMA WRITE", verbs.WRRDMAWrite},
		{"RDMA WRITE with immediate", verbs.WRRDMAWriteWithImm},
		{"RDMA READ", verbs.WRRDMARead},
	} {
		checks = append(checks, check{op.name + " of all sizes", needs(func(e *env) { transferSizes(e, op.op) }, op.op)})
	}
	return append(checks,
		check{"both ways at once", bothWays},
		check{"immediate data both ways at once", needs(immediateBothWays, immediate...)},
		check{"registered local memory", registeredLocalMemory},
	)
}

// immediate is what a check uses that sends immediate data both ways that there
// are.
var immediate = []verbs.WROpcode{verbs.WRSendWithImm, verbs.WRRDMAWriteWithImm}

// A shape is how a message lies in memory: the lengths of its elements, as
// many as it takes of the whole, and where the first one begins.
type shape struct {
	name   string
	offset int
	sizes  func(n int) []int
}

var shapes = []shape{
	{"whole", 0, func(n int) []int { return []int{n} }},
	{"unaligned", 3, func(n int) []int { return []int{n} }},
	{"in pieces", 1, func(n int) []int { return []int{n / 3, 0, n/2 - n/3, n - n/2} }},
	{"a byte first", 2, func(n int) []int { return []int{min(n, 1), n - min(n, 1)} }},
}

// cut returns n bytes of memory as elements, and the memory in one piece.
func (h shape) cut(s *Side, n int) (all []byte, sg []verbs.SGE) {
	all = make([]byte, h.offset+n)[h.offset:]
	var bufs [][]byte
	rest := all
	for _, size := range h.sizes(n) {
		bufs = append(bufs, rest[:size:size])
		rest = rest[size:]
	}
	return all, s.SG(bufs...)
}

func sizes(mtu int) []int {
	return []int{0, 1, 2, 3, 4, 5, mtu - 1, mtu, mtu + 1, 2*mtu - 1, 2 * mtu, 2*mtu + 1, 7*mtu + 13, 64 * mtu, 1 << 20}
}

func transferSizes(e *env, op verbs.WROpcode) {
	p := e.pair()
	seed := 0
	for _, n := range sizes(e.cfg.MTU) {
		for i, h := range shapes {
			if n > 64*e.cfg.MTU && i > 0 {
				continue // large enough in one shape
			}
			// The other end has another shape, so that pieces do not match.
			peer := shapes[(i+2)%len(shapes)]
			seed += 1 << 8
			transfer(e, p, op, n, h, peer, seed)
			if e.Failed() {
				e.Fatalf("with %d bytes, %s here and %s there", n, h.name, peer.name)
			}
		}
	}
}

// transfer moves one message of n bytes and looks at both ends of it.
func transfer(e *env, p *Pair, op verbs.WROpcode, n int, here, there shape, seed int) {
	a, b := p.A, p.B
	local, sg := here.cut(a, n)
	wr := verbs.SendWR{WRID: uint64(seed), Opcode: op, Flags: verbs.SendSignaled, SG: sg}
	done := verbs.WC{WRID: wr.WRID, Opcode: verbs.WCSend}
	recv := Received(uint64(seed)+1, n)
	data := Filled(n, seed)

	switch op {
	case verbs.WRSend, verbs.WRSendWithImm, verbs.WRSendWithInv:
		copy(local, data)
		remote, rsg := there.cut(b, n)
		b.Do("post receive", func() error { return b.QP.PostRecv([]verbs.RecvWR{{WRID: recv.WRID, SG: rsg}}) })
		switch op {
		case verbs.WRSendWithImm:
			wr.Imm = uint32(seed) * 0x01010101
			recv.Flags, recv.Imm = verbs.WCWithImm, wr.Imm
		case verbs.WRSendWithInv:
			wr.RKey = fastRegister(b, b.AllocMR(64), make([]byte, 64), 0, allAccess, 1)
			recv.Flags, recv.InvRKey = verbs.WCWithInvalidate, wr.RKey
		}
		a.Post(wr)
		b.Expect(recv)
		a.Expect(done)
		b.ExpectBytes("received", remote, data)

	case verbs.WRRDMAWrite, verbs.WRRDMAWriteWithImm:
		copy(local, data)
		m := b.Memory(n+9, seed, verbs.AccessLocalWrite|verbs.AccessRemoteWrite)
		wr.RemoteAddr, wr.RKey = m.IOVA+5, m.MR.RKey()
		done.Opcode = verbs.WCRDMAWrite
		if op == verbs.WRRDMAWriteWithImm {
			wr.Imm = uint32(seed)
			recv.Flags, recv.Imm = verbs.WCWithImm, wr.Imm
			b.PostRecv(recv.WRID, nil) // takes no memory
		}
		a.Post(wr)
		if op == verbs.WRRDMAWriteWithImm {
			b.Expect(recv)
		}
		a.Expect(done)
		m.ExpectAt("written", 5, data)
		b.Dereg(m.MR)

	case verbs.WRRDMARead:
		m := b.Memory(n+9, seed, verbs.AccessRemoteRead)
		wr.RemoteAddr, wr.RKey = m.IOVA+5, m.MR.RKey()
		done.Opcode = verbs.WCRDMARead
		a.Post(wr)
		a.Expect(done)
		a.ExpectBytes("read", local, m.Buf[5:5+n])
		m.ExpectAt("after the RDMA READ", 0, nil)
		b.Dereg(m.MR)
	}
}

// fastRegister registers buf for fast access through a's own queue pair and
// returns its key, whose low byte is low.
func fastRegister(s *Side, mr verbs.MR, buf []byte, iova uint64, access verbs.Access, low uint8) uint32 {
	s.t.Helper()
	key := mr.RKey()&^0xff | uint32(low)
	s.Post(verbs.SendWR{
		WRID: 0x4e6, Opcode: verbs.WRRegMR, Flags: verbs.SendSignaled,
		MR: mr, Buf: buf, IOVA: iova, Access: access, RKey: key,
	})
	s.Expect(Registered(0x4e6))
	return key
}

// bothWays has both ends send, write and read at the same time.
func bothWays(e *env) {
	const rounds, n = 16, 5000
	p := e.pair()
	type end struct {
		s    *Side
		mem  *Memory
		src  []byte
		got  [][]byte // by SEND
		read [][]byte
	}
	ends := []*end{{s: p.A}, {s: p.B}}
	for i, x := range ends {
		x.mem = x.s.Memory(2*n, i+1, allAccess)
		x.src = Filled(n, 10+i)
		x.got, x.read = Bufs(rounds, n), Bufs(rounds, n)
		x.s.PostRecv(1000, x.got...)
	}
	for i, x := range ends {
		peer := ends[1-i]
		var wrs []verbs.SendWR
		for k := range uint64(rounds) {
			wrs = append(wrs,
				verbs.SendWR{WRID: 3 * k, Opcode: verbs.WRRDMAWrite, SG: x.s.SG(x.src), RemoteAddr: peer.mem.IOVA, RKey: peer.mem.MR.RKey()},
				verbs.SendWR{WRID: 3*k + 1, Opcode: verbs.WRSend, Flags: verbs.SendSignaled, SG: x.s.SG(x.src)},
				verbs.SendWR{WRID: 3*k + 2, Opcode: verbs.WRRDMARead, Flags: verbs.SendSignaled, SG: x.s.SG(x.read[k]), RemoteAddr: peer.mem.IOVA + n, RKey: peer.mem.MR.RKey()},
			)
		}
		x.s.Post(wrs...)
	}
	for i, x := range ends {
		sends, recvs := uint64(0), uint64(0)
		for range 3 * rounds {
			wc := x.s.Next()
			want := Received(1000+recvs, n)
			if wc.Opcode == verbs.WCRecv {
				recvs++
			} else {
				want = []verbs.WC{Sent(3*(sends/2) + 1), Read(3*(sends/2) + 2)}[sends%2]
				sends++
			}
			want.QPN = x.s.QP.Num()
			if err := compare(wc, want); err != nil {
				e.Fatalf("%s: %v", x.s.Name, err)
			}
		}
		x.mem.ExpectAt("written", 0, ends[1-i].src)
		for k := range rounds {
			x.s.ExpectBytes(fmt.Sprintf("SEND %d", k), x.got[k], ends[1-i].src)
			x.s.ExpectBytes(fmt.Sprintf("RDMA READ %d", k), x.read[k], Filled(2*n+2*margin, 2-i)[margin+n:margin+2*n])
		}
	}
}

// immediateBothWays has both ends send immediate data by SEND and by RDMA WRITE in
// turn: each takes one receive, in order, and a WRITE touches no memory of its.
func immediateBothWays(e *env) {
	const rounds, n = 8, 3000
	p := e.pair()
	sides := []*Side{p.A, p.B}
	var mem [2]*Memory
	var got [2][][]byte
	for i, s := range sides {
		mem[i], got[i] = s.Memory(n*rounds, i+1, allAccess), Bufs(rounds, n)
		s.PostRecv(100, got[i]...)
	}
	data := func(side, k int) []byte { return Filled(n-k, 10*side+k) }
	for i, s := range sides {
		peer := mem[1-i]
		var wrs []verbs.SendWR
		for k := range rounds {
			wr := verbs.SendWR{WRID: uint64(k), Opcode: verbs.WRSendWithImm, Flags: verbs.SendSignaled, SG: s.SG(data(i, k)), Imm: uint32(i<<16 + k)}
			if k%2 == 1 {
				wr.Opcode, wr.RemoteAddr, wr.RKey = verbs.WRRDMAWriteWithImm, peer.IOVA+uint64(k*n), peer.MR.RKey()
			}
			wrs = append(wrs, wr)
		}
		s.Post(wrs...)
	}
	for i, s := range sides {
		sends, recvs := 0, 0
		for range 2 * rounds {
			wc, want := s.Next(), verbs.WC{}
			if wc.Opcode == verbs.WCRecv {
				want = Received(uint64(100+recvs), n-recvs)
				want.Flags, want.Imm = verbs.WCWithImm, uint32((1-i)<<16+recvs)
				recvs++
			} else {
				want = []verbs.WC{Sent(uint64(sends)), Wrote(uint64(sends))}[sends%2]
				sends++
			}
			want.QPN = s.QP.Num()
			if err := compare(wc, want); err != nil {
				e.Fatalf("%s: %v", s.Name, err)
			}
		}
		for k := range rounds {
			want, where := data(1-i, k), got[i][k][:n-k]
			if k%2 == 1 {
				s.ExpectBytes("the receive of a WRITE", where, make([]byte, n-k))
				where = mem[i].Buf[k*n:][:n-k]
			}
			s.ExpectBytes(fmt.Sprintf("message %d", k), where, want)
		}
		s.ExpectNone(time.Millisecond)
	}
}

// registeredLocalMemory uses memory under its own key instead of that for all
// memory.
func registeredLocalMemory(e *env) {
	p := e.pair()
	src, dst := Filled(3000, 1), make([]byte, 3000)
	out := p.A.RegMR(src, 0, 0)
	in := p.B.RegMR(dst, 0, verbs.AccessLocalWrite)
	p.B.Do("post receive", func() error {
		return p.B.QP.PostRecv([]verbs.RecvWR{{WRID: 2, SG: []verbs.SGE{{Buf: dst[:1000], LKey: in.LKey()}, {Buf: dst[1000:], LKey: in.LKey()}}}})
	})
	p.A.Post(verbs.SendWR{WRID: 1, Flags: verbs.SendSignaled, SG: []verbs.SGE{{Buf: src, LKey: out.LKey()}}})
	p.A.Expect(Sent(1))
	p.B.Expect(Received(2, 3000))
	p.B.ExpectBytes("received", dst, src)
}
