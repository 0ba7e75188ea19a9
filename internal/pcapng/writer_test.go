package pcapng

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

// TestWriterGolden writes a small capture and compares every byte with a file
// that says what they mean.
func TestWriterGolden(t *testing.T) {
	text, err := os.ReadFile("testdata/small.hex")
	if err != nil {
		t.Fatal(err)
	}
	var digits strings.Builder
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		digits.WriteString(strings.Join(strings.Fields(line), ""))
	}
	want, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatal(err)
	}

	var got bytes.Buffer
	w, err := NewWriter(&got, "fabrid")
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range []Interface{{"host", Ethernet}, {"", RawIP}} {
		if n, err := w.AddInterface(f); err != nil || n != i {
			t.Fatalf("AddInterface %d: %d, %v", i, n, err)
		}
	}
	for i, p := range []struct {
		iface int
		Packet
	}{
		{0, Packet{Time: time.Unix(1, 2), Data: []byte("abcd")}},
		{1, Packet{Time: time.Unix(1_700_000_000, 1), Data: []byte("abcde"), Length: 1500, Direction: Outbound, Comment: "lost"}},
	} {
		if err := w.WritePacket(p.iface, p.Packet); err != nil {
			t.Fatalf("packet %d: %v", i, err)
		}
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("capture:\n%swant:\n%s", hex.Dump(got.Bytes()), hex.Dump(want))
	}
}

func TestWriterRefuses(t *testing.T) {
	var out bytes.Buffer
	w, err := NewWriter(&out, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.AddInterface(Interface{Name: strings.Repeat("x", 65536)}); err == nil {
		t.Error("AddInterface with a name of 65536 bytes: no error")
	}
	if err := w.WritePacket(0, Packet{}); err == nil {
		t.Error("packet of interface 0 of none: no error")
	}
	if _, err := w.AddInterface(Interface{LinkType: Ethernet}); err != nil {
		t.Fatal(err)
	}
	before := out.Len()
	for name, p := range map[string]Packet{
		"too large":   {Data: make([]byte, MaxPacket+1)},
		"too long":    {Length: 1 << 32},
		"big comment": {Comment: strings.Repeat("x", 65536)},
	} {
		if err := w.WritePacket(0, p); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := w.WritePacket(1, Packet{}); err == nil {
		t.Error("packet of interface 1 of 1: no error")
	}
	if out.Len() != before {
		t.Errorf("refused packets left %d bytes", out.Len()-before)
	}
	if err := w.WritePacket(0, Packet{Data: make([]byte, MaxPacket)}); err != nil {
		t.Errorf("packet of %d bytes: %v", MaxPacket, err)
	}
}

var errFull = errors.New("full")

type fullWriter struct{}

func (fullWriter) Write([]byte) (int, error) { return 0, errFull }

func TestWriterReportsErrors(t *testing.T) {
	if _, err := NewWriter(fullWriter{}, ""); !errors.Is(err, errFull) {
		t.Errorf("NewWriter: %v, want %v", err, errFull)
	}
}

// A flight recorder writes every packet: that may not allocate.
func TestWritePacketDoesNotAllocate(t *testing.T) {
	var out bytes.Buffer
	out.Grow(1 << 20)
	w, err := NewWriter(&out, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.AddInterface(Interface{LinkType: RawIP}); err != nil {
		t.Fatal(err)
	}
	p := Packet{Time: time.Unix(1, 0), Data: make([]byte, 1500), Direction: Inbound}
	if n := testing.AllocsPerRun(100, func() {
		if err := w.WritePacket(0, p); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("WritePacket: %v allocations, want 0", n)
	}
}
