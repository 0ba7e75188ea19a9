package nvme

import (
	"reflect"
	"slices"
	"testing"
)

func TestIdentifyControllerGolden(t *testing.T) {
	b := golden(t, "identify_controller")
	want := IdentifyController{
		SN: "fcc544910f0c08184139", MN: "Linux", FR: "6.12.117", RAB: 6,
		CMIC:   CMICMultiPort | CMICMultiController | CMICANA,
		CNTLID: 1, VER: Version1_3, OAES: AsyncConfigNamespace | AsyncConfigANA,
		CTRATT: CTRATTHostID128 | CTRATTTBKAS, CNTRLTYPE: ControllerIO,
		ACL: 3, AERL: 3, FRMW: 3, LPA: LPASmartPerNamespace | LPAEffects | LPAExtendedData, ELPE: 127,
		KAS: 10, ANATT: 10,
		ANACAP:    ANACAPOptimized | ANACAPNonOptimized | ANACAPInaccessible | ANACAPPersistentLoss | ANACAPChange,
		ANAGRPMAX: 128, NANAGRPID: 128,
		SQES: SQES64, CQES: CQES16, MAXCMD: 1024, NN: 1024, ONCS: ONCSDSM | ONCSWriteZeroes,
		VWC: VWCPresent, NWPC: 1, SGLS: SGLSSupported | SGLSOffset, MNAN: 1024,
		SUBNQN: "nqn.2024-01.lab:sub1", IOCCSZ: (CommandSize + 16384) / 16, IORCSZ: 1, MSDBD: 1,
	}
	want.PSD[0] = PowerState{MP: 2500, ENLAT: 16, EXLAT: 4}
	var got IdentifyController
	if err := got.Parse(b); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	same(t, "appended", want.AppendTo(nil), b)
}

func TestIdentifyDiscoveryControllerGolden(t *testing.T) {
	b := golden(t, "identify_controller_discovery")
	want := IdentifyController{
		SN: "1dd900525d4474341751", MN: "Linux", FR: "6.12.117", CNTLID: 1, VER: Version1_3,
		OAES: AsyncConfigDiscoveryLogPage, CNTRLTYPE: ControllerDiscovery, LPA: LPAExtendedData,
		MAXCMD: 1024, SGLS: SGLSSupported | SGLSOffset, SUBNQN: DiscoveryNQN,
	}
	var got IdentifyController
	if err := got.Parse(b); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	same(t, "appended", want.AppendTo(nil), b)
}

// TestIdentifyStrings: what is too long is cut, what is short is padded as its
// field wants it.
func TestIdentifyStrings(t *testing.T) {
	long := string(make([]byte, 300))
	c := IdentifyController{SN: "123456789012345678901234", MN: "m", FR: "", SUBNQN: "x" + long}
	b := c.AppendTo(nil)
	if got := string(b[4:26]); got != "12345678901234567890m " {
		t.Errorf("SN, MN: %q", got)
	}
	if got := string(b[64:72]); got != "        " {
		t.Errorf("FR: %q", got)
	}
	if b[72] != 0 || b[1023] != 0 {
		t.Error("a string left its field")
	}
	fillBytes(b[768:1024], 'y') // a peer's NQN without an end
	if err := c.Parse(b); err != nil || len(c.SUBNQN) != NQNFieldSize || c.SN != "12345678901234567890" || c.FR != "" {
		t.Errorf("%q %q %q, %v", c.SUBNQN, c.SN, c.FR, err)
	}
}

func TestIdentifyNamespaceGolden(t *testing.T) {
	b := golden(t, "identify_namespace")
	want := IdentifyNamespace{
		NSZE: 0x40000, NCAP: 0x40000, NUSE: 0x40000, NSFEAT: NSFEATNABSPF | NSFEATOPTPERF, NMIC: NMICShared,
		NAWUN: 7, NAWUPF: 7, NACWU: 7, NPWG: 7, NPWA: 7, NPDG: 7, NPDA: 7, ANAGRPID: 1,
	}
	want.LBAF[0] = LBAFormat{LBADS: 9}
	var got IdentifyNamespace
	if err := got.Parse(b); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	if got.Format().BlockSize() != 512 {
		t.Errorf("format %+v", got.Format())
	}
	same(t, "appended", want.AppendTo(nil), b)
}

func TestFormatIndex(t *testing.T) {
	for _, tt := range []struct {
		nlbaf, flbas uint8
		want         int
	}{
		{0, 0, 0}, {15, 0x0F, 15}, {15, 0x6F, 15}, {16, 0x20, 16}, {63, 0x6F, 63}, {63, 0x9F, 15}, {255, 0xFF, 63},
	} {
		n := IdentifyNamespace{NLBAF: tt.nlbaf, FLBAS: tt.flbas}
		if got := n.FormatIndex(); got != tt.want {
			t.Errorf("NLBAF %d FLBAS %#x: %d, want %d", tt.nlbaf, tt.flbas, got, tt.want)
		}
	}
	for ds, want := range map[uint8]uint64{0: 0, 8: 0, 9: 512, 12: 4096, 63: 1 << 63, 64: 0, 255: 0} {
		if got := (LBAFormat{LBADS: ds}).BlockSize(); got != want {
			t.Errorf("LBADS %d: %d, want %d", ds, got, want)
		}
	}
}

func TestNamespaceDescriptors(t *testing.T) {
	b := golden(t, "namespace_descriptors")
	u, err := ParseUUID("e7b10137-8f1c-417d-b694-b6564c434294")
	if err != nil {
		t.Fatal(err)
	}
	want := NamespaceDescriptors{UUID: u, CSI: CSINVM, HasCSI: true}
	var got NamespaceDescriptors
	if err := got.Parse(b); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	same(t, "appended", want.AppendTo(nil), b)

	all := NamespaceDescriptors{EUI64: EUI64{1}, NGUID: NGUID{2}, UUID: UUID{3}, CSI: CSIZNS, HasCSI: true}
	b = all.AppendTo(nil)
	if err := got.Parse(b); err != nil || got != all || len(b) != IdentifySize {
		t.Errorf("%+v, %v", got, err)
	}
	if err := got.Parse(make([]byte, IdentifySize)); err != nil || got != (NamespaceDescriptors{}) {
		t.Errorf("empty list: %+v, %v", got, err)
	}
}

func TestNamespaceDescriptorsHostile(t *testing.T) {
	list := func(d ...byte) []byte {
		b := make([]byte, IdentifySize)
		copy(b, d)
		return b
	}
	unknown := list(9, 2, 0, 0, 0xAA, 0xBB, 4, 1, 0, 0, 2)
	var d NamespaceDescriptors
	if err := d.Parse(unknown); err != nil || !d.HasCSI || d.CSI != CSIZNS {
		t.Errorf("unknown type: %+v, %v", d, err)
	}
	for _, b := range [][]byte{list(1, 16), list(2, 8), list(3, 15), list(4, 2), list(4, 255)} {
		if err := d.Parse(b); err == nil {
			t.Errorf("NIDT %d NIDL %d: no error", b[0], b[1])
		}
	}
	// Unknown descriptors up to the end, the last one over it.
	b := make([]byte, IdentifySize)
	for at := 0; at < len(b); at += 4 + 252 {
		b[at], b[at+1] = 9, 252
	}
	if err := d.Parse(b); err != nil {
		t.Errorf("full page: %v", err)
	}
	b[IdentifySize-256+1] = 253
	if err := d.Parse(b); err == nil {
		t.Error("descriptor over the end: no error")
	}
}

func TestNamespaceList(t *testing.T) {
	b := golden(t, "active_namespaces")
	got, err := ParseNamespaceList(b)
	if err != nil || !slices.Equal(got, []uint32{1}) {
		t.Errorf("%v, %v", got, err)
	}
	same(t, "appended", AppendNamespaceList(nil, got), b)

	full := make([]uint32, MaxNamespaceList+1)
	for i := range full {
		full[i] = uint32(i) + 1
	}
	b = AppendNamespaceList(nil, full)
	if got, err := ParseNamespaceList(b); err != nil || !slices.Equal(got, full[:MaxNamespaceList]) {
		t.Errorf("full list: %d, %v", len(got), err)
	}
	for _, bad := range [][]uint32{{2, 1}, {1, 1}} {
		if _, err := ParseNamespaceList(AppendNamespaceList(nil, bad)); err == nil {
			t.Errorf("%v: no error", bad)
		}
	}
}

func TestControllerList(t *testing.T) {
	ids := make([]uint16, MaxControllerList+1)
	for i := range ids {
		ids[i] = uint16(i) + 1
	}
	for _, n := range []int{0, 1, MaxControllerList, MaxControllerList + 1} {
		b := AppendControllerList(nil, ids[:n])
		got, err := ParseControllerList(b)
		if err != nil || !slices.Equal(got, ids[:min(n, MaxControllerList)]) || len(b) != IdentifySize {
			t.Errorf("%d: %d, %v", n, len(got), err)
		}
	}
	b := AppendControllerList(nil, nil)
	b[0], b[1] = 0x00, 0x08 // 2048
	if _, err := ParseControllerList(b); err == nil {
		t.Error("2048 identifiers: no error")
	}
}

// fuzzCodec checks a decoder whose encoding keeps all it decoded.
func fuzzCodec[T any, P interface {
	*T
	codec
}](f *testing.F, seeds ...[]byte) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var v, again T
		if err := P(&v).Parse(b); err != nil {
			return
		}
		enc := P(&v).AppendTo(nil)
		if err := P(&again).Parse(enc); err != nil {
			t.Fatalf("own encoding: %v", err)
		}
		// What was decoded may lack a NUL or have spaces before one; after
		// one round it is canonical.
		same(t, "second encoding", P(&again).AppendTo(nil), enc)
		if len(enc) > len(b) {
			t.Errorf("%d bytes became %d", len(b), len(enc))
		}
		if !reflect.DeepEqual(v, again) && !hasLongString(reflect.ValueOf(v)) {
			t.Errorf("%+v, want %+v", again, v)
		}
	})
}

// hasLongString reports whether v has a name that fills its field, of which
// encoding gives up the last byte for the NUL.
func hasLongString(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.String:
		return v.Len() == NQNFieldSize
	case reflect.Slice:
		for i := range v.Len() {
			if hasLongString(v.Index(i)) {
				return true
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if hasLongString(v.Field(i)) {
				return true
			}
		}
	}
	return false
}

func FuzzIdentifyController(f *testing.F) {
	fuzzCodec[IdentifyController](f, golden(f, "identify_controller"), golden(f, "identify_controller_discovery"))
}

func FuzzIdentifyControllerNVM(f *testing.F) {
	fuzzCodec[IdentifyControllerNVM](f, (&IdentifyControllerNVM{VSL: 1, DMSL: 2}).AppendTo(nil))
}

func FuzzIdentifyNamespace(f *testing.F) {
	fuzzCodec[IdentifyNamespace](f, golden(f, "identify_namespace"))
}

func FuzzIdentifyNamespaceIndependent(f *testing.F) {
	fuzzCodec[IdentifyNamespaceIndependent](f, (&IdentifyNamespaceIndependent{ANAGRPID: 1, NSTAT: NSTATReady}).AppendTo(nil))
}

func FuzzIdentifyNamespaceNVM(f *testing.F) {
	fuzzCodec[IdentifyNamespaceNVM](f, (&IdentifyNamespaceNVM{LBSTM: 1, PIC: 2}).AppendTo(nil))
}

func FuzzNamespaceDescriptors(f *testing.F) {
	fuzzCodec[NamespaceDescriptors](f, golden(f, "namespace_descriptors"))
}

func FuzzLists(f *testing.F) {
	f.Add(golden(f, "active_namespaces"))
	f.Add(AppendControllerList(nil, []uint16{1, 2, 3}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if nsids, err := ParseNamespaceList(b); err == nil {
			same(t, "NSIDs", AppendNamespaceList(nil, nsids)[:4*len(nsids)], b[:4*len(nsids)])
		}
		if ids, err := ParseControllerList(b); err == nil {
			same(t, "CNTLIDs", AppendControllerList(nil, ids)[:2+2*len(ids)], b[:2+2*len(ids)])
		}
		if nsids, overflow, err := ParseChangedNamespaces(b); err == nil && overflow && nsids != nil {
			t.Errorf("overflow and %d NSIDs", len(nsids))
		}
	})
}
