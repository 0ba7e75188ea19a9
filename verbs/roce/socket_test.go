package roce

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
	"github.com/fabrid/fabrid/verbs/verbstest"
)

// appendControl appends a control message as the kernel does, in a structure of
// 64-bit systems, filled up to a multiple of 8.
func appendControl(b []byte, level, typ uint32, data ...byte) []byte {
	b = binary.NativeEndian.AppendUint64(b, uint64(unix.SizeofCmsghdr+len(data)))
	b = binary.NativeEndian.AppendUint32(b, level)
	b = binary.NativeEndian.AppendUint32(b, typ)
	b = append(b, data...)
	for len(b)%8 != 0 {
		b = append(b, 0xee)
	}
	return b
}

func pktinfo4(addr string) []byte {
	data := []byte{9, 0, 0, 0, 127, 9, 9, 9} // interface and ipi_spec_dst
	return append(data, netip.MustParseAddr(addr).AsSlice()...)
}

func groSize(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

func tos(level, typ uint32, data ...byte) []byte { return appendControl(nil, level, typ, data...) }

func TestParseControl(t *testing.T) {
	info := appendControl(nil, unix.IPPROTO_IP, unix.IP_PKTINFO, pktinfo4("192.0.2.9")...)
	gro := appendControl(nil, unix.IPPROTO_UDP, unix.UDP_GRO, groSize(1040)...)
	v6 := netip.MustParseAddr("2001:db8::7")
	info6 := appendControl(nil, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, append(v6.AsSlice(), 9, 0, 0, 0)...)
	other := appendControl(nil, unix.SOL_SOCKET, unix.SCM_TIMESTAMP, make([]byte, 13)...)
	v4 := netip.MustParseAddr("192.0.2.9")
	long := binary.NativeEndian.AppendUint64(nil, 1<<63+20)

	for _, c := range []struct {
		name   string
		ctl    [][]byte
		to     netip.Addr
		size   int
		marked bool
	}{
		{"nothing", nil, netip.Addr{}, 0, false},
		{"IPv4", [][]byte{info}, v4, 0, false},
		{"IPv6", [][]byte{info6}, v6, 0, false},
		{"a train", [][]byte{info, gro}, v4, 1040, false},
		{"the other way round", [][]byte{gro, info}, v4, 1040, false},
		{"behind something else", [][]byte{other, info6, gro}, v6, 1040, false},
		{"the last without its fill", [][]byte{info, gro[:unix.SizeofCmsghdr+4]}, v4, 1040, false},
		{"cut off", [][]byte{info, gro[:unix.SizeofCmsghdr+3]}, v4, 0, false},
		{"a header that is cut off", [][]byte{info, gro[:15]}, v4, 0, false},
		{"shorter than its structure", [][]byte{appendControl(nil, unix.IPPROTO_IP, unix.IP_PKTINFO, pktinfo4("192.0.2.9")[:11]...)}, netip.Addr{}, 0, false},
		{"a length that is too long", [][]byte{append(long, info[8:]...), gro}, netip.Addr{}, 0, false},
		{"a length of nothing", [][]byte{make([]byte, 64)}, netip.Addr{}, 0, false},
		{"marked", [][]byte{info, tos(unix.IPPROTO_IP, unix.IP_TOS, 0xb8|3), gro}, v4, 1040, true},
		{"could be marked", [][]byte{info, tos(unix.IPPROTO_IP, unix.IP_TOS, 0xb8|2)}, v4, 0, false},
		{"marked, IPv6", [][]byte{tos(unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 3, 0, 0, 0), info6}, v6, 0, binary.NativeEndian.Uint32([]byte{3, 0, 0, 0})&3 == 3},
		{"a traffic class that is cut off", [][]byte{tos(unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 3, 3, 3)}, netip.Addr{}, 0, false},
	} {
		var ctl []byte
		for _, b := range c.ctl {
			ctl = append(ctl, b...)
		}
		if to, size, marked := parseControl(ctl); to != c.to || size != c.size || marked != c.marked {
			t.Errorf("%s: address %v, size %d, marked %v; want %v, %d, %v", c.name, to, size, marked, c.to, c.size, c.marked)
		}
	}
}

// FuzzParseControl: whatever the kernel says, nothing is read beyond it, and
// what is good in front of rubbish is found.
func FuzzParseControl(f *testing.F) {
	f.Add([]byte{})
	f.Add(appendControl(nil, unix.IPPROTO_IP, unix.IP_PKTINFO, pktinfo4("192.0.2.9")...))
	f.Add(appendControl(nil, unix.IPPROTO_UDP, unix.UDP_GRO, groSize(1040)...))
	f.Add(appendControl(nil, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, make([]byte, 20)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		exact := append(make([]byte, 0, len(b)), b...)
		to, size, marked := parseControl(exact[:len(b):len(b)])
		front := appendControl(nil, unix.SOL_SOCKET, 99, 1, 2, 3)
		if to2, size2, marked2 := parseControl(append(front, b...)); to2 != to || size2 != size || marked2 != marked {
			t.Errorf("%v, %d, %v alone, and %v, %d, %v behind another", to, size, marked, to2, size2, marked2)
		}
	})
}

// TestSocketIsFull has a link so slow that the kernel takes no more: what it
// does not take waits until it does.
func TestSocketIsFull(t *testing.T) {
	local, remote := netip.MustParseAddr("fd00:75::1"), netip.MustParseAddr("fd00:75::2")
	for _, cfg := range []Config{{}, {NoGSO: true}} {
		t.Run(fmt.Sprintf("NoGSO %v", cfg.NoGSO), func(t *testing.T) {
			sa, sb := newShard(t, "A"), newShard(t, "B")
			enterNamespace(t, sa, sb, local, remote)
			var err error
			if e := sa.Run(func() { err = slowLoopback() }); e != nil {
				t.Fatal(e)
			}
			if errors.Is(err, exec.ErrNotFound) {
				t.Skip("needs tc to slow a link down")
			}
			if err != nil {
				t.Fatal(err)
			}
			cfg.SocketBuffer = 64 << 10
			cfg.Shard, cfg.Addr = sa, local
			a := openDevice(t, cfg)
			cfg.Shard, cfg.Addr = sb, remote
			cfg.SocketBuffer = 4 << 20
			b := openDevice(t, cfg)

			const n = 4 << 20
			p := verbstest.Connect(t, a.node(), b.node(), verbstest.DefaultAttr(4096))
			m := p.B.Memory(n, 1, 7)
			data := verbstest.Filled(n, 2)
			p.A.Post(verbs.SendWR{WRID: 1, Opcode: verbs.WRRDMAWrite, Flags: verbs.SendSignaled, SG: p.A.SG(data), RemoteAddr: m.IOVA, RKey: m.MR.RKey()})
			p.A.Expect(verbstest.Wrote(1))
			m.ExpectAt("written", 0, data)
			back := make([]byte, n)
			p.B.Post(verbs.SendWR{WRID: 2, Opcode: verbs.WRRDMARead, Flags: verbs.SendSignaled, SG: p.B.SG(back), RemoteAddr: 0, RKey: p.A.RegMR(data, 0, verbs.AccessRemoteRead).RKey()})
			p.B.Expect(verbstest.Read(2))
			p.B.ExpectBytes("read", back, data)
			if s := a.Stats(); s.SendBlocked == 0 || s.DropsSend != 0 {
				t.Errorf("the wire was full %d times, %d packets were refused", s.SendBlocked, s.DropsSend)
			}
		})
	}
}

// slowLoopback bounds the rate of the loopback interface of the thread's
// network namespace.
func slowLoopback() error {
	out, err := exec.Command("tc", strings.Fields("qdisc add dev lo root tbf rate 400mbit burst 128kb limit 64mb")...).CombinedOutput()
	if err != nil && !errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("tc: %w: %s", err, out)
	}
	return err
}

// TestReceiveBufferIsFull sends to a socket whose shard does something else: what
// its buffer does not hold is counted, and sent again.
func TestReceiveBufferIsFull(t *testing.T) {
	a, b := openSockets(t, Config{SocketBuffer: 16 << 10, NoGSO: true, NoGRO: true})
	p := verbstest.Connect(t, a.node(), b.node(), verbstest.DefaultAttr(4096))
	const n = 256 << 10
	m := p.B.Memory(n, 1, 7)
	data := verbstest.Filled(n, 2)
	busy, begun := make(chan struct{}), make(chan struct{})
	b.shard.Post(&shard.Task{Fn: func() { close(begun); <-busy }})
	<-begun
	p.A.Post(verbs.SendWR{WRID: 1, Opcode: verbs.WRRDMAWrite, Flags: verbs.SendSignaled, SG: p.A.SG(data), RemoteAddr: m.IOVA, RKey: m.MR.RKey()})
	if st := a.Stats(); st.PacketsSent < windowStart/2 { // waits for the shard, and so for what it sends first
		t.Errorf("%d packets sent", st.PacketsSent)
	}
	close(busy)
	p.A.Expect(verbstest.Wrote(1))
	m.ExpectAt("written", 0, data)
	if st := b.Stats(); st.DropsReceive == 0 {
		t.Errorf("no packet was dropped: %+v", st)
	}
}
