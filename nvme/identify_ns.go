package nvme

import "fmt"

// NSFEAT bits of [IdentifyNamespace].
const (
	NSFEATThin     = 1 << 0 // THINP: thin provisioning
	NSFEATNABSPF   = 1 << 1 // NAWUN, NAWUPF and NACWU are this namespace's own
	NSFEATDAE      = 1 << 2 // Deallocated or Unwritten Logical Block Error
	NSFEATUIDReuse = 1 << 3 // NGUID and EUI64 are never reused
	NSFEATOPTPERF  = 1 << 4 // NPWG, NPWA, NPDG, NPDA and NOWS are valid
)

// NMIC bits of [IdentifyNamespace].
const (
	NMICShared = 1 << 0 // two or more controllers may attach it at a time
)

// NSATTR bits of [IdentifyNamespace].
const (
	NSATTRWriteProtected = 1 << 0
)

// DLFEAT values of [IdentifyNamespace].
const (
	DLFEATReadZeroes  = 1      // bits 2:0: deallocated blocks read as zeroes
	DLFEATReadOnes    = 2      // bits 2:0: as ones
	DLFEATWriteZeroes = 1 << 3 // Write Zeroes honours DEAC
)

// LBAFormat is an LBA Format data structure: what a logical block is.
type LBAFormat struct {
	MS    uint16 // Metadata Size in bytes
	LBADS uint8  // LBA Data Size, as a power of 2
	RP    uint8  // Relative Performance, bits 1:0; 0 is best
}

// BlockSize returns the size of a block's data in bytes, and 0 if LBADS is
// below 9, the least, or too large for a number of bytes.
func (f LBAFormat) BlockSize() uint64 {
	if f.LBADS < 9 || f.LBADS > 63 {
		return 0
	}
	return 1 << f.LBADS
}

// IdentifyNamespace is the Identify Namespace data structure of the NVM
// Command Set, CNS 00h [NVM, Identify Namespace data structure]. All zero is
// an inactive namespace.
type IdentifyNamespace struct {
	NSZE, NCAP, NUSE       uint64 // blocks
	NSFEAT                 uint8  // NSFEAT bits
	NLBAF                  uint8  // 0-based number of LBAF
	FLBAS                  uint8  // bits 3:0, and 6:5 above them: index of the LBAF; bit 4: metadata extends the data
	MC, DPC, DPS           uint8
	NMIC                   uint8 // NMIC bits
	RESCAP                 uint8
	FPI                    uint8
	DLFEAT                 uint8  // DLFEAT values
	NAWUN, NAWUPF, NACWU   uint16 // 0-based blocks
	NABSN, NABO, NABSPF    uint16
	NOIOB                  uint16
	NVMCAP                 Uint128 // bytes
	NPWG, NPWA, NPDG, NPDA uint16  // 0-based blocks
	NOWS                   uint16  // 0-based blocks
	MSSRL                  uint16  // Copy limits
	MCL                    uint32
	MSRC                   uint8
	ANAGRPID               uint32
	NSATTR                 uint8
	NVMSETID               uint16
	ENDGID                 uint16
	NGUID                  NGUID
	EUI64                  EUI64
	LBAF                   [64]LBAFormat
}

func (n *IdentifyNamespace) layout(l layout) {
	u64(l, 0, &n.NSZE)
	u64(l, 8, &n.NCAP)
	u64(l, 16, &n.NUSE)
	u8(l, 24, &n.NSFEAT)
	u8(l, 25, &n.NLBAF)
	u8(l, 26, &n.FLBAS)
	u8(l, 27, &n.MC)
	u8(l, 28, &n.DPC)
	u8(l, 29, &n.DPS)
	u8(l, 30, &n.NMIC)
	u8(l, 31, &n.RESCAP)
	u8(l, 32, &n.FPI)
	u8(l, 33, &n.DLFEAT)
	u16(l, 34, &n.NAWUN)
	u16(l, 36, &n.NAWUPF)
	u16(l, 38, &n.NACWU)
	u16(l, 40, &n.NABSN)
	u16(l, 42, &n.NABO)
	u16(l, 44, &n.NABSPF)
	u16(l, 46, &n.NOIOB)
	u128(l, 48, &n.NVMCAP)
	u16(l, 64, &n.NPWG)
	u16(l, 66, &n.NPWA)
	u16(l, 68, &n.NPDG)
	u16(l, 70, &n.NPDA)
	u16(l, 72, &n.NOWS)
	u16(l, 74, &n.MSSRL)
	u32(l, 76, &n.MCL)
	u8(l, 80, &n.MSRC)
	u32(l, 92, &n.ANAGRPID)
	u8(l, 99, &n.NSATTR)
	u16(l, 100, &n.NVMSETID)
	u16(l, 102, &n.ENDGID)
	raw(l, 104, n.NGUID[:])
	raw(l, 120, n.EUI64[:])
	for i := range n.LBAF {
		u16(l, 128+4*i, &n.LBAF[i].MS)
		u8(l, 130+4*i, &n.LBAF[i].LBADS)
		u8(l, 131+4*i, &n.LBAF[i].RP)
	}
}

// FormatIndex returns the index in LBAF that FLBAS selects, 0 to 63. The high
// bits count only if there are more than 16 formats.
func (n *IdentifyNamespace) FormatIndex() int {
	i := int(n.FLBAS & 0xF)
	if n.NLBAF >= 16 {
		i |= int(n.FLBAS>>5&3) << 4
	}
	return i
}

// Format returns the LBA format in use.
func (n *IdentifyNamespace) Format() LBAFormat { return n.LBAF[n.FormatIndex()] }

// AppendTo appends the [IdentifySize] bytes of the structure to b.
func (n *IdentifyNamespace) AppendTo(b []byte) []byte {
	b, p := extend(b, IdentifySize)
	n.layout(layout{p, true})
	return b
}

// Parse reads the structure from b, which must have exactly [IdentifySize]
// bytes. No value is checked.
func (n *IdentifyNamespace) Parse(b []byte) error {
	if err := exactly("Identify Namespace", b, IdentifySize); err != nil {
		return err
	}
	n.layout(layout{b, false})
	return nil
}

// NSTAT bits of [IdentifyNamespaceIndependent].
const (
	NSTATReady = 1 << 0 // NRDY
)

// IdentifyNamespaceIndependent is the I/O Command Set Independent Identify
// Namespace data structure, CNS 08h.
type IdentifyNamespaceIndependent struct {
	NSFEAT   uint8
	NMIC     uint8
	RESCAP   uint8
	FPI      uint8
	ANAGRPID uint32
	NSATTR   uint8
	NVMSETID uint16
	ENDGID   uint16
	NSTAT    uint8 // NSTAT bits
}

func (n *IdentifyNamespaceIndependent) layout(l layout) {
	u8(l, 0, &n.NSFEAT)
	u8(l, 1, &n.NMIC)
	u8(l, 2, &n.RESCAP)
	u8(l, 3, &n.FPI)
	u32(l, 4, &n.ANAGRPID)
	u8(l, 8, &n.NSATTR)
	u16(l, 10, &n.NVMSETID)
	u16(l, 12, &n.ENDGID)
	u8(l, 14, &n.NSTAT)
}

// AppendTo appends the [IdentifySize] bytes of the structure to b.
func (n *IdentifyNamespaceIndependent) AppendTo(b []byte) []byte {
	b, p := extend(b, IdentifySize)
	n.layout(layout{p, true})
	return b
}

// Parse reads the structure from b, which must have exactly [IdentifySize]
// bytes. No value is checked.
func (n *IdentifyNamespaceIndependent) Parse(b []byte) error {
	if err := exactly("I/O Command Set Independent Identify Namespace", b, IdentifySize); err != nil {
		return err
	}
	n.layout(layout{b, false})
	return nil
}

// IdentifyNamespaceNVM is the I/O Command Set specific Identify Namespace
// data structure of the NVM Command Set, CNS 05h with CSI 0. All zero goes
// with formats without extended protection information.
type IdentifyNamespaceNVM struct {
	LBSTM uint64     // Logical Block Storage Tag Mask
	PIC   uint8      // Protection Information Capabilities
	ELBAF [64]uint32 // Extended LBA Formats: STS in bits 6:0, PIF in bits 8:7
}

func (n *IdentifyNamespaceNVM) layout(l layout) {
	u64(l, 0, &n.LBSTM)
	u8(l, 8, &n.PIC)
	for i := range n.ELBAF {
		u32(l, 12+4*i, &n.ELBAF[i])
	}
}

// AppendTo appends the [IdentifySize] bytes of the structure to b.
func (n *IdentifyNamespaceNVM) AppendTo(b []byte) []byte {
	b, p := extend(b, IdentifySize)
	n.layout(layout{p, true})
	return b
}

// Parse reads the structure from b, which must have exactly [IdentifySize]
// bytes. No value is checked.
func (n *IdentifyNamespaceNVM) Parse(b []byte) error {
	if err := exactly("Identify Namespace of the NVM Command Set", b, IdentifySize); err != nil {
		return err
	}
	n.layout(layout{b, false})
	return nil
}

// Namespace Identifier Types (NIDT).
const (
	NIDTEUI64 = 1
	NIDTNGUID = 2
	NIDTUUID  = 3
	NIDTCSI   = 4
)

// NamespaceDescriptors is the Namespace Identification Descriptor list, CNS
// 03h. Each descriptor has NIDT, NIDL and two reserved bytes before its
// identifier.
type NamespaceDescriptors struct {
	EUI64  EUI64 // zero: no descriptor
	NGUID  NGUID // zero: no descriptor
	UUID   UUID  // zero: no descriptor
	CSI    CSI
	HasCSI bool // a descriptor for CSI, required if CC.CSS is CCCSSIOCS
}

// AppendTo appends the list, [IdentifySize] bytes, to b.
func (d NamespaceDescriptors) AppendTo(b []byte) []byte {
	b, p := extend(b, IdentifySize)
	add := func(nidt uint8, id []byte) {
		p[0], p[1] = nidt, uint8(len(id))
		copy(p[4:], id)
		p = p[4+len(id):]
	}
	if !d.EUI64.IsZero() {
		add(NIDTEUI64, d.EUI64[:])
	}
	if !d.NGUID.IsZero() {
		add(NIDTNGUID, d.NGUID[:])
	}
	if !d.UUID.IsZero() {
		add(NIDTUUID, d.UUID[:])
	}
	if d.HasCSI {
		add(NIDTCSI, []byte{uint8(d.CSI)})
	}
	return b
}

// Parse reads the list from b, which must have exactly [IdentifySize] bytes.
// A descriptor of an unknown type is skipped, a length of zero ends the list,
// the last of several of one type counts. A known type with another length
// than its own, or a descriptor that leaves b, is an error.
func (d *NamespaceDescriptors) Parse(b []byte) error {
	if err := exactly("Namespace Identification Descriptors", b, IdentifySize); err != nil {
		return err
	}
	*d = NamespaceDescriptors{}
	for at := 0; at+4 <= len(b) && b[at+1] != 0; {
		nidt, nidl := b[at], int(b[at+1])
		if at+4+nidl > len(b) {
			return fmt.Errorf("nvme: Namespace Identification Descriptor at byte %d: NIDL %d leaves %d bytes", at, nidl, len(b))
		}
		id := b[at+4 : at+4+nidl]
		want := map[uint8]int{NIDTEUI64: 8, NIDTNGUID: 16, NIDTUUID: 16, NIDTCSI: 1}[nidt]
		if want != 0 && want != nidl {
			return fmt.Errorf("nvme: Namespace Identification Descriptor at byte %d: NIDT %d with NIDL %d, want %d", at, nidt, nidl, want)
		}
		switch nidt {
		case NIDTEUI64:
			d.EUI64 = EUI64(id)
		case NIDTNGUID:
			d.NGUID = NGUID(id)
		case NIDTUUID:
			d.UUID = UUID(id)
		case NIDTCSI:
			d.CSI, d.HasCSI = CSI(id[0]), true
		}
		at += 4 + nidl
	}
	return nil
}
