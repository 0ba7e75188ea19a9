package load

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

const testBlock = 4096

func TestVerifyFindsWhatIsNotWhatWasWritten(t *testing.T) {
	v := newVerifier(7, 1<<20, testBlock, 16)
	write := func(block uint64, s stamp) []byte {
		data := make([]byte, testBlock)
		v.write(block, s, data)
		return data
	}
	for _, c := range []struct {
		name string
		data func() []byte
		want string // part of the error, empty for none
	}{
		{"what was written", func() []byte { return write(3, 5) }, ""},
		{"nothing", func() []byte { return make([]byte, testBlock) }, "no header"},
		{"the write before", func() []byte { return write(3, 4) }, "of write 4, want 5"},
		{"a later write", func() []byte { return write(3, 6) }, "of write 6, want 5"},
		{"another block", func() []byte { return write(4, 5) }, "is that of 1064960"},
		{"another run", func() []byte {
			data := make([]byte, testBlock)
			newVerifier(8, 1<<20, testBlock, 16).write(3, 5, data)
			return data
		}, "of another run"},
		{"a bit of the content", func() []byte {
			data := write(3, 5)
			data[testBlock-1] ^= 0x10
			return data
		}, "CRC32C"},
		{"torn: the end is of the write before", func() []byte {
			data := write(3, 5)
			copy(data[testBlock/2:], write(3, 4)[testBlock/2:])
			return data
		}, "CRC32C"},
		{"torn: the header is of the write before", func() []byte {
			data := write(3, 4)
			copy(data[512:], write(3, 5)[512:])
			binary.LittleEndian.PutUint32(data[offStamp:], 5)
			return data
		}, "CRC32C"},
	} {
		err := v.check(3, 5, c.data())
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
	}
	before := v.verified
	if err := v.check(3, unknown, make([]byte, testBlock)); err != nil || v.verified != before {
		t.Errorf("a block that was not written: %v, counted %d", err, v.verified-before)
	}
}

func TestVerifierKeepsCommandsApart(t *testing.T) {
	v := newVerifier(1, 0, testBlock, 3)
	for _, want := range []uint64{1, 2, 0} { // wraps at the end
		b := v.free(1)
		if b != want {
			t.Fatalf("free block %d, want %d", b, want)
		}
		v.take(b)
	}
	v.release(2, 9)
	if b := v.free(0); b != 2 || v.take(b) != 9 {
		t.Errorf("free block %d, want 2 with stamp 9", b)
	}
}

func TestStampsWrapBelowBusy(t *testing.T) {
	if s := (busy - 1).next(); s != 1 {
		t.Errorf("after the last stamp comes %#x, want 1", s)
	}
}

func TestFillDependsOnTheSeed(t *testing.T) {
	a, b, c := make([]byte, 64), make([]byte, 64), make([]byte, 64)
	fill(a, 1)
	fill(b, 1)
	fill(c, 2)
	if !bytes.Equal(a, b) || bytes.Equal(a, c) || bytes.Equal(a[:8], a[8:16]) {
		t.Errorf("%x\n%x\n%x", a, b, c)
	}
}

func TestParsePattern(t *testing.T) {
	for p := range numPatterns {
		if got, err := ParsePattern(p.String()); err != nil || got != p {
			t.Errorf("%v: %v, %v", p, got, err)
		}
	}
	if _, err := ParsePattern("trim"); err == nil || !strings.Contains(err.Error(), "randrw") {
		t.Errorf("trim: %v, want an error that lists the patterns", err)
	}
}
