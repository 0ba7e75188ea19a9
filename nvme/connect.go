package nvme

import "encoding/binary"

// ConnectDataSize is the size of the data of a Connect [Base, Connect Command and Response].
const ConnectDataSize = 1024

const (
	// CNTLIDDynamic asks for any controller, in an admin Connect and in a
	// discovery log page entry.
	CNTLIDDynamic = 0xFFFF

	// MaxCNTLID is the highest controller identifier; 0xFFF0 and above are
	// reserved.
	MaxCNTLID = 0xFFEF
)

// CATTR bits of a Connect.
const (
	CATTRPriority         = 0x03 // priority class of the queue
	CATTRDisableSQFlow    = 0x04 // disable SQ flow control: SQHD is SQHDDisabled
	CATTRIndividualDelete = 0x08 // I/O queue deletion: the host may send Disconnect
)

// Byte offsets of the fields of a Connect, for [FieldError] and the result on
// [ConnectInvalidParameters].
const (
	OffRecFmt = 40
	OffQID    = 42
	OffSQSize = 44
	OffCATTR  = 46
	OffKATO   = 48

	// In the data.
	OffDataHostID  = 0
	OffDataCNTLID  = 16
	OffDataSUBNQN  = 256
	OffDataHOSTNQN = 512
)

// ConnectCommand is the fields of a Connect [Base, Connect Command and Response].
//
//	byte  40..41   42..43   44..45   46      47        48..51
//	    +--------+--------+--------+-------+---------+--------+
//	    | RECFMT |  QID   | SQSIZE | CATTR | reserved|  KATO  |
//	    +--------+--------+--------+-------+---------+--------+
type ConnectCommand struct {
	RecFmt uint16 // record format of command and data, 0
	QID    uint16 // 0 for the admin queue
	SQSize uint16 // 0-based; 0 is not allowed
	CATTR  uint8
	KATO   uint32 // Keep Alive Timeout in ms; admin queue only, 0 for none
}

// Connect returns the fields of a Connect.
func (c Command) Connect() ConnectCommand {
	return ConnectCommand{
		RecFmt: binary.LittleEndian.Uint16(c[OffRecFmt:]),
		QID:    binary.LittleEndian.Uint16(c[OffQID:]),
		SQSize: binary.LittleEndian.Uint16(c[OffSQSize:]),
		CATTR:  c[OffCATTR],
		KATO:   binary.LittleEndian.Uint32(c[OffKATO:]),
	}
}

// PutConnect makes c a Connect. The caller sets SGL1 to the data.
func (c Command) PutConnect(f ConnectCommand) {
	c.startFabrics(FabricsConnect)
	binary.LittleEndian.PutUint16(c[OffRecFmt:], f.RecFmt)
	binary.LittleEndian.PutUint16(c[OffQID:], f.QID)
	binary.LittleEndian.PutUint16(c[OffSQSize:], f.SQSize)
	c[OffCATTR] = f.CATTR
	binary.LittleEndian.PutUint32(c[OffKATO:], f.KATO)
}

// PutDisconnect makes c a Disconnect of the I/O queue that it is sent on
// [Base, Disconnect Command and Response].
func (c Command) PutDisconnect() { c.startFabrics(FabricsDisconnect) }

// ConnectData is the data of a Connect.
//
//	byte  0..15    16..17   18..255    256..511  512..767  768..1023
//	    +--------+--------+----------+---------+---------+----------+
//	    | HOSTID | CNTLID | reserved | SUBNQN  | HOSTNQN | reserved |
//	    +--------+--------+----------+---------+---------+----------+
type ConnectData struct {
	HostID  UUID
	CNTLID  uint16 // CNTLIDDynamic in an admin Connect, else from its result
	SUBNQN  string
	HOSTNQN string
}

// AppendTo appends the [ConnectDataSize] bytes to b. An NQN that is longer
// than its field is cut; [CheckNQN] prevents it.
func (d ConnectData) AppendTo(b []byte) []byte {
	b, p := extend(b, ConnectDataSize)
	l := layout{p, true}
	raw(l, OffDataHostID, d.HostID[:])
	u16(l, OffDataCNTLID, &d.CNTLID)
	nulled(l, OffDataSUBNQN, NQNFieldSize, &d.SUBNQN)
	nulled(l, OffDataHOSTNQN, NQNFieldSize, &d.HOSTNQN)
	return b
}

// Parse reads the data from b, which must have exactly [ConnectDataSize]
// bytes. What is wrong with a name is a *[FieldError] with
// [ConnectInvalidParameters] and DNR, ready to answer the host with; HostID
// and CNTLID are set even then.
func (d *ConnectData) Parse(b []byte) error {
	if err := exactly("Connect data", b, ConnectDataSize); err != nil {
		return err
	}
	*d = ConnectData{
		HostID: UUID(b[OffDataHostID:OffDataCNTLID]),
		CNTLID: binary.LittleEndian.Uint16(b[OffDataCNTLID:]),
	}
	var err error
	if d.SUBNQN, err = ParseNQN(b[OffDataSUBNQN : OffDataSUBNQN+NQNFieldSize]); err != nil {
		return ConnectDataError("SUBNQN", OffDataSUBNQN)
	}
	if d.HOSTNQN, err = ParseNQN(b[OffDataHOSTNQN : OffDataHOSTNQN+NQNFieldSize]); err != nil {
		return ConnectDataError("HOSTNQN", OffDataHOSTNQN)
	}
	return nil
}

// ConnectCommandError returns [ConnectInvalidParameters] with DNR for the
// field at the given byte of the command.
func ConnectCommandError(field string, offset int) *FieldError {
	return &FieldError{Status: ConnectInvalidParameters.WithDNR(), Field: field, Offset: offset}
}

// ConnectDataError returns [ConnectInvalidParameters] with DNR for the field
// at the given byte of the data.
func ConnectDataError(field string, offset int) *FieldError {
	return &FieldError{Status: ConnectInvalidParameters.WithDNR(), Field: field, Offset: offset, InData: true}
}

// connectInData is IATTR bit 0 of the result of a Connect that was refused:
// the offset counts in the data.
const connectInData = 1 << 16

// ConnectResult returns dword 0 of the completion of a Connect that the field
// made fail: IPO, the byte offset, and whether it counts in the data.
func (e *FieldError) ConnectResult() uint32 {
	r := uint32(uint16(e.Offset))
	if e.InData {
		r |= connectInData
	}
	return r
}

// InvalidConnectParameter returns what the result of a completion with
// [ConnectInvalidParameters] says: the byte offset of the field and whether it
// is in the data.
func InvalidConnectParameter(dw0 uint32) (offset int, inData bool) {
	return int(uint16(dw0)), dw0&connectInData != 0
}

// ConnectResult is dword 0 of the completion of a successful Connect.
type ConnectResult uint32

// Authentication requirements in a ConnectResult (AUTHREQ).
const (
	ConnectATR  ConnectResult = 1 << 17 // authentication transaction required
	ConnectASCR ConnectResult = 1 << 18 // and a secure channel
)

// MakeConnectResult returns the result for the controller cntlid with no
// authentication required.
func MakeConnectResult(cntlid uint16) ConnectResult { return ConnectResult(cntlid) }

// CNTLID returns the controller's identifier.
func (r ConnectResult) CNTLID() uint16 { return uint16(r) }

// ATR reports whether the host must authenticate before other commands.
func (r ConnectResult) ATR() bool { return r&ConnectATR != 0 }

// ASCR reports whether the host must set up a secure channel.
func (r ConnectResult) ASCR() bool { return r&ConnectASCR != 0 }
