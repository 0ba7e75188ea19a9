package pcapng

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// An Interface describes where packets were seen.
type Interface struct {
	Name     string // at most 65,535 bytes of UTF-8
	LinkType LinkType
}

// A Writer writes a capture: one section, little-endian on every machine.
// Each block goes out in a single Write, so that a capture cut short by a
// crash loses at most the block being written.
type Writer struct {
	w          io.Writer
	interfaces int
	buf        []byte // of the block being built; kept for the next
}

// Block types and options of the format, those that are used.
const (
	blockSection   = 0x0a0d0d0a
	blockInterface = 1
	blockPacket    = 6

	byteOrderMagic = 0x1a2b3c4d

	optEnd       = 0
	optComment   = 1
	optAppl      = 4 // of a section: the program that writes
	optName      = 2 // of an interface
	optTSResol   = 9 // of an interface: units of its times
	optDirection = 2 // of a packet, low two bits

	tsResolNano = 9 // 10⁻⁹ s

	// blockOverhead is type and length in front of a block's body, and the
	// length again behind it.
	blockOverhead = 12
)

// NewWriter writes the header of a capture to w and returns a Writer for the
// rest. application is the name of the program, and may be empty.
func NewWriter(w io.Writer, application string) (*Writer, error) {
	pw := &Writer{w: w}
	pw.begin(blockSection)
	pw.put32(byteOrderMagic)
	pw.put16(1) // version 1.0
	pw.put16(0)
	pw.put64(math.MaxUint64) // section length: not known
	if application != "" {
		if err := pw.option(optAppl, application); err != nil {
			return nil, err
		}
		pw.endOptions()
	}
	return pw, pw.end()
}

// AddInterface adds an interface and returns its index for WritePacket. The
// first has index 0.
func (w *Writer) AddInterface(i Interface) (int, error) {
	w.begin(blockInterface)
	w.put16(uint16(i.LinkType))
	w.put16(0)
	w.put32(MaxPacket)
	if i.Name != "" {
		if err := w.option(optName, i.Name); err != nil {
			return 0, err
		}
	}
	if err := w.option(optTSResol, string([]byte{tsResolNano})); err != nil {
		return 0, err
	}
	w.endOptions()
	if err := w.end(); err != nil {
		return 0, err
	}
	w.interfaces++
	return w.interfaces - 1, nil
}

// WritePacket writes a packet that was seen on the interface with that index.
// It keeps nothing of p. After an error of the underlying writer the capture is
// of no use beyond the packets before.
func (w *Writer) WritePacket(iface int, p Packet) error {
	if iface < 0 || iface >= w.interfaces {
		return fmt.Errorf("pcapng: packet: interface %d, have %d", iface, w.interfaces)
	}
	if len(p.Data) > MaxPacket {
		return fmt.Errorf("pcapng: packet: %d bytes, at most %d", len(p.Data), MaxPacket)
	}
	length := max(p.Length, len(p.Data))
	if int64(length) > math.MaxUint32 {
		return fmt.Errorf("pcapng: packet: length %d, at most %d", length, uint32(math.MaxUint32))
	}
	w.begin(blockPacket)
	w.put32(uint32(iface))
	ns := uint64(p.Time.UnixNano())
	w.put32(uint32(ns >> 32))
	w.put32(uint32(ns))
	w.put32(uint32(len(p.Data)))
	w.put32(uint32(length))
	w.buf = append(w.buf, p.Data...)
	w.pad()
	if p.Direction != Unknown {
		w.put16(optDirection)
		w.put16(4)
		w.put32(uint32(p.Direction) & 3)
	}
	if p.Comment != "" {
		if err := w.option(optComment, p.Comment); err != nil {
			return err
		}
	}
	if p.Direction != Unknown || p.Comment != "" {
		w.endOptions()
	}
	return w.end()
}

// begin starts a block; its length is filled in by end.
func (w *Writer) begin(kind uint32) {
	w.buf = w.buf[:0]
	w.put32(kind)
	w.put32(0)
}

// end writes the block that was begun.
func (w *Writer) end() error {
	n := uint32(len(w.buf) + blockOverhead - 8)
	binary.LittleEndian.PutUint32(w.buf[4:], n)
	w.put32(n)
	if _, err := w.w.Write(w.buf); err != nil {
		return fmt.Errorf("pcapng: write of %d bytes: %w", len(w.buf), err)
	}
	return nil
}

func (w *Writer) option(code uint16, value string) error {
	if len(value) > math.MaxUint16 {
		return fmt.Errorf("pcapng: option %d: %d bytes, at most %d", code, len(value), math.MaxUint16)
	}
	w.put16(code)
	w.put16(uint16(len(value)))
	w.buf = append(w.buf, value...)
	w.pad()
	return nil
}

func (w *Writer) endOptions() { w.put32(optEnd) }

func (w *Writer) pad() {
	for len(w.buf)%4 != 0 {
		w.buf = append(w.buf, 0)
	}
}

func (w *Writer) put16(v uint16) { w.buf = binary.LittleEndian.AppendUint16(w.buf, v) }
func (w *Writer) put32(v uint32) { w.buf = binary.LittleEndian.AppendUint32(w.buf, v) }
func (w *Writer) put64(v uint64) { w.buf = binary.LittleEndian.AppendUint64(w.buf, v) }
