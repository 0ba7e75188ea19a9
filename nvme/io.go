package nvme

import (
	"encoding/binary"
	"fmt"
)

// Byte offsets of the fields of the I/O commands, for [FieldError].
const (
	OffSLBA      = 40
	OffNLB       = 48
	OffControl   = 50
	OffDSMGMT    = 52
	OffCopyNR    = 48
	OffCopyFmt   = 49 // in bits 3:0
	OffDSMNR     = 40
	OffDSMAttrib = 44
)

// Bits of Control, the upper half of command dword 12 of Read, Write, Compare
// and Write Zeroes [NVM, NVM Command Set Commands].
const (
	ControlLR     = 1 << 15 // Limited Retry
	ControlFUA    = 1 << 14 // Force Unit Access
	ControlPRINFO = 0xF << 10
	ControlDEAC   = 1 << 9 // Deallocate, of Write Zeroes
	ControlSTC    = 1 << 8 // Storage Tag Check
	ControlNSZ    = 1 << 7 // Namespace Zeroes, of Write Zeroes
)

// SLBA returns the Starting LBA of a Read, Write, Compare or Write Zeroes.
func (c Command) SLBA() uint64 { return binary.LittleEndian.Uint64(c[OffSLBA:]) }

// NLB returns the Number of Logical Blocks, 0-based, of a Read, Write,
// Compare or Write Zeroes.
func (c Command) NLB() uint16 { return binary.LittleEndian.Uint16(c[OffNLB:]) }

// Blocks returns the number of blocks, counted from 1, that NLB means: 1 to
// 65,536.
func (c Command) Blocks() uint32 { return uint32(c.NLB()) + 1 }

// Control returns the Control bits of a Read, Write, Compare or Write Zeroes.
func (c Command) Control() uint16 { return binary.LittleEndian.Uint16(c[OffControl:]) }

// FUA reports Force Unit Access.
func (c Command) FUA() bool { return c.Control()&ControlFUA != 0 }

// LR reports Limited Retry.
func (c Command) LR() bool { return c.Control()&ControlLR != 0 }

// DEAC reports Deallocate, of a Write Zeroes.
func (c Command) DEAC() bool { return c.Control()&ControlDEAC != 0 }

// PRINFO returns the Protection Information field, PRACT and PRCHK.
func (c Command) PRINFO() uint8 { return uint8(c.Control() >> 10 & 0xF) }

// DSMGMT returns the dword with the Dataset Management hints.
func (c Command) DSMGMT() uint32 { return binary.LittleEndian.Uint32(c[OffDSMGMT:]) }

// PutIO makes c the I/O command op (Read, Write, Compare or Write Zeroes) on
// blocks slba to slba+nlb, nlb being 0-based, with the given Control bits.
// The caller sets SGL1.
func (c Command) PutIO(op IOOpcode, nsid uint32, slba uint64, nlb, control uint16) {
	c.start(uint8(op), nsid)
	binary.LittleEndian.PutUint64(c[OffSLBA:], slba)
	binary.LittleEndian.PutUint16(c[OffNLB:], nlb)
	binary.LittleEndian.PutUint16(c[OffControl:], control)
}

// PutFlush makes c a Flush of the namespace; it has no other field and no
// data.
func (c Command) PutFlush(nsid uint32) { c.start(uint8(IOFlush), nsid) }

// Attribute bits of a Dataset Management.
const (
	DSMIDR = 1 << 0 // Integral Dataset for Read
	DSMIDW = 1 << 1 // Integral Dataset for Write
	DSMAD  = 1 << 2 // Deallocate
)

const (
	// DSMRangeSize is the size of a range of a Dataset Management.
	DSMRangeSize = 16

	// MaxDSMRanges is the most ranges that one command can have.
	MaxDSMRanges = 256
)

// DSM returns the fields of a Dataset Management: NR, the number of ranges,
// 0-based, and the attributes, DSM bits.
func (c Command) DSM() (nr uint8, attributes uint32) {
	return c[OffDSMNR], c.CDW(11)
}

// PutDSM makes c a Dataset Management of nr ranges, 0-based, with the given
// attributes. The caller sets SGL1 to (nr+1) × [DSMRangeSize] bytes.
func (c Command) PutDSM(nsid uint32, nr uint8, attributes uint32) {
	c.start(uint8(IODatasetManagement), nsid)
	c[OffDSMNR] = nr
	c.SetCDW(11, attributes)
}

// DSMRange is one range of a Dataset Management.
//
//	byte  0..3     4..7     8..15
//	    +--------+--------+----------------+
//	    | CATTR  |  NLB   |      SLBA      |
//	    +--------+--------+----------------+
type DSMRange struct {
	CATTR uint32 // Context Attributes
	NLB   uint32 // blocks, counted from 1; 0 is an empty range
	SLBA  uint64
}

// AppendTo appends the range to b.
func (r DSMRange) AppendTo(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, r.CATTR)
	b = binary.LittleEndian.AppendUint32(b, r.NLB)
	return binary.LittleEndian.AppendUint64(b, r.SLBA)
}

// Parse reads the range from the start of b, which must have at least
// [DSMRangeSize] bytes. Neither block numbers nor their sum are checked
// against anything.
func (r *DSMRange) Parse(b []byte) error {
	if err := atLeast("Dataset Management range", b, DSMRangeSize); err != nil {
		return err
	}
	*r = DSMRange{
		CATTR: binary.LittleEndian.Uint32(b),
		NLB:   binary.LittleEndian.Uint32(b[4:]),
		SLBA:  binary.LittleEndian.Uint64(b[8:]),
	}
	return nil
}

// AppendDSMRanges appends to ranges the nr+1 ranges in b, the data of a
// Dataset Management, whose fields are as [Command.DSM] returns them. Given
// room for [MaxDSMRanges] it allocates nothing.
func AppendDSMRanges(ranges []DSMRange, b []byte, nr uint8) ([]DSMRange, error) {
	n := int(nr) + 1
	if len(b) < n*DSMRangeSize {
		return ranges, fmt.Errorf("nvme: Dataset Management: %d bytes, need %d for %d ranges", len(b), n*DSMRangeSize, n)
	}
	for i := range n {
		var r DSMRange
		if err := r.Parse(b[i*DSMRangeSize:]); err != nil {
			return ranges, err
		}
		ranges = append(ranges, r)
	}
	return ranges, nil
}
