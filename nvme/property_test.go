package nvme

import "testing"

func TestCAP(t *testing.T) {
	// What a Linux 6.12 RDMA target says.
	want := CAP(0x000008200F00007F)
	got := CAP(0).WithMQES(127).WithTO(15).WithCSS(CAPCSSNVM | CAPCSSIOCS)
	if got != want {
		t.Errorf("%#x, want %#x", uint64(got), uint64(want))
	}
	if want.MQES() != 127 || want.TO() != 15 || want.CSS() != 0x41 || want.CQR() || want.MPSMIN() != 0 || want.MPSMAX() != 0 || want.CRIMS() || want.CRWMS() || want.NSSRS() {
		t.Errorf("%#x decoded wrongly", uint64(want))
	}
	for _, tt := range []struct {
		got  CAP
		want uint64
	}{
		{CAP(0).WithMQES(0xFFFF), 0xFFFF},
		{CAP(0).WithCQR(true), 1 << 16},
		{CAP(0).WithTO(0xFF), 0xFF << 24},
		{CAP(0).WithNSSRS(true), 1 << 36},
		{CAP(0).WithCSS(0xFF), 0xFF << 37},
		{CAP(0).WithMPSMIN(0xFF), 0xF << 48},
		{CAP(0).WithMPSMAX(0xF), 0xF << 52},
		{CAP(0).WithCRWMS(true), 1 << 59},
		{CAP(0).WithCRIMS(true), 1 << 60},
		{(^CAP(0)).WithCRIMS(false).WithMQES(0), ^uint64(1<<60 | 0xFFFF)},
	} {
		if uint64(tt.got) != tt.want {
			t.Errorf("%#x, want %#x", uint64(tt.got), tt.want)
		}
	}
	all := ^CAP(0)
	if all.MQES() != 0xFFFF || !all.CQR() || all.AMS() != 3 || all.TO() != 0xFF || all.DSTRD() != 0xF || !all.NSSRS() || all.CSS() != 0xFF ||
		all.MPSMIN() != 0xF || all.MPSMAX() != 0xF || !all.CMBS() || !all.CRWMS() || !all.CRIMS() {
		t.Error("widths of CAP")
	}
	if !CAP(1<<57).CMBS() || CAP(1<<17).AMS() != 1 || CAP(1<<32).DSTRD() != 1 {
		t.Error("places of CAP")
	}
}

func TestCC(t *testing.T) {
	// What a Linux host writes: configure, enable, shut down.
	cc := CC(0).WithIOCQES(IOCQES16).WithIOSQES(IOSQES64).WithCSS(CCCSSIOCS)
	if cc != 0x00460060 || cc.WithEN(true) != 0x00460061 || cc.WithEN(true).WithSHN(SHNNormal) != 0x00464061 {
		t.Errorf("%#x", uint32(cc))
	}
	cc = 0x00464061
	if !cc.EN() || cc.CSS() != CCCSSIOCS || cc.MPS() != 0 || cc.AMS() != 0 || cc.SHN() != SHNNormal || cc.IOSQES() != 6 || cc.IOCQES() != 4 || cc.CRIME() {
		t.Errorf("%#x decoded wrongly", uint32(cc))
	}
	if CC(0).WithMPS(0xF) != 0xF<<7 || CC(0).WithAMS(7) != 7<<11 || CC(0).WithSHN(3) != 3<<14 || CC(0).WithCRIME(true) != 1<<24 {
		t.Error("places of CC")
	}
	if all := ^CC(0); all.MPS() != 0xF || all.AMS() != 7 || all.CSS() != 7 || all.SHN() != 3 || all.IOSQES() != 0xF || all.IOCQES() != 0xF || !all.CRIME() {
		t.Error("widths of CC")
	}
	if (^CC(0)).WithCSS(0) != ^CC(7<<4) {
		t.Error("WithCSS keeps old bits")
	}
}

func TestCSTS(t *testing.T) {
	if c := CSTS(0).WithRDY(true); c != 1 || !c.RDY() || c.CFS() || c.WithRDY(false) != 0 {
		t.Errorf("RDY: %#x", uint32(c))
	}
	if c := CSTS(0).WithCFS(true); c != 2 || !c.CFS() {
		t.Errorf("CFS: %#x", uint32(c))
	}
	if c := CSTS(0).WithSHST(SHSTComplete); c != 8 || c.SHST() != SHSTComplete || c.RDY() {
		t.Errorf("SHST: %#x", uint32(c))
	}
	if c := CSTS(0).WithNSSRO(true).WithPP(true); c != 0x30 || !c.NSSRO() || !c.PP() {
		t.Errorf("NSSRO, PP: %#x", uint32(c))
	}
}

func TestVSAndCRTO(t *testing.T) {
	v := MakeVS(2, 1, 3)
	if v != 0x00020103 || v.Major() != 2 || v.Minor() != 1 || v.Tertiary() != 3 || v.String() != "2.1.3" {
		t.Errorf("%#x", uint32(v))
	}
	if MakeVS(1, 3, 0) != Version1_3 || MakeVS(1, 4, 0) != Version1_4 || MakeVS(2, 0, 0) != Version2_0 || MakeVS(2, 1, 0) != Version2_1 {
		t.Error("versions")
	}
	c := MakeCRTO(0x1122, 0x3344)
	if c != 0x33441122 || c.CRWMT() != 0x1122 || c.CRIMT() != 0x3344 {
		t.Errorf("%#x", uint32(c))
	}
}

func TestPropertySize(t *testing.T) {
	for p, want := range map[Property]int{PropertyCAP: 8, PropertyVS: 4, PropertyCC: 4, PropertyCSTS: 4, PropertyNSSR: 4, PropertyCRTO: 4, 0x30: 0} {
		if got := p.Size(); got != want {
			t.Errorf("%v: %d bytes, want %d", p, got, want)
		}
	}
	for attrib, want := range map[uint8]int{0: 4, 1: 8, 2: 0, 7: 0, 8: 4} {
		if got := (PropertyCommand{Attrib: attrib}).Size(); got != want {
			t.Errorf("ATTRIB %d: %d bytes, want %d", attrib, got, want)
		}
	}
}
