package nvme

// Feature is a Feature Identifier (FID).
type Feature uint8

// Features.
const (
	FeatureArbitration           Feature = 0x01
	FeaturePowerManagement       Feature = 0x02
	FeatureLBARangeType          Feature = 0x03
	FeatureTemperatureThreshold  Feature = 0x04
	FeatureErrorRecovery         Feature = 0x05
	FeatureVolatileWriteCache    Feature = 0x06
	FeatureNumberOfQueues        Feature = 0x07 // [NumberOfQueues]
	FeatureInterruptCoalescing   Feature = 0x08
	FeatureInterruptVector       Feature = 0x09
	FeatureWriteAtomicity        Feature = 0x0A
	FeatureAsyncEventConfig      Feature = 0x0B // [AsyncEventConfig]
	FeatureAutonomousPower       Feature = 0x0C
	FeatureHostMemoryBuffer      Feature = 0x0D
	FeatureTimestamp             Feature = 0x0E
	FeatureKeepAliveTimer        Feature = 0x0F // CDW11 is KATO in ms
	FeatureHostThermalManagement Feature = 0x10
	FeatureNonOperationalPower   Feature = 0x11
	FeatureReadRecoveryLevel     Feature = 0x12
	FeaturePredictableConfig     Feature = 0x13
	FeaturePredictableWindow     Feature = 0x14
	FeatureLBAStatus             Feature = 0x15
	FeatureHostBehavior          Feature = 0x16
	FeatureSanitizeConfig        Feature = 0x17
	FeatureEnduranceGroupEvents  Feature = 0x18
	FeatureIOCommandSetProfile   Feature = 0x19
	FeatureSpinupControl         Feature = 0x1A
	FeatureEnhancedMetadata      Feature = 0x7D
	FeatureControllerMetadata    Feature = 0x7E
	FeatureNamespaceMetadata     Feature = 0x7F
	FeatureSoftwareProgress      Feature = 0x80
	FeatureHostIdentifier        Feature = 0x81
	FeatureReservationMask       Feature = 0x82
	FeatureReservationPersist    Feature = 0x83
	FeatureWriteProtect          Feature = 0x84
	FeatureBootPartitionProtect  Feature = 0x85
)

var featureNames = []string{
	FeatureArbitration:           "Arbitration",
	FeaturePowerManagement:       "Power Management",
	FeatureLBARangeType:          "LBA Range Type",
	FeatureTemperatureThreshold:  "Temperature Threshold",
	FeatureErrorRecovery:         "Error Recovery",
	FeatureVolatileWriteCache:    "Volatile Write Cache",
	FeatureNumberOfQueues:        "Number of Queues",
	FeatureInterruptCoalescing:   "Interrupt Coalescing",
	FeatureInterruptVector:       "Interrupt Vector Configuration",
	FeatureWriteAtomicity:        "Write Atomicity Normal",
	FeatureAsyncEventConfig:      "Asynchronous Event Configuration",
	FeatureAutonomousPower:       "Autonomous Power State Transition",
	FeatureHostMemoryBuffer:      "Host Memory Buffer",
	FeatureTimestamp:             "Timestamp",
	FeatureKeepAliveTimer:        "Keep Alive Timer",
	FeatureHostThermalManagement: "Host Controlled Thermal Management",
	FeatureNonOperationalPower:   "Non-Operational Power State Config",
	FeatureReadRecoveryLevel:     "Read Recovery Level Config",
	FeaturePredictableConfig:     "Predictable Latency Mode Config",
	FeaturePredictableWindow:     "Predictable Latency Mode Window",
	FeatureLBAStatus:             "LBA Status Information Attributes",
	FeatureHostBehavior:          "Host Behavior Support",
	FeatureSanitizeConfig:        "Sanitize Config",
	FeatureEnduranceGroupEvents:  "Endurance Group Event Configuration",
	FeatureIOCommandSetProfile:   "I/O Command Set Profile",
	FeatureSpinupControl:         "Spinup Control",
	FeatureEnhancedMetadata:      "Enhanced Controller Metadata",
	FeatureControllerMetadata:    "Controller Metadata",
	FeatureNamespaceMetadata:     "Namespace Metadata",
	FeatureSoftwareProgress:      "Software Progress Marker",
	FeatureHostIdentifier:        "Host Identifier",
	FeatureReservationMask:       "Reservation Notification Mask",
	FeatureReservationPersist:    "Reservation Persistence",
	FeatureWriteProtect:          "Namespace Write Protection Config",
	FeatureBootPartitionProtect:  "Boot Partition Write Protection Config",
}

// String returns the specification's name of the feature.
func (f Feature) String() string { return name(featureNames, uint8(f), "feature") }

// Byte offsets of the fields of Set and Get Features, for [FieldError].
const (
	OffFID          = 40
	OffFeatureSEL   = 41 // of Get Features
	OffFeatureSV    = 43 // of Set Features
	OffFeatureCDW11 = 44
)

// SEL values of Get Features.
const (
	SELCurrent      = 0
	SELDefault      = 1
	SELSaved        = 2
	SELCapabilities = 3
)

// FeatureCapabilities is the result of a Get Features with [SELCapabilities].
type FeatureCapabilities uint32

// Bits of FeatureCapabilities.
const (
	FeatureSaveable   FeatureCapabilities = 1 << 0
	FeatureNamespace  FeatureCapabilities = 1 << 1 // it has a value per namespace
	FeatureChangeable FeatureCapabilities = 1 << 2
)

// featureSave is SV in CDW10.
const featureSave = 1 << 31

// FeaturesCommand is the fields of Set Features and Get Features
// [Base, Set Features command; Get Features command].
//
//	bit of CDW10  31       30..11     10..8      7..0
//	            +--------+----------+----------+-------+
//	            | SV     | reserved | SEL      |  FID  |
//	            | of Set |          | of Get   |       |
//	            +--------+----------+----------+-------+
type FeaturesCommand struct {
	NSID  uint32
	FID   Feature
	SV    bool  // Save, of Set Features
	SEL   uint8 // Select, of Get Features
	CDW11 uint32
	CDW12 uint32
}

// FID returns the Feature Identifier of a Set or Get Features.
func (c Command) FID() Feature { return Feature(c[OffFID]) }

// Features returns the fields of a Set or Get Features.
func (c Command) Features() FeaturesCommand {
	cdw10 := c.CDW(10)
	return FeaturesCommand{
		NSID:  c.NSID(),
		FID:   Feature(cdw10),
		SV:    cdw10&featureSave != 0,
		SEL:   uint8(cdw10 >> 8 & 7),
		CDW11: c.CDW(11),
		CDW12: c.CDW(12),
	}
}

// PutSetFeatures makes c a Set Features; SEL is not used. The caller sets
// SGL1.
func (c Command) PutSetFeatures(f FeaturesCommand) {
	c.start(uint8(AdminSetFeatures), f.NSID)
	cdw10 := uint32(f.FID)
	if f.SV {
		cdw10 |= featureSave
	}
	c.SetCDW(10, cdw10)
	c.SetCDW(11, f.CDW11)
	c.SetCDW(12, f.CDW12)
}

// PutGetFeatures makes c a Get Features; SV is not used. The caller sets
// SGL1.
func (c Command) PutGetFeatures(f FeaturesCommand) {
	c.start(uint8(AdminGetFeatures), f.NSID)
	c.SetCDW(10, uint32(f.FID)|uint32(f.SEL&7)<<8)
	c.SetCDW(11, f.CDW11)
	c.SetCDW(12, f.CDW12)
}

// NumberOfQueues is CDW11 and the result of the Number of Queues feature:
// NSQR and NCQR, what the host asks for, and NSQA and NCQA, what it gets. All
// are 0-based and do not count the admin queue; 0xFFFF is not allowed.
type NumberOfQueues uint32

// MakeNumberOfQueues returns the value for n submission and n completion
// queues, 0-based: Fabrics has as many of the one as of the other.
func MakeNumberOfQueues(n uint16) NumberOfQueues {
	return NumberOfQueues(n) | NumberOfQueues(n)<<16
}

// SQ returns the number of I/O submission queues, 0-based.
func (n NumberOfQueues) SQ() uint16 { return uint16(n) }

// CQ returns the number of I/O completion queues, 0-based.
func (n NumberOfQueues) CQ() uint16 { return uint16(n >> 16) }

// Pairs returns how many I/O queues, counted from 1, a host can make of it:
// the lesser of both.
func (n NumberOfQueues) Pairs() int { return int(min(n.SQ(), n.CQ())) + 1 }

// WriteProtect is the state of the Namespace Write Protection Config feature,
// bits 2:0 of CDW11.
type WriteProtect uint8

// Write protection states.
const (
	WriteProtectNone       WriteProtect = 0
	WriteProtectSet        WriteProtect = 1
	WriteProtectPowerCycle WriteProtect = 2
	WriteProtectPermanent  WriteProtect = 3
)
