package nvme

import (
	"encoding/binary"
	"fmt"
)

// ANAState is an Asymmetric Namespace Access state.
type ANAState uint8

// ANA states.
const (
	ANAOptimized           ANAState = 0x1
	ANANonOptimized        ANAState = 0x2
	ANAStateInaccessible   ANAState = 0x3
	ANAStatePersistentLoss ANAState = 0x4
	ANAChange              ANAState = 0xF
)

var anaStates = []string{
	ANAOptimized:           "optimized",
	ANANonOptimized:        "non-optimized",
	ANAStateInaccessible:   "inaccessible",
	ANAStatePersistentLoss: "persistent-loss",
	ANAChange:              "change",
}

// String returns the word that Linux has for the state.
func (s ANAState) String() string { return name(anaStates, uint8(s), "ANA state") }

// Valid reports whether s is one of the states.
func (s ANAState) Valid() bool { return int(s) < len(anaStates) && anaStates[s] != "" }

// Usable reports whether commands to namespaces in the state are carried out.
func (s ANAState) Usable() bool { return s == ANAOptimized || s == ANANonOptimized }

// Status returns what a command to a namespace in the state ends with,
// [Success] in the two states in which it is carried out. It has no DNR: the
// host is to try another path.
func (s ANAState) Status() Status {
	switch s {
	case ANAOptimized, ANANonOptimized:
		return Success
	case ANAStatePersistentLoss:
		return ANAPersistentLoss
	case ANAChange:
		return ANATransition
	}
	return ANAInaccessible
}

const (
	// ANALogHeaderSize is the size of the header of the ANA log page.
	ANALogHeaderSize = 16

	// ANAGroupSize is the size of a group descriptor without its NSIDs.
	ANAGroupSize = 32

	// ANALogRGO is the LSP bit that asks for the groups without their NSIDs
	// (Return Groups Only).
	ANALogRGO = 1 << 0
)

// ANAGroup is an ANA Group Descriptor.
//
//	byte  0..3     4..7      8..15          16 3:0   17..31     32..
//	    +--------+---------+--------------+-------+----------+---------+
//	    | group  | # NSIDs | change count | state | reserved |  NSIDs  |
//	    +--------+---------+--------------+-------+----------+---------+
type ANAGroup struct {
	ID          uint32 // 1 to ANAGRPMAX
	ChangeCount uint64
	State       ANAState
	NSIDs       []uint32 // ascending: Linux finds no other
}

// ANALog is the Asymmetric Namespace Access log page, LID 0Ch [Base,
// Asymmetric Namespace Access log page].
//
//	byte  0..7           8..9       10..15     16..
//	    +--------------+----------+----------+------------------+
//	    | change count | # groups | reserved | group descriptors|
//	    +--------------+----------+----------+------------------+
type ANALog struct {
	ChangeCount uint64
	Groups      []ANAGroup // at most 65,535
}

// Size returns the number of bytes of the page as AppendTo writes it.
func (a ANALog) Size() int {
	n := ANALogHeaderSize + ANAGroupSize*len(a.Groups)
	for _, g := range a.Groups {
		n += 4 * len(g.NSIDs)
	}
	return n
}

// AppendTo appends the page, [ANALog.Size] bytes, to b. For a host that asked
// with [ANALogRGO] the caller leaves the NSIDs out.
func (a ANALog) AppendTo(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, a.ChangeCount)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(a.Groups)))
	b = append(b, make([]byte, 6)...)
	for _, g := range a.Groups {
		b = binary.LittleEndian.AppendUint32(b, g.ID)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(g.NSIDs)))
		b = binary.LittleEndian.AppendUint64(b, g.ChangeCount)
		b = append(b, uint8(g.State))
		b = append(b, make([]byte, 15)...)
		for _, nsid := range g.NSIDs {
			b = binary.LittleEndian.AppendUint32(b, nsid)
		}
	}
	return b
}

// Parse reads the page from the start of b; what follows the last group is
// not looked at. A group identifier of zero, a state that is none, or a group
// that leaves b is an error, as it is to Linux. Whether identifiers are within
// ANAGRPMAX the caller checks.
func (a *ANALog) Parse(b []byte) error {
	if err := atLeast("ANA log", b, ANALogHeaderSize); err != nil {
		return err
	}
	*a = ANALog{ChangeCount: binary.LittleEndian.Uint64(b)}
	n := int(binary.LittleEndian.Uint16(b[8:]))
	rest := b[ANALogHeaderSize:]
	for i := range n {
		if len(rest) < ANAGroupSize {
			return fmt.Errorf("nvme: ANA log: group %d of %d: %d bytes left, need %d", i, n, len(rest), ANAGroupSize)
		}
		g := ANAGroup{
			ID:          binary.LittleEndian.Uint32(rest),
			ChangeCount: binary.LittleEndian.Uint64(rest[8:]),
			State:       ANAState(rest[16] & 0xF),
		}
		nsids := binary.LittleEndian.Uint32(rest[4:])
		rest = rest[ANAGroupSize:]
		switch {
		case g.ID == 0:
			return fmt.Errorf("nvme: ANA log: group %d of %d: identifier 0", i, n)
		case !g.State.Valid():
			return fmt.Errorf("nvme: ANA log: group %d of %d: state %#x", i, n, uint8(g.State))
		case uint64(nsids)*4 > uint64(len(rest)):
			return fmt.Errorf("nvme: ANA log: group %d of %d: %d NSIDs in %d bytes", i, n, nsids, len(rest))
		}
		if nsids > 0 {
			g.NSIDs = make([]uint32, nsids)
		}
		for j := range g.NSIDs {
			g.NSIDs[j] = binary.LittleEndian.Uint32(rest[4*j:])
		}
		rest = rest[4*len(g.NSIDs):]
		a.Groups = append(a.Groups, g)
	}
	return nil
}
