package roce

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// The invariant CRC of RoCEv2 covers the IP and UDP headers, with what changes
// on the way masked to ones, BTH, and all that follows. A socket neither shows
// nor lets us choose the IPv4 Identification and DF, which it covers as well:
//
//   - Sending, we know them: DF is set and the Identification is 0, or the
//     index of the segment in its GSO train (see icrcFixID).
//   - Receiving, they are the one unknown of a linear equation, because a CRC
//     is linear. We solve it, and take the packet as good if the flags and
//     fragment offset that come out are ones that can be, which leaves 15 bits
//     of the check; all 32 if the caller's guess was right.
//
// Nothing here keeps state or allocates; all may be called from any goroutine.

// Flags and fragment offset of an IPv4 header: nobody fragments RoCEv2.
const (
	fragDF   uint16 = 0x4000
	fragNone uint16 = 0x0000
)

const (
	ipv4Len = 20
	ipv6Len = 40
	udpLen  = 8
)

// icrcSeed is the register after the 8 bytes of ones that stand in for the
// local route header.
const icrcSeed uint32 = 0xdebb20e3

// icrcTables say what a byte that differs between the packets of a path adds
// to the register at the end of the UDP header.
var icrcTables = func() (t struct {
	totalHi, totalLo     [256]uint32 // IPv4 Total Length
	identHi, identLo     [256]uint32 // IPv4 Identification
	lengthHi, lengthLo   [256]uint32 // UDP Length
	lengthHi6, lengthLo6 [256]uint32 // IPv6 Payload Length and UDP Length, always equal
	start4, start6       uint32      // registers after the masked first bytes
}) {
	// v4: 45 ff | len len | id id | DF 00 | ff 11 | ff ff, then addresses.
	t.start4 = crcBytes(icrcSeed, []byte{0x45, 0xff, 0, 0, 0, 0, 0x40, 0, 0xff, 17, 0xff, 0xff})
	// v6: 6f ff ff ff | len len | 11 ff, then addresses.
	t.start6 = crcBytes(icrcSeed, []byte{0x6f, 0xff, 0xff, 0xff, 0, 0, 17, 0xff})
	const end4, end6 = ipv4Len + udpLen, ipv6Len + udpLen
	for b := range 256 {
		after := func(n int) uint32 { return crcMul(crcTables[0][b], crcForward.at(n)) }
		t.totalHi[b], t.totalLo[b] = after(end4-3), after(end4-4)
		t.identHi[b], t.identLo[b] = after(end4-5), after(end4-6)
		t.lengthHi[b], t.lengthLo[b] = after(3), after(2)
		t.lengthHi6[b], t.lengthLo6[b] = after(end6-5)^after(3), after(end6-6)^after(2)
	}
	return t
}()

// An icrcPath is the part of the ICRC that all packets from one UDP address to
// another have in common. Keep one where the same path is used again.
type icrcPath struct {
	state uint32 // the register after the UDP header, its lengths and ID being 0
	v6    bool
}

// icrcPathV4 returns the path of IPv4 packets with DF set.
func icrcPathV4(src, dst [4]byte, sport, dport uint16) icrcPath {
	r := icrcTables.start4
	r = crc64Bits(r, uint64(binary.LittleEndian.Uint32(src[:]))|uint64(binary.LittleEndian.Uint32(dst[:]))<<32)
	return icrcPath{state: crc64Bits(r, icrcPorts(sport, dport))}
}

// icrcPathV6 returns the path of IPv6 packets.
func icrcPathV6(src, dst [16]byte, sport, dport uint16) icrcPath {
	r := icrcTables.start6
	r = crc64Bits(r, binary.LittleEndian.Uint64(src[:]))
	r = crc64Bits(r, binary.LittleEndian.Uint64(src[8:]))
	r = crc64Bits(r, binary.LittleEndian.Uint64(dst[:]))
	r = crc64Bits(r, binary.LittleEndian.Uint64(dst[8:]))
	return icrcPath{state: crc64Bits(r, icrcPorts(sport, dport)), v6: true}
}

// newICRCPath returns the path from one address and UDP port to another, both
// of the same family. IPv4 addresses may be mapped into IPv6: what counts is
// the family of the packets, and a mapped address never is in an IPv6 packet.
func newICRCPath(src, dst netip.AddrPort) icrcPath {
	s, d := src.Addr().Unmap(), dst.Addr().Unmap()
	if s.Is4() && d.Is4() {
		return icrcPathV4(s.As4(), d.As4(), src.Port(), dst.Port())
	}
	return icrcPathV6(s.As16(), d.As16(), src.Port(), dst.Port())
}

// icrcPorts returns the UDP header with a length of 0 and its checksum masked,
// as crc64Bits takes it.
func icrcPorts(sport, dport uint16) uint64 {
	return uint64(bits.ReverseBytes16(sport)) | uint64(bits.ReverseBytes16(dport))<<16 | 0xffff<<48
}

// sum returns the ICRC of a packet. b is the UDP payload up to the ICRC, BTH
// first, at least bthLen bytes. ident is the IPv4 Identification and without
// meaning on IPv6.
func (p icrcPath) sum(b []byte, ident uint16) uint32 {
	return ^p.begin(b, len(b)+icrcLen, ident)
}

// begin returns the register after head, the first bytes of a packet from BTH
// on and at least bthLen of them, whose UDP payload is size bytes in all. What
// follows up to the ICRC is fed by crcBytes; the complement is the ICRC.
func (p icrcPath) begin(head []byte, size int, ident uint16) uint32 {
	t := &icrcTables
	r := p.state
	if n := size + udpLen; p.v6 {
		r ^= t.lengthHi6[uint8(n>>8)] ^ t.lengthLo6[uint8(n)]
	} else {
		r ^= t.lengthHi[uint8(n>>8)] ^ t.lengthLo[uint8(n)]
		n += ipv4Len
		r ^= t.totalHi[uint8(n>>8)] ^ t.totalLo[uint8(n)]
		r ^= t.identHi[ident>>8] ^ t.identLo[uint8(ident)]
	}
	const masked = 0xff << (8 * bthOffFlags)
	r = crc64Bits(r, binary.LittleEndian.Uint64(head)|masked)
	return crcBytes(r, head[8:])
}

// verify reports whether the ICRC of a packet is right and, of an IPv4 packet,
// the Identification that makes it so and whether DF was set. b is the whole
// UDP payload; one that is too short is wrong. hint is the Identification that
// the caller expects with DF, if it expects any; a good one makes the check as
// strong as it can be, and a little faster.
func (p icrcPath) verify(b []byte, hint uint16) (ident uint16, df, ok bool) {
	end := len(b) - icrcLen
	if end < bthLen {
		return 0, false, false
	}
	diff := p.sum(b[:end], hint) ^ binary.LittleEndian.Uint32(b[end:])
	if diff == 0 {
		return hint, !p.v6, true
	}
	if p.v6 {
		return 0, false, false
	}
	// The difference is what the four unknown bytes differ by, times x⁸ for
	// each of them and each byte after them.
	x := bits.ReverseBytes32(crcMul(diff, crcBackward.at(len(b)+icrcIdentEnd)))
	switch uint16(x) ^ fragDF {
	case fragDF:
		return hint ^ uint16(x>>16), true, true
	case fragNone:
		return hint ^ uint16(x>>16), false, true
	}
	return 0, false, false
}

// icrcIdentEnd is what, added to the length of a UDP payload with its ICRC,
// gives the bytes from the Identification to the end of what the ICRC covers.
const icrcIdentEnd = ipv4Len - 4 + udpLen - icrcLen

// icrcFixID returns by what the ICRC of an IPv4 packet changes when its
// Identification changes from 0 to ident: ICRC(ident) = ICRC(0) ^ icrcFixID(n,
// ident), and likewise between any two of them and their XOR. n is the length
// of the UDP payload with the ICRC. It depends on nothing else, so that an
// ICRC can be made when the payload is copied, and set right when the packet's
// place in its train is known.
func icrcFixID(n int, ident uint16) uint32 {
	return crcMul(uint32(bits.ReverseBytes16(ident)), crcForward.at(n+icrcIdentEnd))
}

// icrcV4 returns the ICRC of an IPv4 packet with DF set. b is the UDP payload
// up to the ICRC, BTH first, at least bthLen bytes.
func icrcV4(src, dst [4]byte, sport, dport, ident uint16, b []byte) uint32 {
	return icrcPathV4(src, dst, sport, dport).sum(b, ident)
}

// icrcV6 is icrcV4 for an IPv6 packet.
func icrcV6(src, dst [16]byte, sport, dport uint16, b []byte) uint32 {
	return icrcPathV6(src, dst, sport, dport).sum(b, 0)
}

// verifyV4 is icrcPath.verify for an IPv4 packet.
func verifyV4(src, dst [4]byte, sport, dport, hint uint16, b []byte) (ident uint16, df, ok bool) {
	return icrcPathV4(src, dst, sport, dport).verify(b, hint)
}

// verifyV6 reports whether the ICRC of an IPv6 packet is right. b is the whole
// UDP payload.
func verifyV6(src, dst [16]byte, sport, dport uint16, b []byte) bool {
	_, _, ok := icrcPathV6(src, dst, sport, dport).verify(b, 0)
	return ok
}

// putICRC writes an ICRC to the start of b: least significant byte first.
func putICRC(b []byte, icrc uint32) { binary.LittleEndian.PutUint32(b, icrc) }
