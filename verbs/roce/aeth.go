package roce

import (
	"encoding/binary"
	"time"
)

// An aeth is what the responder says of a request.
//
//	byte  0          1..3
//	    +----------+-------+
//	    | syndrome |  MSN  |
//	    +----------+-------+
type aeth struct {
	syndrome uint8
	msn      uint32 // 24 bits: messages completed by the responder
}

func (h *aeth) parse(b []byte) {
	w := binary.BigEndian.Uint32(b)
	h.syndrome = uint8(w >> 24)
	h.msn = w & psnMask
}

func (h *aeth) put(b []byte) {
	binary.BigEndian.PutUint32(b, uint32(h.syndrome)<<24|h.msn&psnMask)
}

// Syndromes. Bits 6..5 are the kind, the low five its credits, timer or code.
const (
	// synAck is an ACK without end-to-end credits: the field says "invalid".
	synAck uint8 = 0x1f

	synNAKSequence     uint8 = 0x60 // PSN sequence error
	synNAKInvalid      uint8 = 0x61 // invalid request
	synNAKAccess       uint8 = 0x62 // remote access error
	synNAKOperational  uint8 = 0x63 // remote operational error
	synNAKInvalidRDReq uint8 = 0x64 // invalid RD request, of no use here

	synKindMask  uint8 = 0xe0
	synValueMask uint8 = 0x1f
	synKindAck   uint8 = 0x00
	synKindRNR   uint8 = 0x20
	synKindNAK   uint8 = 0x60
)

// isAck, isRNR and isNAK tell the kinds of syndromes apart. A syndrome may be
// of none of them: 0x40..0x5f is reserved, and so is all with bit 7 set.
func isAck(syndrome uint8) bool { return syndrome&synKindMask == synKindAck }
func isRNR(syndrome uint8) bool { return syndrome&synKindMask == synKindRNR }
func isNAK(syndrome uint8) bool { return syndrome&synKindMask == synKindNAK }

// synRNR returns the syndrome of an RNR NAK with a timer code of rnrDelay.
func synRNR(code uint8) uint8 { return synKindRNR | code&synValueMask }

// noCredits is ackCredits' answer when there is no limit.
const noCredits = -1

// ackCredits returns the receives that an ACK says are posted, or noCredits if
// it says that they are not counted. Only ACKs have credits.
func ackCredits(syndrome uint8) int {
	n := syndrome & synValueMask
	if n == synAck {
		return noCredits
	}
	return int(creditTable[n])
}

var creditTable = [31]uint16{
	0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024,
	1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768,
}

// rnrDelay returns how long a requester waits after an RNR NAK with this
// syndrome or timer code; only the low five bits count. Code 0 is the longest.
func rnrDelay(code uint8) time.Duration {
	return time.Duration(rnrTable[code&synValueMask]) * 10 * time.Microsecond
}

// rnrCode returns the code of the shortest delay that is not below d, or else
// of the longest there is.
func rnrCode(d time.Duration) uint8 {
	for code := uint8(1); code < 32; code++ {
		if rnrDelay(code) >= d {
			return code
		}
	}
	return 0
}

// rnrTable holds the delays of the timer codes in units of 10 µs.
var rnrTable = [32]uint32{
	65536, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192,
	256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152,
}
