package roce

import (
	"encoding/binary"
	"errors"
	"slices"
)

// A packet is what the payload of one UDP datagram says: BTH, extension
// headers, payload. Which extension headers it has is the opcode's to say, see
// opcodes; the fields of others are zero.
//
// To send one, the engine fills in the headers, calls appendHeaders, and
// appends the payload, bth.pad zero bytes and the ICRC itself.
type packet struct {
	bth
	reth      reth
	aeth      aeth
	deth      deth
	imm       uint32 // immediate data
	ieth      uint32 // R_Key to invalidate
	atomic    atomicETH
	atomicAck uint64 // what an atomic operation found

	// payload is a part of the bytes that were parsed, without pad and ICRC,
	// and lives no longer than they do. Its capacity ends with it.
	payload []byte
}

// maxHeaderLen is the most that appendHeaders appends.
const maxHeaderLen = bthLen + atomicETHLen

// What makes a packet no packet. They all mean: drop it, silently.
var (
	errPacketShort   = errors.New("roce: packet: shorter than its headers and ICRC")
	errPacketLength  = errors.New("roce: packet: length not a multiple of 4")
	errPacketTVer    = errors.New("roce: packet: unknown transport version")
	errPacketOpcode  = errors.New("roce: packet: unknown opcode")
	errPacketPad     = errors.New("roce: packet: pad without payload")
	errPacketPayload = errors.New("roce: packet: payload where the opcode has none")
)

// parsePacket reads b, the whole payload of a UDP datagram, into p. It trusts
// nothing and allocates nothing; p may be used again and again. The ICRC is
// neither looked at nor part of p, see verifyV4 and verifyV6. Lengths against
// the path MTU and the order of packets are the queue pair's to check.
//
// On an error p is not to be used.
func parsePacket(b []byte, p *packet) error {
	if len(b) < bthLen+icrcLen {
		return errPacketShort
	}
	if len(b)&3 != 0 {
		return errPacketLength
	}
	*p = packet{}
	if !p.bth.parse(b) {
		return errPacketTVer
	}
	op := &opcodes[p.opcode]
	if !op.valid {
		return errPacketOpcode
	}
	p.opFlags = op.flags
	off, end := int(op.headerLen), len(b)-icrcLen
	if off > end {
		return errPacketShort
	}
	if op.flags&opHasPayload == 0 && off != end {
		return errPacketPayload
	}
	if end -= int(p.pad); end < off {
		return errPacketPad
	}
	p.payload = b[off:end:end]
	if off != bthLen {
		p.parseExtensions(b[bthLen:off], op.flags)
	}
	return nil
}

// parseExtensions reads the extension headers of a packet with flags f from b,
// which has exactly their length.
func (p *packet) parseExtensions(b []byte, f opFlags) {
	if f&opHasDETH != 0 {
		p.deth.parse(b)
		b = b[dethLen:]
	}
	if f&opHasRETH != 0 {
		p.reth.parse(b)
		b = b[rethLen:]
	}
	if f&opHasAETH != 0 {
		p.aeth.parse(b)
		b = b[aethLen:]
	}
	if f&opHasAtomicETH != 0 {
		p.atomic.parse(b)
		b = b[atomicETHLen:]
	}
	if f&opHasAtomicAckETH != 0 {
		p.atomicAck = binary.BigEndian.Uint64(b)
		b = b[atomicAckETHLen:]
	}
	if f&opHasImm != 0 {
		p.imm = binary.BigEndian.Uint32(b)
		b = b[immLen:]
	}
	if f&opHasIETH != 0 {
		p.ieth = binary.BigEndian.Uint32(b)
	}
}

// appendHeaders appends BTH and extension headers to b and returns the
// extended slice. p.opcode, which must be a valid one, says which extension
// headers those are. p.pad must be set, see padLen.
func (p *packet) appendHeaders(b []byte) []byte {
	op := &opcodes[p.opcode]
	n := len(b)
	b = slices.Grow(b, int(op.headerLen))[:n+int(op.headerLen)]
	h := b[n:]
	p.bth.put(h)
	if h = h[bthLen:]; len(h) > 0 {
		p.putExtensions(h, op.flags)
	}
	return b
}

// putExtensions is the reverse of parseExtensions.
func (p *packet) putExtensions(b []byte, f opFlags) {
	if f&opHasDETH != 0 {
		p.deth.put(b)
		b = b[dethLen:]
	}
	if f&opHasRETH != 0 {
		p.reth.put(b)
		b = b[rethLen:]
	}
	if f&opHasAETH != 0 {
		p.aeth.put(b)
		b = b[aethLen:]
	}
	if f&opHasAtomicETH != 0 {
		p.atomic.put(b)
		b = b[atomicETHLen:]
	}
	if f&opHasAtomicAckETH != 0 {
		binary.BigEndian.PutUint64(b, p.atomicAck)
		b = b[atomicAckETHLen:]
	}
	if f&opHasImm != 0 {
		binary.BigEndian.PutUint32(b, p.imm)
		b = b[immLen:]
	}
	if f&opHasIETH != 0 {
		binary.BigEndian.PutUint32(b, p.ieth)
	}
}

// padLen returns how many pad bytes follow a payload of n bytes.
func padLen(n int) uint8 { return uint8(-n) & 3 }

// packetLen returns the length of the UDP payload of a packet with this opcode
// and n bytes of payload, pad and ICRC included.
func packetLen(opcode uint8, n int) int {
	return int(opcodes[opcode].headerLen) + n + int(padLen(n)) + icrcLen
}
