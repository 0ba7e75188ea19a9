package pcapng

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"time"
)

type appendOrder interface {
	binary.ByteOrder
	binary.AppendByteOrder
}

// classic makes a classic pcap file.
func classic(o appendOrder, magic uint32, unit time.Duration, link LinkType, packets ...Packet) []byte {
	b := o.AppendUint32(nil, magic)
	b = o.AppendUint16(b, 2)
	b = o.AppendUint16(b, 4)
	b = append(b, make([]byte, 8)...)
	b = o.AppendUint32(b, MaxPacket)
	b = o.AppendUint32(b, uint32(link))
	for _, p := range packets {
		b = o.AppendUint32(b, uint32(p.Time.Unix()))
		b = o.AppendUint32(b, uint32(time.Duration(p.Time.Nanosecond())/unit))
		b = o.AppendUint32(b, uint32(len(p.Data)))
		b = o.AppendUint32(b, uint32(p.Length))
		b = append(b, p.Data...)
	}
	return b
}

var samples = []Packet{
	{Time: time.Unix(1_700_000_000, 123_456_000), Data: []byte("first"), Length: 5},
	{Time: time.Unix(1_700_000_001, 0), Data: nil, Length: 60},
	{Time: time.Unix(1_700_000_002, 999_999_000), Data: []byte("cut"), Length: 1500},
}

func TestReader(t *testing.T) {
	for _, c := range []struct {
		name  string
		order appendOrder
		magic uint32
		unit  time.Duration
		link  LinkType
	}{
		{"LittleMicro", binary.LittleEndian, magicMicro, time.Microsecond, Ethernet},
		{"BigMicro", binary.BigEndian, magicMicro, time.Microsecond, RawIP},
		{"LittleNano", binary.LittleEndian, magicNano, time.Nanosecond, RawIP},
		{"BigNano", binary.BigEndian, magicNano, time.Nanosecond, Ethernet},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := classic(c.order, c.magic, c.unit, c.link, samples...)
			r, err := NewReader(bytes.NewReader(file))
			if err != nil {
				t.Fatal(err)
			}
			if r.LinkType() != c.link {
				t.Errorf("link type %d, want %d", r.LinkType(), c.link)
			}
			for i, want := range samples {
				p, err := r.Next()
				if err != nil {
					t.Fatalf("packet %d: %v", i, err)
				}
				if !p.Time.Equal(want.Time) || !bytes.Equal(p.Data, want.Data) || p.Length != want.Length {
					t.Errorf("packet %d: %v %q %d, want %v %q %d", i, p.Time, p.Data, p.Length, want.Time, want.Data, want.Length)
				}
			}
			if _, err := r.Next(); err != io.EOF {
				t.Errorf("after the last packet: %v, want EOF", err)
			}
		})
	}
}

func TestReaderRefuses(t *testing.T) {
	good := classic(binary.LittleEndian, magicMicro, time.Microsecond, Ethernet, samples[0])
	edit := func(off int, b ...byte) []byte {
		f := bytes.Clone(good)
		copy(f[off:], b)
		return f
	}
	for _, c := range []struct {
		name string
		file []byte
		cut  bool
	}{
		{"Empty", nil, false},
		{"HeaderCut", good[:fileHeaderLen-1], true},
		{"Magic", edit(0, 0x0a, 0x0d, 0x0d, 0x0a), false},
		{"Version", edit(4, 3), false},
		{"RecordHeaderCut", good[:fileHeaderLen+recordHeaderLen-1], true},
		{"NoData", good[:fileHeaderLen+recordHeaderLen], true},
		{"DataCut", good[:len(good)-1], true},
		{"TooLarge", edit(fileHeaderLen+8, 1, 0, 4, 0), false},
		{"HugeLength", edit(fileHeaderLen+8, 0xff, 0xff, 0xff, 0xff), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := NewReader(bytes.NewReader(c.file))
			if err == nil {
				_, err = r.Next()
			}
			if err == nil || err == io.EOF {
				t.Fatalf("error %v, want one that says what is wrong", err)
			}
			if got := errors.Is(err, io.ErrUnexpectedEOF); got != c.cut {
				t.Errorf("%v: cut short %v, want %v", err, got, c.cut)
			}
		})
	}
}

// FuzzReader holds that a Reader stays within its limits and that what it
// reads is what the file says.
func FuzzReader(f *testing.F) {
	f.Add(classic(binary.LittleEndian, magicMicro, time.Microsecond, Ethernet, samples...))
	f.Add(classic(binary.BigEndian, magicNano, time.Nanosecond, RawIP, samples...))
	f.Fuzz(func(t *testing.T, file []byte) {
		r, err := NewReader(bytes.NewReader(file))
		if err != nil {
			return
		}
		rest := file[fileHeaderLen:]
		for {
			p, err := r.Next()
			if err != nil {
				if err == io.EOF && len(rest) != 0 {
					t.Fatalf("EOF with %d bytes left", len(rest))
				}
				return
			}
			if len(p.Data) > MaxPacket {
				t.Fatalf("packet of %d bytes", len(p.Data))
			}
			rest = rest[recordHeaderLen:]
			if !bytes.Equal(p.Data, rest[:len(p.Data)]) {
				t.Fatalf("data % x, want % x", p.Data, rest[:len(p.Data)])
			}
			rest = rest[len(p.Data):]
		}
	})
}
