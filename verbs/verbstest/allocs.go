package verbstest

import (
	"runtime"
	"testing"
	"time"

	"github.com/fabrid/fabrid/verbs"
)

// SteadyDoesNotAllocate fails the test if I/O between a and b allocates once it
// is under way. Two handlers go on by themselves: A writes and sends, B reads
// and answers, for thousands of rounds. It is no part of [Run], because it
// counts what the whole process allocates: nothing else may run, and the
// devices must be real ones.
func SteadyDoesNotAllocate(t *testing.T, a, b Node) {
	const rounds, n = 4000, 3000
	p := Connect(t, a, b, DefaultAttr(1024))
	m := p.B.Memory(n, 1, allAccess)
	home := p.A.Memory(n, 2, allAccess)
	recvA := []verbs.RecvWR{{WRID: 1, SG: p.A.SG(make([]byte, 64))}}
	recvB := []verbs.RecvWR{{WRID: 1, SG: p.B.SG(make([]byte, 64))}}
	ask := []verbs.SendWR{
		{WRID: 2, Opcode: verbs.WRRDMAWrite, SG: p.A.SG(make([]byte, n)), RemoteAddr: m.IOVA, RKey: m.MR.RKey()},
		{WRID: 3, Flags: verbs.SendSignaled, SG: p.A.SG(make([]byte, 64))},
	}
	answer := []verbs.SendWR{
		{WRID: 4, Opcode: verbs.WRRDMARead, Flags: verbs.SendSignaled, SG: p.B.SG(make([]byte, n)), RemoteAddr: home.IOVA, RKey: home.MR.RKey()},
		{WRID: 5, Flags: verbs.SendFence, SG: p.B.SG(make([]byte, 64))},
	}
	left := 0
	done := make(chan struct{}, 1)
	failed := func(s *Side, wcs []verbs.WC, err error) bool {
		bad := err != nil
		for _, wc := range wcs {
			bad = bad || wc.Status != verbs.WCSuccess
		}
		if bad {
			t.Errorf("%s: %v, error %v", s.Name, wcs, err)
			left = 0
			select {
			case done <- struct{}{}:
			default:
			}
		}
		return bad
	}
	p.A.Do("set the handler", func() error {
		p.A.OnCompletion = func(wcs []verbs.WC) bool {
			for i := range wcs {
				if wcs[i].Opcode != verbs.WCRecv {
					continue
				}
				err := p.A.QP.PostRecv(recvA)
				if left--; left <= 0 {
					done <- struct{}{}
				} else if err == nil {
					err = p.A.QP.PostSend(ask)
				}
				if failed(p.A, nil, err) {
					return true
				}
			}
			failed(p.A, wcs, nil)
			return true
		}
		return p.A.QP.PostRecv(recvA)
	})
	p.B.Do("set the handler", func() error {
		p.B.OnCompletion = func(wcs []verbs.WC) bool {
			for i := range wcs {
				if wcs[i].Opcode != verbs.WCRecv {
					continue
				}
				err := p.B.QP.PostRecv(recvB)
				if err == nil {
					err = p.B.QP.PostSend(answer)
				}
				if failed(p.B, nil, err) {
					return true
				}
			}
			failed(p.B, wcs, nil)
			return true
		}
		return p.B.QP.PostRecv(recvB)
	})
	run := func(count int) {
		p.A.Do("begin", func() error {
			left = count
			return p.A.QP.PostSend(ask)
		})
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatalf("%d rounds are not over within %v", count, patience)
		}
	}
	run(rounds) // whatever grows has grown
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	run(rounds)
	runtime.ReadMemStats(&after)
	// Beginning a run costs a few allocations, whatever its length.
	const some = 100
	if n := after.Mallocs - before.Mallocs; n > some {
		t.Errorf("%d allocations in %d rounds, want none", n, rounds)
	}
}
