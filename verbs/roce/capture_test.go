package roce

import (
	"bytes"
	"encoding/binary"
	"io"
	"maps"
	"net/netip"
	"os"
	"testing"

	"github.com/fabrid/fabrid/internal/pcapng"
)

// The captures are of Linux 6.12 talking to itself over rxe, all packets as on
// a wire. Each has a discovery, an admin queue, I/O queues, READs and WRITEs.
var captures = []struct {
	file    string
	packets int
	cm      map[cmAttr]int
}{
	{"rxe-mtu1500.pcap", 520, map[cmAttr]int{cmAttrREQ: 4, cmAttrREP: 4, cmAttrRTU: 4, cmAttrDREQ: 4, cmAttrDREP: 4}},
	{"rxe-mtu4200.pcap", 343, map[cmAttr]int{cmAttrREQ: 4, cmAttrREP: 4, cmAttrRTU: 4, cmAttrDREQ: 4, cmAttrDREP: 4}},
	{"rxe-mtu9000.pcap", 321, map[cmAttr]int{cmAttrREQ: 4, cmAttrREP: 4, cmAttrRTU: 4, cmAttrDREQ: 4, cmAttrDREP: 4}},
	{"rxe-noinline-mtu1500.pcap", 521, map[cmAttr]int{cmAttrREQ: 4, cmAttrREP: 4, cmAttrRTU: 4, cmAttrDREQ: 4, cmAttrDREP: 4}},
	{"rxe-refused.pcap", 438, map[cmAttr]int{cmAttrREQ: 12, cmAttrREJ: 4, cmAttrREP: 8, cmAttrRTU: 8, cmAttrDREQ: 8, cmAttrDREP: 8}},
	{"rxe-v6-mtu1500.pcap", 512, map[cmAttr]int{cmAttrREQ: 4, cmAttrREP: 4, cmAttrRTU: 4, cmAttrDREQ: 4, cmAttrDREP: 4}},
}

// eachRoCE calls f with every RoCEv2 packet of a capture, from the IP header
// on, without what Ethernet may have added behind it.
func eachRoCE(t testing.TB, file string, f func(ip []byte, d datagram)) {
	t.Helper()
	in, err := os.Open("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	r, err := pcapng.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	if r.LinkType() != pcapng.Ethernet {
		t.Fatalf("%s: link type %d", file, r.LinkType())
	}
	const etherLen = 14
	for {
		p, err := r.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if p.Length != len(p.Data) {
			t.Fatalf("%s: %d of %d bytes captured", file, len(p.Data), p.Length)
		}
		ip := p.Data[etherLen:]
		switch binary.BigEndian.Uint16(p.Data[etherLen-2:]) {
		case 0x0800:
			if ip[9] != 17 || binary.BigEndian.Uint16(ip[ipv4Len+2:]) != udpPort {
				continue
			}
			ip = ip[:binary.BigEndian.Uint16(ip[2:])]
		case 0x86dd:
			if ip[6] != 17 || binary.BigEndian.Uint16(ip[ipv6Len+2:]) != udpPort {
				continue
			}
			ip = ip[:ipv6Len+int(binary.BigEndian.Uint16(ip[4:]))]
		default:
			continue
		}
		d := splitIP(t, ip)
		d.at = p.Time
		f(ip, d)
	}
}

// TestCaptures takes every packet apart and puts it together again.
func TestCaptures(t *testing.T) {
	for _, c := range captures {
		t.Run(c.file, func(t *testing.T) {
			n := 0
			cm := map[cmAttr]int{}
			type qp struct {
				at  netip.Addr
				qpn uint32
			}
			sports := map[qp]uint16{}     // by which packets reach a QP
			active := map[uint32]uint16{} // the same by the active side's comm ID
			eachRoCE(t, c.file, func(ip []byte, d datagram) {
				n++
				checkICRC(t, n, ip, d)
				var p packet
				if err := parsePacket(d.payload, &p); err != nil {
					t.Fatalf("packet %d: %v", n, err)
				}
				got := p.appendHeaders(nil)
				got = append(got, p.payload...)
				got = append(got, make([]byte, p.pad)...)
				if padLen(len(p.payload)) != p.pad {
					t.Errorf("packet %d: pad %d for %d bytes", n, p.pad, len(p.payload))
				}
				got = append(got, 0, 0, 0, 0)
				putICRC(got[len(got)-icrcLen:], newICRCPath(d.src, d.dst).sum(got[:len(got)-icrcLen], d.ident))
				if !bytes.Equal(got, d.payload) {
					t.Errorf("packet %d, %s: encodes to\n% x, want\n% x", n, opcodes[p.opcode].name, got, d.payload)
				}
				if packetLen(p.opcode, len(p.payload)) != len(d.payload) {
					t.Errorf("packet %d: %d bytes, packetLen says %d", n, len(d.payload), packetLen(p.opcode, len(p.payload)))
				}
				if p.pkey != defaultPKey {
					t.Errorf("packet %d: P_Key %#04x", n, p.pkey)
				}
				if p.opFlags&opIsUD == 0 {
					if want, ok := sports[qp{d.dst.Addr(), p.destQP}]; !ok || d.src.Port() != want {
						t.Errorf("packet %d: source port %d to QP %#x, the rule says %d", n, d.src.Port(), p.destQP, want)
					}
					return
				}
				if p.destQP != 1 || p.deth != (deth{gsiQKey, 1}) || d.src.Port() != gsiSport {
					t.Errorf("packet %d: QP %d, DETH %+v, source port %d", n, p.destQP, p.deth, d.src.Port())
				}
				m := checkCM(t, n, p.payload)
				cm[m.attr()]++
				switch m := m.(type) {
				case *cmREQ:
					checkREQ(t, n, m, d)
					sport := udpSport(m.primary.flowLabel, 0, 0)
					sports[qp{d.src.Addr(), m.localQPN}], active[m.localCommID] = sport, sport
				case *cmREP:
					sports[qp{d.src.Addr(), m.localQPN}] = active[m.remoteCommID]
				}
			})
			if n != c.packets {
				t.Errorf("%d packets, want %d", n, c.packets)
			}
			if !maps.Equal(cm, c.cm) {
				t.Errorf("connection manager messages %v, want %v", cm, c.cm)
			}
		})
	}
}

// checkICRC checks the ICRC of packet n in every way there is.
func checkICRC(t *testing.T, n int, ip []byte, d datagram) {
	t.Helper()
	body := d.payload[:len(d.payload)-icrcLen]
	want := binary.LittleEndian.Uint32(d.payload[len(body):])
	if got := slowICRC(ip[:len(ip)-icrcLen]); got != want {
		t.Errorf("packet %d: slow ICRC %08x, want %08x", n, got, want)
	}
	path := newICRCPath(d.src, d.dst)
	src, dst := d.src.Addr(), d.dst.Addr()
	if src.Is6() {
		if got := icrcV6(src.As16(), dst.As16(), d.src.Port(), d.dst.Port(), body); got != want {
			t.Errorf("packet %d: ICRC %08x, want %08x", n, got, want)
		}
		if !verifyV6(src.As16(), dst.As16(), d.src.Port(), d.dst.Port(), d.payload) {
			t.Errorf("packet %d: ICRC taken for wrong", n)
		}
		return
	}
	if got := icrcV4(src.As4(), dst.As4(), d.src.Port(), d.dst.Port(), d.ident, body); got != want {
		t.Errorf("packet %d: ICRC %08x, want %08x", n, got, want)
	}
	if got := path.sum(body, 0) ^ icrcFixID(len(d.payload), d.ident); got != want {
		t.Errorf("packet %d: ICRC with the Identification put in later %08x, want %08x", n, got, want)
	}
	for _, hint := range []uint16{d.ident, d.ident - 1, 0, 0xffff} {
		ident, df, ok := verifyV4(src.As4(), dst.As4(), d.src.Port(), d.dst.Port(), hint, d.payload)
		if ident != d.ident || df != (d.frag == fragDF) || !ok {
			t.Errorf("packet %d: hint %#04x: Identification %#04x, DF %v, %v; want %#04x, %#04x", n, hint, ident, df, ok, d.ident, d.frag)
		}
	}
}

// checkCM parses and encodes the MAD of packet n.
func checkCM(t *testing.T, n int, mad []byte) cmMessage {
	t.Helper()
	h, message, err := parseMAD(mad)
	if err != nil {
		t.Fatalf("packet %d: %v", n, err)
	}
	if err := h.checkCM(); err != nil {
		t.Fatalf("packet %d: %v", n, err)
	}
	m := newCMMessage(h.attrID)
	if m == nil {
		t.Fatalf("packet %d: %v", n, h.attrID)
	}
	if err := m.parse(message); err != nil {
		t.Fatalf("packet %d: %v", n, err)
	}
	if got := appendCM(nil, h.tid, m); !bytes.Equal(got, mad) {
		t.Errorf("packet %d, %v: encodes to\n% x, want\n% x", n, h.attrID, got, mad)
	}
	return m
}

// checkREQ checks what packet n, a REQ, says twice.
func checkREQ(t *testing.T, n int, m *cmREQ, d datagram) {
	t.Helper()
	var h cmaHeader
	if err := h.parse(m.privateData[:]); err != nil {
		t.Fatalf("packet %d: %v", n, err)
	}
	private := m.privateData
	h.put(private[:])
	if private != m.privateData {
		t.Errorf("packet %d: CMA header encodes to % x, want % x", n, private[:cmaHeaderLen], m.privateData[:cmaHeaderLen])
	}
	src, dst := d.src.Addr(), d.dst.Addr()
	if h.src != src || h.dst != dst || m.primary.localGID != src || m.primary.remoteGID != dst {
		t.Errorf("packet %d: from %v to %v, header %v to %v, path %v to %v", n, src, dst, h.src, h.dst, m.primary.localGID, m.primary.remoteGID)
	}
	port, ok := cmServicePort(m.serviceID)
	if !ok {
		t.Errorf("packet %d: service ID %#x", n, m.serviceID)
	}
	if got := cmaFlowLabel(h.srcPort, port); got != m.primary.flowLabel {
		t.Errorf("packet %d: flow label %#x, the rule says %#x", n, m.primary.flowLabel, got)
	}
}
