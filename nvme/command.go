package nvme

import "encoding/binary"

// CommandSize is the size of a submission queue entry [Base, Submission Queue Entry].
const CommandSize = 64

// Offsets of the fields common to every command. Command dword n starts at
// byte 4n.
const (
	offOpcode = 0
	offFlags  = 1
	offCID    = 2
	offNSID   = 4
	offFCTYPE = 4
	offMPTR   = 16
	offSGL1   = 24
	offCDW10  = 40
)

// Bits of the Flags byte, command dword 0 bits 15:08 [Base, Submission Queue Entry].
const (
	FlagsFUSE = 0x03 // fused operation: 00b none, 01b first, 10b second
	FlagsPSDT = 0xC0 // PRP or SGL for Data Transfer

	// PSDTPRP, PSDTSGL and PSDTSGLSegment are the values of PSDT, in place.
	// Fabrics allows PSDTSGL alone: an SGL, and MPTR, if used, a buffer.
	PSDTPRP        = 0x00
	PSDTSGL        = 0x40
	PSDTSGLSegment = 0x80
)

// Command is a submission queue entry, viewed in place: its methods read and
// write the bytes it was made from, copy nothing and allocate nothing. It is
// valid as long as those bytes are; nothing in it locks. A Command is always
// made by [ParseCommand], [NewCommand] or [MakeCommand], which see to its
// length.
//
//	byte 0       1        2..3     4..7     8..15    16..23   24..39   40..63
//	   +--------+--------+--------+--------+--------+--------+--------+--------+
//	   | opcode | flags  |  CID   |  NSID  | CDW2-3 |  MPTR  |  SGL1  |CDW10-15|
//	   +--------+--------+--------+--------+--------+--------+--------+--------+
type Command []byte

// ParseCommand returns the command at the start of b, which may be longer
// (in-capsule data follows). No field is checked.
func ParseCommand(b []byte) (Command, error) {
	if err := atLeast("command", b, CommandSize); err != nil {
		return nil, err
	}
	return Command(b[:CommandSize:CommandSize]), nil
}

// NewCommand returns a command in memory of its own, as [MakeCommand] leaves
// it.
func NewCommand() Command { return MakeCommand(make([]byte, CommandSize)) }

// MakeCommand clears the first [CommandSize] bytes of b, sets PSDT as Fabrics
// demands, and returns them as a command; a Put method makes it a particular
// one. It panics if b is shorter: b is the caller's, never the wire's.
func MakeCommand(b []byte) Command {
	c := Command(b[:CommandSize:CommandSize])
	clear(c)
	c[offFlags] = PSDTSGL
	return c
}

// Opcode returns OPC. What it means depends on the queue: convert it to
// [AdminOpcode] or [IOOpcode].
func (c Command) Opcode() uint8 { return c[offOpcode] }

// SetOpcode sets OPC.
func (c Command) SetOpcode(op uint8) { c[offOpcode] = op }

// IsFabrics reports whether the opcode is that of the Fabrics commands, the
// same in every queue.
func (c Command) IsFabrics() bool { return c[offOpcode] == uint8(AdminFabrics) }

// FCTYPE returns the Fabrics Command Type, the low byte of what other
// commands have as NSID.
func (c Command) FCTYPE() FabricsType { return FabricsType(c[offFCTYPE]) }

// Flags returns the byte with FUSE and PSDT.
func (c Command) Flags() uint8 { return c[offFlags] }

// SetFlags sets the byte with FUSE and PSDT.
func (c Command) SetFlags(f uint8) { c[offFlags] = f }

// PSDT returns the PSDT bits in place, one of the PSDT constants.
func (c Command) PSDT() uint8 { return c[offFlags] & FlagsPSDT }

// FUSE returns the Fused Operation bits.
func (c Command) FUSE() uint8 { return c[offFlags] & FlagsFUSE }

// CID returns the Command Identifier: all 16 bits belong to the host and are
// echoed as they are.
func (c Command) CID() uint16 { return binary.LittleEndian.Uint16(c[offCID:]) }

// SetCID sets the Command Identifier.
func (c Command) SetCID(cid uint16) { binary.LittleEndian.PutUint16(c[offCID:], cid) }

// NSID returns the Namespace Identifier.
func (c Command) NSID() uint32 { return binary.LittleEndian.Uint32(c[offNSID:]) }

// SetNSID sets the Namespace Identifier.
func (c Command) SetNSID(nsid uint32) { binary.LittleEndian.PutUint32(c[offNSID:], nsid) }

// MPTR returns the Metadata Pointer.
func (c Command) MPTR() uint64 { return binary.LittleEndian.Uint64(c[offMPTR:]) }

// CDW returns command dword n, 0 ≤ n ≤ 15; those that are not otherwise
// named are 2, 3 and 10 to 15.
func (c Command) CDW(n int) uint32 { return binary.LittleEndian.Uint32(c[4*n:]) }

// SetCDW sets command dword n, 0 ≤ n ≤ 15.
func (c Command) SetCDW(n int, v uint32) { binary.LittleEndian.PutUint32(c[4*n:], v) }

// SGL returns SGL Entry 1, the data pointer of every Fabrics command.
func (c Command) SGL() SGL { return getSGL(c[offSGL1 : offSGL1+SGLSize]) }

// SetSGL sets SGL Entry 1. It panics as [SGL.Put] does.
func (c Command) SetSGL(s SGL) { s.Put(c[offSGL1 : offSGL1+SGLSize]) }

// String describes the command by its opcode in both kinds of queue.
func (c Command) String() string {
	if c.IsFabrics() {
		return c.FCTYPE().String()
	}
	return AdminOpcode(c.Opcode()).String() + " | " + IOOpcode(c.Opcode()).String()
}

// start gives the command its opcode and clears the dwords that differ from
// one command to the next. CID, PSDT and SGL1 stay.
func (c Command) start(op uint8, nsid uint32) {
	c[offOpcode] = op
	c.SetNSID(nsid)
	clear(c[8:offSGL1])
	clear(c[offCDW10:])
}

func (c Command) startFabrics(t FabricsType) {
	c.start(uint8(AdminFabrics), 0)
	c[offFCTYPE] = uint8(t)
}

// Abort returns the fields of an Abort command: the queue and the CID of the
// command to abort [Base, Abort command].
func (c Command) Abort() (sqid, cid uint16) {
	v := c.CDW(10)
	return uint16(v), uint16(v >> 16)
}

// PutAbort makes c an Abort of the command cid of queue sqid.
func (c Command) PutAbort(sqid, cid uint16) {
	c.start(uint8(AdminAbort), 0)
	c.SetCDW(10, uint32(sqid)|uint32(cid)<<16)
}

// PutKeepAlive makes c a Keep Alive; it has no fields and no data.
func (c Command) PutKeepAlive() { c.start(uint8(AdminKeepAlive), 0) }

// PutAsyncEventRequest makes c an Asynchronous Event Request; it has no
// fields and no data.
func (c Command) PutAsyncEventRequest() { c.start(uint8(AdminAsyncEventRequest), 0) }
