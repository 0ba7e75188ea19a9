package roce

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

// readHex reads a file of hex bytes with comments after '#'.
func readHex(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var digits strings.Builder
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		digits.WriteString(strings.Join(strings.Fields(line), ""))
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return b
}

// A datagram is an IP packet taken apart as a socket shows it, and a little
// more than that.
type datagram struct {
	src, dst     netip.AddrPort
	ident, frag  uint16 // IPv4
	payload      []byte // of UDP
	udpChecksum  uint16
	hopLimit     uint8
	trafficClass uint8
	at           time.Time // of a capture
}

// splitIP takes apart an IP packet, from the IP header on.
func splitIP(t testing.TB, b []byte) (d datagram) {
	t.Helper()
	var src, dst netip.Addr
	switch b[0] >> 4 {
	case 4:
		if b[0] != 0x45 || b[9] != 17 {
			t.Fatalf("IPv4 header % x: not plain UDP", b[:ipv4Len])
		}
		b = b[:binary.BigEndian.Uint16(b[2:])]
		d.trafficClass, d.hopLimit = b[1], b[8]
		d.ident, d.frag = binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
		src, dst = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		b = b[ipv4Len:]
	case 6:
		if b[6] != 17 {
			t.Fatalf("IPv6 header % x: not plain UDP", b[:ipv6Len])
		}
		d.trafficClass, d.hopLimit = b[0]<<4|b[1]>>4, b[7]
		n := int(binary.BigEndian.Uint16(b[4:]))
		src, dst = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
		b = b[ipv6Len : ipv6Len+n]
	default:
		t.Fatalf("IP version %d", b[0]>>4)
	}
	d.src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(b))
	d.dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(b[2:]))
	if n := int(binary.BigEndian.Uint16(b[4:])); n != len(b) {
		t.Fatalf("UDP length %d, have %d bytes", n, len(b))
	}
	d.udpChecksum = binary.BigEndian.Uint16(b[6:])
	d.payload = b[udpLen:]
	return d
}

// slowCRC is a CRC without any of the tables and tricks.
func slowCRC(r uint32, b []byte) uint32 {
	for _, x := range b {
		r ^= uint32(x)
		for range 8 {
			if r&1 != 0 {
				r = r>>1 ^ 0xedb88320
			} else {
				r >>= 1
			}
		}
	}
	return r
}

// slowICRC computes the ICRC of an IP packet that ends before it, by the book.
func slowICRC(b []byte) uint32 {
	b = bytes.Clone(b)
	udp := ipv6Len
	if b[0]>>4 == 4 {
		udp = ipv4Len
		b[1], b[8], b[10], b[11] = 0xff, 0xff, 0xff, 0xff
	} else {
		b[0] |= 0x0f
		b[1], b[2], b[3], b[7] = 0xff, 0xff, 0xff, 0xff
	}
	b[udp+6], b[udp+7] = 0xff, 0xff
	b[udp+udpLen+bthOffFlags] = 0xff
	lrh := bytes.Repeat([]byte{0xff}, 8)
	return ^slowCRC(slowCRC(0xffffffff, lrh), b)
}

func TestICRCVectors(t *testing.T) {
	for _, name := range []string{
		"v4-send-only.hex", "v4-send-only-id.hex", "v4-write-only-pad.hex", "v4-ack.hex", "v6-send-only.hex",
	} {
		t.Run(name, func(t *testing.T) {
			b := readHex(t, name)
			d := splitIP(t, b)
			body := d.payload[:len(d.payload)-icrcLen]
			want := binary.LittleEndian.Uint32(d.payload[len(body):])
			if got := slowICRC(b[:len(b)-icrcLen]); got != want {
				t.Errorf("slow ICRC %08x, want %08x", got, want)
			}
			if got := newICRCPath(d.src, d.dst).sum(body, d.ident); got != want {
				t.Errorf("ICRC %08x, want %08x", got, want)
			}
			ident, df, ok := newICRCPath(d.src, d.dst).verify(d.payload, d.ident^0x5aa5)
			if wantDF := d.src.Addr().Is4(); !ok || df != wantDF || wantDF && ident != d.ident {
				t.Errorf("verify: ident %#04x, df %v, ok %v, want %#04x, %v, true", ident, df, ok, d.ident, wantDF)
			}
			var p packet
			if err := parsePacket(d.payload, &p); err != nil {
				t.Fatal(err)
			}
			// FECN and BECN are not encoded unless set, so this is the packet
			// whatever the masked bits are.
			if got := p.appendHeaders(nil); !bytes.HasPrefix(d.payload, got) {
				t.Errorf("headers % x, want the start of % x", got, d.payload)
			}
		})
	}
}

// The specification's own example is of native InfiniBand: only the CRC.
func TestCRCSampleOfIBTA(t *testing.T) {
	b := readHex(t, "ib-sample.hex")
	want := binary.LittleEndian.Uint32(b[len(b)-icrcLen:])
	if got := ^crcBytes(0xffffffff, b[:len(b)-icrcLen]); got != want {
		t.Errorf("CRC %08x, want %08x", got, want)
	}
}

func TestCRCAgainstStandardLibrary(t *testing.T) {
	b := make([]byte, 700)
	rnd := rand.NewChaCha8([32]byte{1})
	rnd.Read(b)
	for n := range b {
		r := uint32(rnd.Uint64())
		if got, want := crcBytes(r, b[:n]), ^crc32.Update(^r, crc32.IEEETable, b[:n]); got != want {
			t.Fatalf("%d bytes from %08x: %08x, want %08x", n, r, got, want)
		}
	}
}

func TestCRCPowers(t *testing.T) {
	zeros := make([]byte, 1<<16)
	if got := crcMul(crcForward.at(1), crcBackward.at(1)); got != crcOne {
		t.Errorf("x⁸ times its inverse: %08x, want %08x", got, crcOne)
	}
	for _, n := range []int{0, 1, 2, 3, 4, 5, 255, 256, 257, 1040, 4 * crcWords, 4*crcWords - 4, 4*crcWords + 4, 65533, 65535} {
		if got, want := crcForward.at(n), slowCRC(crcOne, zeros[:n]); got != want {
			t.Errorf("x^(8·%d): %08x, want %08x", n, got, want)
		}
		if got := crcMul(crcForward.at(n), crcBackward.at(n)); got != crcOne {
			t.Errorf("x^(8·%d) times its inverse: %08x, want %08x", n, got, crcOne)
		}
	}
}

// TestICRCSolve draws packets of all lengths and Identifications and asks for
// them back.
func TestICRCSolve(t *testing.T) {
	if testing.Short() && raceEnabled {
		t.Skip("short: one goroutine, and nothing to race")
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 65507)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	src, dst := [4]byte{10, 1, 2, 3}, [4]byte{10, 9, 8, 7}
	// The lengths around where the table of powers ends, and any other.
	lengths := []int{16, 17, 18, 19, 20, 1040, 4112, 4136, 4*crcWords - 4 - icrcIdentEnd, 4*crcWords - icrcIdentEnd, 65504, 65507}
	for range 500 {
		lengths = append(lengths, 16+rnd.IntN(len(b)-15))
	}
	for _, n := range lengths {
		ident, sport := uint16(rnd.Uint32()), uint16(rnd.Uint32())
		b := b[:n]
		body := b[:n-icrcLen]
		good := icrcV4(src, dst, sport, udpPort, ident, body)
		if got := icrcV4(src, dst, sport, udpPort, 0, body) ^ icrcFixID(n, ident); got != good {
			t.Fatalf("%d bytes, Identification %#04x: corrected ICRC %08x, want %08x", n, ident, got, good)
		}
		putICRC(b[n-icrcLen:], good)
		for _, hint := range []uint16{0, ident, uint16(rnd.Uint32())} {
			got, df, ok := verifyV4(src, dst, sport, udpPort, hint, b)
			if got != ident || !df || !ok {
				t.Fatalf("%d bytes, hint %#04x: %#04x, DF %v, %v, want %#04x", n, hint, got, df, ok, ident)
			}
		}
		// Without DF: by the slow way, as nothing here sends that.
		ip := append([]byte{0x45, 0}, binary.BigEndian.AppendUint16(nil, uint16(n+ipv4Len+udpLen))...)
		ip = binary.BigEndian.AppendUint16(ip, ident)
		ip = append(ip, 0, 0, 64, 17, 0, 0)
		ip = append(append(ip, src[:]...), dst[:]...)
		ip = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(ip, sport), udpPort)
		ip = append(binary.BigEndian.AppendUint16(ip, uint16(n+udpLen)), 0, 0)
		putICRC(b[n-icrcLen:], slowICRC(append(ip, body...)))
		if got, df, ok := verifyV4(src, dst, sport, udpPort, 0, b); got != ident || df || !ok {
			t.Fatalf("%d bytes without DF: %#04x, DF %v, %v, want %#04x", n, got, df, ok, ident)
		}
	}
}

// A packet that lies in pieces has the ICRC of the whole.
func TestICRCInPieces(t *testing.T) {
	path := newICRCPath(netip.MustParseAddrPort("10.0.0.1:50000"), netip.MustParseAddrPort("10.0.0.2:4791"))
	for _, n := range []int{0, 1, 3, 4, 63, 64, 65, 1024, 1027, 4096} {
		p := samplePacket(opWriteFirst, n)
		b := appendPacket(nil, &p)
		b = b[:len(b)-icrcLen]
		head := int(opcodes[p.opcode].headerLen)
		for _, cut := range []int{head, head + n/2, head + n, len(b)} {
			r := path.begin(b[:head], len(b)+icrcLen, 7)
			r = crcBytes(crcBytes(r, b[head:cut]), b[cut:])
			if want := path.sum(b, 7); ^r != want {
				t.Errorf("%d bytes cut at %d: ICRC %08x, want %08x", len(b), cut, ^r, want)
			}
		}
	}
}

// TestICRCDamage flips every bit that the ICRC covers. All single flips are
// found; any damage has a chance of 1 in 2¹⁵ over IPv4 if the Identification
// is not known.
func TestICRCDamage(t *testing.T) {
	for _, name := range []string{"v4-send-only.hex", "v4-ack.hex", "v6-send-only.hex"} {
		d := splitIP(t, readHex(t, name))
		path := newICRCPath(d.src, d.dst)
		for bit := range 8 * len(d.payload) {
			if bit/8 == bthOffFlags {
				continue
			}
			d.payload[bit/8] ^= 1 << (bit % 8)
			if ident, _, ok := path.verify(d.payload, d.ident); ok {
				t.Errorf("%s with bit %d flipped: taken for good, Identification %#04x", name, bit, ident)
			}
			d.payload[bit/8] ^= 1 << (bit % 8)
		}
		for n := range len(d.payload) {
			if n < bthLen+icrcLen {
				if _, _, ok := path.verify(d.payload[:n], d.ident); ok {
					t.Errorf("%s cut to %d bytes: taken for good", name, n)
				}
			}
		}
		for what, p := range map[string]icrcPath{
			"source address":      newICRCPath(netip.AddrPortFrom(d.src.Addr().Next(), d.src.Port()), d.dst),
			"destination address": newICRCPath(d.src, netip.AddrPortFrom(d.dst.Addr().Next(), d.dst.Port())),
			"source port":         newICRCPath(netip.AddrPortFrom(d.src.Addr(), d.src.Port()+1), d.dst),
			"destination port":    newICRCPath(d.src, netip.AddrPortFrom(d.dst.Addr(), d.dst.Port()+1)),
		} {
			if _, _, ok := p.verify(d.payload, d.ident); ok {
				t.Errorf("%s with another %s: taken for good", name, what)
			}
		}
	}
}

// How often random damage passes when the Identification has to be solved for:
// the price of a socket that does not show it.
func TestICRCFalseAccepts(t *testing.T) {
	if testing.Short() && raceEnabled {
		t.Skip("short: one goroutine, and nothing to race")
	}
	d := splitIP(t, readHex(t, "v4-send-only.hex"))
	path := newICRCPath(d.src, d.dst)
	rnd := rand.New(rand.NewPCG(3, 4))
	icrc := d.payload[len(d.payload)-icrcLen:]
	const tries, want = 1 << 21, 1 << 6 // 2²¹ · 2⁻¹⁵
	accepted := 0
	for range tries {
		putICRC(icrc, rnd.Uint32())
		if _, _, ok := path.verify(d.payload, d.ident); ok {
			accepted++
		}
	}
	if accepted < want/2 || accepted > want*2 {
		t.Errorf("%d of %d accepted, want about %d", accepted, tries, want)
	}
}

func TestICRCPathOfMappedAddresses(t *testing.T) {
	mapped := func(s string) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr("::ffff:"+s), udpPort)
	}
	got := newICRCPath(mapped("10.0.0.1"), mapped("10.0.0.2"))
	if want := icrcPathV4([4]byte{10, 0, 0, 1}, [4]byte{10, 0, 0, 2}, udpPort, udpPort); got != want {
		t.Errorf("path %+v, want %+v", got, want)
	}
}
