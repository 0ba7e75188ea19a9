package roce

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"reflect"
	"testing"
)

// newCMMessage returns a message to parse into, nil for an attribute that is
// not understood.
func newCMMessage(a cmAttr) cmMessage {
	switch a {
	case cmAttrREQ:
		return new(cmREQ)
	case cmAttrMRA:
		return new(cmMRA)
	case cmAttrREJ:
		return new(cmREJ)
	case cmAttrREP:
		return new(cmREP)
	case cmAttrRTU:
		return new(cmRTU)
	case cmAttrDREQ:
		return new(cmDREQ)
	case cmAttrDREP:
		return new(cmDREP)
	}
	return nil
}

// readMAD reads a file of hex that leaves out the zeros at the end.
func readMAD(t testing.TB, name string) []byte {
	t.Helper()
	b := readHex(t, name)
	return append(b, make([]byte, madLen-len(b))...)
}

// The messages of the golden files, which are those of captures.
var cmGolden = []struct {
	file string
	tid  uint64
	m    cmMessage
}{
	{"cm-req.hex", 0x2a98e3e66, &cmREQ{
		localCommID:             0x663e8ea9,
		serviceID:               cmServiceID(4420),
		localCAGUID:             0x505400fffe770003,
		localQPN:                0x11,
		responderResources:      128,
		remoteCMResponseTimeout: 20,
		localCMResponseTimeout:  20,
		transportType:           cmTransportRC,
		flowControl:             true,
		startingPSN:             0xc7a176,
		retryCount:              7,
		pkey:                    defaultPKey,
		pathMTU:                 3,
		rnrRetryCount:           7,
		maxCMRetries:            15,
		primary: cmPath{
			localLID:        permissiveLID,
			remoteLID:       permissiveLID,
			localGID:        netip.MustParseAddr("10.77.0.3"),
			remoteGID:       netip.MustParseAddr("10.77.0.2"),
			flowLabel:       0x1c704,
			hopLimit:        64,
			localAckTimeout: 17,
		},
		alternate: cmPath{localGID: netip.IPv6Unspecified(), remoteGID: netip.IPv6Unspecified()},
		privateData: [reqPrivateLen]byte{
			1: 0x40, 2: 0x92, 3: 0x40,
			16: 10, 17: 77, 19: 3,
			32: 10, 33: 77, 35: 2,
			40: 0x20, 42: 0x1f,
		},
	}},
	{"cm-rep.hex", 0x2a98e3e66, &cmREP{
		localCommID:    0xaa93b371,
		remoteCommID:   0x663e8ea9,
		localQPN:       0x11,
		startingPSN:    0x1cba62,
		initiatorDepth: 128,
		targetAckDelay: 15,
		flowControl:    true,
		rnrRetryCount:  7,
		localCAGUID:    0x505400fffe770002,
		privateData:    [repPrivateLen]byte{2: 0x20},
	}},
	{"cm-rtu.hex", 0x2a98e3e66, &cmRTU{localCommID: 0x663e8ea9, remoteCommID: 0xaa93b371}},
	{"cm-rej.hex", 0x2065db85f, &cmREJ{remoteCommID: 0x5fb85d06, messageRejected: cmAboutREQ, reason: rejInvalidServiceID}},
	{"cm-dreq.hex", 0x2065db85e, &cmDREQ{localCommID: 0x5eb85d06, remoteCommID: 0x8c16a102, remoteQPN: 0x11}},
	{"cm-drep.hex", 0x2065db85e, &cmDREP{localCommID: 0x8c16a102, remoteCommID: 0x5eb85d06}},
	{"cm-mra.hex", 0x2065db85e, &cmMRA{
		localCommID: 0x8c16a102, remoteCommID: 0x5eb85d06,
		messageMRAed: cmAboutREP, serviceTimeout: 24,
		privateData: [mraPrivateLen]byte{0xaa, 0xbb},
	}},
}

func TestCMGolden(t *testing.T) {
	for _, c := range cmGolden {
		t.Run(c.m.attr().String(), func(t *testing.T) {
			b := readMAD(t, c.file)
			h, message, err := parseMAD(b)
			if err != nil {
				t.Fatal(err)
			}
			if err := h.checkCM(); err != nil {
				t.Fatal(err)
			}
			if want := cmHeader(c.m.attr(), c.tid); h != want {
				t.Errorf("header %+v, want %+v", h, want)
			}
			got := newCMMessage(h.attrID)
			if err := got.parse(message); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, c.m) {
				t.Errorf("message %+v, want %+v", got, c.m)
			}
			if e := appendCM([]byte("in front"), c.tid, c.m); !bytes.Equal(e, append([]byte("in front"), b...)) {
				t.Errorf("encodes to % x, want % x", e[8:], b)
			}
		})
	}
}

// Every field of every message, with values that differ in every byte and fill
// all bits: what is one field's must not be seen in another.
func TestCMFields(t *testing.T) {
	private := func(b []byte) {
		for i := range b {
			b[i] = byte(i + 1)
		}
	}
	path := cmPath{
		localLID: 0x1112, remoteLID: 0x1314,
		localGID: netip.MustParseAddr("2001:db8::1:2"), remoteGID: netip.MustParseAddr("192.0.2.7"),
		flowLabel: 0xabcde, packetRate: 0x2a, trafficClass: 0x91, hopLimit: 0x92, sl: 0xa, subnetLocal: true, localAckTimeout: 0x15,
	}
	req := cmREQ{
		localCommID: 0x01020304, vendorID: 0x050607, serviceID: 0x08090a0b0c0d0e0f, localCAGUID: 0x1011121314151617,
		localQKey: 0x18191a1b, localQPN: 0x1c1d1e, localEECN: 0x1f2021, remoteEECN: 0x222324,
		responderResources: 0x25, initiatorDepth: 0x26, remoteCMResponseTimeout: 0x15, localCMResponseTimeout: 0x0a,
		transportType: 2, flowControl: true, startingPSN: 0x272829, retryCount: 5, pkey: 0x2a2b, pathMTU: 0xa,
		rdcExists: true, rnrRetryCount: 2, maxCMRetries: 5, srq: true, extTransportType: 5,
		primary: path, alternate: path, sap: true,
	}
	req.alternate.localGID, req.alternate.remoteGID = path.remoteGID, path.localGID
	req.alternate.flowLabel = 0x54321
	private(req.privateData[:])
	rep := cmREP{
		localCommID: 0x01020304, remoteCommID: 0x05060708, localQKey: 0x090a0b0c, localQPN: 0x0d0e0f, localEECN: 0x101112,
		vendorID: 0x131415, startingPSN: 0x161718, responderResources: 0x19, initiatorDepth: 0x1a, targetAckDelay: 0x15,
		failoverAccepted: 2, flowControl: true, rnrRetryCount: 5, srq: true, localCAGUID: 0x1b1c1d1e1f202122,
	}
	private(rep.privateData[:])
	rej := cmREJ{
		localCommID: 0x01020304, remoteCommID: 0x05060708, messageRejected: cmAboutOther, infoLen: 0x55, reason: 0x090a,
	}
	private(rej.info[:])
	private(rej.privateData[:])
	mra := cmMRA{localCommID: 0x01020304, remoteCommID: 0x05060708, messageMRAed: cmAboutREP, serviceTimeout: 0x15}
	private(mra.privateData[:])
	rtu := cmRTU{localCommID: 0x01020304, remoteCommID: 0x05060708}
	private(rtu.privateData[:])
	dreq := cmDREQ{localCommID: 0x01020304, remoteCommID: 0x05060708, remoteQPN: 0x090a0b}
	private(dreq.privateData[:])
	drep := cmDREP{localCommID: 0x01020304, remoteCommID: 0x05060708}
	private(drep.privateData[:])

	for _, m := range []cmMessage{&req, &rep, &rej, &mra, &rtu, &dreq, &drep} {
		b := m.appendTo(nil)
		if len(b) != cmMessageLen {
			t.Errorf("%v: %d bytes, want %d", m.attr(), len(b), cmMessageLen)
			continue
		}
		got := newCMMessage(m.attr())
		if err := got.parse(b); err != nil {
			t.Errorf("%v: %v", m.attr(), err)
		} else if !reflect.DeepEqual(got, m) {
			t.Errorf("%v: %+v, want %+v", m.attr(), got, m)
		}
		size := reflect.ValueOf(m).Elem().FieldByName("privateData").Len()
		if got := b[cmMessageLen-1]; got != byte(size) {
			t.Errorf("%v: ends with %#x, want %#x, the end of the private data", m.attr(), got, byte(size))
		}
		for _, n := range []int{0, cmMessageLen - 1, cmMessageLen + 1} {
			if err := got.parse(make([]byte, n)); err == nil {
				t.Errorf("%v of %d bytes: no error", m.attr(), n)
			}
		}
	}
	if n := len(rej.rejectInfo()); n != rejInfoLen {
		t.Errorf("reject information said to be of %d bytes: have %d, want %d", rej.infoLen, n, rejInfoLen)
	}
	rej.infoLen = 8
	if n := len(rej.rejectInfo()); n != 8 {
		t.Errorf("reject information said to be of 8 bytes: have %d", n)
	}
}

func TestMADRefuses(t *testing.T) {
	good := readMAD(t, "cm-rtu.hex")
	for _, n := range []int{0, madHeaderLen, madLen - 1, madLen + 1} {
		if _, _, err := parseMAD(make([]byte, n)); err == nil {
			t.Errorf("MAD of %d bytes: no error", n)
		}
	}
	for off, name := range []string{"base version", "class", "class version", "method"} {
		b := bytes.Clone(good)
		b[off]++
		h, _, err := parseMAD(b)
		if err == nil {
			err = h.checkCM()
		}
		if err == nil {
			t.Errorf("another %s: no error", name)
		}
	}
}

func TestServiceID(t *testing.T) {
	const id = 0x0000000001061144
	if got := cmServiceID(4420); got != id {
		t.Errorf("cmServiceID(4420): %#x, want %#x", got, id)
	}
	if port, ok := cmServicePort(id); port != 4420 || !ok {
		t.Errorf("cmServicePort(%#x): %d, %v", id, port, ok)
	}
	for _, id := range []uint64{0, 4420, 0x01051144, 0x1_0000_0106_1144} {
		if port, ok := cmServicePort(id); ok {
			t.Errorf("cmServicePort(%#x): %d, want none", id, port)
		}
	}
}

func TestCMAHeader(t *testing.T) {
	for _, want := range []cmaHeader{
		{37440, netip.MustParseAddr("10.77.0.3"), netip.MustParseAddr("10.77.0.2")},
		{1, netip.MustParseAddr("fd77::3"), netip.MustParseAddr("fd77::2")},
	} {
		b := bytes.Repeat([]byte{0xff}, cmaHeaderLen+1)
		want.put(b)
		var got cmaHeader
		if err := got.parse(b); err != nil {
			t.Errorf("%v: %v", want, err)
		} else if got != want {
			t.Errorf("%v, want %v", got, want)
		}
		if b[cmaHeaderLen] != 0xff {
			t.Errorf("%v: wrote behind the header", want)
		}
	}
	var h cmaHeader
	for name, b := range map[string][]byte{
		"short":      append([]byte{0, 0x40}, make([]byte, cmaHeaderLen-3)...),
		"version":    append([]byte{1, 0x40}, make([]byte, cmaHeaderLen-2)...),
		"IP version": append([]byte{0, 0x50}, make([]byte, cmaHeaderLen-2)...),
	} {
		if err := h.parse(b); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestCMNames(t *testing.T) {
	for r, want := range map[rejReason]string{
		rejInvalidServiceID: "invalid service ID", rejConsumerDefined: "consumer defined",
		0: "reason 0", 34: "reason 34", 36: "reason 36", 65535: "reason 65535",
	} {
		if got := r.String(); got != want {
			t.Errorf("reason %d: %q, want %q", uint16(r), got, want)
		}
	}
	if got, want := cmAttr(0x19).String(), "attribute 0x19"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// fuzzCM holds that a message says the same after it was encoded.
func fuzzCM(f *testing.F, a cmAttr) {
	for _, c := range cmGolden {
		if c.m.attr() == a {
			f.Add(readMAD(f, c.file)[madHeaderLen:])
		}
	}
	f.Add(bytes.Repeat([]byte{0xff}, cmMessageLen))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, again := newCMMessage(a), newCMMessage(a)
		if err := m.parse(b); err != nil {
			if len(b) == cmMessageLen {
				t.Fatalf("refused: %v", err)
			}
			return
		}
		e := m.appendTo(nil)
		if len(e) != cmMessageLen {
			t.Fatalf("encodes to %d bytes", len(e))
		}
		if err := again.parse(e); err != nil {
			t.Fatalf("its own encoding: %v", err)
		}
		if !reflect.DeepEqual(again, m) {
			t.Fatalf("%+v became %+v", m, again)
		}
		switch m := m.(type) {
		case *cmREJ:
			_ = m.rejectInfo()
			_ = m.reason.String()
		case *cmREQ:
			var h cmaHeader
			if h.parse(m.privateData[:]) == nil {
				h.put(m.privateData[:])
			}
		}
	})
}

func FuzzCMREQ(f *testing.F)  { fuzzCM(f, cmAttrREQ) }
func FuzzCMREP(f *testing.F)  { fuzzCM(f, cmAttrREP) }
func FuzzCMRTU(f *testing.F)  { fuzzCM(f, cmAttrRTU) }
func FuzzCMREJ(f *testing.F)  { fuzzCM(f, cmAttrREJ) }
func FuzzCMMRA(f *testing.F)  { fuzzCM(f, cmAttrMRA) }
func FuzzCMDREQ(f *testing.F) { fuzzCM(f, cmAttrDREQ) }
func FuzzCMDREP(f *testing.F) { fuzzCM(f, cmAttrDREP) }

// FuzzMAD holds that a MAD that is one encodes to the same bytes, but for the
// reserved ones of its header.
func FuzzMAD(f *testing.F) {
	for _, c := range cmGolden {
		f.Add(readMAD(f, c.file))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, message, err := parseMAD(b)
		if err != nil {
			return
		}
		_ = h.checkCM()
		want := bytes.Clone(b)
		binary.BigEndian.PutUint16(want[18:], 0)
		if got := append(h.appendTo(nil), message...); !bytes.Equal(got, want) {
			t.Fatalf("% x, want % x", got, want)
		}
	})
}
