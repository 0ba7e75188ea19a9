package roce

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/fabrid/fabrid/internal/simnet"
	"github.com/fabrid/fabrid/verbs"
	"github.com/fabrid/fabrid/verbs/verbstest"
)

// impaired is what an impaired network does, in each direction.
var impaired = simnet.Link{
	Delay: 50 * time.Microsecond, Loss: 0.01, Duplicate: 0.005, HoldBack: 0.05, HoldBackBy: 300 * time.Microsecond, Corrupt: 0.001,
}

// TestImpaired has both ends post random work over an impaired network, at every
// path MTU and at any depth, and compares every byte that arrives. No connection
// is lost.
func TestImpaired(t *testing.T) {
	for _, mtu := range []int{256, 512, 1024, 2048, 4096} {
		for _, depth := range []int{1, 4, 32} {
			if testing.Short() && (mtu != 1024 || depth == 4) {
				continue
			}
			t.Run(fmt.Sprintf("MTU %d, depth %d", mtu, depth), func(t *testing.T) {
				inLab(t, simnet.Config{Seed: uint64(mtu + depth), Link: impaired}, func(t *testing.T, l *lab) {
					attr := verbstest.DefaultAttr(mtu)
					attr.Init.MaxSendWR = depth
					p := l.pair(t, attr)
					stress(t, p, uint64(mtu+depth), 250, depth, 16)
					l.expectQuiet(t)
					if st := l.net.Stats(); st.Lost == 0 || st.Duplicated == 0 || st.HeldBack == 0 {
						t.Errorf("%+v", st)
					}
				})
			})
		}
	}
}

// TestWritersInTurn has two peers write the same blocks, each when the other is
// done, over an impaired network: whatever of the one's packets comes late or
// again, a block is the last writer's, whole.
func TestWritersInTurn(t *testing.T) {
	rounds := 400
	if testing.Short() {
		rounds = 100
	}
	link := impaired
	link.Duplicate, link.HoldBack, link.HoldBackBy = 0.1, 0.1, 2*time.Millisecond
	inLab(t, simnet.Config{Seed: 3, Link: link}, func(t *testing.T, l *lab) {
		const block, blocks = 4096, 3
		attr := verbstest.DefaultAttr(1024)
		pairs := []*verbstest.Pair{l.pair(t, attr), l.pair(t, attr)}
		m := pairs[0].B.Memory(block*blocks, 1, allAccess)
		var keys [2]verbs.MR
		keys[0], keys[1] = m.MR, pairs[1].B.RegMR(m.Buf, m.IOVA, allAccess)
		for i := range rounds {
			p, at := pairs[i%2], i%blocks*block
			data := bytes.Repeat([]byte{byte(i)}, block)
			p.A.Post(verbs.SendWR{
				WRID: uint64(i), Opcode: verbs.WRRDMAWrite, Flags: verbs.SendSignaled, SG: p.A.SG(data),
				RemoteAddr: m.IOVA + uint64(at), RKey: keys[i%2].RKey(),
			})
			p.A.Expect(verbstest.Wrote(uint64(i)))
			for k := range min(i+1, blocks) { // the others have not changed either
				at, want := (i-k)%blocks*block, byte(i-k)
				p.B.ExpectBytes(fmt.Sprintf("round %d: block of round %d", i, i-k), m.Buf[at:at+block], bytes.Repeat([]byte{want}, block))
			}
		}
		time.Sleep(time.Second) // what is late
		for k := range blocks {
			i := rounds - 1 - k
			pairs[0].B.ExpectBytes("at the end", m.Buf[i%blocks*block:][:block], bytes.Repeat([]byte{byte(i)}, block))
		}
	})
}

// TestThroughputUnderLoss sends much over a link of 1 GB/s with losses, and says
// how fast it went, in virtual time.
func TestThroughputUnderLoss(t *testing.T) {
	if testing.Short() {
		return
	}
	for _, c := range []struct {
		loss float64
		min  float64 // MB/s
	}{{0, 500}, {0.001, 250}, {0.01, 100}} {
		for _, op := range []verbs.WROpcode{verbs.WRRDMAWrite, verbs.WRRDMARead} {
			for _, depth := range []int{1, 16} {
				t.Run(fmt.Sprintf("loss %v, %v, depth %d", c.loss, wcOpcode[op], depth), func(t *testing.T) {
					link := simnet.Link{Delay: 50 * time.Microsecond, Rate: 1_000_000_000, Queue: 1 << 20, Loss: c.loss}
					inLab(t, simnet.Config{Seed: 9, Link: link}, func(t *testing.T, l *lab) {
						const n, count = 64 << 10, 256
						attr := verbstest.DefaultAttr(4096)
						attr.QP.MaxRdAtomic, attr.QP.MaxDestRd = 16, 16
						p := l.pair(t, attr)
						m := p.B.Memory(n, 1, allAccess)
						buf := make([]byte, n)
						begin := time.Now()
						posted := uint64(0)
						for done := range uint64(count) {
							for ; posted < count && posted < done+uint64(depth); posted++ {
								p.A.Post(verbs.SendWR{WRID: posted, Opcode: op, Flags: verbs.SendSignaled, SG: p.A.SG(buf), RemoteAddr: m.IOVA, RKey: m.MR.RKey()})
							}
							if wc := p.A.Next(); wc.WRID != done || wc.Status != verbs.WCSuccess {
								t.Fatalf("completion %+v, want success of %d", wc, done)
							}
						}
						rate := n * count / time.Since(begin).Seconds() / 1e6
						st := l.a.Stats()
						t.Logf("%.0f MB/s, %d packets lost, %d probes, %d timeouts", rate, l.net.Stats().Lost, st.Probes, st.Timeouts)
						if depth > 1 && rate < c.min {
							t.Errorf("%.0f MB/s, want %v", rate, c.min)
						}
					})
				})
			}
		}
	}
}
