package roce

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/fabrid/fabrid/internal/simnet"
	"github.com/fabrid/fabrid/verbs"
	"github.com/fabrid/fabrid/verbs/verbstest"
)

// TestStress has both ends post random work, 32 deep, over links that spoil it
// in one way or in all, and compares every byte that arrives.
func TestStress(t *testing.T) {
	const wrap = 0xffff80
	for i, c := range []struct {
		name  string
		link  simnet.Link
		seeds int
		recvs int // receives that are kept posted
	}{
		{"perfect", simnet.Link{Delay: simDelay}, 2, 64},
		{"5 % lost", simnet.Link{Delay: simDelay, Loss: 0.05}, 6, 64},
		{"5 % lost, few receives", simnet.Link{Delay: simDelay, Loss: 0.05}, 2, 2},
		{"all twice", simnet.Link{Delay: simDelay, Duplicate: 1}, 2, 64},
		{"some twice, the second late", simnet.Link{Delay: simDelay, Duplicate: 0.1, HoldBack: 0.1, HoldBackBy: 700 * time.Microsecond}, 2, 64},
		{"out of order", simnet.Link{Delay: simDelay, HoldBack: 0.1}, 2, 64},
		{"very late", simnet.Link{Delay: simDelay, HoldBack: 0.01, HoldBackBy: 80 * time.Millisecond}, 2, 64},
		{"damaged", simnet.Link{Delay: simDelay, Corrupt: 0.05}, 3, 64},
		{"slow, with a short queue", simnet.Link{Delay: 100 * time.Microsecond, Rate: 10_000_000, Queue: 30_000}, 2, 64},
		{"all of it", simnet.Link{Delay: 50 * time.Microsecond, Loss: 0.02, Duplicate: 0.02, Corrupt: 0.02, HoldBack: 0.02, Rate: 50_000_000, Queue: 60_000}, 6, 8},
	} {
		seeds := c.seeds
		switch {
		case testing.Short() && raceEnabled && i%3 != 0: // the last has all of it
			continue
		case testing.Short():
			seeds = 1
		}
		for seed := range uint64(seeds) {
			t.Run(fmt.Sprintf("%s, seed %d", c.name, seed), func(t *testing.T) {
				inLab(t, simnet.Config{Seed: seed, Link: c.link}, func(t *testing.T, l *lab) {
					attr := verbstest.DefaultAttr([]int{1024, 256, 4096}[seed%3])
					if seed%2 == 1 {
						attr.PSNA, attr.PSNB = wrap, wrap+7
					}
					attr.Init.MaxSendWR = stressDepth
					p := l.pair(t, attr)
					stress(t, p, seed, 300, stressDepth, c.recvs)
					l.expectQuiet(t)
					checkStressStats(t, l, c.link)
				})
			})
		}
	}
}

// checkStressStats sees to it that a link has done what it was for.
func checkStressStats(t *testing.T, l *lab, link simnet.Link) {
	st := l.net.Stats()
	for _, c := range []struct {
		name string
		p    float64
		n    int
	}{{"lost", link.Loss, st.Lost}, {"duplicated", link.Duplicate, st.Duplicated}, {"held back", link.HoldBack, st.HeldBack}, {"damaged", link.Corrupt, st.Corrupted}} {
		if c.p > 0 && c.n < int(c.p*float64(st.Sent)/2) {
			t.Errorf("%d of %d packets were %s", c.n, st.Sent, c.name)
		}
	}
	a, b := l.a.Stats(), l.b.Stats()
	if link.Corrupt > 0 {
		// A bit of the one byte that the ICRC does not cover is no damage.
		drops := int(a.DropsMalformed + a.DropsICRC + b.DropsMalformed + b.DropsICRC)
		if drops < st.Corrupted*8/10 {
			t.Errorf("%d packets were dropped as damaged, %d were", drops, st.Corrupted)
		}
	} else if n := a.DropsMalformed + a.DropsICRC + b.DropsMalformed + b.DropsICRC; n > 0 {
		t.Errorf("%d good packets were dropped as damaged", n)
	}
}

const (
	stressDepth = 32
	stressSlots = 16
	stressSlot  = 8192
)

// A stressOp is one work request and what is to come of it.
type stressOp struct {
	wr   verbs.SendWR
	read []byte // by an RDMA READ, and what is to be there
	want []byte
}

// A stressEnd is one end: what it posts, and what it is to receive.
type stressEnd struct {
	s     *verbstest.Side
	depth int
	mem   *verbstest.Memory // slots that the peer writes and reads
	model [][]byte          // what the peer has made of them
	ops   []stressOp
	bufs  [][]byte // of the receives
	want  []stressOp

	// On the loop.
	posted, done, received int
	finished               chan error
	over                   bool
}

func stress(t *testing.T, p *verbstest.Pair, seed uint64, count, depth, recvs int) {
	t.Helper()
	ends := []*stressEnd{{s: p.A, depth: depth}, {s: p.B, depth: depth}}
	for i, e := range ends {
		e.mem = e.s.Memory(stressSlots*stressSlot, 77+i, allAccess)
		for k := range stressSlots {
			e.model = append(e.model, append([]byte(nil), e.mem.Buf[k*stressSlot:][:stressSlot]...))
		}
		e.bufs = verbstest.Bufs(recvs, stressSlot)
		e.finished = make(chan error, 1)
	}
	for i, e := range ends {
		e.build(ends[1-i], rand.New(rand.NewPCG(seed, uint64(i))), count)
	}
	for _, e := range ends {
		e.s.PostRecv(0, e.bufs...)
		e.s.Do("set the handler", func() error { e.s.OnCompletion = e.completed; return nil })
	}
	for _, e := range ends {
		e.s.Do("begin", e.post)
	}
	for _, e := range ends {
		select {
		case err := <-e.finished:
			if err != nil {
				t.Fatalf("%s: %v", e.s.Name, err)
			}
		case <-time.After(10 * time.Minute):
			e.s.Do("look", func() error {
				t.Errorf("%s: %d of %d posted, %d done, %d of %d received, QP in %v", e.s.Name,
					e.posted, len(e.ops), e.done, e.received, len(e.want), e.s.QP.State())
				return nil
			})
			t.FailNow()
		}
	}
	for _, e := range ends {
		for k, want := range e.model {
			e.s.ExpectBytes(fmt.Sprintf("slot %d", k), e.mem.Buf[k*stressSlot:][:stressSlot], want)
		}
		e.s.ExpectState(verbs.RTS)
		e.s.ExpectNoEvent()
	}
}

// build makes up the work of e against peer.
func (e *stressEnd) build(peer *stressEnd, r *rand.Rand, count int) {
	mr := e.s.AllocMR(1000)
	valid := uint32(0) // the key of mr, if it is registered
	readSince := make(map[int]bool)
	sizes := []int{0, 1, 100, 255, 256, 1023, 1024, 1025, 4096, 4097, 5000, stressSlot}
	for i := range count {
		op := stressOp{wr: verbs.SendWR{WRID: uint64(i)}}
		if every := min(8, e.depth); r.IntN(4) == 0 || i == count-1 || i%every == every-1 {
			op.wr.Flags = verbs.SendSignaled
		}
		n := sizes[r.IntN(len(sizes))]
		off := r.IntN(stressSlot - n + 1)
		slot := r.IntN(stressSlots)
		buf := verbstest.Filled(n, r.IntN(1<<20))
		cut := r.IntN(n + 1)
		op.wr.SG = e.s.SG(buf[:cut], buf[cut:])
		op.wr.RemoteAddr = peer.mem.IOVA + uint64(slot*stressSlot+off)
		op.wr.RKey = peer.mem.MR.RKey()
		switch k := r.IntN(10); {
		case k < 3:
			op.wr.Opcode = verbs.WRSend
			if r.IntN(3) == 0 {
				op.wr.Opcode, op.wr.Imm = verbs.WRSendWithImm, r.Uint32()
			}
			peer.want = append(peer.want, stressOp{wr: op.wr, want: buf})
		case k < 6:
			op.wr.Opcode = verbs.WRRDMAWrite
			if readSince[slot] {
				op.wr.Flags |= verbs.SendFence // or it may overtake the RDMA READ
				clear(readSince)
			}
			if r.IntN(4) == 0 {
				op.wr.Opcode, op.wr.Imm = verbs.WRRDMAWriteWithImm, r.Uint32()
				peer.want = append(peer.want, stressOp{wr: op.wr, want: buf})
			}
			copy(peer.model[slot][off:], buf)
		case k < 9:
			op.wr.Opcode = verbs.WRRDMARead
			op.read, op.want = buf, append([]byte(nil), peer.model[slot][off:off+n]...)
			readSince[slot] = true
		case valid == 0:
			valid = mr.RKey()&^0xff | uint32(i&0xff)
			op.wr = verbs.SendWR{WRID: op.wr.WRID, Flags: op.wr.Flags, Opcode: verbs.WRRegMR, MR: mr, Buf: make([]byte, 1000), Access: allAccess, RKey: valid}
		default:
			op.wr = verbs.SendWR{WRID: op.wr.WRID, Flags: op.wr.Flags, Opcode: verbs.WRLocalInv, RKey: valid}
			valid = 0
		}
		e.ops = append(e.ops, op)
	}
}

// post posts as much as there is room for. On the loop.
func (e *stressEnd) post() error {
	var wrs []verbs.SendWR
	for e.posted < len(e.ops) && e.posted-e.done < e.depth {
		wrs = append(wrs, e.ops[e.posted].wr)
		e.posted++
	}
	if len(wrs) == 0 {
		return nil
	}
	return e.s.QP.PostSend(wrs)
}

// completed is the CQ's handler.
func (e *stressEnd) completed(wcs []verbs.WC) bool {
	if e.over {
		return false // unexpected; the test's end finds it
	}
	var err error
	for _, wc := range wcs {
		if wc.Status != verbs.WCSuccess {
			err = errors.Join(err, fmt.Errorf("completion %+v", wc))
		} else if wc.Opcode == verbs.WCRecv {
			err = errors.Join(err, e.receive(wc))
		} else {
			err = errors.Join(err, e.complete(wc))
		}
	}
	if err == nil {
		err = e.post()
	}
	if err != nil || e.done == len(e.ops) && e.received == len(e.want) {
		e.over = true
		e.finished <- err
	}
	return true
}

// complete takes in that everything up to a work request is done.
func (e *stressEnd) complete(wc verbs.WC) error {
	for ; e.done <= int(wc.WRID); e.done++ {
		op := &e.ops[e.done]
		if e.done < int(wc.WRID) && op.wr.Flags&verbs.SendSignaled != 0 {
			return fmt.Errorf("%d completed before %d", wc.WRID, e.done)
		}
		if op.read != nil {
			if err := verbstest.Same(op.read, op.want); err != nil {
				return fmt.Errorf("RDMA READ %d: %w", e.done, err)
			}
		}
	}
	if int(wc.WRID) != e.done-1 || wc.WRID >= uint64(e.posted) {
		return fmt.Errorf("%d completed again, or was never posted", wc.WRID)
	}
	return nil
}

func (e *stressEnd) receive(wc verbs.WC) error {
	if e.received == len(e.want) {
		return errors.New("one message too many was received")
	}
	want := &e.want[e.received]
	slot := e.received % len(e.bufs)
	e.received++
	if wc.WRID != uint64(slot) {
		return fmt.Errorf("receive %d completed, want %d", wc.WRID, slot)
	}
	write := want.wr.Opcode == verbs.WRRDMAWriteWithImm
	if wc.Flags&verbs.WCWithImm != 0 != (write || want.wr.Opcode == verbs.WRSendWithImm) || wc.Imm != want.wr.Imm {
		return fmt.Errorf("message %d: completion %+v, want immediate %#x", e.received-1, wc, want.wr.Imm)
	}
	if write {
		// The model says what was written; the receive's memory is not touched.
		if int(wc.ByteLen) != len(want.want) {
			return fmt.Errorf("message %d: %d bytes written, want %d", e.received-1, wc.ByteLen, len(want.want))
		}
	} else if err := verbstest.Same(e.bufs[slot][:wc.ByteLen], want.want); err != nil {
		return fmt.Errorf("message %d: %w", e.received-1, err)
	}
	clear(e.bufs[slot])
	return e.s.QP.PostRecv([]verbs.RecvWR{{WRID: wc.WRID, SG: []verbs.SGE{{Buf: e.bufs[slot], LKey: e.lkey()}}}})
}

// lkey is the key of all memory.
func (e *stressEnd) lkey() uint32 {
	k, _ := e.s.PD.LocalDMALKey()
	return k
}
