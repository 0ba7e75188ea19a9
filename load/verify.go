package load

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// A stamp says which write of a block its content is of. It counts from 1.
type stamp uint32

const (
	unknown stamp = 0       // not written by this run, or maybe and maybe not
	busy    stamp = 1 << 31 // a command on the block is outstanding
)

// next is the stamp of the next write.
func (s stamp) next() stamp {
	if s++; s&busy != 0 {
		s = 1
	}
	return s
}

// A block that is verified begins with a header, in little-endian order:
//
//	byte  0..7    8..15           16..23   24..27   28..31
//	    +-------+---------------+--------+--------+-------------------------+
//	    | magic | offset, bytes | seed   | stamp  | CRC32C of all but these |
//	    +-------+---------------+--------+--------+-------------------------+
//
// The rest is rubbish that differs from write to write.
const (
	offOffset  = 8
	offSeed    = 16
	offStamp   = 24
	offCRC     = 28
	headerSize = 32
)

var magic = []byte("fabrid\x00\x01")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A verifier remembers what a job's blocks hold. A block has one command at a
// time, so that what it holds is known when that is submitted.
type verifier struct {
	seed   uint64
	base   uint64 // bytes: where the first block is in the namespace
	size   uint64 // bytes of a block
	stamps []stamp

	verified uint64 // blocks that were checked
}

func newVerifier(seed, base, size, blocks uint64) *verifier {
	return &verifier{seed: seed, base: base, size: size, stamps: make([]stamp, blocks)}
}

// free returns the first block from the given one on that no command is on.
// There is one: a job has no more commands outstanding than blocks, and asks
// with one command less.
func (v *verifier) free(block uint64) uint64 {
	for v.stamps[block]&busy != 0 {
		if block++; block == uint64(len(v.stamps)) {
			block = 0
		}
	}
	return block
}

// known reports whether the content of a block is known.
func (v *verifier) known(block uint64) bool { return v.stamps[block] != unknown }

// take marks a block as having a command on it, and returns its stamp.
func (v *verifier) take(block uint64) stamp {
	s := v.stamps[block]
	v.stamps[block] |= busy
	return s
}

// release ends take: the block holds what the stamp says.
func (v *verifier) release(block uint64, s stamp) { v.stamps[block] = s }

func (v *verifier) offset(block uint64) uint64 { return v.base + block*v.size }

// write makes the content of a block.
func (v *verifier) write(block uint64, s stamp, data []byte) {
	offset := v.offset(block)
	fill(data[headerSize:], v.seed^offset^uint64(s)<<32)
	v.header(data, offset, s)
}

func (v *verifier) header(data []byte, offset uint64, s stamp) {
	copy(data, magic)
	binary.LittleEndian.PutUint64(data[offOffset:], offset)
	binary.LittleEndian.PutUint64(data[offSeed:], v.seed)
	binary.LittleEndian.PutUint32(data[offStamp:], uint32(s))
	binary.LittleEndian.PutUint32(data[offCRC:], checksum(data))
}

func checksum(data []byte) uint32 {
	return crc32.Update(crc32.Update(0, castagnoli, data[:offCRC]), castagnoli, data[headerSize:])
}

// check holds what was read of a block against what was written.
func (v *verifier) check(block uint64, want stamp, data []byte) error {
	if want == unknown {
		return nil
	}
	v.verified++
	offset := v.offset(block)
	bad := func(format string, args ...any) error {
		return fmt.Errorf("load: verify: %d bytes at %d: "+format, append([]any{len(data), offset}, args...)...)
	}
	if !bytes.Equal(data[:len(magic)], magic) {
		return bad("no header: % x", data[:len(magic)])
	}
	if got := binary.LittleEndian.Uint64(data[offOffset:]); got != offset {
		return bad("the block is that of %d", got)
	}
	if got := binary.LittleEndian.Uint64(data[offSeed:]); got != v.seed {
		return bad("the block is of another run, with seed %#x, want %#x", got, v.seed)
	}
	if got := stamp(binary.LittleEndian.Uint32(data[offStamp:])); got != want {
		return bad("the block is of write %d, want %d", got, want)
	}
	if got, want := binary.LittleEndian.Uint32(data[offCRC:]), checksum(data); got != want {
		return bad("CRC32C %#08x, of the content %#08x", got, want)
	}
	return nil
}

// fill fills b with rubbish that depends on seed alone (SplitMix64).
func fill(b []byte, seed uint64) {
	for len(b) >= 8 {
		seed += 0x9e3779b97f4a7c15
		z := seed
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		binary.LittleEndian.PutUint64(b, z^z>>31)
		b = b[8:]
	}
}
