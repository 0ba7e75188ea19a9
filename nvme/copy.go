package nvme

import (
	"encoding/binary"
	"fmt"
)

const (
	// CopyRangeSize is the size of a source range of a Copy, of format 0.
	CopyRangeSize = 32

	// MaxCopyRanges is the most source ranges that one command can have.
	MaxCopyRanges = 256
)

// CopyCommand is the fields of a Copy [NVM, Copy command]. Those that concern
// protection information, and directives, are not here.
//
//	byte  40..47    48      49            50     51
//	    +---------+------+--------------+------+-------------------+
//	    |  SDLBA  |  NR  | DESFMT 3:0   |      | FUA bit 6, LR 7   |
//	    +---------+------+--------------+------+-------------------+
type CopyCommand struct {
	NSID   uint32
	SDLBA  uint64 // Starting Destination LBA
	NR     uint8  // Number of Ranges, 0-based
	DESFMT uint8  // Descriptor Format, 4 bits
	FUA    bool
	LR     bool
}

// Copy returns the fields of a Copy.
func (c Command) Copy() CopyCommand {
	return CopyCommand{
		NSID:   c.NSID(),
		SDLBA:  binary.LittleEndian.Uint64(c[OffSLBA:]),
		NR:     c[OffCopyNR],
		DESFMT: c[OffCopyFmt] & 0xF,
		FUA:    c.FUA(),
		LR:     c.LR(),
	}
}

// PutCopy makes c a Copy. The caller sets SGL1 to (NR+1) × [CopyRangeSize]
// bytes.
func (c Command) PutCopy(f CopyCommand) {
	c.start(uint8(IOCopy), f.NSID)
	binary.LittleEndian.PutUint64(c[OffSLBA:], f.SDLBA)
	c[OffCopyNR] = f.NR
	c[OffCopyFmt] = f.DESFMT & 0xF
	var control uint16
	if f.FUA {
		control |= ControlFUA
	}
	if f.LR {
		control |= ControlLR
	}
	binary.LittleEndian.PutUint16(c[OffControl:], control)
}

// CopyRange is a Source Range entry of a Copy, of format 0, without the fields
// of protection information.
//
//	byte  0..7       8..15    16..17   18..31
//	    +----------+--------+--------+----------+
//	    | reserved |  SLBA  |  NLB   |          |
//	    +----------+--------+--------+----------+
type CopyRange struct {
	SLBA uint64
	NLB  uint16 // 0-based
}

// Blocks returns the number of blocks, counted from 1, that NLB means.
func (r CopyRange) Blocks() uint64 { return uint64(r.NLB) + 1 }

// AppendTo appends the range to b.
func (r CopyRange) AppendTo(b []byte) []byte {
	b, p := extend(b, CopyRangeSize)
	binary.LittleEndian.PutUint64(p[8:], r.SLBA)
	binary.LittleEndian.PutUint16(p[16:], r.NLB)
	return b
}

// Parse reads the range from the start of b, which must have at least
// [CopyRangeSize] bytes. Block numbers are not checked against anything.
func (r *CopyRange) Parse(b []byte) error {
	if err := atLeast("Copy source range", b, CopyRangeSize); err != nil {
		return err
	}
	*r = CopyRange{SLBA: binary.LittleEndian.Uint64(b[8:]), NLB: binary.LittleEndian.Uint16(b[16:])}
	return nil
}

// AppendCopyRanges appends to ranges the nr+1 ranges in b, the data of a Copy
// of format 0.
func AppendCopyRanges(ranges []CopyRange, b []byte, nr uint8) ([]CopyRange, error) {
	n := int(nr) + 1
	if len(b) < n*CopyRangeSize {
		return ranges, fmt.Errorf("nvme: Copy: %d bytes, need %d for %d source ranges", len(b), n*CopyRangeSize, n)
	}
	for i := range n {
		var r CopyRange
		if err := r.Parse(b[i*CopyRangeSize:]); err != nil {
			return ranges, err
		}
		ranges = append(ranges, r)
	}
	return ranges, nil
}
