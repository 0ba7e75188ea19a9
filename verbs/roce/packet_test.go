package roce

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
)

// samplePacket returns a packet with this opcode, every field of its headers
// set, and n bytes of payload.
func samplePacket(op uint8, n int) packet {
	f := opcodes[op].flags
	p := packet{
		bth: bth{
			opcode: op, se: true, migReq: true, ackReq: true, fecn: true, becn: true, pad: padLen(n),
			pkey: 0x8123, destQP: 0xa1b2c3, psn: 0xfedcba, opFlags: f,
		},
		payload: bytes.Repeat([]byte{0x5a}, n),
	}
	if f&opHasRETH != 0 {
		p.reth = reth{va: 0x0102030405060708, rkey: 0x11121314, length: 0x21222324}
	}
	if f&opHasAETH != 0 {
		p.aeth = aeth{syndrome: 0x61, msn: 0x313233}
	}
	if f&opHasDETH != 0 {
		p.deth = deth{qkey: 0x41424344, srcQP: 0x515253}
	}
	if f&opHasImm != 0 {
		p.imm = 0x61626364
	}
	if f&opHasIETH != 0 {
		p.ieth = 0x71727374
	}
	if f&opHasAtomicETH != 0 {
		p.atomic = atomicETH{va: 0x0102030405060708, rkey: 0x81828384, swapAdd: 0x9192939495969798, compare: 0xa1a2a3a4a5a6a7a8}
	}
	if f&opHasAtomicAckETH != 0 {
		p.atomicAck = 0xb1b2b3b4b5b6b7b8
	}
	return p
}

// appendPacket is what the engine does to send p, but for the ICRC: that is 0.
func appendPacket(b []byte, p *packet) []byte {
	b = p.appendHeaders(b)
	b = append(b, p.payload...)
	b = append(b, make([]byte, int(p.pad)+icrcLen)...)
	return b
}

func TestPacketRoundTrip(t *testing.T) {
	known := 0
	for op := range opcodes {
		o := &opcodes[op]
		if !o.valid {
			continue
		}
		known++
		sizes := []int{0}
		if o.flags&opHasPayload != 0 {
			sizes = []int{0, 1, 2, 3, 4, 1024}
		}
		for _, n := range sizes {
			want := samplePacket(uint8(op), n)
			b := appendPacket(nil, &want)
			if len(b) != packetLen(uint8(op), n) {
				t.Errorf("%s of %d bytes: %d bytes, packetLen says %d", o.name, n, len(b), packetLen(uint8(op), n))
			}
			var got packet
			got.payload = []byte("of the packet before")
			got.imm, got.atomicAck = 1, 2
			if err := parsePacket(b, &got); err != nil {
				t.Errorf("%s of %d bytes: %v", o.name, n, err)
				continue
			}
			if len(got.payload) == 0 && n == 0 {
				got.payload, want.payload = nil, nil
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s of %d bytes:\n%+v, want\n%+v", o.name, n, got, want)
			}
			if len(got.payload) != cap(got.payload) {
				t.Errorf("%s of %d bytes: payload has room for %d", o.name, n, cap(got.payload))
			}
		}
	}
	if known != 26 {
		t.Errorf("%d opcodes known, want 26", known)
	}
}

// The bytes of a header with all its neighbours' bits set, so that no mask or
// shift can be off without being seen.
func TestPacketBytes(t *testing.T) {
	for _, c := range []struct {
		op   uint8
		n    int
		want []byte
	}{
		{opSendMiddle, 0, []byte{
			0x01, 0xc0, 0x81, 0x23, 0xc0, 0xa1, 0xb2, 0xc3, 0x80, 0xfe, 0xdc, 0xba,
		}},
		{opWriteOnlyImm, 3, []byte{
			0x0b, 0xd0, 0x81, 0x23, 0xc0, 0xa1, 0xb2, 0xc3, 0x80, 0xfe, 0xdc, 0xba,
			1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x12, 0x13, 0x14, 0x21, 0x22, 0x23, 0x24,
			0x61, 0x62, 0x63, 0x64,
		}},
		{opAtomicAck, 0, []byte{
			0x12, 0xc0, 0x81, 0x23, 0xc0, 0xa1, 0xb2, 0xc3, 0x80, 0xfe, 0xdc, 0xba,
			0x61, 0x31, 0x32, 0x33,
			0xb1, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8,
		}},
		{opCompareSwap, 0, []byte{
			0x13, 0xc0, 0x81, 0x23, 0xc0, 0xa1, 0xb2, 0xc3, 0x80, 0xfe, 0xdc, 0xba,
			1, 2, 3, 4, 5, 6, 7, 8, 0x81, 0x82, 0x83, 0x84,
			0x91, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98,
			0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8,
		}},
		{opSendOnlyInv, 1, []byte{
			0x17, 0xf0, 0x81, 0x23, 0xc0, 0xa1, 0xb2, 0xc3, 0x80, 0xfe, 0xdc, 0xba,
			0x71, 0x72, 0x73, 0x74,
		}},
		{opUDSendOnlyImm, 2, []byte{
			0x65, 0xe0, 0x81, 0x23, 0xc0, 0xa1, 0xb2, 0xc3, 0x80, 0xfe, 0xdc, 0xba,
			0x41, 0x42, 0x43, 0x44, 0x00, 0x51, 0x52, 0x53,
			0x61, 0x62, 0x63, 0x64,
		}},
	} {
		p := samplePacket(c.op, c.n)
		if got := p.appendHeaders(nil); !bytes.Equal(got, c.want) {
			t.Errorf("%s:\n% x, want\n% x", opcodes[c.op].name, got, c.want)
		}
	}
}

func TestParsePacketRefuses(t *testing.T) {
	make := func(op uint8, n int) []byte {
		p := samplePacket(op, n)
		return appendPacket(nil, &p)
	}
	edit := func(b []byte, off int, v byte) []byte { b[off] = v; return b }
	for _, c := range []struct {
		name string
		b    []byte
		want error
	}{
		{"Empty", nil, errPacketShort},
		{"BTHCut", make(opSendOnly, 0)[:12], errPacketShort},
		{"RETHCut", make(opReadRequest, 0)[:28], errPacketShort},
		{"NoICRC", make(opWriteOnlyImm, 0)[:32], errPacketShort},
		{"AtomicCut", make(opCompareSwap, 0)[:40], errPacketShort},
		{"Odd", make(opSendOnly, 4)[:17], errPacketLength},
		{"TVer", edit(make(opSendOnly, 4), 1, 0x01), errPacketTVer},
		{"Opcode", edit(make(opSendOnly, 4), 0, 0x15), errPacketOpcode},
		{"OpcodeOfRD", edit(make(opSendOnly, 4), 0, 0x44), errPacketOpcode},
		{"PadAlone", edit(make(opSendOnly, 0), 1, 0x10), errPacketPad},
		{"ReadRequestPayload", append(make(opReadRequest, 0), 0, 0, 0, 0), errPacketPayload},
		{"AckPayload", append(make(opAcknowledge, 0), 0, 0, 0, 0), errPacketPayload},
		{"ReadRequestPad", edit(make(opReadRequest, 0), 1, 0x10), errPacketPad},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p packet
			if err := parsePacket(c.b, &p); !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
		})
	}
}

func TestOpcodeTable(t *testing.T) {
	const positions = opIsFirst | opIsMiddle | opIsLast | opIsOnly
	for op, o := range opcodes {
		if !o.valid {
			if o != (opcodeInfo{}) {
				t.Errorf("opcode %#02x is not valid, but %+v", op, o)
			}
			continue
		}
		if o.name == "" {
			t.Errorf("opcode %#02x has no name", op)
		}
		if n := popCount(o.flags & positions); n != 1 {
			t.Errorf("%s is %d of first, middle, last and only", o.name, n)
		}
		if n := popCount(o.flags & (opIsRequest | opIsResponse | opIsCNP)); n != 1 {
			t.Errorf("%s is %d kinds of packet", o.name, n)
		}
		if int(o.headerLen) > maxHeaderLen || o.headerLen&3 != 0 {
			t.Errorf("%s has headers of %d bytes", o.name, o.headerLen)
		}
		if start, first := o.flags&opStarts != 0, o.flags&(opIsMiddle|opIsLast) == 0; start != first {
			t.Errorf("%s starts a message: %v", o.name, start)
		}
		if end, last := o.flags&opEnds != 0, o.flags&(opIsMiddle|opIsFirst) == 0; end != last {
			t.Errorf("%s ends a message: %v", o.name, end)
		}
	}
	// READ_RESP_MIDDLE is the one response without an AETH.
	if opcodes[opReadRespMid].headerLen != bthLen || opcodes[opReadRespFirst].headerLen != bthLen+aethLen {
		t.Errorf("READ responses have headers of %d and %d bytes", opcodes[opReadRespMid].headerLen, opcodes[opReadRespFirst].headerLen)
	}
}

func popCount(f opFlags) (n int) {
	for ; f != 0; f &= f - 1 {
		n++
	}
	return n
}

func TestPKeyMatch(t *testing.T) {
	for _, c := range []struct {
		a, b uint16
		want bool
	}{
		{defaultPKey, defaultPKey, true},
		{defaultPKey, 0x7fff, true},
		{0x7fff, 0x7fff, false},
		{defaultPKey, 0xfffe, false},
		{0x8001, 0x0001, true},
	} {
		if got := pkeyMatch(c.a, c.b); got != c.want {
			t.Errorf("pkeyMatch(%#04x, %#04x): %v, want %v", c.a, c.b, got, c.want)
		}
	}
}

// The hot path may not allocate.
func TestPacketDoesNotAllocate(t *testing.T) {
	p := samplePacket(opWriteFirst, 1024)
	b := appendPacket(make([]byte, 0, 2048), &p)
	path := icrcPathV4([4]byte{10, 0, 0, 1}, [4]byte{10, 0, 0, 2}, 50000, udpPort)
	body := b[:len(b)-icrcLen]
	putICRC(b[len(body):], path.sum(body, 7))
	buf := make([]byte, 0, maxHeaderLen)
	if n := testing.AllocsPerRun(100, func() {
		var q packet
		if err := parsePacket(b, &q); err != nil {
			t.Fatal(err)
		}
		buf = q.appendHeaders(buf[:0])
		if _, _, ok := path.verify(b, 8); !ok {
			t.Fatal("ICRC wrong")
		}
		if _, _, ok := verifyV4([4]byte{10, 0, 0, 1}, [4]byte{10, 0, 0, 2}, 50000, udpPort, 7, b); !ok {
			t.Fatal("ICRC wrong")
		}
		putICRC(b[len(body):], path.sum(body, 0)^icrcFixID(len(b), 7))
	}); n != 0 {
		t.Errorf("packet: %v allocations, want 0", n)
	}
	if n := testing.AllocsPerRun(100, func() {
		var q packet
		if err := parsePacket(b[:15], &q); err == nil {
			t.Fatal("no error")
		}
	}); n != 0 {
		t.Errorf("refused packet: %v allocations, want 0", n)
	}
}

// FuzzParsePacket holds that what is taken for a packet is one: it encodes to
// the same bytes, but for reserved bits, and its ICRC can be computed.
func FuzzParsePacket(f *testing.F) {
	for op := range opcodes {
		if opcodes[op].valid {
			p := samplePacket(uint8(op), 0)
			f.Add(appendPacket(nil, &p))
			if p.opFlags&opHasPayload != 0 {
				p = samplePacket(uint8(op), 5)
				f.Add(appendPacket(nil, &p))
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 65507 {
			return
		}
		path := icrcPathV4([4]byte{10, 0, 0, 1}, [4]byte{10, 0, 0, 2}, 50000, udpPort)
		path.verify(b, 0)
		var p packet
		if err := parsePacket(b, &p); err != nil {
			return
		}
		want := bytes.Clone(b)
		want[4] &= 0xc0
		want[8] &= 0x80
		if p.opFlags&opHasDETH != 0 {
			want[bthLen+4] = 0
		}
		got := p.appendHeaders(nil)
		got = append(got, p.payload...)
		got = append(got, b[len(got):len(got)+int(p.pad)+icrcLen]...)
		if !bytes.Equal(got, want) {
			t.Fatalf("encodes to\n% x, from\n% x", got, want)
		}
		if len(b) != packetLen(p.opcode, len(p.payload)) && p.pad == padLen(len(p.payload)) {
			t.Fatalf("%d bytes, packetLen says %d", len(b), packetLen(p.opcode, len(p.payload)))
		}
		ident := uint16(p.psn)
		putICRC(b[len(b)-icrcLen:], path.sum(b[:len(b)-icrcLen], ident))
		if i, df, ok := path.verify(b, 0); i != ident || !df || !ok {
			t.Fatalf("ICRC of Identification %#04x: %#04x, DF %v, %v", ident, i, df, ok)
		}
	})
}
