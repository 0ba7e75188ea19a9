package roce

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/fabrid/fabrid/shard"
)

// TestQuirks: what hardware and other stacks send that differs from what we send,
// and means the same; and what means nothing, and is dropped without an answer.
func TestQuirks(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(b []byte)
		good   bool
	}{
		{"as we send it", func([]byte) {}, true},
		{"MigReq is set, as hardware does", func(b []byte) { b[1] |= 0x40 }, true},
		{"solicited", func(b []byte) { b[1] |= 0x80 }, true},
		{"a limited member of the partition", func(b []byte) { b[2] &^= 0x80 }, true},
		{"FECN, BECN and reserved bits", func(b []byte) { b[4] = 0xff }, true},
		{"reserved bits beside AckReq", func(b []byte) { b[8] |= 0x7f }, true},
		{"another partition", func(b []byte) { b[3] = 1 }, false},
		{"another transport version", func(b []byte) { b[1] |= 1 }, false},
		{"FLUSH", func(b []byte) { b[0] = 0x1c }, false},
		{"ATOMIC WRITE", func(b []byte) { b[0] = 0x1d }, false},
		{"a reserved opcode", func(b []byte) { b[0] = 0x15 }, false},
		{"another transport", func(b []byte) { b[0] = 0x24 }, false},
		{"QP 0", func(b []byte) { b[5], b[6], b[7] = 0, 0, 0 }, false},
		{"multicast", func(b []byte) { b[5], b[6], b[7] = 0xff, 0xff, 0xff }, false},
	} {
		for _, port := range []uint16{Port, 0xc000, 0xffff, 1} {
			t.Run(fmt.Sprintf("%s, from port %d", c.name, port), func(t *testing.T) {
				inShard(t, func(t *testing.T, s *shard.Shard) {
					p := &player{t: t, shard: s}
					p.line("qp psn 100; recv 1 8")
					p.run(func() {
						h := packet{bth: bth{opcode: opSendOnly, destQP: p.qp.num, psn: 100, ackReq: true}, payload: []byte{1, 2, 3, 4}}
						f := forge(playPeer, playAddr, &h)
						c.change(f.b)
						path := newICRCPath(netip.AddrPortFrom(playPeer, port), netip.AddrPortFrom(playAddr, Port))
						putICRC(f.b[len(f.b)-icrcLen:], path.sum(f.b[:len(f.b)-icrcLen], 7))
						p.dev.eng.receive(playPeer, playAddr, path, f.b, -1)
						p.dev.eng.flush()
					})
					want, answers := 0, len(p.dev.wire.out)
					if c.good {
						want = 1
					}
					if len(p.out) != want || answers != want {
						t.Errorf("%d completions and %d answers, want %d: %v, %+v", len(p.out), answers, want, p.out, p.dev.eng.stats)
					}
					p.out, p.dev.wire.out = nil, nil
					p.line("state")
					p.end()
				})
			})
		}
	}
}

// TestEverySyndrome: an ACK is one whatever credits and MSN it has; what is reserved
// means nothing.
func TestEverySyndrome(t *testing.T) {
	inShard(t, func(t *testing.T, s *shard.Shard) {
		p := &player{t: t, shard: s}
		for syndrome := range 256 {
			s := uint8(syndrome)
			p.line("qp sqpsn 500; post 1 SEND")
			p.run(func() {
				h := packet{bth: bth{opcode: opAcknowledge, destQP: p.qp.num, psn: 500}, aeth: aeth{s, 0xabcdef}}
				p.dev.receive(forge(playPeer, playAddr, &h))
				p.dev.eng.flush()
			})
			done := len(p.out)
			p.out = nil
			want := 0
			switch {
			case isAck(s):
				want = 1
			case s >= synNAKInvalid && s <= synNAKInvalidRDReq:
				want = 2 // the event and the failure
			}
			if done != want {
				t.Errorf("syndrome %#02x: %d completions and events, want %d", s, done, want)
			}
		}
		p.end()
	})
}
