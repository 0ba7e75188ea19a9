package nvme

import "encoding/binary"

// CompletionSize is the size of a completion queue entry [Base, Completion Queue Entry].
const CompletionSize = 16

// Completion is a completion queue entry. The phase tag does not exist in
// Fabrics: it is written as 0 and ignored.
//
//	byte  0..7     8..9     10..11   12..13   14..15
//	    +--------+--------+--------+--------+-----------------------+
//	    | result |  SQHD  |  SQID  |  CID   | status 15:1 | phase 0 |
//	    +--------+--------+--------+--------+-----------------------+
type Completion struct {
	Result uint64 // dwords 0 and 1, command specific
	SQHD   uint16 // SQ Head Pointer; 0xFFFF if SQ flow control is disabled
	SQID   uint16 // SQ Identifier; reserved in Fabrics, 0
	CID    uint16 // Command Identifier of the command that ended
	Status Status
}

// SQHDDisabled is the SQHD of every completion on a queue with submission
// queue flow control disabled [Base, Submission Queue Flow Control].
const SQHDDisabled = 0xFFFF

// Put writes the entry to the first [CompletionSize] bytes of b. It panics if
// b is shorter.
func (c Completion) Put(b []byte) {
	_ = b[CompletionSize-1]
	binary.LittleEndian.PutUint64(b, c.Result)
	binary.LittleEndian.PutUint16(b[8:], c.SQHD)
	binary.LittleEndian.PutUint16(b[10:], c.SQID)
	binary.LittleEndian.PutUint16(b[12:], c.CID)
	binary.LittleEndian.PutUint16(b[14:], c.Status.Field())
}

// AppendTo appends the entry to b.
func (c Completion) AppendTo(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, c.Result)
	b = binary.LittleEndian.AppendUint16(b, c.SQHD)
	b = binary.LittleEndian.AppendUint16(b, c.SQID)
	b = binary.LittleEndian.AppendUint16(b, c.CID)
	return binary.LittleEndian.AppendUint16(b, c.Status.Field())
}

// Parse reads the entry from the start of b, which must have at least
// [CompletionSize] bytes.
func (c *Completion) Parse(b []byte) error {
	if err := atLeast("completion", b, CompletionSize); err != nil {
		return err
	}
	*c = Completion{
		Result: binary.LittleEndian.Uint64(b),
		SQHD:   binary.LittleEndian.Uint16(b[8:]),
		SQID:   binary.LittleEndian.Uint16(b[10:]),
		CID:    binary.LittleEndian.Uint16(b[12:]),
		Status: StatusFromField(binary.LittleEndian.Uint16(b[14:])),
	}
	return nil
}

// DW0 returns result dword 0, the whole result of most commands.
func (c Completion) DW0() uint32 { return uint32(c.Result) }
