package nvme

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestDiscoveryLogGolden(t *testing.T) {
	b := golden(t, "discovery_log")
	entry := DiscoveryEntry{
		TRTYPE: TransportTCP, ADRFAM: AddressIPv4, SUBTYPE: SubsystemCurrentDiscovery, TREQ: TREQDisableSQFlowOK,
		PORTID: 1, CNTLID: CNTLIDDynamic, ASQSZ: 32, TRSVCID: "4420", SUBNQN: DiscoveryNQN, TRADDR: "10.77.0.2",
	}
	want := DiscoveryLog{GENCTR: 2, Entries: []DiscoveryEntry{entry, entry}}
	want.Entries[1].SUBTYPE, want.Entries[1].SUBNQN = SubsystemNVM, "nqn.2024-01.lab:sub1"
	var got DiscoveryLog
	if err := got.Parse(b); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}

	// Ours differs in the padding alone.
	enc := want.AppendTo(nil)
	if len(enc) != want.Size() || len(enc) != len(b) {
		t.Fatalf("%d bytes, Size %d, want %d", len(enc), want.Size(), len(b))
	}
	for _, f := range []struct{ off, text, size int }{{32, 4, 32}, {512, 9, 256}} {
		for k := 1024; k < len(enc); k += 1024 {
			pad := enc[k+f.off+f.text : k+f.off+f.size]
			if strings.Trim(string(pad), " ") != "" {
				t.Errorf("byte %d: padding %q", k+f.off, pad)
			}
			clear(pad)
		}
	}
	same(t, "appended", enc, b)
}

func TestDiscoveryLogHostile(t *testing.T) {
	d := DiscoveryLog{GENCTR: 7, Entries: make([]DiscoveryEntry, 2)}
	b := d.AppendTo(nil)
	var got DiscoveryLog
	for name, spoil := range map[string]func([]byte) []byte{
		"one entry too few": func(b []byte) []byte { return b[:len(b)-1] },
		"header alone":      func(b []byte) []byte { return b[:1024] },
		"short header":      func(b []byte) []byte { return b[:1023] },
		"NUMREC 2^64-1":     func(b []byte) []byte { fillBytes(b[8:16], 0xFF); return b },
		"RECFMT 1":          func(b []byte) []byte { b[16] = 1; return b },
	} {
		if err := got.Parse(spoil(slices.Clone(b))); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	var h DiscoveryHeader
	if err := h.Parse(b[:18]); err != nil || h != (DiscoveryHeader{GENCTR: 7, NUMREC: 2}) {
		t.Errorf("%+v, %v", h, err)
	}
	if err := h.Parse(b[:17]); err == nil {
		t.Error("header of 17 bytes: no error")
	}
}

func TestTSAS(t *testing.T) {
	r := RDMATSAS{QPTYPE: RDMAQPTypeRC, PRTYPE: RDMAProviderRoCEv2, CMS: RDMACMSRDMACM, PKEY: 0xFFFF}
	ts := r.TSAS()
	same(t, "RDMA", ts[:10], []byte{1, 4, 1, 0, 0, 0, 0, 0, 0xFF, 0xFF})
	if ts.RDMA() != r {
		t.Errorf("%+v, want %+v", ts.RDMA(), r)
	}
	tcp := TCPTSAS(TCPSecurityTLS13)
	if tcp.SECTYPE() != TCPSecurityTLS13 || tcp[0] != 2 {
		t.Errorf("SECTYPE %d", tcp.SECTYPE())
	}
}

func TestANALogGolden(t *testing.T) {
	b := golden(t, "ana_log")
	want := ANALog{Groups: []ANAGroup{{ID: 1, State: ANAOptimized, NSIDs: []uint32{1}}}}
	var got ANALog
	if err := got.Parse(b); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	same(t, "appended", want.AppendTo(nil), b)
	if want.Size() != len(b) {
		t.Errorf("Size %d, want %d", want.Size(), len(b))
	}

	two := ANALog{ChangeCount: 5, Groups: []ANAGroup{
		{ID: 1, ChangeCount: 3, State: ANAChange, NSIDs: []uint32{1, 2, 9}},
		{ID: 2, ChangeCount: 5, State: ANAStateInaccessible},
	}}
	b = two.AppendTo([]byte{})
	if err := got.Parse(append(b, 0xFF)); err != nil || !reflect.DeepEqual(got, two) || len(b) != two.Size() {
		t.Errorf("%+v, %v, want %+v", got, err, two)
	}
}

func TestANALogHostile(t *testing.T) {
	good := ANALog{Groups: []ANAGroup{{ID: 1, State: ANAOptimized, NSIDs: []uint32{1, 2}}}}.AppendTo(nil)
	for name, spoil := range map[string]func([]byte) []byte{
		"short header":     func(b []byte) []byte { return b[:15] },
		"short group":      func(b []byte) []byte { return b[:47] },
		"short NSIDs":      func(b []byte) []byte { return b[:len(b)-1] },
		"65,535 groups":    func(b []byte) []byte { b[8], b[9] = 0xFF, 0xFF; return b },
		"group 0":          func(b []byte) []byte { b[16] = 0; return b },
		"state 0":          func(b []byte) []byte { b[32] = 0; return b },
		"state 5":          func(b []byte) []byte { b[32] = 5; return b },
		"2^32-1 NSIDs":     func(b []byte) []byte { fillBytes(b[20:24], 0xFF); return b },
		"2^30 NSIDs":       func(b []byte) []byte { b[20], b[23] = 0, 0x40; return b },
		"one NSID too few": func(b []byte) []byte { b[20] = 3; return b },
	} {
		var a ANALog
		if err := a.Parse(spoil(slices.Clone(good))); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestANAState(t *testing.T) {
	for _, tt := range []struct {
		s      ANAState
		valid  bool
		usable bool
		status Status
	}{
		{ANAOptimized, true, true, Success}, {ANANonOptimized, true, true, Success},
		{ANAStateInaccessible, true, false, ANAInaccessible}, {ANAStatePersistentLoss, true, false, ANAPersistentLoss},
		{ANAChange, true, false, ANATransition}, {0, false, false, ANAInaccessible}, {16, false, false, ANAInaccessible},
	} {
		if tt.s.Valid() != tt.valid || tt.s.Usable() != tt.usable || tt.s.Status() != tt.status {
			t.Errorf("%v: valid %v usable %v status %v", tt.s, tt.s.Valid(), tt.s.Usable(), tt.s.Status())
		}
	}
}

func TestEffectsLogGolden(t *testing.T) {
	b := golden(t, "effects_log")
	var want EffectsLog
	for _, op := range []AdminOpcode{AdminGetLogPage, AdminIdentify, AdminAbort, AdminSetFeatures, AdminGetFeatures,
		AdminAsyncEventRequest, AdminKeepAlive} {
		want.ACS[op] = EffectCSUPP
	}
	for _, op := range []IOOpcode{IOFlush, IORead, IODatasetManagement} {
		want.IOCS[op] = EffectCSUPP
	}
	for _, op := range []IOOpcode{IOWrite, IOWriteZeroes} {
		want.IOCS[op] = EffectCSUPP | EffectLBCC
	}
	var got EffectsLog
	if err := got.Parse(b); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	same(t, "appended", want.AppendTo(nil), b)
}

func TestChangedNamespaces(t *testing.T) {
	b := AppendChangedNamespaces(nil, []uint32{3, 5})
	got, overflow, err := ParseChangedNamespaces(b)
	if err != nil || overflow || !slices.Equal(got, []uint32{3, 5}) || len(b) != NamespaceListSize {
		t.Errorf("%v %v, %v", got, overflow, err)
	}
	b = AppendChangedNamespaces(nil, make([]uint32, MaxNamespaceList+1))
	same(t, "overflow", b[:8], []byte{0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0})
	if got, overflow, err := ParseChangedNamespaces(b); err != nil || !overflow || got != nil {
		t.Errorf("%v %v, %v", got, overflow, err)
	}
	if _, _, err := ParseChangedNamespaces(b[1:]); err == nil {
		t.Error("4,095 bytes: no error")
	}
}

func TestErrorLogEntry(t *testing.T) {
	e := ErrorLogEntry{ErrorCount: 1, SQID: 2, CID: 3, Status: InvalidField.WithDNR(), Location: ParameterErrorLocation(OffCNS, 0),
		NSID: 4, TRTYPE: TransportRDMA, Opcode: uint8(AdminIdentify), Version: 1}
	b := e.AppendTo(nil)
	same(t, "status and location", b[12:16], []byte{0x04, 0x80, 40, 0})
	var got ErrorLogEntry
	if err := got.Parse(append(b, 0xFF)); err != nil || got != e {
		t.Errorf("%+v, %v, want %+v", got, err, e)
	}
	for _, tt := range []struct {
		off  int
		bit  uint8
		want uint16
	}{{0, 0, 0}, {63, 7, 0x73F}, {1, 6, 0x601}, {1, 8, 1}, {64, 0, NoParameterError}, {-1, 0, NoParameterError}, {256, 3, NoParameterError}} {
		got := ParameterErrorLocation(tt.off, tt.bit)
		if got != tt.want {
			t.Errorf("byte %d bit %d: %#x, want %#x", tt.off, tt.bit, got, tt.want)
		}
		if off, bit, ok := ErrorLocation(got); ok != (got != NoParameterError) || ok && (off != tt.off || bit != tt.bit&7) {
			t.Errorf("%#x: byte %d bit %d, %v", got, off, bit, ok)
		}
	}
}

func TestFirmwareSlotLog(t *testing.T) {
	f := FirmwareSlotLog{AFI: 1, FRS: [7]string{"1.0", "", "2.34567890"}}
	b := f.AppendTo(nil)
	if got := string(b[8:32]); got != "1.0     \x00\x00\x00\x00\x00\x00\x00\x002.345678" {
		t.Errorf("%q", got)
	}
	f.FRS[2] = "2.345678"
	var got FirmwareSlotLog
	if err := got.Parse(b); err != nil || got != f {
		t.Errorf("%+v, %v, want %+v", got, err, f)
	}
}

func TestAsyncEvent(t *testing.T) {
	for _, tt := range []struct {
		e    AsyncEvent
		dw0  uint32
		typ  AsyncEventType
		info uint8
		lid  LogPage
	}{
		{EventNamespaceChanged, 0x040002, AsyncNotice, AsyncNoticeNamespaceChanged, LogChangedNamespaces},
		{EventANAChange, 0x0C0302, AsyncNotice, AsyncNoticeANAChange, LogANA},
		{EventDiscoveryChange, 0x70F002, AsyncNotice, AsyncNoticeDiscoveryChange, LogDiscovery},
		{MakeAsyncEvent(AsyncError, AsyncErrorPersistentInternal, LogError), 0x010300, AsyncError, AsyncErrorPersistentInternal, LogError},
		{MakeAsyncEvent(AsyncVendor, 0xFF, 0xFF), 0xFFFF07, AsyncVendor, 0xFF, 0xFF},
	} {
		if uint32(tt.e) != tt.dw0 || tt.e.Type() != tt.typ || tt.e.Info() != tt.info || tt.e.LogPage() != tt.lid {
			t.Errorf("%#x, want %#x: %v", uint32(tt.e), tt.dw0, tt.e)
		}
	}
}

func FuzzDiscoveryLog(f *testing.F) {
	fuzzCodec[DiscoveryLog](f, golden(f, "discovery_log"))
}

func FuzzDiscoveryEntry(f *testing.F) {
	fuzzCodec[DiscoveryEntry](f, golden(f, "discovery_log")[1024:])
}

func FuzzDiscoveryHeader(f *testing.F) {
	f.Add(golden(f, "discovery_log"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var h DiscoveryHeader
		if h.Parse(b) == nil {
			same(t, "again", h.AppendTo(nil)[:18], b[:18])
		}
	})
}

func FuzzANALog(f *testing.F) {
	f.Add(golden(f, "ana_log"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var a, again ANALog
		if a.Parse(b) != nil {
			return
		}
		enc := a.AppendTo(nil)
		if len(enc) > len(b) || len(enc) != a.Size() {
			t.Fatalf("%d bytes became %d, Size %d", len(b), len(enc), a.Size())
		}
		if err := again.Parse(enc); err != nil || !reflect.DeepEqual(a, again) {
			t.Errorf("%+v, %v, want %+v", again, err, a)
		}
	})
}

func FuzzEffectsLog(f *testing.F) { fuzzCodec[EffectsLog](f, golden(f, "effects_log")) }

func FuzzErrorLogEntry(f *testing.F) {
	fuzzCodec[ErrorLogEntry](f, ErrorLogEntry{ErrorCount: 1, Status: InvalidField.WithDNR()}.AppendTo(nil))
}

func FuzzSMARTLog(f *testing.F) {
	fuzzCodec[SMARTLog](f, (&SMARTLog{Temperature: 300}).AppendTo(nil))
}

func FuzzFirmwareSlotLog(f *testing.F) {
	fuzzCodec[FirmwareSlotLog](f, FirmwareSlotLog{AFI: 1, FRS: [7]string{"1.0"}}.AppendTo(nil))
}

func FuzzDSMRanges(f *testing.F) {
	f.Add(DSMRange{1, 2, 3}.AppendTo(nil), uint8(0))
	f.Fuzz(func(t *testing.T, b []byte, nr uint8) {
		ranges, err := AppendDSMRanges(nil, b, nr)
		if err != nil {
			return
		}
		var enc []byte
		for _, r := range ranges {
			enc = r.AppendTo(enc)
		}
		same(t, "again", enc, b[:(int(nr)+1)*DSMRangeSize])
	})
}

func FuzzSupportedLogPages(f *testing.F) {
	fuzzCodec[SupportedLogPages](f, (&SupportedLogPages{LID: [256]LogPageSupport{5: LogSupported}}).AppendTo(nil))
}

func FuzzFeatureEffectsLog(f *testing.F) {
	fuzzCodec[FeatureEffectsLog](f, (&FeatureEffectsLog{FIS: [256]FeatureEffects{5: FeatureSupported | FeatureScopeNamespace}}).AppendTo(nil))
}

func FuzzMIEffectsLog(f *testing.F) {
	fuzzCodec[MIEffectsLog](f, (&MIEffectsLog{MICS: [256]CommandEffects{1: EffectCSUPP}}).AppendTo(nil))
}

func FuzzCopyRanges(f *testing.F) {
	f.Add(CopyRange{1, 2}.AppendTo(nil), uint8(0))
	f.Fuzz(func(t *testing.T, b []byte, nr uint8) {
		ranges, err := AppendCopyRanges(nil, b, nr)
		if err != nil {
			return
		}
		for i, r := range ranges {
			same(t, "again", r.AppendTo(nil)[8:18], b[i*CopyRangeSize+8:][:10])
		}
	})
}
