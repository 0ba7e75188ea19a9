package pcapng

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// A Reader reads a classic pcap file. It trusts nothing in it.
type Reader struct {
	r     io.Reader
	order binary.ByteOrder
	unit  time.Duration // of the second half of a time
	link  LinkType
	buf   []byte
	head  [recordHeaderLen]byte
}

const (
	fileHeaderLen   = 24
	recordHeaderLen = 16

	magicMicro = 0xa1b2c3d4
	magicNano  = 0xa1b23c4d
)

// NewReader reads the file header from r.
func NewReader(r io.Reader) (*Reader, error) {
	var h [fileHeaderLen]byte
	if n, err := io.ReadFull(r, h[:]); err != nil {
		return nil, fmt.Errorf("pcapng: file header: %d bytes, need %d: %w", n, len(h), err)
	}
	pr := &Reader{r: r}
	for _, pr.order = range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		switch pr.order.Uint32(h[:]) {
		case magicMicro:
			pr.unit = time.Microsecond
		case magicNano:
			pr.unit = time.Nanosecond
		default:
			continue
		}
		if major := pr.order.Uint16(h[4:]); major != 2 {
			return nil, fmt.Errorf("pcapng: file header: version %d, need 2", major)
		}
		// The upper half of the word is about the FCS.
		pr.link = LinkType(pr.order.Uint32(h[20:]))
		return pr, nil
	}
	return nil, fmt.Errorf("pcapng: file header: magic % x, not that of a classic pcap file", h[:4])
}

// LinkType returns with what header the packets begin.
func (r *Reader) LinkType() LinkType { return r.link }

// Next returns the next packet, and io.EOF after the last. A file cut short
// gives an error that wraps io.ErrUnexpectedEOF. The packet's Data is the
// Reader's and good until the next call.
func (r *Reader) Next() (Packet, error) {
	n, err := io.ReadFull(r.r, r.head[:])
	if errors.Is(err, io.EOF) {
		return Packet{}, io.EOF
	}
	if err != nil {
		return Packet{}, fmt.Errorf("pcapng: record header: %d bytes, need %d: %w", n, recordHeaderLen, err)
	}
	seconds, fraction := r.order.Uint32(r.head[:]), r.order.Uint32(r.head[4:])
	captured, length := r.order.Uint32(r.head[8:]), r.order.Uint32(r.head[12:])
	if captured > MaxPacket {
		return Packet{}, fmt.Errorf("pcapng: record: %d bytes, at most %d", captured, MaxPacket)
	}
	if uint32(cap(r.buf)) < captured {
		r.buf = make([]byte, captured)
	}
	p := Packet{
		Time:   time.Unix(int64(seconds), int64(fraction)*int64(r.unit)),
		Data:   r.buf[:captured:captured],
		Length: int(length),
	}
	if n, err := io.ReadFull(r.r, p.Data); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Packet{}, fmt.Errorf("pcapng: record: %d bytes, need %d: %w", n, captured, err)
	}
	return p, nil
}
