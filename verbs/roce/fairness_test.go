package roce

import (
	"testing"

	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
)

// Many queue pairs whose peers read much take turns: none waits until another is
// done, ACKs go before all responses, and a round ends before the READs do.
func TestLongReadsTakeTurns(t *testing.T) {
	const qps, mtu = 10, 256
	inShard(t, func(t *testing.T, s *shard.Shard) {
		var d *bare
		on := func(fn func()) {
			t.Helper()
			if err := s.Run(fn); err != nil {
				t.Fatal(err)
			}
		}
		read := make([]byte, 1<<20)
		var nums []uint32
		on(func() {
			d = newBare(s, playAddr, 0)
			mr, err := d.keys.Register(d.pd, read, 0, verbs.AccessRemoteRead)
			if err != nil {
				t.Fatal(err)
			}
			cq, err := d.pd.CreateCQ(verbs.CQAttr{Size: 64, Handler: func([]verbs.WC) {}})
			if err != nil {
				t.Fatal(err)
			}
			for i := range qps + 1 {
				qp, err := d.pd.CreateQP(verbs.QPInitAttr{SendCQ: cq, RecvCQ: cq, MaxSendWR: 1, MaxRecvWR: 1})
				if err != nil {
					t.Fatal(err)
				}
				nums = append(nums, qp.Num())
				if err := qp.Modify(verbs.Init); err != nil {
					t.Fatal(err)
				}
				if err := qp.Connect(verbs.QPAttr{
					Path:    verbs.Path{Local: playAddr, Remote: playPeer, MTU: mtu},
					DestQPN: uint32(i), MaxDestRd: 1, RemoteAccess: 7,
				}); err != nil {
					t.Fatal(err)
				}
				h := packet{bth: bth{opcode: opReadRequest, destQP: qp.Num()}, reth: reth{rkey: mr.RKey(), length: uint32(len(read))}}
				if i == qps { // the last one is to acknowledge a WRITE
					h = packet{bth: bth{opcode: opWriteOnly, destQP: qp.Num(), ackReq: true}}
				}
				d.receive(forge(playPeer, playAddr, &h))
			}
			d.eng.flush()
		})

		on(func() {
			// The shard has gone on with the rest meanwhile: what counts is the first round.
			out := d.wire.out
			if len(out) < flushBatches*batchPackets {
				t.Fatalf("%d packets, want a full round", len(out))
			}
			var first packet
			if err := parsePacket(out[0].b, &first); err != nil || first.opcode != opAcknowledge || first.destQP != qps {
				t.Errorf("the first packet is %v to QP %d, want the ACK", opcodes[first.opcode].name, first.destQP)
			}
			count := make([]int, qps+1)
			for _, f := range out[:flushBatches*batchPackets] {
				var p packet
				if err := parsePacket(f.b, &p); err != nil {
					t.Fatal(err)
				}
				count[p.destQP]++
			}
			for i, n := range count[:qps] {
				if fair := flushBatches * batchPackets / qps; n < fair/2 || n > 2*fair {
					t.Errorf("QP %d sent %d packets of the first round, want about %d", i, n, fair)
				}
			}
			for _, n := range nums {
				if err := d.eng.qps.get(n).Destroy(); err != nil {
					t.Error(err)
				}
			}
		})
	})
}

// A round that sends on and on lets others have their turn.
func TestRoundEndsBeforeAReadDoes(t *testing.T) {
	inShard(t, func(t *testing.T, s *shard.Shard) {
		p := &player{t: t, shard: s}
		p.line("qp")
		p.line("mr m 1048576")
		first := 0
		next := shard.Task{Fn: func() { first = len(p.dev.wire.out) }}
		p.run(func() {
			p.command([]string{"READ_REQUEST", "100", "region", "m", "dma", "1048576"})
			s.Post(&next) // runs when this round has ended
		})
		p.run(func() {
			if want := flushBatches * batchPackets; first != want {
				t.Errorf("%d packets in the first round, want %d", first, want)
			}
			if n := len(p.dev.wire.out); n != 4096 {
				t.Errorf("%d packets in the end, want 4096", n)
			}
		})
		p.end()
	})
}
