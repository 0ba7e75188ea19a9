package roce

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
)

func TestIdentTrack(t *testing.T) {
	const ms = time.Millisecond
	type packet struct {
		ident uint16
		at    time.Duration
		want  identVerdict
	}
	for _, c := range []struct {
		name    string
		packets []packet
	}{
		{"any is the first", []packet{{40000, 0, identGood}, {40001, 0, identGood}}},
		{"losses, others' packets, and what was overtaken", []packet{{100, 0, identGood}, {1124, 0, identGood}, {100, 0, identGood}}},
		{"around zero", []packet{{65535, 0, identGood}, {3, 0, identGood}, {65000, 0, identGood}}},
		{"too far", []packet{{100, 0, identGood}, {1125, 0, identBad}, {101, 0, identGood}, {64612, 0, identBad}, {64613, 0, identGood}}},
		{"time passes", []packet{{100, 0, identGood}, {1125, ms, identGood}, {10000, 900 * ms, identBad}, {10000, 1900 * ms, identGood}}},
		{"after long, anything", []packet{{100, 0, identGood}, {32868, 4000 * ms, identGood}, {99, time.Hour, identGood}}},
		{"a jump, followed when it is repeated", []packet{{100, 0, identGood}, {30000, 0, identBad}, {30001, 0, identJumped}, {30002, 0, identGood}, {100, 0, identBad}}},
		{"two damaged packets do not make a jump", []packet{{100, 0, identGood}, {30000, 0, identBad}, {101, 0, identGood}, {30001, 0, identBad}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var k identTrack
			was := uint16(0)
			for i, p := range c.packets {
				v := k.accept(p.ident, was, p.at)
				if was = p.ident; v != p.want {
					t.Errorf("packet %d, %d at %v: verdict %d, want %d", i, p.ident, p.at, v, p.want)
				}
			}
		})
	}
}

// TestIdentsWithoutOrder: a peer whose Identifications mean nothing loses a few
// packets, and no more; one of a thousand by chance changes nothing.
func TestIdentsWithoutOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var k identTrack
	bad, was := 0, uint16(0)
	for range 10_000 {
		ident := uint16(r.Uint32())
		if k.accept(ident, was, 0) == identBad {
			bad++
		}
		was = ident
	}
	if bad < 5 || bad > identFree/identFar {
		t.Errorf("%d packets dropped", bad)
	}
	k = identTrack{}
	for i := range 100_000 {
		k.accept(uint16(i), uint16(i-1), 0)
		if i%1000 == 0 && i > 0 {
			if v := k.accept(uint16(i+20_000), uint16(i), 0); v != identBad {
				t.Errorf("packet %d: verdict %d", i, v)
			}
		}
	}
	if k.free {
		t.Error("a peer that counts is taken for one that does not")
	}
}

// TestIdentsOfLinux: no packet of rxe's is dropped for its Identification, though
// all of the captures are on one path.
func TestIdentsOfLinux(t *testing.T) {
	for _, c := range captures {
		t.Run(c.file, func(t *testing.T) {
			type from struct {
				track identTrack
				was   map[uint32]uint16 // by queue pair
				begin time.Time
			}
			peers := map[netip.Addr]*from{}
			eachRoCE(t, c.file, func(_ []byte, d datagram) {
				f := peers[d.src.Addr()]
				if f == nil {
					f = &from{was: map[uint32]uint16{}, begin: d.at}
					peers[d.src.Addr()] = f
				}
				var p packet
				if err := parsePacket(d.payload, &p); err != nil {
					t.Fatal(err)
				}
				if v := f.track.accept(d.ident, f.was[p.destQP], d.at.Sub(f.begin)); v != identGood {
					t.Errorf("Identification %d: verdict %d", d.ident, v)
				}
				f.was[p.destQP] = d.ident
			})
		})
	}
}

// forgeIdent is forge of a packet with an Identification.
func forgeIdent(src, dst netip.Addr, p *packet, ident uint16) frame {
	f := forge(src, dst, p)
	body := f.b[:len(f.b)-icrcLen]
	putICRC(f.b[len(body):], newICRCPath(netip.AddrPortFrom(src, Port), netip.AddrPortFrom(dst, Port)).sum(body, ident))
	return f
}

// TestOneBitIsNoIdentification turns each bit of packets of a peer that counts.
// Without its last Identification some of them pass for whole, as another; with
// it none does.
func TestOneBitIsNoIdentification(t *testing.T) {
	inShard(t, func(t *testing.T, s *shard.Shard) {
		p := &player{t: t, shard: s}
		p.line("qp mtu 4096")
		p.run(func() {
			e, q := p.dev.eng, p.qp
			path := newICRCPath(netip.AddrPortFrom(playPeer, Port), netip.AddrPortFrom(playAddr, Port))
			ident, solved := uint16(5000), 0
			for _, n := range []int{0, 64, 1024, 4096} {
				h := packet{bth: bth{opcode: opSendOnly, destQP: q.num, psn: 99}, payload: make([]byte, n)} // a duplicate
				ident++
				good := forgeIdent(playPeer, playAddr, &h, ident)
				p.dev.receive(good)
				if e.stats.Duplicates == 0 || e.stats.DropsICRC+e.stats.DropsIdent+e.stats.DropsMalformed > 0 {
					t.Fatalf("the packet as it is: %+v", e.stats)
				}
				f := frame{good.src, good.dst, slices.Clone(good.b)}
				for bit := range 8 * len(good.b) {
					if bit > 0 {
						copy(f.b[(bit-1)/8:], good.b[(bit-1)/8:][:1])
					}
					f.b[bit/8] ^= 1 << (bit % 8)
					if bit/8 == bthOffFlags {
						continue // is not covered
					}
					// As if it were the next packet.
					if _, _, ok := path.verify(f.b, ident+1); !ok {
						continue
					}
					solved++
					before := e.stats
					p.dev.receive(f)
					if after := e.stats; after.DropsIdent+after.DropsMalformed == before.DropsIdent+before.DropsMalformed {
						t.Errorf("%d bytes, bit %d turned: accepted", len(f.b), bit)
					}
				}
				e.stats.Duplicates = 0
				e.stats.DropsICRC, e.stats.DropsIdent, e.stats.DropsMalformed = 0, 0, 0
			}
			if solved == 0 {
				t.Error("no damage passes for another Identification: the test shows nothing")
			}
			t.Logf("%d bits pass without the last Identification", solved)
		})
		p.end()
	})
}

// TestIdentsByQueuePair: a peer may count for each queue pair by itself.
func TestIdentsByQueuePair(t *testing.T) {
	inShard(t, func(t *testing.T, s *shard.Shard) {
		p := &player{t: t, shard: s}
		p.line("qp")
		p.run(func() {
			cq, qp := p.cq, p.qp
			other, err := p.dev.pd.CreateQP(verbs.QPInitAttr{SendCQ: cq, RecvCQ: cq, MaxSendWR: 1, MaxRecvWR: 1})
			if err != nil {
				t.Fatal(err)
			}
			if err := other.Modify(verbs.Init); err != nil {
				t.Fatal(err)
			}
			if err := other.Connect(verbs.QPAttr{Path: verbs.Path{Local: playAddr, Remote: playPeer, MTU: 256}, DestQPN: 1}); err != nil {
				t.Fatal(err)
			}
			for i := range uint16(1000) {
				for k, n := range []uint32{qp.num, other.Num()} {
					p.dev.receive(forgeIdent(playPeer, playAddr, &packet{bth: bth{opcode: opSendOnly, destQP: n, psn: 1<<24 - 1}}, i+1+uint16(k)*30_000))
				}
			}
			if st := p.dev.eng.stats; st.DropsIdent > 2 || st.DropsICRC != 0 || p.dev.eng.paths[pathKey{playAddr, playPeer}].idents.free {
				t.Errorf("%+v", st)
			}
			if err := other.Destroy(); err != nil {
				t.Error(err)
			}
		})
		p.end()
	})
}
