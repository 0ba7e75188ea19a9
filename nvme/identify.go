package nvme

import "encoding/binary"

// IdentifySize is the size of the data of every Identify command
// [Base, Identify command].
const IdentifySize = 4096

// CNS says which structure an Identify command returns.
type CNS uint8

// CNS values.
const (
	CNSNamespace                 CNS = 0x00 // [IdentifyNamespace]
	CNSController                CNS = 0x01 // [IdentifyController]
	CNSActiveNamespaces          CNS = 0x02 // [ParseNamespaceList]
	CNSNamespaceDescriptors      CNS = 0x03 // [NamespaceDescriptors]
	CNSNVMSets                   CNS = 0x04
	CNSNamespaceIOCS             CNS = 0x05 // of a CSI; [IdentifyNamespaceNVM]
	CNSControllerIOCS            CNS = 0x06 // of a CSI; [IdentifyControllerNVM]
	CNSActiveNamespacesIOCS      CNS = 0x07 // of a CSI
	CNSNamespaceIndependent      CNS = 0x08 // [IdentifyNamespaceIndependent]
	CNSNamespaceUserFormat       CNS = 0x09
	CNSNamespaceIOCSUserFormat   CNS = 0x0A
	CNSAllocatedNamespaces       CNS = 0x10
	CNSAllocatedNamespace        CNS = 0x11
	CNSNamespaceControllers      CNS = 0x12 // [ParseControllerList]
	CNSControllers               CNS = 0x13 // [ParseControllerList]
	CNSPrimaryController         CNS = 0x14
	CNSSecondaryControllers      CNS = 0x15
	CNSNamespaceGranularity      CNS = 0x16
	CNSUUIDs                     CNS = 0x17
	CNSDomains                   CNS = 0x18
	CNSEnduranceGroups           CNS = 0x19
	CNSAllocatedNamespacesIOCS   CNS = 0x1A
	CNSAllocatedNamespaceIOCS    CNS = 0x1B
	CNSIOCommandSets             CNS = 0x1C
	CNSUnderlyingNamespaces      CNS = 0x1D
	CNSUnderlyingNamespacePorts  CNS = 0x1E
	CNSSupportedControllerStates CNS = 0x20
)

var cnsNames = []string{
	CNSNamespace:                 "Identify Namespace",
	CNSController:                "Identify Controller",
	CNSActiveNamespaces:          "Active Namespace ID list",
	CNSNamespaceDescriptors:      "Namespace Identification Descriptor list",
	CNSNVMSets:                   "NVM Set List",
	CNSNamespaceIOCS:             "I/O Command Set specific Identify Namespace",
	CNSControllerIOCS:            "I/O Command Set specific Identify Controller",
	CNSActiveNamespacesIOCS:      "I/O Command Set specific Active Namespace ID list",
	CNSNamespaceIndependent:      "I/O Command Set Independent Identify Namespace",
	CNSNamespaceUserFormat:       "Identify Namespace, user data format",
	CNSNamespaceIOCSUserFormat:   "I/O Command Set specific Identify Namespace, user data format",
	CNSAllocatedNamespaces:       "Allocated Namespace ID list",
	CNSAllocatedNamespace:        "Identify Namespace, allocated",
	CNSNamespaceControllers:      "Controller list of a namespace",
	CNSControllers:               "Controller list",
	CNSPrimaryController:         "Primary Controller Capabilities",
	CNSSecondaryControllers:      "Secondary Controller list",
	CNSNamespaceGranularity:      "Namespace Granularity List",
	CNSUUIDs:                     "UUID List",
	CNSDomains:                   "Domain List",
	CNSEnduranceGroups:           "Endurance Group List",
	CNSAllocatedNamespacesIOCS:   "I/O Command Set specific Allocated Namespace ID list",
	CNSAllocatedNamespaceIOCS:    "I/O Command Set specific Identify Namespace, allocated",
	CNSIOCommandSets:             "Identify I/O Command Set",
	CNSUnderlyingNamespaces:      "Underlying Namespace list",
	CNSUnderlyingNamespacePorts:  "Ports list of an underlying namespace",
	CNSSupportedControllerStates: "Supported Controller State Formats",
}

// String returns the specification's name of the structure.
func (c CNS) String() string { return name(cnsNames, uint8(c), "CNS") }

// CSI is a Command Set Identifier.
type CSI uint8

// Command sets.
const (
	CSINVM CSI = 0 // NVM Command Set
	CSIKV  CSI = 1 // Key Value Command Set
	CSIZNS CSI = 2 // Zoned Namespace Command Set
	CSISLM CSI = 3 // Subsystem Local Memory Command Set
	CSICP  CSI = 4 // Computational Programs Command Set
)

var csiNames = []string{CSINVM: "NVM", CSIKV: "KV", CSIZNS: "ZNS", CSISLM: "SLM", CSICP: "CP"}

// String returns the short name of the command set.
func (c CSI) String() string { return name(csiNames, uint8(c), "CSI") }

// Byte offsets of the fields of an Identify, for [FieldError].
const (
	OffCNS         = 40
	OffCNTID       = 42
	OffCNSSpecific = 44
	OffCSI         = 47
)

// IdentifyCommand is the fields of an Identify.
//
//	byte  40     41        42..43   44..45          46        47
//	    +------+---------+--------+---------------+---------+------+
//	    | CNS  | reserved| CNTID  | CNS specific  | reserved| CSI  |
//	    +------+---------+--------+---------------+---------+------+
type IdentifyCommand struct {
	NSID        uint32
	CNS         CNS
	CNTID       uint16 // Controller Identifier, where CNS uses one
	CNSSpecific uint16 // CNS Specific Identifier
	CSI         CSI
}

// CNS returns the CNS of an Identify.
func (c Command) CNS() CNS { return CNS(c[OffCNS]) }

// Identify returns the fields of an Identify.
func (c Command) Identify() IdentifyCommand {
	return IdentifyCommand{
		NSID:        c.NSID(),
		CNS:         CNS(c[OffCNS]),
		CNTID:       binary.LittleEndian.Uint16(c[OffCNTID:]),
		CNSSpecific: binary.LittleEndian.Uint16(c[OffCNSSpecific:]),
		CSI:         CSI(c[OffCSI]),
	}
}

// PutIdentify makes c an Identify. The caller sets SGL1 to [IdentifySize]
// bytes.
func (c Command) PutIdentify(f IdentifyCommand) {
	c.start(uint8(AdminIdentify), f.NSID)
	c[OffCNS] = uint8(f.CNS)
	binary.LittleEndian.PutUint16(c[OffCNTID:], f.CNTID)
	binary.LittleEndian.PutUint16(c[OffCNSSpecific:], f.CNSSpecific)
	c[OffCSI] = uint8(f.CSI)
}
