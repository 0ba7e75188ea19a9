package nvme

import (
	"encoding/binary"
	"fmt"
)

// SGLSize is the size of an SGL descriptor [Base, Scatter Gather List].
const SGLSize = 16

// SGL Identifier bytes: descriptor type in bits 7:4, subtype in bits 3:0.
const (
	SGLDataBlock       = 0x00 // data block, address
	SGLOffset          = 0x01 // data block, offset: in-capsule data
	SGLBitBucket       = 0x10
	SGLSegment         = 0x20
	SGLLastSegment     = 0x30
	SGLKeyed           = 0x40 // keyed data block, address
	SGLKeyedInvalidate = 0x4F // the same; the response is to invalidate Key
	SGLTransport       = 0x5A // transport data block, transport specific
)

// Descriptor types, as [SGL.DescriptorType] returns them.
const (
	SGLTypeDataBlock   = 0x0
	SGLTypeBitBucket   = 0x1
	SGLTypeSegment     = 0x2
	SGLTypeLastSegment = 0x3
	SGLTypeKeyed       = 0x4
	SGLTypeTransport   = 0x5
)

// MaxKeyedLength is the most that one keyed descriptor can describe: its
// length has 24 bits.
const MaxKeyedLength = 1<<24 - 1

// SGL is an SGL descriptor. For an offset descriptor Address is the offset
// into the in-capsule data. Key exists in keyed descriptors alone; it is
// little-endian here and big-endian in the RETH.
//
//	byte         0..7      8..10    11       12..14   15
//	           +---------+--------+--------+--------+------------+
//	keyed      | address | length |   key 11..14    | identifier |
//	           +---------+--------+--------+--------+------------+
//	otherwise  | address |  length 8..11   |reserved| identifier |
//	           +---------+-----------------+--------+------------+
type SGL struct {
	Type    uint8 // the SGL Identifier byte as it is on the wire
	Address uint64
	Length  uint32 // bytes; at most MaxKeyedLength if keyed
	Key     uint32 // R_Key; keyed descriptors only
}

// DescriptorType returns bits 7:4 of the identifier.
func (s SGL) DescriptorType() uint8 { return s.Type >> 4 }

// Subtype returns bits 3:0 of the identifier.
func (s SGL) Subtype() uint8 { return s.Type & 0xF }

// Keyed reports whether the descriptor is a keyed data block.
func (s SGL) Keyed() bool { return s.Type>>4 == SGLTypeKeyed }

// Invalidate reports whether the host asks for Key to be invalidated by the
// response (SEND with Invalidate).
func (s SGL) Invalidate() bool { return s.Type == SGLKeyedInvalidate }

// Put writes the descriptor to the first [SGLSize] bytes of b. It panics if b
// is shorter, or if the length of a keyed descriptor has more than 24 bits:
// who builds one splits the transfer before.
func (s SGL) Put(b []byte) {
	_ = b[SGLSize-1]
	binary.LittleEndian.PutUint64(b, s.Address)
	if s.Keyed() {
		if s.Length > MaxKeyedLength {
			panic(fmt.Sprintf("nvme: keyed SGL: length %d over %d", s.Length, MaxKeyedLength))
		}
		binary.LittleEndian.PutUint32(b[8:], s.Length)
		binary.LittleEndian.PutUint32(b[11:], s.Key)
	} else {
		binary.LittleEndian.PutUint32(b[8:], s.Length)
		b[12], b[13], b[14] = 0, 0, 0
	}
	b[15] = s.Type
}

// AppendTo appends the descriptor to b. It panics as [SGL.Put] does.
func (s SGL) AppendTo(b []byte) []byte {
	var d [SGLSize]byte
	s.Put(d[:])
	return append(b, d[:]...)
}

// Parse reads the descriptor at the start of b, which must have at least
// [SGLSize] bytes. Every identifier is accepted; one that is not known is
// read as unkeyed.
func (s *SGL) Parse(b []byte) error {
	if err := atLeast("SGL descriptor", b, SGLSize); err != nil {
		return err
	}
	*s = getSGL(b)
	return nil
}

func getSGL(b []byte) SGL {
	s := SGL{
		Type:    b[15],
		Address: binary.LittleEndian.Uint64(b),
		Length:  binary.LittleEndian.Uint32(b[8:]),
	}
	if s.Keyed() {
		s.Length &= MaxKeyedLength
		s.Key = binary.LittleEndian.Uint32(b[11:])
	}
	return s
}

// String describes the descriptor.
func (s SGL) String() string {
	if s.Keyed() {
		return fmt.Sprintf("SGL %#02x address %#x length %d key %#x", s.Type, s.Address, s.Length, s.Key)
	}
	return fmt.Sprintf("SGL %#02x address %#x length %d", s.Type, s.Address, s.Length)
}
