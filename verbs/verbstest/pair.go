package verbstest

import (
	"fmt"
	"testing"

	"github.com/fabrid/fabrid/verbs"
)

// Attr is how the queue pairs of a [Pair] are made and connected; both alike,
// but for what belongs to a direction.
type Attr struct {
	Init verbs.QPInitAttr
	QP   verbs.QPAttr // the path's addresses and the QPNs are filled in

	// PSNs that A and B send from.
	PSNA, PSNB uint32
	// AccessA and AccessB are what each end's queue pair allows the other.
	AccessA, AccessB verbs.Access
	// SRQ, if set, makes the shared receive queue of B's queue pair.
	SRQ func(b *Side) verbs.SRQ
}

const allAccess = verbs.AccessLocalWrite | verbs.AccessRemoteRead | verbs.AccessRemoteWrite

// DefaultAttr is good for most tests: a path MTU of mtu, 64 work requests of 4
// elements, 4 RDMA READs, retries without end for a receiver that is not
// ready and seven for silence.
func DefaultAttr(mtu int) Attr {
	return Attr{
		Init: verbs.QPInitAttr{MaxSendWR: 64, MaxRecvWR: 64, MaxSendSGE: 4, MaxRecvSGE: 4},
		QP: verbs.QPAttr{
			Path:        verbs.Path{MTU: mtu, HopLimit: 64},
			MaxRdAtomic: 4, MaxDestRd: 4,
			RetryCnt: 7, RNRRetry: 7,
			Timeout:     14, // 67 ms
			MinRNRTimer: 12, // 0.64 ms
		},
		PSNA: 0x123456, PSNB: 0x654321,
		AccessA: allAccess, AccessB: allAccess,
	}
}

// A Pair is two connected queue pairs on two nodes.
type Pair struct{ A, B *Side }

// Connect makes a pair.
func Connect(t testing.TB, a, b Node, attr Attr) *Pair {
	t.Helper()
	p := &Pair{A: NewSide(t, "A", a), B: NewSide(t, "B", b)}
	initB := attr.Init
	if attr.SRQ != nil {
		initB.SRQ = attr.SRQ(p.B)
	}
	p.A.QP = p.A.CreateQP(attr.Init)
	p.B.QP = p.B.CreateQP(initB)
	p.ConnectQPs(p.A.QP, p.B.QP, attr)
	return p
}

// ConnectQPs connects two queue pairs in Init, one of each side.
func (p *Pair) ConnectQPs(a, b verbs.QP, attr Attr) {
	p.A.t.Helper()
	connect := func(s, peer *Side, qp, peerQP verbs.QP, sq, rq uint32, access verbs.Access) {
		at := attr.QP
		at.Path.Local, at.Path.Remote = s.Node.Addr, peer.Node.Addr
		at.DestQPN = peerQP.Num()
		at.SQPSN, at.RQPSN = sq, rq
		at.RemoteAccess = access
		s.Do("connect QP", func() error { return qp.Connect(at) })
	}
	connect(p.A, p.B, a, b, attr.PSNA, attr.PSNB, attr.AccessA)
	connect(p.B, p.A, b, a, attr.PSNB, attr.PSNA, attr.AccessB)
}

// Fill writes a pattern to b that depends on seed and position.
func Fill(b []byte, seed int) {
	x := uint32(seed)*2654435761 + 1
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
}

// Filled returns n bytes of Fill.
func Filled(n, seed int) []byte {
	b := make([]byte, n)
	Fill(b, seed)
	return b
}

// Same returns an error that says where got and want differ.
func Same(got, want []byte) error {
	if len(got) != len(want) {
		return fmt.Errorf("%d bytes, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			return fmt.Errorf("byte %d of %d is %#02x, want %#02x", i, len(got), got[i], want[i])
		}
	}
	return nil
}

// ExpectBytes compares memory that the loop writes, on the loop.
func (s *Side) ExpectBytes(what string, got, want []byte) {
	s.t.Helper()
	if err := s.Try(func() error { return Same(got, want) }); err != nil {
		s.t.Errorf("%s: %s: %v", s.Name, what, err)
	}
}

// Memory is registered memory of a side, with a margin before and after that
// nobody is to write to.
type Memory struct {
	MR   verbs.MR
	Buf  []byte
	IOVA uint64
	side *Side
	seed int
	all  []byte
}

const margin = 64

// Memory registers n bytes, filled with seed's pattern.
func (s *Side) Memory(n, seed int, access verbs.Access) *Memory {
	s.t.Helper()
	m := &Memory{side: s, seed: seed, all: Filled(n+2*margin, seed), IOVA: 0x7fff_0000_0000 + uint64(seed)}
	m.Buf = m.all[margin : margin+n : margin+n]
	m.MR = s.RegMR(m.Buf, m.IOVA, access)
	return m
}

// ExpectAt fails the test unless the memory has want at off and is otherwise
// as it was made.
func (m *Memory) ExpectAt(what string, off int, want []byte) {
	m.side.t.Helper()
	all := Filled(len(m.all), m.seed)
	copy(all[margin+off:], want)
	m.side.ExpectBytes(what, m.all, all)
}

// ExpectMargins fails the test unless nobody has written before and after the
// memory.
func (m *Memory) ExpectMargins(what string) {
	m.side.t.Helper()
	all := Filled(len(m.all), m.seed)
	end := len(all) - margin
	m.side.ExpectBytes(what+", before", m.all[:margin], all[:margin])
	m.side.ExpectBytes(what+", after", m.all[end:], all[end:])
}
