package roce

import (
	"encoding/binary"
	"fmt"
)

const (
	madLen       = 256 // of a MAD, always
	madHeaderLen = 24
	// cmMessageLen is the part of a MAD behind its header.
	cmMessageLen = madLen - madHeaderLen
)

// What every MAD of the connection manager says of itself.
const (
	madBaseVersion    uint8 = 1
	madClassCM        uint8 = 0x07
	madClassVersionCM uint8 = 2
	madMethodSend     uint8 = 0x03
)

// A madHeader is the first part of a management datagram.
//
//	byte  0        1        2        3        4..5     6..7
//	    +--------+--------+--------+--------+--------+----------+
//	    | base   | class  | class  | method | status | class    |
//	    | version|        | version|        |        | specific |
//	    +--------+--------+--------+--------+--------+----------+
//	      8..15                     16..17   18..19   20..23
//	    +-------------------------+--------+--------+-----------+
//	    | TransactionID           | AttrID |  resv  |  AttrMod  |
//	    +-------------------------+--------+--------+-----------+
type madHeader struct {
	baseVersion, class, classVersion, method uint8

	status, classSpecific uint16

	tid     uint64 // answers carry the one of the message they answer
	attrID  cmAttr
	attrMod uint32
}

// cmHeader returns the header of a message of the connection manager.
func cmHeader(attr cmAttr, tid uint64) madHeader {
	return madHeader{
		baseVersion:  madBaseVersion,
		class:        madClassCM,
		classVersion: madClassVersionCM,
		method:       madMethodSend,
		tid:          tid,
		attrID:       attr,
	}
}

// parseMAD reads the header of the MAD b and returns it with the bytes that
// follow it, which are a part of b.
func parseMAD(b []byte) (h madHeader, message []byte, err error) {
	if len(b) != madLen {
		return h, nil, fmt.Errorf("roce: MAD: %d bytes, need %d", len(b), madLen)
	}
	h = madHeader{
		baseVersion:   b[0],
		class:         b[1],
		classVersion:  b[2],
		method:        b[3],
		status:        binary.BigEndian.Uint16(b[4:]),
		classSpecific: binary.BigEndian.Uint16(b[6:]),
		tid:           binary.BigEndian.Uint64(b[8:]),
		attrID:        cmAttr(binary.BigEndian.Uint16(b[16:])),
		attrMod:       binary.BigEndian.Uint32(b[20:]),
	}
	if h.baseVersion != madBaseVersion {
		return h, nil, fmt.Errorf("roce: MAD: base version %d, need %d", h.baseVersion, madBaseVersion)
	}
	return h, b[madHeaderLen:madLen:madLen], nil
}

// appendTo appends the header to b and returns the extended slice.
func (h *madHeader) appendTo(b []byte) []byte {
	b = append(b, h.baseVersion, h.class, h.classVersion, h.method)
	b = binary.BigEndian.AppendUint16(b, h.status)
	b = binary.BigEndian.AppendUint16(b, h.classSpecific)
	b = binary.BigEndian.AppendUint64(b, h.tid)
	b = binary.BigEndian.AppendUint16(b, uint16(h.attrID))
	b = append(b, 0, 0)
	return binary.BigEndian.AppendUint32(b, h.attrMod)
}

// checkCM returns an error unless the MAD is a message of the connection
// manager. A MAD of another class or method is nobody's here and is dropped.
func (h *madHeader) checkCM() error {
	if h.class != madClassCM || h.classVersion != madClassVersionCM || h.method != madMethodSend {
		return fmt.Errorf("roce: MAD: class %#02x version %d method %#02x, need %#02x %d %#02x",
			h.class, h.classVersion, h.method, madClassCM, madClassVersionCM, madMethodSend)
	}
	return nil
}
