package main

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/fabrid/fabrid/verbs/roce"
)

func TestSize(t *testing.T) {
	for _, c := range []struct {
		text  string
		bytes uint64
		shown string
	}{
		{"0", 0, "0"},
		{"1000", 1000, "1000"},
		{"4096", 4096, "4 KiB"},
		{"4k", 4096, "4 KiB"},
		{"128K", 128 << 10, "128 KiB"},
		{"256MiB", 256 << 20, "256 MiB"},
		{"10 GiB", 10 << 30, "10 GiB"},
		{"1t", 1 << 40, "1 TiB"},
	} {
		var s size
		if err := s.Set(c.text); err != nil || uint64(s) != c.bytes || s.String() != c.shown {
			t.Errorf("%q: %d, %q, %v; want %d, %q", c.text, uint64(s), s.String(), err, c.bytes, c.shown)
		}
	}
	for _, text := range []string{"", "k", "-1", "4MB", "1.5G", "8388609T", "18446744073709551615"} {
		var s size
		if err := s.Set(text); err == nil {
			t.Errorf("%q: %d, want an error", text, uint64(s))
		}
	}
}

func TestSpan(t *testing.T) {
	for text, want := range map[string]time.Duration{"0": 0, "90": 90 * time.Second, "1m30s": 90 * time.Second, "250ms": 250 * time.Millisecond} {
		var s span
		if err := s.Set(text); err != nil || time.Duration(s) != want {
			t.Errorf("%q: %v, %v; want %v", text, time.Duration(s), err, want)
		}
	}
	for _, text := range []string{"", "-1s", "soon"} {
		var s span
		if err := s.Set(text); err == nil {
			t.Errorf("%q: want an error", text)
		}
	}
}

func TestParseProcAddress(t *testing.T) {
	if !littleEndian {
		t.Skip("the examples are of a little-endian machine")
	}
	for text, want := range map[string]string{
		"0100007F:12B7":                         "127.0.0.1:4791",
		"00000000:12B7":                         "0.0.0.0:4791",
		"00000000000000000000000001000000:12B7": "[::1]:4791",
		"B80D01200000000000000000010000FE:0035": "[2001:db8::fe00:1]:53",
	} {
		if a, ok := parseProcAddress(text); !ok || a != netip.MustParseAddrPort(want) {
			t.Errorf("%s: %v, want %s", text, a, want)
		}
	}
	for _, text := range []string{"", "0100007F", "0100007F:12B7:1", "01007F:12B7", "xx:12B7"} {
		if a, ok := parseProcAddress(text); ok {
			t.Errorf("%q: %v, want an error", text, a)
		}
	}
}

func TestStatsHaveNames(t *testing.T) {
	all := make(map[string]uint64)
	addStats(all, roce.Stats{PacketsSent: 1, DropsICRC: 2, NAKsSent: 3, DropsNoQP: 4, MADsReceived: 5})
	addStats(all, roce.Stats{PacketsSent: 10})
	want := map[string]uint64{"packets_sent": 11, "drops_icrc": 2, "naks_sent": 3, "drops_no_qp": 4, "mads_received": 5}
	for name, n := range want {
		if all[name] != n {
			t.Errorf("%s is %d, want %d, in %v", name, all[name], n, all)
		}
	}
	if len(all) != len(want) {
		t.Errorf("%v, want those that are not zero", all)
	}
}

func TestHistogram(t *testing.T) {
	h := hdrhistogram.New(1, int64(time.Hour), 3)
	for ns, n := range map[int64]int64{700: 10, 3000: 100, 3500: 50, 20_000_000: 1} {
		if err := h.RecordValues(ns, n); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	histogram(&b, h)
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	for i, want := range map[int]string{1: "1µs   6.21 % ####", 2: "2µs   0.00 %", 3: "4µs  93.17 % #####", len(lines) - 1: "32.768ms   0.62 % #"} {
		if !strings.Contains(lines[i], want) {
			t.Errorf("line %d is %q, want %q", i, lines[i], want)
		}
	}
	b.Reset()
	histogram(&b, hdrhistogram.New(1, 1000, 3))
	if b.Len() != 0 {
		t.Errorf("of nothing: %q", b.String())
	}
}
