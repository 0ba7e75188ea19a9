package nvme

import (
	"encoding/binary"
	"fmt"
)

const (
	// DiscoveryHeaderSize is the size of the header of the Discovery log.
	DiscoveryHeaderSize = 1024

	// DiscoveryEntrySize is the size of a Discovery log entry.
	DiscoveryEntrySize = 1024
)

// Entry flags (EFLAGS) of a [DiscoveryEntry].
const (
	EFLAGSDuplicate  = 1 << 0 // DUPRETINFO: the same information is at the other addresses of the subsystem
	EFLAGSPersistent = 1 << 1 // EPCSD: explicit persistent connections are supported
	EFLAGSNoCDC      = 1 << 2 // NCC: no central discovery controller is connected
)

// DiscoveryHeader is the first part of the Discovery log page.
//
//	byte  0..7     8..15    16..17   18..1023
//	    +--------+--------+--------+----------+
//	    | GENCTR | NUMREC | RECFMT | reserved |
//	    +--------+--------+--------+----------+
type DiscoveryHeader struct {
	GENCTR uint64 // changes when the log does: a host that sees it change reads again
	NUMREC uint64 // number of entries
	RECFMT uint16 // 0
}

// AppendTo appends the header, [DiscoveryHeaderSize] bytes, to b.
func (h DiscoveryHeader) AppendTo(b []byte) []byte {
	b, p := extend(b, DiscoveryHeaderSize)
	binary.LittleEndian.PutUint64(p, h.GENCTR)
	binary.LittleEndian.PutUint64(p[8:], h.NUMREC)
	binary.LittleEndian.PutUint16(p[16:], h.RECFMT)
	return b
}

// discoveryHeaderFields is how far into the header its fields reach.
const discoveryHeaderFields = 18

// Parse reads the header from the start of b. The reserved bytes need not be
// there, nor the entries; NUMREC is not checked against anything.
func (h *DiscoveryHeader) Parse(b []byte) error {
	if err := atLeast("Discovery log header", b, discoveryHeaderFields); err != nil {
		return err
	}
	*h = DiscoveryHeader{
		GENCTR: binary.LittleEndian.Uint64(b),
		NUMREC: binary.LittleEndian.Uint64(b[8:]),
		RECFMT: binary.LittleEndian.Uint16(b[16:]),
	}
	return nil
}

// DiscoveryEntry is a Discovery Log Page Entry [Base, Discovery log page].
type DiscoveryEntry struct {
	TRTYPE  TransportType
	ADRFAM  AddressFamily
	SUBTYPE SubsystemType
	TREQ    uint8 // TREQ values
	PORTID  uint16
	CNTLID  uint16 // CNTLIDDynamic in the dynamic controller model
	ASQSZ   uint16 // admin submission queue size, counted from 1, at least 32
	EFLAGS  uint16 // EFLAGS bits
	TRSVCID string // at most 32 ASCII characters, such as "4420"
	SUBNQN  string
	TRADDR  string // at most 256 ASCII characters
	TSAS    TSAS
}

// TSAS is the Transport Specific Address Subtype of a [DiscoveryEntry]: its
// bytes, which TRTYPE gives a meaning.
type TSAS [256]byte

// RDMATSAS is the meaning of a [TSAS] for RDMA.
type RDMATSAS struct {
	QPTYPE uint8  // RDMAQPType values
	PRTYPE uint8  // RDMAProvider values
	CMS    uint8  // RDMACMS values
	PKEY   uint16 // InfiniBand partition key, else 0
}

// TSAS returns the bytes that mean r.
func (r RDMATSAS) TSAS() TSAS {
	var t TSAS
	t[0], t[1], t[2] = r.QPTYPE, r.PRTYPE, r.CMS
	binary.LittleEndian.PutUint16(t[8:], r.PKEY)
	return t
}

// RDMA returns what the bytes mean for RDMA.
func (t *TSAS) RDMA() RDMATSAS {
	return RDMATSAS{QPTYPE: t[0], PRTYPE: t[1], CMS: t[2], PKEY: binary.LittleEndian.Uint16(t[8:])}
}

// TCPTSAS returns the bytes that mean the given SECTYPE, a TCPSecurity value,
// for TCP.
func TCPTSAS(sectype uint8) TSAS { return TSAS{sectype} }

// SECTYPE returns what the bytes mean for TCP, a TCPSecurity value.
func (t *TSAS) SECTYPE() uint8 { return t[0] }

func (e *DiscoveryEntry) layout(l layout) {
	u8(l, 0, &e.TRTYPE)
	u8(l, 1, &e.ADRFAM)
	u8(l, 2, &e.SUBTYPE)
	u8(l, 3, &e.TREQ)
	u16(l, 4, &e.PORTID)
	u16(l, 6, &e.CNTLID)
	u16(l, 8, &e.ASQSZ)
	u16(l, 10, &e.EFLAGS)
	ascii(l, 32, 32, &e.TRSVCID)
	nulled(l, 256, NQNFieldSize, &e.SUBNQN)
	ascii(l, 512, 256, &e.TRADDR)
	raw(l, 768, e.TSAS[:])
}

// AppendTo appends the entry, [DiscoveryEntrySize] bytes, to b. Strings that
// are longer than their fields are cut.
func (e *DiscoveryEntry) AppendTo(b []byte) []byte {
	b, p := extend(b, DiscoveryEntrySize)
	e.layout(layout{p, true})
	return b
}

// Parse reads the entry from the start of b, which must have at least
// [DiscoveryEntrySize] bytes. No value is checked; [CheckNQN] tells whether
// SUBNQN is a name.
func (e *DiscoveryEntry) Parse(b []byte) error {
	if err := atLeast("Discovery log entry", b, DiscoveryEntrySize); err != nil {
		return err
	}
	e.layout(layout{b, false})
	return nil
}

// DiscoveryLog is the Discovery log page, LID 70h.
type DiscoveryLog struct {
	GENCTR  uint64
	Entries []DiscoveryEntry
}

// Size returns the number of bytes of the page.
func (d *DiscoveryLog) Size() int {
	return DiscoveryHeaderSize + DiscoveryEntrySize*len(d.Entries)
}

// AppendTo appends the page, [DiscoveryLog.Size] bytes, to b.
func (d *DiscoveryLog) AppendTo(b []byte) []byte {
	b = DiscoveryHeader{GENCTR: d.GENCTR, NUMREC: uint64(len(d.Entries))}.AppendTo(b)
	for i := range d.Entries {
		b = d.Entries[i].AppendTo(b)
	}
	return b
}

// Parse reads the page from the start of b. A RECFMT other than 0 and a
// NUMREC of more entries than b has are errors.
func (d *DiscoveryLog) Parse(b []byte) error {
	if err := atLeast("Discovery log", b, DiscoveryHeaderSize); err != nil {
		return err
	}
	var h DiscoveryHeader
	if err := h.Parse(b); err != nil {
		return err
	}
	rest := b[DiscoveryHeaderSize:]
	switch {
	case h.RECFMT != 0:
		return fmt.Errorf("nvme: Discovery log: RECFMT %d, want 0", h.RECFMT)
	case h.NUMREC > uint64(len(rest)/DiscoveryEntrySize):
		return fmt.Errorf("nvme: Discovery log: NUMREC %d in %d bytes", h.NUMREC, len(b))
	}
	*d = DiscoveryLog{GENCTR: h.GENCTR, Entries: make([]DiscoveryEntry, h.NUMREC)}
	for i := range d.Entries {
		if err := d.Entries[i].Parse(rest[DiscoveryEntrySize*i:]); err != nil {
			return err
		}
	}
	return nil
}
