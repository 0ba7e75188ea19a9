package nvme

import (
	"encoding/binary"
	"fmt"
)

// Property is the offset of a controller property, the argument of Property
// Get and Set [Base, Controller Properties].
type Property uint32

// Properties.
const (
	PropertyCAP  Property = 0x00 // 8 bytes, [CAP]
	PropertyVS   Property = 0x08 // 4 bytes, [VS]
	PropertyCC   Property = 0x14 // 4 bytes, [CC]
	PropertyCSTS Property = 0x1C // 4 bytes, [CSTS]
	PropertyNSSR Property = 0x20 // 4 bytes; NSSRReset resets the subsystem
	PropertyCRTO Property = 0x68 // 4 bytes, [CRTO]
)

// NSSRReset is what a host writes to NSSR for an NVM Subsystem Reset: "NVMe".
const NSSRReset = 0x4E564D65

// String returns the specification's name.
func (p Property) String() string {
	switch p {
	case PropertyCAP:
		return "CAP"
	case PropertyVS:
		return "VS"
	case PropertyCC:
		return "CC"
	case PropertyCSTS:
		return "CSTS"
	case PropertyNSSR:
		return "NSSR"
	case PropertyCRTO:
		return "CRTO"
	}
	return fmt.Sprintf("property %#02x", uint32(p))
}

// Size returns the size of the property in bytes, 4 or 8, and 0 if it is not
// one that this package knows.
func (p Property) Size() int {
	switch p {
	case PropertyCAP:
		return 8
	case PropertyVS, PropertyCC, PropertyCSTS, PropertyNSSR, PropertyCRTO:
		return 4
	}
	return 0
}

// Values of ATTRIB bits 2:0, the size of a property access.
const (
	Attrib4Bytes = 0
	Attrib8Bytes = 1
)

// Byte offsets of the fields of Property Get and Set, for [FieldError].
const (
	OffAttrib = 40
	OffOFST   = 44
	OffValue  = 48
)

// PropertyCommand is the fields of Property Get and Property Set
// [Base, Property Get Command; Property Set Command].
//
//	byte  40       41..43     44..47   48..55
//	    +--------+----------+--------+----------------+
//	    | ATTRIB | reserved |  OFST  | VALUE, Set only|
//	    +--------+----------+--------+----------------+
type PropertyCommand struct {
	Attrib uint8 // bits 2:0: Attrib4Bytes or Attrib8Bytes
	Offset Property
	Value  uint64 // of Set, and read from whatever a Get has there
}

// Size returns the access size that Attrib encodes, 4 or 8, and 0 if it is
// reserved.
func (p PropertyCommand) Size() int {
	switch p.Attrib & 7 {
	case Attrib4Bytes:
		return 4
	case Attrib8Bytes:
		return 8
	}
	return 0
}

// Property returns the fields of a Property Get or Set.
func (c Command) Property() PropertyCommand {
	return PropertyCommand{
		Attrib: c[OffAttrib],
		Offset: Property(binary.LittleEndian.Uint32(c[OffOFST:])),
		Value:  binary.LittleEndian.Uint64(c[OffValue:]),
	}
}

// PutPropertyGet makes c a Property Get of p with p's own size.
func (c Command) PutPropertyGet(p Property) {
	c.startFabrics(FabricsPropertyGet)
	c.putProperty(p)
}

// PutPropertySet makes c a Property Set of p with p's own size.
func (c Command) PutPropertySet(p Property, value uint64) {
	c.startFabrics(FabricsPropertySet)
	c.putProperty(p)
	binary.LittleEndian.PutUint64(c[OffValue:], value)
}

func (c Command) putProperty(p Property) {
	if p.Size() == 8 {
		c[OffAttrib] = Attrib8Bytes
	}
	binary.LittleEndian.PutUint32(c[OffOFST:], uint32(p))
}

// bits returns the width bits of v from bit low on.
func bits[T ~uint32 | ~uint64](v T, low, width uint) T {
	return v >> low & (1<<width - 1)
}

// withBits returns v with its width bits from bit low on replaced by x's.
func withBits[T ~uint32 | ~uint64](v T, low, width uint, x uint64) T {
	mask := T(1)<<width - 1
	return v&^(mask<<low) | (T(x)&mask)<<low
}

// flag is 1 or 0, for withBits.
func flag(on bool) uint64 {
	if on {
		return 1
	}
	return 0
}

// CAP is the Controller Capabilities property [Base, Offset 0h: CAP]. Build one from
// CAP(0) with the With methods, which keep as many bits as the field has.
type CAP uint64

// CAP.CSS bits.
const (
	CAPCSSNVM       = 1 << 0 // NVM Command Set
	CAPCSSIOCS      = 1 << 6 // one or more I/O command sets: CC.CSS 110b allowed
	CAPCSSAdminOnly = 1 << 7 // no I/O command set
)

// MQES returns the Maximum Queue Entries Supported, 0-based.
func (c CAP) MQES() uint16 { return uint16(c) }

// CQR reports Contiguous Queues Required.
func (c CAP) CQR() bool { return bits(c, 16, 1) != 0 }

// AMS returns Arbitration Mechanism Supported.
func (c CAP) AMS() uint8 { return uint8(bits(c, 17, 2)) }

// TO returns the Timeout for CSTS.RDY in units of 500 ms.
func (c CAP) TO() uint8 { return uint8(bits(c, 24, 8)) }

// DSTRD returns the Doorbell Stride, 0 in Fabrics.
func (c CAP) DSTRD() uint8 { return uint8(bits(c, 32, 4)) }

// NSSRS reports NVM Subsystem Reset Supported.
func (c CAP) NSSRS() bool { return bits(c, 36, 1) != 0 }

// CSS returns the Command Sets Supported, CAPCSS bits.
func (c CAP) CSS() uint8 { return uint8(bits(c, 37, 8)) }

// MPSMIN returns the Memory Page Size Minimum: pages of 2^(12+n) bytes.
func (c CAP) MPSMIN() uint8 { return uint8(bits(c, 48, 4)) }

// MPSMAX returns the Memory Page Size Maximum: pages of 2^(12+n) bytes.
func (c CAP) MPSMAX() uint8 { return uint8(bits(c, 52, 4)) }

// CMBS reports Controller Memory Buffer Supported.
func (c CAP) CMBS() bool { return bits(c, 57, 1) != 0 }

// CRWMS reports Controller Ready With Media Support, the low bit of CRMS.
func (c CAP) CRWMS() bool { return bits(c, 59, 1) != 0 }

// CRIMS reports Controller Ready Independent of Media Support, the high bit
// of CRMS.
func (c CAP) CRIMS() bool { return bits(c, 60, 1) != 0 }

// WithMQES sets MQES, 0-based.
func (c CAP) WithMQES(n uint16) CAP { return withBits(c, 0, 16, uint64(n)) }

// WithCQR sets CQR.
func (c CAP) WithCQR(on bool) CAP { return withBits(c, 16, 1, flag(on)) }

// WithTO sets TO, in units of 500 ms.
func (c CAP) WithTO(n uint8) CAP { return withBits(c, 24, 8, uint64(n)) }

// WithNSSRS sets NSSRS.
func (c CAP) WithNSSRS(on bool) CAP { return withBits(c, 36, 1, flag(on)) }

// WithCSS sets CSS to CAPCSS bits.
func (c CAP) WithCSS(css uint8) CAP { return withBits(c, 37, 8, uint64(css)) }

// WithMPSMIN sets MPSMIN.
func (c CAP) WithMPSMIN(n uint8) CAP { return withBits(c, 48, 4, uint64(n)) }

// WithMPSMAX sets MPSMAX.
func (c CAP) WithMPSMAX(n uint8) CAP { return withBits(c, 52, 4, uint64(n)) }

// WithCRWMS sets CRWMS.
func (c CAP) WithCRWMS(on bool) CAP { return withBits(c, 59, 1, flag(on)) }

// WithCRIMS sets CRIMS.
func (c CAP) WithCRIMS(on bool) CAP { return withBits(c, 60, 1, flag(on)) }

// VS is the Version property, and VER of Identify Controller [Base, Offset 8h: VS].
type VS uint32

// Versions of the Base Specification.
const (
	Version1_3 VS = 0x00010300
	Version1_4 VS = 0x00010400
	Version2_0 VS = 0x00020000
	Version2_1 VS = 0x00020100
)

// MakeVS returns the version major.minor.tertiary.
func MakeVS(major uint16, minor, tertiary uint8) VS {
	return VS(major)<<16 | VS(minor)<<8 | VS(tertiary)
}

// Major returns MJR.
func (v VS) Major() uint16 { return uint16(v >> 16) }

// Minor returns MNR.
func (v VS) Minor() uint8 { return uint8(v >> 8) }

// Tertiary returns TER.
func (v VS) Tertiary() uint8 { return uint8(v) }

// String returns the version as in "1.3.0".
func (v VS) String() string {
	return fmt.Sprintf("%d.%d.%d", v.Major(), v.Minor(), v.Tertiary())
}

// CC is the Controller Configuration property [Base, Offset 14h: CC].
type CC uint32

// CC.CSS values.
const (
	CCCSSNVM       = 0 // the NVM Command Set
	CCCSSIOCS      = 6 // all supported I/O command sets
	CCCSSAdminOnly = 7
)

// CC.SHN values.
const (
	SHNNone   = 0
	SHNNormal = 1
	SHNAbrupt = 2
)

// What CC.IOSQES and CC.IOCQES must be: the binary logarithms of the entry
// sizes.
const (
	IOSQES64 = 6
	IOCQES16 = 4
)

// EN reports Enable.
func (c CC) EN() bool { return c&1 != 0 }

// CSS returns the I/O Command Set Selected, a CCCSS value.
func (c CC) CSS() uint8 { return uint8(bits(c, 4, 3)) }

// MPS returns the Memory Page Size: pages of 2^(12+n) bytes.
func (c CC) MPS() uint8 { return uint8(bits(c, 7, 4)) }

// AMS returns the Arbitration Mechanism Selected.
func (c CC) AMS() uint8 { return uint8(bits(c, 11, 3)) }

// SHN returns the Shutdown Notification, an SHN value.
func (c CC) SHN() uint8 { return uint8(bits(c, 14, 2)) }

// IOSQES returns the I/O Submission Queue Entry Size, as a power of 2.
func (c CC) IOSQES() uint8 { return uint8(bits(c, 16, 4)) }

// IOCQES returns the I/O Completion Queue Entry Size, as a power of 2.
func (c CC) IOCQES() uint8 { return uint8(bits(c, 20, 4)) }

// CRIME reports Controller Ready Independent of Media Enable.
func (c CC) CRIME() bool { return bits(c, 24, 1) != 0 }

// WithEN sets EN.
func (c CC) WithEN(on bool) CC { return withBits(c, 0, 1, flag(on)) }

// WithCSS sets CSS.
func (c CC) WithCSS(css uint8) CC { return withBits(c, 4, 3, uint64(css)) }

// WithMPS sets MPS.
func (c CC) WithMPS(n uint8) CC { return withBits(c, 7, 4, uint64(n)) }

// WithAMS sets AMS.
func (c CC) WithAMS(n uint8) CC { return withBits(c, 11, 3, uint64(n)) }

// WithSHN sets SHN.
func (c CC) WithSHN(shn uint8) CC { return withBits(c, 14, 2, uint64(shn)) }

// WithIOSQES sets IOSQES.
func (c CC) WithIOSQES(n uint8) CC { return withBits(c, 16, 4, uint64(n)) }

// WithIOCQES sets IOCQES.
func (c CC) WithIOCQES(n uint8) CC { return withBits(c, 20, 4, uint64(n)) }

// WithCRIME sets CRIME.
func (c CC) WithCRIME(on bool) CC { return withBits(c, 24, 1, flag(on)) }

// CSTS is the Controller Status property [Base, Offset 1Ch: CSTS].
type CSTS uint32

// CSTSDead is what a controller that is gone reads as.
const CSTSDead CSTS = 0xFFFFFFFF

// CSTS.SHST values.
const (
	SHSTNormal     = 0 // no shutdown requested
	SHSTInProgress = 1
	SHSTComplete   = 2
)

// RDY reports Ready.
func (c CSTS) RDY() bool { return c&1 != 0 }

// CFS reports Controller Fatal Status.
func (c CSTS) CFS() bool { return bits(c, 1, 1) != 0 }

// SHST returns the Shutdown Status, an SHST value.
func (c CSTS) SHST() uint8 { return uint8(bits(c, 2, 2)) }

// NSSRO reports NVM Subsystem Reset Occurred.
func (c CSTS) NSSRO() bool { return bits(c, 4, 1) != 0 }

// PP reports Processing Paused.
func (c CSTS) PP() bool { return bits(c, 5, 1) != 0 }

// WithRDY sets RDY.
func (c CSTS) WithRDY(on bool) CSTS { return withBits(c, 0, 1, flag(on)) }

// WithCFS sets CFS.
func (c CSTS) WithCFS(on bool) CSTS { return withBits(c, 1, 1, flag(on)) }

// WithSHST sets SHST.
func (c CSTS) WithSHST(shst uint8) CSTS { return withBits(c, 2, 2, uint64(shst)) }

// WithNSSRO sets NSSRO.
func (c CSTS) WithNSSRO(on bool) CSTS { return withBits(c, 4, 1, flag(on)) }

// WithPP sets PP.
func (c CSTS) WithPP(on bool) CSTS { return withBits(c, 5, 1, flag(on)) }

// CRTO is the Controller Ready Timeouts property, in units of 500 ms
// [Base, Offset 68h: CRTO]. It exists if CAP says CRWMS or CRIMS.
type CRTO uint32

// MakeCRTO returns the property from its halves.
func MakeCRTO(crwmt, crimt uint16) CRTO { return CRTO(crwmt) | CRTO(crimt)<<16 }

// CRWMT returns the Controller Ready With Media Timeout.
func (c CRTO) CRWMT() uint16 { return uint16(c) }

// CRIMT returns the Controller Ready Independent of Media Timeout.
func (c CRTO) CRIMT() uint16 { return uint16(c >> 16) }
