package hostile

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"net/netip"
	"strings"
	"testing"

	"github.com/fabrid/fabrid/nvme"
)

const udpPort = 4791

// Opcodes of packets.
const (
	opSendFirst      = 0x00
	opSendMiddle     = 0x01
	opSendLast       = 0x02
	opSendOnly       = 0x04
	opWriteFirst     = 0x06
	opWriteMiddle    = 0x07
	opWriteLast      = 0x08
	opWriteOnly      = 0x0a
	opRead           = 0x0c
	opReadRespOnly   = 0x10
	opAck            = 0x11
	opAtomicAck      = 0x12
	opCompareSwap    = 0x13
	opFetchAdd       = 0x14
	opSendOnlyInv    = 0x17
	opFlush          = 0x1c
	opAtomicWrite    = 0x1d
	opUDSendOnly     = 0x64
	opCNP            = 0x81
	synACK           = 0x1f
	synNAKSequence   = 0x60
	synNAKInvalid    = 0x61
	synNAKAccess     = 0x62
	gsiQKey          = 0x80010000
	cmREQ, cmMRA     = 0x10, 0x11
	cmREJ, cmREP     = 0x12, 0x13
	cmRTU, cmDREQ    = 0x14, 0x15
	cmDREP           = 0x16
	madLen, bthLen   = 256, 12
	madHeader, dethL = 24, 8
)

var be = binary.BigEndian

// bth begins a packet, which asks for an ACK.
func bth(op byte, qpn, psn uint32) []byte {
	b := []byte{op, 0, 0xff, 0xff}
	b = be.AppendUint32(b, qpn&0xffffff)
	return be.AppendUint32(b, 1<<31|psn&0xffffff)
}

func appendRETH(b []byte, va uint64, rkey, length uint32) []byte {
	b = be.AppendUint64(b, va)
	b = be.AppendUint32(b, rkey)
	return be.AppendUint32(b, length)
}

// appendPayload appends a payload and what fills it up to 4 bytes.
func appendPayload(b, payload []byte) []byte {
	pad := -len(payload) & 3
	b[1] |= byte(pad) << 4
	return append(append(b, payload...), make([]byte, pad)...)
}

// seal appends the ICRC of a packet (wire: [IBTA] A17), which over IPv4 has the
// Identification 0 and must not be fragmented.
func seal(from, to netip.AddrPort, packet []byte) []byte {
	length := uint16(8 + len(packet) + 4) // of UDP
	masked := bytes.Repeat([]byte{0xff}, 8)
	if to.Addr().Is4() {
		masked = append(masked, 0x45, 0xff)
		masked = be.AppendUint16(masked, 20+length)
		masked = append(masked, 0, 0, 0x40, 0, 0xff, 17, 0xff, 0xff)
	} else {
		masked = append(masked, 0x6f, 0xff, 0xff, 0xff)
		masked = be.AppendUint16(masked, length)
		masked = append(masked, 17, 0xff)
	}
	masked = append(masked, from.Addr().AsSlice()...)
	masked = append(masked, to.Addr().AsSlice()...)
	masked = be.AppendUint16(masked, from.Port())
	masked = be.AppendUint16(masked, to.Port())
	masked = be.AppendUint16(masked, length)
	masked = append(masked, 0xff, 0xff)
	at := len(masked)
	masked = append(masked, packet...)
	masked[at+4] = 0xff
	return binary.LittleEndian.AppendUint32(bytes.Clone(packet), crc32.ChecksumIEEE(masked))
}

// Vectors that were made otherwise, and checked against captures of Linux.
func TestSeal(t *testing.T) {
	payload := make([]byte, 64)
	for i := range payload {
		payload[i] = byte(i)
	}
	for _, c := range []struct{ from, to, bth, want string }{
		{"192.0.2.1:49152", "192.0.2.2:4791", "0400ffff 00000011 80000001", "e9cd3469"},
		{"[2001:db8::1]:49152", "[2001:db8::2]:4791", "0400ffff 00000011 80000001", "aedef29a"},
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(c.bth, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, bth(opSendOnly, 0x11, 1)) {
			t.Errorf("a BTH is % x", bth(opSendOnly, 0x11, 1))
		}
		b = seal(netip.MustParseAddrPort(c.from), netip.MustParseAddrPort(c.to), append(b, payload...))
		if got := hex.EncodeToString(b[len(b)-4:]); got != c.want {
			t.Errorf("from %s: ICRC %s, want %s", c.from, got, c.want)
		}
	}
}

// A reply is a packet that came to an enemy.
type reply struct {
	op, syndrome byte
	psn          uint32
	attr         uint16 // of a message of the connection manager
	msg          []byte
}

func parseReply(b []byte) (r reply) {
	r.op, r.psn = b[0], be.Uint32(b[8:])&0xffffff
	switch r.op {
	case opAck, opReadRespOnly, opAtomicAck:
		r.syndrome = b[bthLen]
	case opUDSendOnly:
		mad := b[bthLen+dethL:]
		r.attr, r.msg = be.Uint16(mad[16:]), bytes.Clone(mad[madHeader:madLen])
	}
	return r
}

// mad is a packet to QP1 with a message of the connection manager, whose first
// fields are words.
func mad(attr uint16, tid uint64, words ...uint32) []byte {
	b := bth(opUDSendOnly, 1, 0)
	b = be.AppendUint32(b, gsiQKey)
	b = be.AppendUint32(b, 1)
	m := make([]byte, madLen)
	copy(m, []byte{1, 7, 2, 3})
	be.PutUint64(m[8:], tid)
	be.PutUint16(m[16:], attr)
	for i, w := range words {
		be.PutUint32(m[madHeader+4*i:], w)
	}
	return append(b, m...)
}

// A request is what an enemy asks for a connection with.
type request struct {
	commID, qpn, psn uint32
	guid             uint64
	local, remote    netip.Addr
	qid              uint16
}

// packet returns the REQ, for the path MTU of 1024 (wire: [IBTA] 12.6.5).
func (r request) packet() []byte {
	p := mad(cmREQ, uint64(r.commID), r.commID)
	m := p[bthLen+dethL+madHeader:]
	be.PutUint64(m[8:], 0x01060000|4420)
	be.PutUint64(m[16:], r.guid)
	be.PutUint32(m[32:], r.qpn<<8|16)   // and ResponderResources
	be.PutUint32(m[40:], 20<<3|1)       // Remote CM Response Timeout, flow control
	be.PutUint32(m[44:], r.psn<<8|0xa7) // Local CM Response Timeout 20, Retry Count 7
	be.PutUint32(m[48:], 0xffff_37_f0)  // P_Key, MTU, RNR Retry Count 7, Max CM Retries 15
	be.PutUint32(m[52:], 0xffff_ffff)   // LIDs
	local, remote := r.local.As16(), r.remote.As16()
	copy(m[56:], local[:])
	copy(m[72:], remote[:])
	m[93], m[95] = 64, 17<<3
	private := m[140:]
	private[1] = 0x60
	be.PutUint16(private[2:], 1)
	if r.local.Is4() {
		private[1] = 0x40
		copy(private[16:], r.local.AsSlice())
		copy(private[32:], r.remote.AsSlice())
	} else {
		copy(private[4:], local[:])
		copy(private[20:], remote[:])
	}
	copy(private[36:], nvme.RDMACMRequest{QID: r.qid, HRQSIZE: 32, HSQSIZE: 31}.AppendTo(nil))
	return p
}
