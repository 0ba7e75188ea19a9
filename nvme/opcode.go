package nvme

// AdminOpcode is an opcode in the admin queue [Base, Opcodes for Admin
// Commands].
type AdminOpcode uint8

// Admin opcodes.
const (
	AdminDeleteIOSQ               AdminOpcode = 0x00
	AdminCreateIOSQ               AdminOpcode = 0x01
	AdminGetLogPage               AdminOpcode = 0x02
	AdminDeleteIOCQ               AdminOpcode = 0x04
	AdminCreateIOCQ               AdminOpcode = 0x05
	AdminIdentify                 AdminOpcode = 0x06
	AdminAbort                    AdminOpcode = 0x08
	AdminSetFeatures              AdminOpcode = 0x09
	AdminGetFeatures              AdminOpcode = 0x0A
	AdminAsyncEventRequest        AdminOpcode = 0x0C
	AdminNamespaceManagement      AdminOpcode = 0x0D
	AdminFirmwareCommit           AdminOpcode = 0x10
	AdminFirmwareImageDownload    AdminOpcode = 0x11
	AdminDeviceSelfTest           AdminOpcode = 0x14
	AdminNamespaceAttachment      AdminOpcode = 0x15
	AdminKeepAlive                AdminOpcode = 0x18
	AdminDirectiveSend            AdminOpcode = 0x19
	AdminDirectiveReceive         AdminOpcode = 0x1A
	AdminVirtualizationManagement AdminOpcode = 0x1C
	AdminMISend                   AdminOpcode = 0x1D
	AdminMIReceive                AdminOpcode = 0x1E
	AdminCapacityManagement       AdminOpcode = 0x20
	AdminLockdown                 AdminOpcode = 0x24
	AdminDoorbellBufferConfig     AdminOpcode = 0x7C
	AdminFabrics                  AdminOpcode = 0x7F
	AdminFormatNVM                AdminOpcode = 0x80
	AdminSecuritySend             AdminOpcode = 0x81
	AdminSecurityReceive          AdminOpcode = 0x82
	AdminSanitize                 AdminOpcode = 0x84
	AdminGetLBAStatus             AdminOpcode = 0x86
)

var adminOpcodes = []string{
	AdminDeleteIOSQ:               "Delete I/O Submission Queue",
	AdminCreateIOSQ:               "Create I/O Submission Queue",
	AdminGetLogPage:               "Get Log Page",
	AdminDeleteIOCQ:               "Delete I/O Completion Queue",
	AdminCreateIOCQ:               "Create I/O Completion Queue",
	AdminIdentify:                 "Identify",
	AdminAbort:                    "Abort",
	AdminSetFeatures:              "Set Features",
	AdminGetFeatures:              "Get Features",
	AdminAsyncEventRequest:        "Asynchronous Event Request",
	AdminNamespaceManagement:      "Namespace Management",
	AdminFirmwareCommit:           "Firmware Commit",
	AdminFirmwareImageDownload:    "Firmware Image Download",
	AdminDeviceSelfTest:           "Device Self-test",
	AdminNamespaceAttachment:      "Namespace Attachment",
	AdminKeepAlive:                "Keep Alive",
	AdminDirectiveSend:            "Directive Send",
	AdminDirectiveReceive:         "Directive Receive",
	AdminVirtualizationManagement: "Virtualization Management",
	AdminMISend:                   "NVMe-MI Send",
	AdminMIReceive:                "NVMe-MI Receive",
	AdminCapacityManagement:       "Capacity Management",
	AdminLockdown:                 "Lockdown",
	AdminDoorbellBufferConfig:     "Doorbell Buffer Config",
	AdminFabrics:                  "Fabrics",
	AdminFormatNVM:                "Format NVM",
	AdminSecuritySend:             "Security Send",
	AdminSecurityReceive:          "Security Receive",
	AdminSanitize:                 "Sanitize",
	AdminGetLBAStatus:             "Get LBA Status",
}

// String returns the specification's name.
func (o AdminOpcode) String() string { return name(adminOpcodes, uint8(o), "admin opcode") }

// IOOpcode is an opcode in an I/O queue: of the NVM Command Set [NVM, Opcodes for NVM Commands],
// those common to all command sets [Base, I/O Commands], and of zoned namespaces.
type IOOpcode uint8

// I/O opcodes.
const (
	IOFlush              IOOpcode = 0x00
	IOWrite              IOOpcode = 0x01
	IORead               IOOpcode = 0x02
	IOWriteUncorrectable IOOpcode = 0x04
	IOCompare            IOOpcode = 0x05
	IOWriteZeroes        IOOpcode = 0x08
	IODatasetManagement  IOOpcode = 0x09
	IOVerify             IOOpcode = 0x0C
	IOReservRegister     IOOpcode = 0x0D
	IOReservReport       IOOpcode = 0x0E
	IOReservAcquire      IOOpcode = 0x11
	IOManagementReceive  IOOpcode = 0x12
	IOReservRelease      IOOpcode = 0x15
	IOCancel             IOOpcode = 0x18
	IOCopy               IOOpcode = 0x19
	IOManagementSend     IOOpcode = 0x1D
	IOZoneMgmtSend       IOOpcode = 0x79
	IOZoneMgmtReceive    IOOpcode = 0x7A
	IOZoneAppend         IOOpcode = 0x7D
	IOFabrics            IOOpcode = 0x7F
)

var ioOpcodes = []string{
	IOFlush:              "Flush",
	IOWrite:              "Write",
	IORead:               "Read",
	IOWriteUncorrectable: "Write Uncorrectable",
	IOCompare:            "Compare",
	IOWriteZeroes:        "Write Zeroes",
	IODatasetManagement:  "Dataset Management",
	IOVerify:             "Verify",
	IOReservRegister:     "Reservation Register",
	IOReservReport:       "Reservation Report",
	IOReservAcquire:      "Reservation Acquire",
	IOManagementReceive:  "I/O Management Receive",
	IOReservRelease:      "Reservation Release",
	IOCancel:             "Cancel",
	IOCopy:               "Copy",
	IOManagementSend:     "I/O Management Send",
	IOZoneMgmtSend:       "Zone Management Send",
	IOZoneMgmtReceive:    "Zone Management Receive",
	IOZoneAppend:         "Zone Append",
	IOFabrics:            "Fabrics",
}

// String returns the specification's name.
func (o IOOpcode) String() string { return name(ioOpcodes, uint8(o), "I/O opcode") }

// FabricsType is a Fabrics Command Type (FCTYPE) [Base, Fabrics Commands].
type FabricsType uint8

// Fabrics command types.
const (
	FabricsPropertySet FabricsType = 0x00
	FabricsConnect     FabricsType = 0x01
	FabricsPropertyGet FabricsType = 0x04
	FabricsAuthSend    FabricsType = 0x05
	FabricsAuthReceive FabricsType = 0x06
	FabricsDisconnect  FabricsType = 0x08
)

var fabricsTypes = []string{
	FabricsPropertySet: "Property Set",
	FabricsConnect:     "Connect",
	FabricsPropertyGet: "Property Get",
	FabricsAuthSend:    "Authentication Send",
	FabricsAuthReceive: "Authentication Receive",
	FabricsDisconnect:  "Disconnect",
}

// String returns the specification's name.
func (t FabricsType) String() string { return name(fabricsTypes, uint8(t), "fabrics command type") }

// Direction is the data transfer direction that bits 1:0 of an opcode, or of
// an FCTYPE, encode.
type Direction uint8

// Directions.
const (
	NoData           Direction = 0
	HostToController Direction = 1
	ControllerToHost Direction = 2
	Bidirectional    Direction = 3
)

// String returns the direction in words.
func (d Direction) String() string {
	return [...]string{"no data", "host to controller", "controller to host", "bidirectional"}[d&3]
}

// Direction returns where the command's data goes: bits 1:0 of the opcode or,
// of a Fabrics command, of FCTYPE. A command may still transfer nothing:
// Property Set and Get by their nature, others by a length of zero.
func (c Command) Direction() Direction {
	if c.IsFabrics() {
		return Direction(c.FCTYPE() & 3)
	}
	return Direction(c.Opcode() & 3)
}
