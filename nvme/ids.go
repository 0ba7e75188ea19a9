package nvme

import (
	"encoding/hex"
	"fmt"
)

// NSIDBroadcast is the NSID of all namespaces.
const NSIDBroadcast = 0xFFFFFFFF

// Uint128 is a 128-bit unsigned integer, such as a capacity in bytes.
type Uint128 struct{ Lo, Hi uint64 }

// UUID is an RFC 9562 identifier in the order in which it is written, which
// is also the order of its bytes in every NVMe structure.
type UUID [16]byte

// ParseUUID parses the form 01234567-89ab-cdef-0123-456789abcdef, in either
// case.
func ParseUUID(s string) (UUID, error) {
	var u UUID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return UUID{}, fmt.Errorf("nvme: UUID %q: want the form 8-4-4-4-12 of hexadecimal digits", s)
	}
	if _, err := hex.Decode(u[:], []byte(s[:8]+s[9:13]+s[14:18]+s[19:23]+s[24:])); err != nil {
		return UUID{}, fmt.Errorf("nvme: UUID %q: %w", s, err)
	}
	return u, nil
}

// MakeUUID returns the random (version 4) UUID with the given random bytes;
// six of their bits are replaced by version and variant.
func MakeUUID(random [16]byte) UUID {
	random[6] = random[6]&0x0F | 0x40
	random[8] = random[8]&0x3F | 0x80
	return random
}

// IsZero reports whether the identifier is all zero: none.
func (u UUID) IsZero() bool { return u == UUID{} }

// String returns the form 01234567-89ab-cdef-0123-456789abcdef.
func (u UUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// NGUID is a Namespace Globally Unique Identifier: an EUI-64 based 16-byte
// designator, most significant byte first [Base, Namespace Globally Unique Identifier].
type NGUID [16]byte

// ParseNGUID parses 32 hexadecimal digits.
func ParseNGUID(s string) (NGUID, error) {
	var n NGUID
	if err := parseHex(n[:], "NGUID", s); err != nil {
		return NGUID{}, err
	}
	return n, nil
}

// IsZero reports whether the identifier is all zero: none.
func (n NGUID) IsZero() bool { return n == NGUID{} }

// String returns the 32 hexadecimal digits.
func (n NGUID) String() string { return hex.EncodeToString(n[:]) }

// EUI64 is an IEEE Extended Unique Identifier, most significant byte first
// [Base, IEEE Extended Unique Identifier].
type EUI64 [8]byte

// ParseEUI64 parses 16 hexadecimal digits.
func ParseEUI64(s string) (EUI64, error) {
	var e EUI64
	if err := parseHex(e[:], "EUI64", s); err != nil {
		return EUI64{}, err
	}
	return e, nil
}

// IsZero reports whether the identifier is all zero: none.
func (e EUI64) IsZero() bool { return e == EUI64{} }

// String returns the 16 hexadecimal digits.
func (e EUI64) String() string { return hex.EncodeToString(e[:]) }

func parseHex(to []byte, what, s string) error {
	if len(s) != 2*len(to) {
		return fmt.Errorf("nvme: %s %q: %d characters, want %d hexadecimal digits", what, s, len(s), 2*len(to))
	}
	if _, err := hex.Decode(to, []byte(s)); err != nil {
		return fmt.Errorf("nvme: %s %q: %w", what, s, err)
	}
	return nil
}
