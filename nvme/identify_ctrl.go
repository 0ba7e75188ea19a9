package nvme

// CMIC bits of [IdentifyController].
const (
	CMICMultiPort       = 1 << 0 // the subsystem may have more than one port
	CMICMultiController = 1 << 1 // the subsystem may have two or more controllers
	CMICSRIOV           = 1 << 2 // the controller is an SR-IOV virtual function
	CMICANA             = 1 << 3 // Asymmetric Namespace Access Reporting
)

// CTRATT bits of [IdentifyController].
const (
	CTRATTHostID128   = 1 << 0  // HIDS: 128-bit host identifier
	CTRATTTBKAS       = 1 << 6  // Traffic Based Keep Alive Support
	CTRATTGranularity = 1 << 7  // Namespace Granularity
	CTRATTUUIDList    = 1 << 9  // UUID List
	CTRATTELBAS       = 1 << 15 // Extended LBA Formats Supported
)

// OACS bits of [IdentifyController].
const (
	OACSSecurity             = 1 << 0 // Security Send and Receive
	OACSFormat               = 1 << 1 // Format NVM
	OACSFirmware             = 1 << 2 // Firmware Commit and Image Download
	OACSNamespaceManagement  = 1 << 3 // Namespace Management and Attachment
	OACSSelfTest             = 1 << 4 // Device Self-test
	OACSDirectives           = 1 << 5 // Directive Send and Receive
	OACSMI                   = 1 << 6 // NVMe-MI Send and Receive
	OACSVirtualization       = 1 << 7 // Virtualization Management
	OACSDoorbellBufferConfig = 1 << 8 // Doorbell Buffer Config
)

// LPA bits of [IdentifyController].
const (
	LPASmartPerNamespace = 1 << 0 // SMART / Health log per namespace
	LPAEffects           = 1 << 1 // Commands Supported and Effects log
	LPAExtendedData      = 1 << 2 // log page offset and 32-bit NUMD
	LPATelemetry         = 1 << 3 // Telemetry logs
	LPAPersistentEvents  = 1 << 4 // Persistent Event log
	LPASupportedLogs     = 1 << 5 // Supported Log Pages and others
)

// ONCS bits of [IdentifyController].
const (
	ONCSCompare            = 1 << 0
	ONCSWriteUncorrectable = 1 << 1
	ONCSDSM                = 1 << 2
	ONCSWriteZeroes        = 1 << 3
	ONCSSaveFeatures       = 1 << 4 // Save and Select fields of the feature commands
	ONCSReservations       = 1 << 5
	ONCSTimestamp          = 1 << 6
	ONCSVerify             = 1 << 7
	ONCSCopy               = 1 << 8
)

// OCFS bits of [IdentifyController]: the formats of Copy's source ranges.
const (
	OCFSFormat0 = 1 << 0
	OCFSFormat1 = 1 << 1
	OCFSFormat2 = 1 << 2
	OCFSFormat3 = 1 << 3
)

// VWC bits of [IdentifyController].
const (
	VWCPresent        = 1 << 0 // a volatile write cache exists: Flush matters
	VWCFlushBroadcast = 3 << 1 // bits 2:1 = 11b: Flush takes NSIDBroadcast
)

// SGLS bits of [IdentifyController].
const (
	SGLSSupported        = 1 << 0  // bits 1:0 = 01b: SGLs, no alignment required
	SGLSDwordAligned     = 2 << 0  // bits 1:0 = 10b: SGLs, dword alignment required
	SGLSKeyed            = 1 << 2  // keyed data block descriptor
	SGLSBitBucket        = 1 << 16 // bit bucket descriptor
	SGLSOffset           = 1 << 20 // Address as offset: in-capsule data
	SGLSTransportDataBlk = 1 << 21 // transport SGL data block descriptor
)

// FCATT bits of [IdentifyController].
const (
	FCATTStaticControllers = 1 << 0 // 0: dynamic controller model
)

// OFCS bits of [IdentifyController].
const (
	OFCSDisconnect = 1 << 0 // the Disconnect command is supported
)

// ANACAP bits of [IdentifyController].
const (
	ANACAPOptimized      = 1 << 0 // ANA Optimized state is reported
	ANACAPNonOptimized   = 1 << 1
	ANACAPInaccessible   = 1 << 2
	ANACAPPersistentLoss = 1 << 3
	ANACAPChange         = 1 << 4
	ANACAPStaticGroup    = 1 << 6 // the ANAGRPID of an attached namespace does not change
	ANACAPNonZeroGroup   = 1 << 7 // Namespace Management takes an ANAGRPID
)

// ControllerType is CNTRLTYPE of [IdentifyController].
type ControllerType uint8

// Controller types.
const (
	ControllerNotReported    ControllerType = 0
	ControllerIO             ControllerType = 1
	ControllerDiscovery      ControllerType = 2
	ControllerAdministrative ControllerType = 3
)

// String returns the type in a word.
func (t ControllerType) String() string {
	return name([]string{"not reported", "I/O", "discovery", "administrative"}, uint8(t), "controller type")
}

// Values of SQES and CQES: both nibbles are the one size that Fabrics has.
const (
	SQES64 = 0x66
	CQES16 = 0x44
)

// IdentifyController is the Identify Controller data structure, CNS 01h
// [Base, Identify Controller data structure]. Fields of 2.1 that are not
// here are written as zero.
type IdentifyController struct {
	VID, SSVID          uint16
	SN                  string // at most 20 ASCII characters
	MN                  string // at most 40
	FR                  string // at most 8
	RAB                 uint8
	IEEE                [3]byte // OUI, least significant byte first
	CMIC                uint8   // CMIC bits
	MDTS                uint8   // 2^n units of CAP.MPSMIN; 0 is no limit
	CNTLID              uint16  // the one of the Connect result
	VER                 VS
	RTD3R, RTD3E        uint32 // us
	OAES                AsyncEventConfig
	CTRATT              uint32 // CTRATT bits
	RRLS                uint16
	CNTRLTYPE           ControllerType
	FGUID               [16]byte
	CRDT1, CRDT2, CRDT3 uint16 // Command Retry Delay Times, 100 ms
	NVMSR, VWCI, MEC    uint8
	OACS                uint16 // OACS bits
	ACL                 uint8  // 0-based
	AERL                uint8  // 0-based
	FRMW                uint8
	LPA                 uint8 // LPA bits
	ELPE                uint8 // 0-based entries of the Error Information log
	NPSS                uint8 // 0-based
	AVSCC, APSTA        uint8
	WCTEMP, CCTEMP      uint16 // K
	MTFA                uint16
	HMPRE, HMMIN        uint32
	TNVMCAP, UNVMCAP    Uint128 // bytes
	RPMBS               uint32
	EDSTT               uint16
	DSTO, FWUG          uint8
	KAS                 uint16 // granularity of KATO, 100 ms; 0: no keep alive
	HCTMA, MNTMT, MXTMT uint16
	SANICAP             uint32
	HMMINDS             uint32
	HMMAXD              uint16
	NSETIDMAX           uint16
	ENDGIDMAX           uint16
	ANATT               uint8  // s
	ANACAP              uint8  // ANACAP bits
	ANAGRPMAX           uint32 // highest ANA group identifier
	NANAGRPID           uint32 // number of ANA group identifiers
	PELS                uint32
	DomainID            uint16
	MEGCAP              Uint128
	CQT                 uint16 // Command Quiesce Time, ms; 0: not reported
	SQES, CQES          uint8  // SQES64, CQES16
	MAXCMD              uint16
	NN                  uint32 // highest NSID
	ONCS                uint16 // ONCS bits
	FUSES               uint16
	FNA                 uint8
	VWC                 uint8 // VWC bits
	AWUN, AWUPF         uint16
	ICSVSCC, NWPC       uint8
	ACWU                uint16
	OCFS                uint16 // OCFS bits
	SGLS                uint32 // SGLS bits
	MNAN                uint32 // most namespaces at a time; 0: NN
	MAXDNA              Uint128
	MAXCNA              uint32
	SUBNQN              string
	IOCCSZ              uint32 // capsule size in 16 bytes, at least 4
	IORCSZ              uint32 // response size in 16 bytes, at least 1
	ICDOFF              uint16 // in-capsule data offset in 16 bytes
	FCATT               uint8
	MSDBD               uint8 // most SGL data block descriptors; 0: no limit
	OFCS                uint16
	DCTYPE              uint8
	PSD                 [32]PowerState
}

func (c *IdentifyController) layout(l layout) {
	u16(l, 0, &c.VID)
	u16(l, 2, &c.SSVID)
	ascii(l, 4, 20, &c.SN)
	ascii(l, 24, 40, &c.MN)
	ascii(l, 64, 8, &c.FR)
	u8(l, 72, &c.RAB)
	raw(l, 73, c.IEEE[:])
	u8(l, 76, &c.CMIC)
	u8(l, 77, &c.MDTS)
	u16(l, 78, &c.CNTLID)
	u32(l, 80, &c.VER)
	u32(l, 84, &c.RTD3R)
	u32(l, 88, &c.RTD3E)
	u32(l, 92, &c.OAES)
	u32(l, 96, &c.CTRATT)
	u16(l, 100, &c.RRLS)
	u8(l, 111, &c.CNTRLTYPE)
	raw(l, 112, c.FGUID[:])
	u16(l, 128, &c.CRDT1)
	u16(l, 130, &c.CRDT2)
	u16(l, 132, &c.CRDT3)
	u8(l, 253, &c.NVMSR)
	u8(l, 254, &c.VWCI)
	u8(l, 255, &c.MEC)
	c.layoutAdmin(l)
	c.layoutNVM(l)
	nulled(l, 768, NQNFieldSize, &c.SUBNQN)
	u32(l, 1792, &c.IOCCSZ)
	u32(l, 1796, &c.IORCSZ)
	u16(l, 1800, &c.ICDOFF)
	u8(l, 1802, &c.FCATT)
	u8(l, 1803, &c.MSDBD)
	u16(l, 1804, &c.OFCS)
	u8(l, 1806, &c.DCTYPE)
	for i := range c.PSD {
		c.PSD[i].layout(layout{l.b[2048+powerStateSize*i:][:powerStateSize], l.put})
	}
}

// layoutAdmin is bytes 256 to 511, Admin Command Set Attributes.
func (c *IdentifyController) layoutAdmin(l layout) {
	u16(l, 256, &c.OACS)
	u8(l, 258, &c.ACL)
	u8(l, 259, &c.AERL)
	u8(l, 260, &c.FRMW)
	u8(l, 261, &c.LPA)
	u8(l, 262, &c.ELPE)
	u8(l, 263, &c.NPSS)
	u8(l, 264, &c.AVSCC)
	u8(l, 265, &c.APSTA)
	u16(l, 266, &c.WCTEMP)
	u16(l, 268, &c.CCTEMP)
	u16(l, 270, &c.MTFA)
	u32(l, 272, &c.HMPRE)
	u32(l, 276, &c.HMMIN)
	u128(l, 280, &c.TNVMCAP)
	u128(l, 296, &c.UNVMCAP)
	u32(l, 312, &c.RPMBS)
	u16(l, 316, &c.EDSTT)
	u8(l, 318, &c.DSTO)
	u8(l, 319, &c.FWUG)
	u16(l, 320, &c.KAS)
	u16(l, 322, &c.HCTMA)
	u16(l, 324, &c.MNTMT)
	u16(l, 326, &c.MXTMT)
	u32(l, 328, &c.SANICAP)
	u32(l, 332, &c.HMMINDS)
	u16(l, 336, &c.HMMAXD)
	u16(l, 338, &c.NSETIDMAX)
	u16(l, 340, &c.ENDGIDMAX)
	u8(l, 342, &c.ANATT)
	u8(l, 343, &c.ANACAP)
	u32(l, 344, &c.ANAGRPMAX)
	u32(l, 348, &c.NANAGRPID)
	u32(l, 352, &c.PELS)
	u16(l, 356, &c.DomainID)
	u128(l, 368, &c.MEGCAP)
	u16(l, 386, &c.CQT)
}

// layoutNVM is bytes 512 to 767, I/O Command Set Attributes.
func (c *IdentifyController) layoutNVM(l layout) {
	u8(l, 512, &c.SQES)
	u8(l, 513, &c.CQES)
	u16(l, 514, &c.MAXCMD)
	u32(l, 516, &c.NN)
	u16(l, 520, &c.ONCS)
	u16(l, 522, &c.FUSES)
	u8(l, 524, &c.FNA)
	u8(l, 525, &c.VWC)
	u16(l, 526, &c.AWUN)
	u16(l, 528, &c.AWUPF)
	u8(l, 530, &c.ICSVSCC)
	u8(l, 531, &c.NWPC)
	u16(l, 532, &c.ACWU)
	u16(l, 534, &c.OCFS)
	u32(l, 536, &c.SGLS)
	u32(l, 540, &c.MNAN)
	u128(l, 544, &c.MAXDNA)
	u32(l, 560, &c.MAXCNA)
}

// AppendTo appends the [IdentifySize] bytes of the structure to b. Strings
// that are longer than their fields are cut.
func (c *IdentifyController) AppendTo(b []byte) []byte {
	b, p := extend(b, IdentifySize)
	c.layout(layout{p, true})
	return b
}

// Parse reads the structure from b, which must have exactly [IdentifySize]
// bytes. No value is checked: what a host requires of a controller is the
// host's to say.
func (c *IdentifyController) Parse(b []byte) error {
	if err := exactly("Identify Controller", b, IdentifySize); err != nil {
		return err
	}
	c.layout(layout{b, false})
	return nil
}

const powerStateSize = 32

// PowerState is a Power State Descriptor of [IdentifyController].
type PowerState struct {
	MP           uint16 // maximum power, in 0.01 W, or 0.0001 W if Flags bit 0
	Flags        uint8  // bit 0 MXPS, bit 1 NOPS
	ENLAT, EXLAT uint32 // us
	RRT, RRL     uint8  // relative read throughput and latency
	RWT, RWL     uint8  // relative write throughput and latency
	IDLP         uint16
	IPS          uint8
	ACTP         uint16
	APWS         uint8 // APW in bits 2:0, APS in bits 7:6
}

func (p *PowerState) layout(l layout) {
	u16(l, 0, &p.MP)
	u8(l, 3, &p.Flags)
	u32(l, 4, &p.ENLAT)
	u32(l, 8, &p.EXLAT)
	u8(l, 12, &p.RRT)
	u8(l, 13, &p.RRL)
	u8(l, 14, &p.RWT)
	u8(l, 15, &p.RWL)
	u16(l, 16, &p.IDLP)
	u8(l, 18, &p.IPS)
	u16(l, 20, &p.ACTP)
	u8(l, 22, &p.APWS)
}

// IdentifyControllerNVM is the Identify Controller data structure of the NVM
// Command Set, CNS 06h with CSI 0 [NVM, Identify Controller data structure
// for the NVM Command Set]. All zero means no limit beyond MDTS.
type IdentifyControllerNVM struct {
	VSL   uint8  // Verify Size Limit, 2^n units of CAP.MPSMIN
	WZSL  uint8  // Write Zeroes Size Limit, the same
	WUSL  uint8  // Write Uncorrectable Size Limit, the same
	DMRL  uint8  // Dataset Management Ranges Limit
	DMRSL uint32 // blocks in one range
	DMSL  uint64 // blocks in all ranges
}

func (c *IdentifyControllerNVM) layout(l layout) {
	u8(l, 0, &c.VSL)
	u8(l, 1, &c.WZSL)
	u8(l, 2, &c.WUSL)
	u8(l, 3, &c.DMRL)
	u32(l, 4, &c.DMRSL)
	u64(l, 8, &c.DMSL)
}

// AppendTo appends the [IdentifySize] bytes of the structure to b.
func (c *IdentifyControllerNVM) AppendTo(b []byte) []byte {
	b, p := extend(b, IdentifySize)
	c.layout(layout{p, true})
	return b
}

// Parse reads the structure from b, which must have exactly [IdentifySize]
// bytes.
func (c *IdentifyControllerNVM) Parse(b []byte) error {
	if err := exactly("Identify Controller of the NVM Command Set", b, IdentifySize); err != nil {
		return err
	}
	c.layout(layout{b, false})
	return nil
}
