package roce

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/internal/simnet"
	"github.com/fabrid/fabrid/verbs"
	"github.com/fabrid/fabrid/verbs/verbstest"
)

// A forger is a peer without an engine: it sends what it likes, with a right
// ICRC or not.
type forger struct {
	l     *lab
	r     *rand.Rand
	qpn   uint32 // of the victim
	psn   PSN    // that the victim expects of us
	sends PSN    // that the victim sends from
	mem   *verbstest.Memory
}

// send sends p with a payload.
func (f *forger) send(p *packet, payload []byte) {
	p.pad = padLen(len(payload))
	if f.r.IntN(50) == 0 {
		p.pad = uint8(f.r.IntN(4))
	}
	b := append(p.appendHeaders(nil), payload...)
	b = append(b, make([]byte, padLen(len(payload)))...)
	if f.r.IntN(50) == 0 {
		b = b[:bthLen+f.r.IntN(len(b)-bthLen+1)]
		b = b[:len(b)&^3]
	}
	from, to := netip.AddrPortFrom(simA, Port), netip.AddrPortFrom(simB, Port)
	b = binary.LittleEndian.AppendUint32(b, icrcV4(simA.As4(), simB.As4(), Port, Port, 0, b))
	if f.r.IntN(50) == 0 {
		b[f.r.IntN(len(b))] ^= 1 << f.r.IntN(8)
	}
	f.l.net.Send(from, to, 0, b)
}

// forge sends something that could pass for a packet.
func (f *forger) forge() {
	r := f.r
	p := packet{}
	for {
		p.opcode = uint8(r.IntN(0x18))
		if r.IntN(30) == 0 {
			p.opcode = uint8(r.IntN(256))
		}
		if opcodes[p.opcode].valid {
			break
		}
	}
	p.opFlags = opcodes[p.opcode].flags
	p.pkey = defaultPKey
	p.ackReq = r.IntN(2) == 0
	p.se = r.IntN(2) == 0
	p.destQP = f.qpn
	base := f.psn
	if p.opFlags&opIsResponse != 0 {
		base = f.sends
	}
	p.psn = base
	switch r.IntN(8) {
	case 0:
		p.psn = base.Add(r.IntN(64) - 32)
	case 1:
		p.psn = PSN(r.Uint32()) & psnMask
	case 2:
		p.psn = base.Add(1)
	}
	p.reth = reth{va: f.mem.IOVA + uint64(r.IntN(2000)), rkey: f.mem.MR.RKey(), length: uint32(r.IntN(9000))}
	switch r.IntN(12) {
	case 0:
		p.reth.rkey = r.Uint32()
	case 1:
		p.reth.va = r.Uint64()
	case 2:
		p.reth.length = r.Uint32()
	case 3:
		p.reth.length = 0
	}
	p.aeth = aeth{uint8(r.IntN(256)), r.Uint32() & psnMask}
	if r.IntN(2) == 0 {
		p.aeth.syndrome = []uint8{synAck, 0, synNAKSequence, 0x20}[r.IntN(4)]
	}
	p.imm, p.ieth = r.Uint32(), f.mem.MR.RKey()
	var payload []byte
	if p.opFlags&opHasPayload != 0 || r.IntN(40) == 0 {
		n := []int{0, 1, 3, 1023, 1024, 1025, 4096}[r.IntN(7)]
		if p.opFlags&(opIsFirst|opIsMiddle) != 0 && r.IntN(4) > 0 {
			n = 1024
		}
		payload = verbstest.Filled(n, 666)
		if p.opFlags&opIsOnly != 0 && r.IntN(4) > 0 {
			p.reth.length = uint32(n)
		}
	}
	f.send(&p, payload)
	// What the victim takes in moves what it expects.
	if p.opFlags&opIsRequest != 0 && p.psn == f.psn {
		n := 1
		if p.opFlags&opIsReadReq != 0 {
			n = max(1, int((uint64(p.reth.length)+1023)/1024)&psnMask)
		}
		f.psn = f.psn.Add(n)
	}
	if p.opFlags&opIsResponse != 0 && r.IntN(3) == 0 {
		f.sends = f.sends.Add(1)
	}
}

// TestHostilePeer has a peer send nonsense to queue pair after queue pair. It
// may ruin its own connection; the device, memory that it has no key for, and
// the connections of others do not notice.
func TestHostilePeer(t *testing.T) {
	seeds := uint64(4)
	if testing.Short() {
		seeds = 1
	}
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { hostile(t, seed) })
		})
	}
}

var simC = netip.MustParseAddr("192.0.2.3")

func hostile(t *testing.T, seed uint64) {
	l := newLabAt(t, simnet.Config{Seed: seed, Link: simnet.Link{Delay: simDelay}}, simC, simB)
	attr := verbstest.DefaultAttr(1024)
	r := rand.New(rand.NewPCG(seed, 1))

	// Somebody else, whose connection lives all the while.
	other := verbstest.Connect(t, l.a.node(), l.b.node(), attr)
	round := uint64(0)
	others := func() {
		round++
		buf := make([]byte, 3000)
		other.B.PostRecv(round, buf)
		other.A.Post(verbs.SendWR{WRID: round, Flags: verbs.SendSignaled, SG: other.A.SG(verbstest.Filled(3000, int(round)))})
		other.A.Expect(verbstest.Sent(round))
		other.B.Expect(verbstest.Received(round, 3000))
		other.B.ExpectBytes("of another connection", buf, verbstest.Filled(3000, int(round)))
	}

	victim := verbstest.NewSide(t, "victim", l.b.node())
	open := victim.Memory(8000, 1, allAccess)                // that the forger may do what it likes with
	secret := victim.Memory(8000, 2, verbs.AccessLocalWrite) // that it may not
	reads := victim.Memory(8000, 3, verbs.AccessLocalWrite)  // where RDMA READs go
	recvs := victim.Memory(8000, 4, verbs.AccessLocalWrite)  // where its SENDs go
	for range 150 {
		qp := victim.CreateQP(attr.Init)
		victim.QP = qp
		at := attr.QP
		at.Path.Local, at.Path.Remote = simB, simA
		at.DestQPN = r.Uint32() & 0xffffff
		at.SQPSN, at.RQPSN = r.Uint32()&psnMask, r.Uint32()&psnMask
		at.RemoteAccess = allAccess
		at.RetryCnt = r.IntN(8)
		victim.Do("connect", func() error { return qp.Connect(at) })
		f := &forger{l: l, r: r, qpn: qp.Num(), psn: PSN(at.RQPSN), sends: PSN(at.SQPSN), mem: open}
		victim.PostRecv(0, recvs.Buf[:4000], recvs.Buf[4000:4100], recvs.Buf[4100:])
		victim.Post(
			verbs.SendWR{WRID: 10, SG: victim.SG(secret.Buf[:3000])},
			verbs.SendWR{WRID: 11, Opcode: verbs.WRRDMARead, Flags: verbs.SendSignaled, SG: victim.SG(reads.Buf[:5000]), RKey: 1},
			verbs.SendWR{WRID: 12, Opcode: verbs.WRRDMARead, SG: victim.SG(reads.Buf[5000:5001]), RKey: 1},
			verbs.SendWR{WRID: 13, Opcode: verbs.WRRDMAWrite, Flags: verbs.SendSignaled, SG: victim.SG(secret.Buf), RKey: 1},
		)
		for range 1 + r.IntN(120) {
			f.forge()
			if r.IntN(4) == 0 {
				time.Sleep(time.Duration(r.IntN(200)) * time.Microsecond)
			}
		}
		time.Sleep(time.Millisecond)
		others()
		victim.Destroy(qp)
		for {
			select {
			case <-victim.Events:
				continue
			default:
			}
			break
		}
	}
	time.Sleep(time.Second)
	secret.ExpectAt("memory without remote access", 0, nil)
	for _, m := range []*verbstest.Memory{open, reads, recvs} {
		m.ExpectMargins("around memory that the peer reaches")
	}
	others()
	if st := l.b.Stats(); st.DropsICRC == 0 || st.DropsMalformed == 0 || st.NAKsSent == 0 || st.PacketsReceived < 5000 {
		t.Errorf("the forger did not get far: %+v", st)
	}
}
