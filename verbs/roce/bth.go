package roce

import "encoding/binary"

// A bth is a base transport header, the first of every packet.
//
//	byte  0        1           2..3    4           5..7    8        9..11
//	    +--------+-----------+-------+-----------+-------+--------+-------+
//	    | OpCode |S M Pad TVer| P_Key|F B Resv6  |DestQP |A Resv7 |  PSN  |
//	    +--------+-----------+-------+-----------+-------+--------+-------+
//
// Reserved bits are sent as 0 and not looked at. FECN, BECN and Resv6 change on
// the way, and the ICRC does not cover them.
type bth struct {
	opcode  uint8
	se      bool  // solicited event
	migReq  bool  // M; ignored, hardware sets it
	ackReq  bool  // A; meaningless on UD, where rxe sets it all the same
	fecn    bool  // forward congestion
	becn    bool  // backward congestion, as a CNP carries it
	pad     uint8 // bytes between payload and ICRC, 0..3
	pkey    uint16
	destQP  uint32 // 24 bits
	psn     PSN
	opFlags opFlags // opcodes[opcode].flags, kept by parsePacket
}

const (
	bthLen  = 12
	icrcLen = 4

	qpnMask = 1<<24 - 1

	// defaultPKey is the full-member default partition key, the only one.
	defaultPKey uint16 = 0xffff
	// pkeyFullMember is set in the P_Key of a full member of a partition.
	pkeyFullMember uint16 = 0x8000
)

// bthOffFlags holds FECN, BECN and Resv6, which the ICRC masks.
const bthOffFlags = 4

// parse reads the header at the start of b, which has at least bthLen bytes.
// It reports whether the transport version is known.
func (h *bth) parse(b []byte) bool {
	_ = b[bthLen-1]
	h.opcode = b[0]
	h.se = b[1]&0x80 != 0
	h.migReq = b[1]&0x40 != 0
	h.pad = b[1] >> 4 & 3
	h.pkey = binary.BigEndian.Uint16(b[2:])
	w := binary.BigEndian.Uint32(b[4:])
	h.fecn = w&(1<<31) != 0
	h.becn = w&(1<<30) != 0
	h.destQP = w & qpnMask
	w = binary.BigEndian.Uint32(b[8:])
	h.ackReq = w&(1<<31) != 0
	h.psn = PSN(w & psnMask)
	return b[1]&0x0f == 0
}

// put writes the header to the start of b, which has at least bthLen bytes.
func (h *bth) put(b []byte) {
	_ = b[bthLen-1]
	b[0] = h.opcode
	b[1] = bit(h.se, 7) | bit(h.migReq, 6) | h.pad&3<<4
	binary.BigEndian.PutUint16(b[2:], h.pkey)
	binary.BigEndian.PutUint32(b[4:], h.destQP&qpnMask)
	b[bthOffFlags] = bit(h.fecn, 7) | bit(h.becn, 6)
	binary.BigEndian.PutUint32(b[8:], uint32(h.psn&psnMask))
	b[8] = bit(h.ackReq, 7)
}

// pkeyMatch reports whether packets pass between members a and b: the same
// partition, and not both limited members of it.
func pkeyMatch(a, b uint16) bool {
	return (a^b)&^pkeyFullMember == 0 && (a|b)&pkeyFullMember != 0
}

// bit returns a byte with bit n set if on is.
func bit(on bool, n uint) uint8 {
	if on {
		return 1 << n
	}
	return 0
}
