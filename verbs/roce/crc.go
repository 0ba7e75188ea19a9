package roce

import (
	"encoding/binary"
	"hash/crc32"
)

// Arithmetic of the CRC-32 that the ICRC is (polynomial 0xEDB88320, reflected).
//
// A register is a polynomial over GF(2) of degree below 32 modulo the CRC's
// own: bit 31 is the coefficient of x⁰, bit 0 of x³¹. Feeding a zero byte
// multiplies it by x⁸, and so does any power of x have an inverse. Registers
// here are never complemented, unlike hash/crc32's.

// crcTables[k][b] is the register after byte b and k zero bytes, from zero.
var crcTables = func() (t [8][256]uint32) {
	t[0] = *crc32.IEEETable
	for k := 1; k < len(t); k++ {
		for b := range t[k] {
			t[k][b] = crcZero(&t[0], t[k-1][b])
		}
	}
	return t
}()

// crcZero feeds one zero byte to register r.
func crcZero(t *[256]uint32, r uint32) uint32 { return r>>8 ^ t[uint8(r)] }

// crc32Bits feeds the 4 bytes whose little-endian value is v to register r.
func crc32Bits(r, v uint32) uint32 {
	r ^= v
	return crcTables[3][uint8(r)] ^ crcTables[2][uint8(r>>8)] ^
		crcTables[1][uint8(r>>16)] ^ crcTables[0][r>>24]
}

// crc64Bits feeds the 8 bytes whose little-endian value is v to register r.
func crc64Bits(r uint32, v uint64) uint32 {
	r ^= uint32(v)
	h := uint32(v >> 32)
	return crcTables[7][uint8(r)] ^ crcTables[6][uint8(r>>8)] ^
		crcTables[5][uint8(r>>16)] ^ crcTables[4][r>>24] ^
		crcTables[3][uint8(h)] ^ crcTables[2][uint8(h>>8)] ^
		crcTables[1][uint8(h>>16)] ^ crcTables[0][h>>24]
}

// crcMinVector is where hash/crc32 takes the CPU's instructions for whole
// blocks of crcBlock bytes. Its bytewise tail is slower than our words in
// front, so the odd bytes go first.
const (
	crcMinVector = 64
	crcBlock     = 16
)

// crcBytes feeds b to register r.
func crcBytes(r uint32, b []byte) uint32 {
	odd := len(b)
	if odd >= crcMinVector {
		odd %= crcBlock
	}
	i := 0
	for ; i+8 <= odd; i += 8 {
		r = crc64Bits(r, binary.LittleEndian.Uint64(b[i:]))
	}
	if i+4 <= odd {
		r = crc32Bits(r, binary.LittleEndian.Uint32(b[i:]))
		i += 4
	}
	for ; i < odd; i++ {
		r = r>>8 ^ crcTables[0][uint8(r)^b[i]]
	}
	if odd == len(b) {
		return r
	}
	return ^crc32.Update(^r, crc32.IEEETable, b[odd:])
}

// crcOne is the polynomial 1.
const crcOne uint32 = 1 << 31

// crcMul multiplies two registers as polynomials.
func crcMul(a, b uint32) uint32 {
	// Bit k of the product is the coefficient of x^(62-k). Shifted by one, its
	// low word is what must still be multiplied by x³², that is, fed 4 zero
	// bytes.
	p := clmul(a, b) << 1
	return uint32(p>>32) ^ crc32Bits(0, uint32(p))
}

// clmul returns the product of a and b without carries. The factors are taken
// apart into four with three bits of room between each two, where the carries
// of up to eight summands get lost.
func clmul(a, b uint32) uint64 {
	const m = 0x1111111111111111
	a0, a1, a2, a3 := uint64(a)&m, uint64(a)&(m<<1), uint64(a)&(m<<2), uint64(a)&(m<<3)
	b0, b1, b2, b3 := uint64(b)&m, uint64(b)&(m<<1), uint64(b)&(m<<2), uint64(b)&(m<<3)
	return (a0*b0^a1*b3^a2*b2^a3*b1)&m |
		(a0*b1^a1*b0^a2*b3^a3*b2)&(m<<1) |
		(a0*b2^a1*b1^a2*b0^a3*b3)&(m<<2) |
		(a0*b3^a1*b2^a2*b1^a3*b0)&(m<<3)
}

// crcPowers answers x^(8n) for every n below 2¹⁶ and both signs of n. It is
// two look-ups and at most one multiplication, whatever n: a peer that varies
// its lengths finds nothing to fill up or to slow down.
type crcPowers struct {
	words [crcWords]uint32 // of x^(32i): n = 4i, all there is up to the largest MTU
	low   [256]uint32      // of x^(8i)
	high  [256]uint32      // of x^(8·256i)
}

// crcWords covers the largest packet of a 4096-byte MTU, in words, with room
// for the IP and UDP headers.
const crcWords = 1088

// newCRCPowers returns the powers of x8, which is x⁸ or its inverse.
func newCRCPowers(x8 uint32) *crcPowers {
	p := new(crcPowers)
	fill := func(t []uint32, x uint32) uint32 {
		y := crcOne
		for i := range t {
			t[i] = y
			y = crcMul(y, x)
		}
		return y
	}
	fill(p.high[:], fill(p.low[:], x8))
	fill(p.words[:], p.low[4])
	return p
}

// at returns x^(8n) for 0 ≤ n < 2¹⁶, or its inverse.
func (p *crcPowers) at(n int) uint32 {
	if i := uint(n) / 4; n&3 == 0 && i < crcWords {
		return p.words[i]
	}
	return crcMul(p.low[uint8(n)], p.high[uint8(n>>8)])
}

var (
	crcForward  = newCRCPowers(crcOne >> 8)
	crcBackward = newCRCPowers(crcInverseX8())
)

// crcInverseX8 returns the register that one zero byte turns into 1.
func crcInverseX8() uint32 {
	// Only one table entry has the high byte that r>>8 cannot reach.
	for b, t := range crcTables[0] {
		if t>>24 == crcOne>>24 {
			return (crcOne^t)<<8 | uint32(b)
		}
	}
	panic("roce: CRC table without an inverse")
}
