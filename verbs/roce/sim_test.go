package roce

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/internal/simnet"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
	"github.com/fabrid/fabrid/verbs/verbstest"
)

// simDelay is the one-way delay of simulated links.
const simDelay = 10 * time.Microsecond

const allAccess = verbs.AccessLocalWrite | verbs.AccessRemoteRead | verbs.AccessRemoteWrite

var simA, simB = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")

// A lab is two devices on a simulated network, in a bubble.
type lab struct {
	net  *simnet.Net
	a, b *station
}

func newLab(t testing.TB, cfg simnet.Config) *lab {
	t.Helper()
	return newLabAt(t, cfg, simA, simB)
}

func newLabAt(t testing.TB, cfg simnet.Config, a, b netip.Addr) *lab {
	t.Helper()
	l := &lab{net: simnet.New(cfg)}
	t.Cleanup(func() { l.net.Close() })
	l.net.Capture(t)
	open := func(addr netip.Addr) *station {
		return openDevice(t, Config{Shard: shard.NewSim(shard.Config{Name: addr.String()}), Addr: addr, Network: l.net})
	}
	l.a, l.b = open(a), open(b)
	return l
}

// inLab runs fn in a bubble with a lab.
func inLab(t *testing.T, cfg simnet.Config, fn func(t *testing.T, l *lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { fn(t, newLab(t, cfg)) })
}

// pair connects a pair of queue pairs.
func (l *lab) pair(t testing.TB, attr verbstest.Attr) *verbstest.Pair {
	t.Helper()
	return verbstest.Connect(t, l.a.node(), l.b.node(), attr)
}

// setDrop scripts the losses from A to B and from B to A.
func (l *lab) setDrop(t testing.TB, fromA, fromB func(n int, b []byte) bool) {
	t.Helper()
	l.setLinks(t, simnet.Link{Delay: simDelay, Drop: fromA}, simnet.Link{Delay: simDelay, Drop: fromB})
}

func (l *lab) setLinks(t testing.TB, fromA, fromB simnet.Link) {
	t.Helper()
	if err := l.net.SetLink(simA, simB, fromA); err != nil {
		t.Fatal(err)
	}
	if err := l.net.SetLink(simB, simA, fromB); err != nil {
		t.Fatal(err)
	}
}

// expectQuiet fails the test if an end sends anything in the next hour: a
// connection on which all is done has no reason to.
func (l *lab) expectQuiet(t testing.TB) {
	t.Helper()
	synctest.Wait()
	time.Sleep(time.Minute) // what was held back, and what that leads to
	before := l.net.Stats().Sent
	time.Sleep(time.Hour)
	if n := l.net.Stats().Sent - before; n > 0 {
		t.Errorf("%d packets were sent when all was done", n)
	}
}

// collect takes n completions and parts those of receives from the others.
func collect(s *verbstest.Side, n int) (sends, recvs []verbs.WC) {
	for range n {
		if wc := s.Next(); wc.Opcode == verbs.WCRecv {
			recvs = append(recvs, wc)
		} else {
			sends = append(sends, wc)
		}
	}
	return sends, recvs
}

// A talk is a conversation in which every kind of packet occurs: A posts all of
// its operations at once, B does so too. What comes of it is the same whatever
// becomes of the packets.
type talk struct {
	*verbstest.Pair
	t *testing.T

	memA, memB *verbstest.Memory
	key        uint32 // of a region of B's, for A to invalidate
	gotA, gotB [][]byte
	reads      [][]byte
}

const talkMem = 10_000

// Sizes of what is sent, in the order of posting.
var (
	talkSendsA = []int{100, 3000, 40, 0, 2100}
	talkSendsB = []int{2000, 0, 1025}
	talkReads  = []int{3000, 10, 2048}
)

func newTalk(t *testing.T, l *lab, psnA, psnB uint32) *talk {
	attr := verbstest.DefaultAttr(1024)
	attr.PSNA, attr.PSNB = psnA, psnB
	k := &talk{Pair: l.pair(t, attr), t: t}
	k.memA, k.memB = k.A.Memory(talkMem, 1, allAccess), k.B.Memory(talkMem, 2, allAccess)
	mr := k.B.AllocMR(100)
	k.key = mr.RKey()&^0xff | 5
	k.B.Post(verbs.SendWR{WRID: 1, Opcode: verbs.WRRegMR, Flags: verbs.SendSignaled, MR: mr, Buf: make([]byte, 100), Access: allAccess, RKey: k.key})
	k.B.Expect(verbstest.Registered(1))
	// Two more receives than are needed: they must be left.
	k.gotA, k.gotB = verbstest.Bufs(len(talkSendsB)+2, 4000), verbstest.Bufs(len(talkSendsA)+2, 4000)
	k.A.PostRecv(0, k.gotA...)
	k.B.PostRecv(0, k.gotB...)
	for _, n := range talkReads {
		k.reads = append(k.reads, make([]byte, n))
	}
	return k
}

// run talks and returns how long it took.
func (k *talk) run() time.Duration {
	k.t.Helper()
	begin := time.Now()
	const signaled = verbs.SendSignaled
	send := func(s *verbstest.Side, i, n int) verbs.SendWR {
		return verbs.SendWR{Opcode: verbs.WRSend, Flags: signaled, SG: s.SG(verbstest.Filled(n, 100+i))}
	}
	read := func(i, off int) verbs.SendWR {
		return verbs.SendWR{Opcode: verbs.WRRDMARead, Flags: signaled, SG: k.A.SG(k.reads[i]), RemoteAddr: k.memB.IOVA + uint64(off), RKey: k.memB.MR.RKey()}
	}
	writeB := verbs.SendWR{Opcode: verbs.WRRDMAWrite, Flags: signaled, SG: k.A.SG(verbstest.Filled(3000, 7)), RemoteAddr: k.memB.IOVA + 5000, RKey: k.memB.MR.RKey()}
	writeB2 := verbs.SendWR{Opcode: verbs.WRRDMAWrite, Flags: signaled, SG: k.A.SG(verbstest.Filled(10, 8)), RemoteAddr: k.memB.IOVA + 9000, RKey: k.memB.MR.RKey()}
	writeA := verbs.SendWR{Opcode: verbs.WRRDMAWrite, Flags: signaled, SG: k.B.SG(verbstest.Filled(5000, 9)), RemoteAddr: k.memA.IOVA + 1, RKey: k.memA.MR.RKey()}
	inv := send(k.A, 2, talkSendsA[2])
	inv.Opcode, inv.RKey = verbs.WRSendWithInv, k.key
	fromA := []verbs.SendWR{
		send(k.A, 0, talkSendsA[0]), send(k.A, 1, talkSendsA[1]), writeB, writeB2, read(0, 0), inv,
		read(1, 3500), read(2, 1000), send(k.A, 3, talkSendsA[3]), send(k.A, 4, talkSendsA[4]),
	}
	fromB := []verbs.SendWR{send(k.B, 0, talkSendsB[0]), writeA, send(k.B, 1, talkSendsB[1]), send(k.B, 2, talkSendsB[2])}
	for i := range fromA {
		fromA[i].WRID = uint64(i)
	}
	for i := range fromB {
		fromB[i].WRID = uint64(i)
	}
	k.B.Post(fromB...)
	k.A.Post(fromA...)
	k.check(k.A, len(fromA), k.gotA, talkSendsB)
	k.check(k.B, len(fromB), k.gotB, talkSendsA)
	took := time.Since(begin)

	write := make([]byte, talkMem)
	copy(write, k.memB.Buf)
	for i, off := range []int{0, 3500, 1000} {
		k.A.ExpectBytes(fmt.Sprintf("RDMA READ %d", i), k.reads[i], write[off:off+talkReads[i]])
	}
	k.A.ExpectBytes("written at A", k.memA.Buf[1:5001], verbstest.Filled(5000, 9))
	k.B.ExpectBytes("written at B", k.memB.Buf[5000:8000], verbstest.Filled(3000, 7))
	k.B.ExpectBytes("written at B", k.memB.Buf[9000:9010], verbstest.Filled(10, 8))
	return took
}

// check looks at the completions of one end: all of them, once, in order.
func (k *talk) check(s *verbstest.Side, sends int, got [][]byte, sizes []int) {
	k.t.Helper()
	gotSends, gotRecvs := collect(s, sends+len(sizes))
	if len(gotSends) != sends {
		k.t.Fatalf("%s: %d sends completed, want %d", s.Name, len(gotSends), sends)
	}
	for i, wc := range gotSends {
		if wc.WRID != uint64(i) || wc.Status != verbs.WCSuccess {
			k.t.Fatalf("%s: completion %+v, want success of %d", s.Name, wc, i)
		}
	}
	for i, wc := range gotRecvs {
		if wc.WRID != uint64(i) || wc.Status != verbs.WCSuccess || int(wc.ByteLen) != sizes[i] {
			k.t.Fatalf("%s: completion %+v, want receive %d of %d bytes", s.Name, wc, i, sizes[i])
		}
		s.ExpectBytes(fmt.Sprintf("message %d", i), got[i][:sizes[i]], verbstest.Filled(sizes[i], 100+i))
		if inv := wc.Flags&verbs.WCWithInvalidate != 0; inv != (s == k.B && i == 2) {
			k.t.Errorf("%s: receive %d: invalidated %v", s.Name, i, inv)
		}
	}
}

// end sees to it that nothing comes after all is done.
func (k *talk) end(l *lab) {
	k.t.Helper()
	l.expectQuiet(k.t)
	for _, s := range []*verbstest.Side{k.A, k.B} {
		s.ExpectNone(time.Millisecond)
		s.ExpectNoEvent()
		s.ExpectState(verbs.RTS)
	}
}

// packetOf parses a packet on its way; the ICRC is not looked at.
func packetOf(b []byte) packet {
	var p packet
	if err := parsePacket(b, &p); err != nil {
		panic(err) // ours are never malformed
	}
	return p
}
