package nvme

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// golden reads testdata/name.hex: hexadecimal digits with spaces, comments
// from # on, and @n alone on a line for zeros up to byte n.
func golden(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	var b []byte
	for i, line := range strings.Split(string(text), "\n") {
		line, _, _ = strings.Cut(line, "#")
		line = strings.Join(strings.Fields(line), "")
		if at, ok := strings.CutPrefix(line, "@"); ok {
			n, err := strconv.Atoi(at)
			if err != nil || n < len(b) {
				t.Fatalf("%s.hex:%d: @%s at byte %d", name, i+1, at, len(b))
			}
			b = append(b, make([]byte, n-len(b))...)
			continue
		}
		d, err := hex.DecodeString(line)
		if err != nil {
			t.Fatalf("%s.hex:%d: %v", name, i+1, err)
		}
		b = append(b, d...)
	}
	return b
}

// same compares bytes and shows where they differ.
func same(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	if len(got) != len(want) {
		t.Errorf("%s: %d bytes, want %d", what, len(got), len(want))
		return
	}
	for i := range got {
		if got[i] != want[i] {
			end := min(i+16, len(got))
			t.Errorf("%s: byte %d: %x, want %x", what, i, got[i:end], want[i:end])
			return
		}
	}
}
