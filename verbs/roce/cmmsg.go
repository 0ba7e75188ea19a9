package roce

import (
	"encoding/binary"
	"fmt"
)

// A cmAttr is the AttributeID of a MAD of the connection manager.
type cmAttr uint16

const (
	cmAttrREQ  cmAttr = 0x10
	cmAttrMRA  cmAttr = 0x11
	cmAttrREJ  cmAttr = 0x12
	cmAttrREP  cmAttr = 0x13
	cmAttrRTU  cmAttr = 0x14
	cmAttrDREQ cmAttr = 0x15
	cmAttrDREP cmAttr = 0x16
)

func (a cmAttr) String() string {
	switch a {
	case cmAttrREQ:
		return "REQ"
	case cmAttrMRA:
		return "MRA"
	case cmAttrREJ:
		return "REJ"
	case cmAttrREP:
		return "REP"
	case cmAttrRTU:
		return "RTU"
	case cmAttrDREQ:
		return "DREQ"
	case cmAttrDREP:
		return "DREP"
	}
	return fmt.Sprintf("attribute %#x", uint16(a))
}

// Sizes of the private data, in bytes. A message has all of it, always: what a
// consumer does not fill is zero, and no length is sent.
const (
	reqPrivateLen  = 92
	mraPrivateLen  = 222
	rejPrivateLen  = 148
	rejInfoLen     = 72
	repPrivateLen  = 196
	rtuPrivateLen  = 224
	dreqPrivateLen = 220
	drepPrivateLen = 224
)

// A cmMessage is one of the structs below. It holds copies, nothing of the
// bytes that it was parsed from. Reserved fields are sent as 0 and not looked
// at; fields wider than on the wire are cut. Comm IDs are opaque.
type cmMessage interface {
	attr() cmAttr
	// appendTo appends exactly cmMessageLen bytes.
	appendTo(b []byte) []byte
	// parse reads exactly cmMessageLen bytes. A value it cannot mean anything
	// by is the connection manager's to refuse, so that it can say why.
	parse(b []byte) error
}

// appendCM appends the whole MAD of m to b, madLen bytes, and returns the
// extended slice.
func appendCM(b []byte, tid uint64, m cmMessage) []byte {
	h := cmHeader(m.attr(), tid)
	return m.appendTo(h.appendTo(b))
}

func checkCMLen(a cmAttr, b []byte) error {
	if len(b) != cmMessageLen {
		return fmt.Errorf("roce: %v: %d bytes, need %d", a, len(b), cmMessageLen)
	}
	return nil
}

// uint24 reads the three bytes at the start of b, put24 writes them.
func uint24(b []byte) uint32 { return uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2]) }

func put24(b []byte, v uint32) {
	_ = b[2]
	b[0], b[1], b[2] = uint8(v>>16), uint8(v>>8), uint8(v)
}

// grow appends a message's worth of zeros to b. It returns the extended slice
// and the zeros.
func grow(b []byte) (extended, message []byte) {
	var zero [cmMessageLen]byte
	b = append(b, zero[:]...)
	return b, b[len(b)-cmMessageLen:]
}

// A cmREP accepts a connection.
//
//	byte  0..3          4..7           8..11        12..14     15
//	    +-------------+--------------+------------+----------+-----------+
//	    | LocalCommID | RemoteCommID | LocalQ_Key | LocalQPN | VendorIDH |
//	    +-------------+--------------+------------+----------+-----------+
//	      16..18     19          20..22        23          24       25
//	    +----------+-----------+-------------+-----------+--------+--------+
//	    | LocalEECN| VendorIDM | StartingPSN | VendorIDL |RespRes |InitDep |
//	    +----------+-----------+-------------+-----------+--------+--------+
//	      26                       27                28..35        36..231
//	    +------------------------+-----------------+-------------+---------+
//	    |AckDelay:5 Failover:2 F |RNRRetry:3 SRQ:1 | LocalCAGUID | private |
//	    +------------------------+-----------------+-------------+---------+
type cmREP struct {
	localCommID  uint32
	remoteCommID uint32
	localQKey    uint32
	localQPN     uint32 // 24 bits
	localEECN    uint32 // 24 bits, RD only
	vendorID     uint32 // 24 bits, 0

	// startingPSN is the first PSN that the sender of the REP expects to
	// receive: the active side sends from it on.
	startingPSN PSN

	responderResources uint8 // READs that the sender of the REP answers at a time
	initiatorDepth     uint8 // READs that it has outstanding at a time
	targetAckDelay     uint8 // 5 bits; ackTimeout gives the time
	failoverAccepted   uint8 // 2 bits
	flowControl        bool
	rnrRetryCount      uint8 // 3 bits: for the active side's requests
	srq                bool
	localCAGUID        uint64
	privateData        [repPrivateLen]byte
}

func (*cmREP) attr() cmAttr { return cmAttrREP }

func (m *cmREP) parse(b []byte) error {
	if err := checkCMLen(cmAttrREP, b); err != nil {
		return err
	}
	*m = cmREP{
		localCommID:        binary.BigEndian.Uint32(b),
		remoteCommID:       binary.BigEndian.Uint32(b[4:]),
		localQKey:          binary.BigEndian.Uint32(b[8:]),
		localQPN:           uint24(b[12:]),
		localEECN:          uint24(b[16:]),
		vendorID:           uint32(b[15])<<16 | uint32(b[19])<<8 | uint32(b[23]),
		startingPSN:        PSN(uint24(b[20:])),
		responderResources: b[24],
		initiatorDepth:     b[25],
		targetAckDelay:     b[26] >> 3,
		failoverAccepted:   b[26] >> 1 & 3,
		flowControl:        b[26]&1 != 0,
		rnrRetryCount:      b[27] >> 5,
		srq:                b[27]&0x10 != 0,
		localCAGUID:        binary.BigEndian.Uint64(b[28:]),
	}
	copy(m.privateData[:], b[36:])
	return nil
}

func (m *cmREP) appendTo(b []byte) []byte {
	b, p := grow(b)
	binary.BigEndian.PutUint32(p, m.localCommID)
	binary.BigEndian.PutUint32(p[4:], m.remoteCommID)
	binary.BigEndian.PutUint32(p[8:], m.localQKey)
	put24(p[12:], m.localQPN)
	put24(p[16:], m.localEECN)
	put24(p[20:], uint32(m.startingPSN))
	p[15], p[19], p[23] = uint8(m.vendorID>>16), uint8(m.vendorID>>8), uint8(m.vendorID)
	p[24], p[25] = m.responderResources, m.initiatorDepth
	p[26] = m.targetAckDelay<<3 | m.failoverAccepted&3<<1 | bit(m.flowControl, 0)
	p[27] = m.rnrRetryCount<<5 | bit(m.srq, 4)
	binary.BigEndian.PutUint64(p[28:], m.localCAGUID)
	copy(p[36:], m.privateData[:])
	return b
}

// A cmRTU says that the active side is ready to use: comm IDs and private data.
type cmRTU struct {
	localCommID  uint32
	remoteCommID uint32
	privateData  [rtuPrivateLen]byte
}

func (*cmRTU) attr() cmAttr { return cmAttrRTU }

func (m *cmRTU) parse(b []byte) error {
	if err := checkCMLen(cmAttrRTU, b); err != nil {
		return err
	}
	m.localCommID = binary.BigEndian.Uint32(b)
	m.remoteCommID = binary.BigEndian.Uint32(b[4:])
	copy(m.privateData[:], b[8:])
	return nil
}

func (m *cmRTU) appendTo(b []byte) []byte {
	b, p := grow(b)
	binary.BigEndian.PutUint32(p, m.localCommID)
	binary.BigEndian.PutUint32(p[4:], m.remoteCommID)
	copy(p[8:], m.privateData[:])
	return b
}

// Which message an MRA or a REJ is about.
const (
	cmAboutREQ   uint8 = 0
	cmAboutREP   uint8 = 1
	cmAboutLAP   uint8 = 2 // of an MRA
	cmAboutOther uint8 = 2 // of a REJ
)

// A cmMRA asks the sender of a REQ or REP for patience.
//
//	byte  0..3          4..7           8              9               10..231
//	    +-------------+--------------+--------------+---------------+---------+
//	    | LocalCommID | RemoteCommID | MRAed:2 ...  | SvcTimeout:5..| private |
//	    +-------------+--------------+--------------+---------------+---------+
type cmMRA struct {
	localCommID    uint32
	remoteCommID   uint32
	messageMRAed   uint8 // 2 bits, cmAbout…
	serviceTimeout uint8 // 5 bits; cmTimeout gives the time
	privateData    [mraPrivateLen]byte
}

func (*cmMRA) attr() cmAttr { return cmAttrMRA }

func (m *cmMRA) parse(b []byte) error {
	if err := checkCMLen(cmAttrMRA, b); err != nil {
		return err
	}
	m.localCommID = binary.BigEndian.Uint32(b)
	m.remoteCommID = binary.BigEndian.Uint32(b[4:])
	m.messageMRAed = b[8] >> 6
	m.serviceTimeout = b[9] >> 3
	copy(m.privateData[:], b[10:])
	return nil
}

func (m *cmMRA) appendTo(b []byte) []byte {
	b, p := grow(b)
	binary.BigEndian.PutUint32(p, m.localCommID)
	binary.BigEndian.PutUint32(p[4:], m.remoteCommID)
	p[8] = m.messageMRAed << 6
	p[9] = m.serviceTimeout << 3
	copy(p[10:], m.privateData[:])
	return b
}

// A cmDREQ ends a connection.
//
//	byte  0..3          4..7           8..10        11      12..231
//	    +-------------+--------------+------------+------+---------+
//	    | LocalCommID | RemoteCommID | Remote QPN | resv | private |
//	    +-------------+--------------+------------+------+---------+
type cmDREQ struct {
	localCommID  uint32
	remoteCommID uint32
	remoteQPN    uint32 // 24 bits: the receiver's; a DREQ with another is ignored
	privateData  [dreqPrivateLen]byte
}

func (*cmDREQ) attr() cmAttr { return cmAttrDREQ }

func (m *cmDREQ) parse(b []byte) error {
	if err := checkCMLen(cmAttrDREQ, b); err != nil {
		return err
	}
	m.localCommID = binary.BigEndian.Uint32(b)
	m.remoteCommID = binary.BigEndian.Uint32(b[4:])
	m.remoteQPN = uint24(b[8:])
	copy(m.privateData[:], b[12:])
	return nil
}

func (m *cmDREQ) appendTo(b []byte) []byte {
	b, p := grow(b)
	binary.BigEndian.PutUint32(p, m.localCommID)
	binary.BigEndian.PutUint32(p[4:], m.remoteCommID)
	put24(p[8:], m.remoteQPN)
	copy(p[12:], m.privateData[:])
	return b
}

// A cmDREP answers a DREQ, even one for a connection that is not known: comm
// IDs and private data.
type cmDREP struct {
	localCommID  uint32
	remoteCommID uint32
	privateData  [drepPrivateLen]byte
}

func (*cmDREP) attr() cmAttr { return cmAttrDREP }

func (m *cmDREP) parse(b []byte) error {
	if err := checkCMLen(cmAttrDREP, b); err != nil {
		return err
	}
	m.localCommID = binary.BigEndian.Uint32(b)
	m.remoteCommID = binary.BigEndian.Uint32(b[4:])
	copy(m.privateData[:], b[8:])
	return nil
}

func (m *cmDREP) appendTo(b []byte) []byte {
	b, p := grow(b)
	binary.BigEndian.PutUint32(p, m.localCommID)
	binary.BigEndian.PutUint32(p[4:], m.remoteCommID)
	copy(p[8:], m.privateData[:])
	return b
}
