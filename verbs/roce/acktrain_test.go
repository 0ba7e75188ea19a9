package roce

import (
	"slices"
	"testing"

	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
)

// The ACK of a command goes behind a brief response, so that both are one train,
// and before a long one. What consumers post when they end their round goes out
// with the ACK, in one call of the wire.
func TestACKTrain(t *testing.T) {
	tests := []struct {
		name  string
		sends []int // bytes of what the consumer posts
		want  []uint8
		train int // packets that can go as one from the first on
	}{
		{"nothing", nil, []uint8{opAcknowledge}, 1},
		{"response", []int{16}, []uint8{opSendOnly, opAcknowledge}, 2},
		{"two responses", []int{16, 16}, []uint8{opSendOnly, opSendOnly, opAcknowledge}, 3},
		{"three responses", []int{16, 16, 16}, []uint8{opAcknowledge, opSendOnly, opSendOnly, opSendOnly}, 1},
		{"data and response", []int{1024, 16}, []uint8{opAcknowledge, opSendOnly, opSendOnly}, 1},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			inShard(t, func(t *testing.T, s *shard.Shard) {
				var d *bare
				var qp verbs.QP
				end := shard.Flusher{Fn: func() {
					for _, n := range tc.sends {
						if err := qp.PostSend([]verbs.SendWR{{SG: []verbs.SGE{{Buf: make([]byte, n), LKey: localKey(d.pd)}}}}); err != nil {
							t.Error(err)
						}
					}
				}}
				trains := 0
				if err := s.Run(func() {
					d = newBare(s, playAddr, 0)
					d.eng.wire = &trainWire{d.wire, &trains}
					cq, err := d.pd.CreateCQ(verbs.CQAttr{Size: 64, Handler: func([]verbs.WC) { s.Flush(&end) }})
					if err != nil {
						t.Fatal(err)
					}
					if qp, err = d.pd.CreateQP(verbs.QPInitAttr{SendCQ: cq, RecvCQ: cq, MaxSendWR: 4, MaxRecvWR: 1}); err != nil {
						t.Fatal(err)
					}
					if err := qp.Modify(verbs.Init); err != nil {
						t.Fatal(err)
					}
					if err := qp.PostRecv([]verbs.RecvWR{{}}); err != nil {
						t.Fatal(err)
					}
					if err := qp.Connect(verbs.QPAttr{Path: verbs.Path{Local: playAddr, Remote: playPeer, MTU: 1024}, DestQPN: 7}); err != nil {
						t.Fatal(err)
					}
					d.receive(forge(playPeer, playAddr, &packet{bth: bth{opcode: opSendOnly, destQP: qp.Num(), ackReq: true}}))
					d.eng.received()
				}); err != nil {
					t.Fatal(err)
				}
				if err := s.Run(func() {
					var got []uint8
					for _, g := range d.wire.out {
						var p packet
						if err := parsePacket(g.b, &p); err != nil {
							t.Fatal(err)
						}
						got = append(got, p.opcode)
					}
					if !slices.Equal(got, tc.want) {
						t.Errorf("sent %x, want %x", got, tc.want)
					}
					if trains != tc.train {
						t.Errorf("%d packets in the first train of one call, want %d", trains, tc.train)
					}
					if err := qp.Destroy(); err != nil {
						t.Error(err)
					}
				}); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

func localKey(pd verbs.PD) uint32 {
	key, _ := pd.LocalDMALKey()
	return key
}

// A trainWire notes how many packets of what it is given at first can go as one.
type trainWire struct {
	*heldWire
	first *int
}

func (w *trainWire) send(b *txBatch) {
	if *w.first == 0 {
		*w.first = b.train(b.sent, true, maxIovecs)
	}
	w.heldWire.send(b)
}
