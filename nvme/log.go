package nvme

import "encoding/binary"

// LogPage is a Log Page Identifier (LID).
type LogPage uint8

// Log pages.
const (
	LogSupportedPages      LogPage = 0x00 // [SupportedLogPages]
	LogError               LogPage = 0x01 // [ErrorLogEntry]
	LogSMART               LogPage = 0x02 // [SMARTLog]
	LogFirmwareSlot        LogPage = 0x03 // [FirmwareSlotLog]
	LogChangedNamespaces   LogPage = 0x04 // [ParseChangedNamespaces]
	LogEffects             LogPage = 0x05 // [EffectsLog]
	LogSelfTest            LogPage = 0x06
	LogTelemetryHost       LogPage = 0x07
	LogTelemetryController LogPage = 0x08
	LogEnduranceGroup      LogPage = 0x09
	LogPredictableLatency  LogPage = 0x0A
	LogPredictableEvents   LogPage = 0x0B
	LogANA                 LogPage = 0x0C // [ANALog]
	LogPersistentEvent     LogPage = 0x0D
	LogLBAStatus           LogPage = 0x0E
	LogEnduranceEvents     LogPage = 0x0F
	LogMediaUnitStatus     LogPage = 0x10
	LogSupportedCapacity   LogPage = 0x11
	LogFeatureEffects      LogPage = 0x12 // [FeatureEffectsLog]
	LogMIEffects           LogPage = 0x13 // [MIEffectsLog]
	LogLockdown            LogPage = 0x14
	LogBootPartition       LogPage = 0x15
	LogRotationalMedia     LogPage = 0x16
	LogDiscovery           LogPage = 0x70 // [DiscoveryLog]
	LogHostDiscovery       LogPage = 0x71
	LogAVEDiscovery        LogPage = 0x72
	LogReservation         LogPage = 0x80
	LogSanitizeStatus      LogPage = 0x81
)

var logNames = []string{
	LogSupportedPages:      "Supported Log Pages",
	LogError:               "Error Information",
	LogSMART:               "SMART / Health Information",
	LogFirmwareSlot:        "Firmware Slot Information",
	LogChangedNamespaces:   "Changed Attached Namespace List",
	LogEffects:             "Commands Supported and Effects",
	LogSelfTest:            "Device Self-test",
	LogTelemetryHost:       "Telemetry Host-Initiated",
	LogTelemetryController: "Telemetry Controller-Initiated",
	LogEnduranceGroup:      "Endurance Group Information",
	LogPredictableLatency:  "Predictable Latency Per NVM Set",
	LogPredictableEvents:   "Predictable Latency Event Aggregate",
	LogANA:                 "Asymmetric Namespace Access",
	LogPersistentEvent:     "Persistent Event Log",
	LogLBAStatus:           "LBA Status Information",
	LogEnduranceEvents:     "Endurance Group Event Aggregate",
	LogMediaUnitStatus:     "Media Unit Status",
	LogSupportedCapacity:   "Supported Capacity Configuration List",
	LogFeatureEffects:      "Feature Identifiers Supported and Effects",
	LogMIEffects:           "NVMe-MI Commands Supported and Effects",
	LogLockdown:            "Command and Feature Lockdown",
	LogBootPartition:       "Boot Partition",
	LogRotationalMedia:     "Rotational Media Information",
	LogDiscovery:           "Discovery",
	LogHostDiscovery:       "Host Discovery",
	LogAVEDiscovery:        "AVE Discovery",
	LogReservation:         "Reservation Notification",
	LogSanitizeStatus:      "Sanitize Status",
}

// String returns the specification's name of the log page.
func (l LogPage) String() string { return name(logNames, uint8(l), "log page") }

// Byte offsets of the fields of a Get Log Page, for [FieldError].
const (
	OffLID   = 40
	OffLSP   = 41
	OffNUMDL = 42
	OffNUMDU = 44
	OffLSI   = 46
	OffLPO   = 48
	OffLogOT = 58
	OffLogCS = 59
)

const (
	logRAE = 0x80 // in byte 41
	logOT  = 0x80 // in byte 58
)

// GetLogPageCommand is the fields of a Get Log Page [Base, Get Log Page
// command].
//
//	byte  40    41         42..43  44..45  46..47  48..55   58    59
//	    +-----+-----------+-------+-------+-------+--------+-----+-----+
//	    | LID | RAE | LSP | NUMDL | NUMDU |  LSI  |  LPO   |OT 7 | CSI |
//	    +-----+-----------+-------+-------+-------+--------+-----+-----+
type GetLogPageCommand struct {
	NSID uint32
	LID  LogPage
	LSP  uint8  // Log Specific Parameter, 7 bits
	RAE  bool   // Retain Asynchronous Event
	NUMD uint32 // number of dwords, 0-based
	LSI  uint16 // Log Specific Identifier
	LPO  uint64 // Log Page Offset in bytes, or an index if OT
	OT   bool   // Offset Type: LPO is an index
	CSI  CSI
}

// Length returns the number of bytes that NUMD asks for, 4 to 2^34.
func (g GetLogPageCommand) Length() uint64 { return (uint64(g.NUMD) + 1) * 4 }

// SetLength sets NUMD to ask for n bytes, rounded down to dwords, at least 4
// and at most 2^34.
func (g *GetLogPageCommand) SetLength(n uint64) {
	g.NUMD = uint32(min(max(n/4, 1), 1<<32) - 1)
}

// LID returns the Log Page Identifier of a Get Log Page.
func (c Command) LID() LogPage { return LogPage(c[OffLID]) }

// GetLogPage returns the fields of a Get Log Page.
func (c Command) GetLogPage() GetLogPageCommand {
	return GetLogPageCommand{
		NSID: c.NSID(),
		LID:  LogPage(c[OffLID]),
		LSP:  c[OffLSP] &^ logRAE,
		RAE:  c[OffLSP]&logRAE != 0,
		NUMD: binary.LittleEndian.Uint32(c[OffNUMDL:]),
		LSI:  binary.LittleEndian.Uint16(c[OffLSI:]),
		LPO:  binary.LittleEndian.Uint64(c[OffLPO:]),
		OT:   c[OffLogOT]&logOT != 0,
		CSI:  CSI(c[OffLogCS]),
	}
}

// PutGetLogPage makes c a Get Log Page. The caller sets SGL1 to the memory
// for as many bytes as [GetLogPageCommand.Length] says.
func (c Command) PutGetLogPage(g GetLogPageCommand) {
	c.start(uint8(AdminGetLogPage), g.NSID)
	c[OffLID] = uint8(g.LID)
	c[OffLSP] = g.LSP &^ logRAE
	if g.RAE {
		c[OffLSP] |= logRAE
	}
	binary.LittleEndian.PutUint32(c[OffNUMDL:], g.NUMD)
	binary.LittleEndian.PutUint16(c[OffLSI:], g.LSI)
	binary.LittleEndian.PutUint64(c[OffLPO:], g.LPO)
	if g.OT {
		c[OffLogOT] = logOT
	}
	c[OffLogCS] = uint8(g.CSI)
}
