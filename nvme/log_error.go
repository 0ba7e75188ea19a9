package nvme

// ErrorLogEntrySize is the size of an Error Information log entry.
const ErrorLogEntrySize = 64

// NoParameterError is Parameter Error Location when the error has no one
// field.
const NoParameterError = 0xFFFF

// ErrorLogEntry is an Error Information log entry, LID 01h [Base, Error
// Information log page]. The log is an array of them, newest first; an entry
// with ErrorCount 0 is not in use.
type ErrorLogEntry struct {
	ErrorCount uint64 // 1 for the controller's first error, and so on
	SQID, CID  uint16
	Status     Status
	Location   uint16 // Parameter Error Location: byte in 7:0, bit in 10:8
	LBA        uint64
	NSID       uint32
	VSIA       uint8 // Vendor Specific Information Available
	TRTYPE     TransportType
	CSI        CSI
	Opcode     uint8
	CSInfo     uint64 // Command Specific Information
	TTSI       uint16 // Transport Type Specific Information
	Version    uint8  // Log Page Version; CSI and Opcode are valid from 1 on
}

// ParameterErrorLocation returns the location for the bit, 0 to 7, of the byte
// of the command, and [NoParameterError] if it is not one of its 64.
func ParameterErrorLocation(offset int, bit uint8) uint16 {
	if offset < 0 || offset >= CommandSize {
		return NoParameterError
	}
	return uint16(offset) | uint16(bit&7)<<8
}

// ErrorLocation returns the byte and the bit of a Parameter Error Location; ok
// is false if the error has no one field.
func ErrorLocation(location uint16) (offset int, bit uint8, ok bool) {
	return int(location & 0xFF), uint8(location >> 8 & 7), location != NoParameterError
}

func (e *ErrorLogEntry) layout(l layout) {
	u64(l, 0, &e.ErrorCount)
	u16(l, 8, &e.SQID)
	u16(l, 10, &e.CID)
	field := e.Status.Field()
	u16(l, 12, &field)
	e.Status = StatusFromField(field)
	u16(l, 14, &e.Location)
	u64(l, 16, &e.LBA)
	u32(l, 24, &e.NSID)
	u8(l, 28, &e.VSIA)
	u8(l, 29, &e.TRTYPE)
	u8(l, 30, &e.CSI)
	u8(l, 31, &e.Opcode)
	u64(l, 32, &e.CSInfo)
	u16(l, 40, &e.TTSI)
	u8(l, 63, &e.Version)
}

// AppendTo appends the entry, [ErrorLogEntrySize] bytes, to b.
func (e ErrorLogEntry) AppendTo(b []byte) []byte {
	b, p := extend(b, ErrorLogEntrySize)
	e.layout(layout{p, true})
	return b
}

// Parse reads the entry from the start of b, which must have at least
// [ErrorLogEntrySize] bytes.
func (e *ErrorLogEntry) Parse(b []byte) error {
	if err := atLeast("Error Information log entry", b, ErrorLogEntrySize); err != nil {
		return err
	}
	e.layout(layout{b, false})
	return nil
}
