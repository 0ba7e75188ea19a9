package simnet

import (
	"bufio"
	"encoding/binary"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fabrid/fabrid/internal/pcapng"
)

// maxCapture bounds the bytes that a capture keeps; the oldest packets go.
const maxCapture = 64 << 20

const (
	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
	udpHeaderLen  = 8
)

// A capture keeps what was sent, in order.
type capture struct {
	records []*record
	bytes   int
}

// A record is one packet as it left, and what became of it.
type record struct {
	at   time.Duration
	p    *packet
	data []byte
	fate fate
}

// Capture keeps the packets that are sent from now on, and writes them to a
// file, which the log names, if t fails: at t's end, in the directory for
// artifacts if the test was asked for them (go test -artifacts), otherwise in
// that for temporary files. A comment on each packet says what became of it.
func (n *Net) Capture(t testing.TB) {
	t.Helper()
	n.onShard(func() { n.capture = &capture{} })
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		name, packets, err := n.writeCapture(t)
		if err != nil {
			t.Errorf("simnet: capture: %v", err)
			return
		}
		t.Logf("simnet: %d packets in %s", packets, name)
	})
}

func (n *Net) writeCapture(t testing.TB) (name string, packets int, err error) {
	dir := os.TempDir()
	if f := flag.Lookup("test.artifacts"); f != nil && f.Value.String() == "true" {
		dir = t.ArtifactDir()
	}
	file, err := os.CreateTemp(dir, safeName(t.Name())+"-*.pcapng")
	if err != nil {
		return "", 0, err
	}
	n.onShard(func() {
		packets = len(n.capture.records)
		w := bufio.NewWriter(file)
		if err = n.capture.write(w, n.begin); err == nil {
			err = w.Flush()
		}
	})
	if e := file.Close(); err == nil {
		err = e
	}
	path, e := filepath.Abs(file.Name())
	if err == nil {
		err = e
	}
	return path, packets, err
}

// safeName makes a test's name one that a file can have.
func safeName(s string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("-_.", r) || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' {
			return r
		}
		return '_'
	}, s)
}

// add keeps p; with no capture it does nothing and returns nil.
func (c *capture) add(now time.Duration, p *packet) *record {
	if c == nil {
		return nil
	}
	r := &record{at: now, p: p, data: p.b}
	c.records = append(c.records, r)
	c.bytes += len(r.data)
	for c.bytes > maxCapture {
		c.bytes -= len(c.records[0].data)
		c.records[0] = nil
		c.records = c.records[1:]
	}
	return r
}

func (r *record) note(f fate) {
	if r != nil {
		r.fate = f
	}
}

// replace has the record show the packet as it arrived.
func (r *record) replace(b []byte) {
	if r != nil {
		r.data = b
	}
}

func (r *record) comment() string {
	s := fmt.Sprintf("packet %d from %v", r.fate.number, r.p.from.Addr())
	if r.fate.end != passed {
		return s + ": " + endNames[r.fate.end]
	}
	s += fmt.Sprintf(", arrives after %v", r.fate.at-r.at)
	for _, x := range []struct {
		is   bool
		what string
	}{
		{r.fate.heldBack, ", held back"},
		{r.fate.duplicated, ", twice"},
		{r.fate.corrupted, ", one bit wrong"},
	} {
		if x.is {
			s += x.what
		}
	}
	return s
}

// write writes the capture; an interface is an address that sends.
func (c *capture) write(w *bufio.Writer, begin time.Time) error {
	pw, err := pcapng.NewWriter(w, "fabrid simnet")
	if err != nil {
		return err
	}
	interfaces := make(map[netip.Addr]int)
	var buf []byte
	for _, r := range c.records {
		from := r.p.from.Addr()
		i, ok := interfaces[from]
		if !ok {
			if i, err = pw.AddInterface(pcapng.Interface{Name: from.String(), LinkType: pcapng.RawIP}); err != nil {
				return err
			}
			interfaces[from] = i
		}
		buf = appendDatagram(buf[:0], r.p.from, r.p.to, r.p.ident, r.data)
		if err := pw.WritePacket(i, pcapng.Packet{
			Time:      begin.Add(r.at),
			Data:      buf,
			Direction: pcapng.Outbound,
			Comment:   r.comment(),
		}); err != nil {
			return err
		}
	}
	return nil
}

func ipHeaderLen(a netip.Addr) int {
	if a.Unmap().Is4() {
		return ipv4HeaderLen
	}
	return ipv6HeaderLen
}

// appendDatagram appends the IP packet that a datagram is in: with DF set, and
// with a right UDP checksum, which the ICRC of RoCEv2 does not cover.
func appendDatagram(b []byte, from, to netip.AddrPort, ident uint16, payload []byte) []byte {
	const udp, hops = 17, 64
	start, length := len(b), udpHeaderLen+len(payload)
	src, dst := from.Addr().Unmap(), to.Addr().Unmap()
	var pseudo uint32
	if src.Is4() {
		b = append(b, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(ipv4HeaderLen+length))
		b = binary.BigEndian.AppendUint16(b, ident)
		b = append(b, 0x40, 0, hops, udp, 0, 0)
		b = append(b, src.AsSlice()...)
		b = append(b, dst.AsSlice()...)
		header := b[start:]
		binary.BigEndian.PutUint16(header[10:], ^fold(sum16(0, header)))
		pseudo = sum16(0, header[12:])
	} else {
		b = append(b, 0x60, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(length))
		b = append(b, udp, hops)
		s, d := src.As16(), dst.As16()
		b = append(append(b, s[:]...), d[:]...)
		pseudo = sum16(0, b[start+8:])
	}
	at := len(b)
	b = binary.BigEndian.AppendUint16(b, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(length))
	b = append(b, 0, 0)
	b = append(b, payload...)
	sum := ^fold(sum16(pseudo+udp+uint32(length), b[at:]))
	if sum == 0 {
		sum = 0xffff // zero would mean that there is none
	}
	binary.BigEndian.PutUint16(b[at+6:], sum)
	return b
}

// sum16 adds the 16-bit words of b to s. b is short enough not to overflow.
func sum16(s uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) > 0 {
		s += uint32(b[0]) << 8
	}
	return s
}

// fold folds a sum of 16-bit words into one, with carries around the end.
func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
