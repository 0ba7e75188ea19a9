package nvme

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// A layout visits the fields of one structure in one direction: out of the
// struct into b if put, else out of b into the struct. Each structure has one
// layout method, so encoder and decoder cannot disagree about an offset.
type layout struct {
	b   []byte
	put bool
}

func u8[T ~uint8](l layout, off int, p *T) {
	if l.put {
		l.b[off] = uint8(*p)
	} else {
		*p = T(l.b[off])
	}
}

func u16[T ~uint16](l layout, off int, p *T) {
	if l.put {
		binary.LittleEndian.PutUint16(l.b[off:], uint16(*p))
	} else {
		*p = T(binary.LittleEndian.Uint16(l.b[off:]))
	}
}

func u32[T ~uint32](l layout, off int, p *T) {
	if l.put {
		binary.LittleEndian.PutUint32(l.b[off:], uint32(*p))
	} else {
		*p = T(binary.LittleEndian.Uint32(l.b[off:]))
	}
}

func u64[T ~uint64](l layout, off int, p *T) {
	if l.put {
		binary.LittleEndian.PutUint64(l.b[off:], uint64(*p))
	} else {
		*p = T(binary.LittleEndian.Uint64(l.b[off:]))
	}
}

func u128(l layout, off int, p *Uint128) {
	u64(l, off, &p.Lo)
	u64(l, off+8, &p.Hi)
}

// raw is a field of bytes with no order, such as an identifier.
func raw(l layout, off int, p []byte) {
	if l.put {
		copy(l.b[off:off+len(p)], p)
	} else {
		copy(p, l.b[off:])
	}
}

// ascii is an ASCII string field, left justified and padded with spaces
// [Base, String]. Peers exist that pad with NULs, so decoding ends at one.
func ascii(l layout, off, size int, p *string) {
	f := l.b[off : off+size]
	if l.put {
		for i := copy(f, *p); i < len(f); i++ {
			f[i] = ' '
		}
		return
	}
	*p = strings.TrimRight(cutNUL(f), " ")
}

// nulled is a UTF-8 string field padded with NULs, such as an NQN. At least
// one NUL is kept at its end.
func nulled(l layout, off, size int, p *string) {
	f := l.b[off : off+size]
	if l.put {
		copy(f[:size-1], *p)
		return
	}
	*p = cutNUL(f)
}

// cutNUL returns b up to its first NUL, all of it if there is none.
func cutNUL(b []byte) string {
	s := string(b)
	if i := strings.IndexByte(s, 0); i >= 0 {
		s = s[:i]
	}
	return s
}

// extend appends size zero bytes to b and returns the whole and the new part.
func extend(b []byte, size int) (whole, part []byte) {
	n := len(b)
	whole = append(b, make([]byte, size)...)
	return whole, whole[n:]
}

// atLeast is the check of a decoder that reads the first need bytes of b.
func atLeast(what string, b []byte, need int) error {
	if len(b) < need {
		return fmt.Errorf("nvme: %s: %d bytes, need %d", what, len(b), need)
	}
	return nil
}

// exactly is the check of a decoder for a structure of fixed size.
func exactly(what string, b []byte, need int) error {
	if len(b) != need {
		return fmt.Errorf("nvme: %s: %d bytes, need exactly %d", what, len(b), need)
	}
	return nil
}

// name looks v up in a table of names; kind and number stand for a gap.
func name(table []string, v uint8, kind string) string {
	if int(v) < len(table) && table[v] != "" {
		return table[v]
	}
	return fmt.Sprintf("%s %#02x", kind, v)
}
