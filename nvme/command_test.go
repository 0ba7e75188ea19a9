package nvme

import (
	"testing"
)

// goldenCommand reads a captured submission queue entry.
func goldenCommand(t testing.TB, name string) Command {
	t.Helper()
	c, err := ParseCommand(golden(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestCommandGolden decodes what a Linux host sent and builds the same again.
func TestCommandGolden(t *testing.T) {
	transport := func(n uint32) SGL { return SGL{Type: SGLTransport, Length: n} }
	inCapsule := SGL{Type: SGLOffset, Length: ConnectDataSize}
	for _, tt := range []struct {
		name  string
		sgl   SGL
		build func(Command)
		got   func(Command) any
		want  any
	}{
		{"sqe_connect_admin", inCapsule,
			func(c Command) { c.PutConnect(ConnectCommand{SQSize: 31, KATO: 2000}) },
			func(c Command) any { return c.Connect() },
			ConnectCommand{SQSize: 31, KATO: 2000}},
		{"sqe_connect_io", inCapsule,
			func(c Command) { c.PutConnect(ConnectCommand{QID: 2, SQSize: 127}) },
			func(c Command) any { return c.Connect() },
			ConnectCommand{QID: 2, SQSize: 127}},
		{"sqe_connect_rdma", SGL{SGLKeyedInvalidate, 0xFF110000084B1800, ConnectDataSize, 0x3BF},
			func(c Command) { c.PutConnect(ConnectCommand{SQSize: 31}) },
			func(c Command) any { return c.Connect() },
			ConnectCommand{SQSize: 31}},
		{"sqe_property_get_cap", transport(0),
			func(c Command) { c.PutPropertyGet(PropertyCAP) },
			func(c Command) any { return c.Property() },
			PropertyCommand{Attrib: Attrib8Bytes, Offset: PropertyCAP}},
		{"sqe_property_get_vs", transport(0),
			func(c Command) { c.PutPropertyGet(PropertyVS) },
			func(c Command) any { return c.Property() },
			PropertyCommand{Attrib: Attrib4Bytes, Offset: PropertyVS}},
		{"sqe_property_set_cc", transport(0),
			func(c Command) { c.PutPropertySet(PropertyCC, 0x460061) },
			func(c Command) any { return c.Property() },
			PropertyCommand{Attrib: Attrib4Bytes, Offset: PropertyCC, Value: 0x460061}},
		{"sqe_identify_controller", transport(IdentifySize),
			func(c Command) { c.PutIdentify(IdentifyCommand{CNS: CNSController}) },
			func(c Command) any { return c.Identify() },
			IdentifyCommand{CNS: CNSController}},
		{"sqe_get_log_discovery", transport(1024),
			func(c Command) { c.PutGetLogPage(GetLogPageCommand{LID: LogDiscovery, RAE: true, NUMD: 255}) },
			func(c Command) any { return c.GetLogPage() },
			GetLogPageCommand{LID: LogDiscovery, RAE: true, NUMD: 255}},
		{"sqe_get_log_ana", transport(8208),
			func(c Command) { c.PutGetLogPage(GetLogPageCommand{NSID: NSIDBroadcast, LID: LogANA, NUMD: 2051}) },
			func(c Command) any { return c.GetLogPage() },
			GetLogPageCommand{NSID: NSIDBroadcast, LID: LogANA, NUMD: 2051}},
		{"sqe_set_features_queues", transport(0),
			func(c Command) {
				c.PutSetFeatures(FeaturesCommand{FID: FeatureNumberOfQueues, CDW11: uint32(MakeNumberOfQueues(1))})
			},
			func(c Command) any { return c.Features() },
			FeaturesCommand{FID: FeatureNumberOfQueues, CDW11: 0x00010001}},
		{"sqe_set_features_aen", transport(0),
			func(c Command) {
				c.PutSetFeatures(FeaturesCommand{FID: FeatureAsyncEventConfig, CDW11: uint32(AsyncConfigNamespace | AsyncConfigANA)})
			},
			func(c Command) any { return c.Features() },
			FeaturesCommand{FID: FeatureAsyncEventConfig, CDW11: 0x900}},
		{"sqe_read", transport(4096),
			func(c Command) { c.PutIO(IORead, 1, 8, 7, 0) },
			func(c Command) any { return [...]uint64{uint64(c.NSID()), c.SLBA(), uint64(c.Blocks())} },
			[...]uint64{1, 8, 8}},
		{"sqe_async_event_request", transport(0), Command.PutAsyncEventRequest,
			func(c Command) any { return AdminOpcode(c.Opcode()) }, AdminAsyncEventRequest},
		{"sqe_keep_alive", transport(0), Command.PutKeepAlive,
			func(c Command) any { return AdminOpcode(c.Opcode()) }, AdminKeepAlive},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := goldenCommand(t, tt.name)
			if got := tt.got(c); got != tt.want {
				t.Errorf("fields %+v, want %+v", got, tt.want)
			}
			if got := c.SGL(); got != tt.sgl {
				t.Errorf("SGL %+v, want %+v", got, tt.sgl)
			}
			if c.PSDT() != PSDTSGL || c.FUSE() != 0 {
				t.Errorf("flags %#x", c.Flags())
			}
			b := NewCommand()
			tt.build(b)
			b.SetCID(c.CID())
			b.SetSGL(tt.sgl)
			same(t, "built", b, c)
		})
	}
}

// TestCommandFields sets each field to ones and to its own bytes: every
// accessor reads exactly the bits that its setter wrote.
func TestCommandFields(t *testing.T) {
	c := NewCommand()
	c.SetOpcode(0xA5)
	c.SetFlags(FlagsPSDT | FlagsFUSE)
	c.SetCID(0x1234)
	c.SetNSID(0x89ABCDEF)
	if c.Opcode() != 0xA5 || c.PSDT() != FlagsPSDT || c.FUSE() != FlagsFUSE || c.CID() != 0x1234 || c.NSID() != 0x89ABCDEF {
		t.Errorf("common fields: % x", []byte(c[:8]))
	}
	same(t, "dword 0 and 1", c[:8], []byte{0xA5, 0xC3, 0x34, 0x12, 0xEF, 0xCD, 0xAB, 0x89})
	for n := range 16 {
		c.SetCDW(n, 0x01020304*uint32(n+1))
	}
	for n := range 16 {
		if got, want := c.CDW(n), 0x01020304*uint32(n+1); got != want {
			t.Errorf("CDW%d = %#x, want %#x", n, got, want)
		}
	}
	if got, want := c.MPTR(), uint64(c.CDW(5))<<32|uint64(c.CDW(4)); got != want {
		t.Errorf("MPTR %#x, want %#x", got, want)
	}
}

func TestReadWriteFields(t *testing.T) {
	c := NewCommand()
	c.PutIO(IOWriteZeroes, 7, 0x0123456789ABCDEF, 0xFFFF, ControlFUA|ControlDEAC|5<<10)
	if !c.FUA() || c.LR() || !c.DEAC() || c.PRINFO() != 5 {
		t.Errorf("control %#x: FUA %v LR %v DEAC %v PRINFO %d", c.Control(), c.FUA(), c.LR(), c.DEAC(), c.PRINFO())
	}
	if c.SLBA() != 0x0123456789ABCDEF || c.NLB() != 0xFFFF || c.Blocks() != 65536 || c.NSID() != 7 {
		t.Errorf("SLBA %#x NLB %#x blocks %d NSID %d", c.SLBA(), c.NLB(), c.Blocks(), c.NSID())
	}
	same(t, "CDW10 to 12", c[40:52], []byte{0xEF, 0xCD, 0xAB, 0x89, 0x67, 0x45, 0x23, 0x01, 0xFF, 0xFF, 0x00, 0x56})
	c.SetCDW(13, 0x11)
	if c.DSMGMT() != 0x11 {
		t.Errorf("DSMGMT %#x", c.DSMGMT())
	}
	c.PutIO(IORead, 7, 0, 0, ControlLR)
	if !c.LR() || c.FUA() || c.DSMGMT() != 0 {
		t.Errorf("a second Put left something behind: % x", []byte(c))
	}
}

func TestGetLogPageLength(t *testing.T) {
	for _, tt := range []struct{ ask, get uint64 }{
		{0, 4}, {3, 4}, {4, 4}, {7, 4}, {8, 8}, {4096, 4096}, {1 << 34, 1 << 34}, {1<<34 + 4, 1 << 34},
	} {
		var g GetLogPageCommand
		g.SetLength(tt.ask)
		if got := g.Length(); got != tt.get {
			t.Errorf("SetLength(%d): Length %d, want %d", tt.ask, got, tt.get)
		}
	}
	want := GetLogPageCommand{NSID: 9, LID: LogANA, LSP: 0x7F, NUMD: 0xFFFFFFFF, LSI: 0xABCD,
		LPO: 0x0123456789ABCDEC, OT: true, CSI: CSIZNS}
	c := NewCommand()
	c.PutGetLogPage(want)
	if got := c.GetLogPage(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	want.LSP = 0xFF // the eighth bit is RAE's
	c.PutGetLogPage(want)
	if got := c.GetLogPage(); got.LSP != 0x7F || got.RAE {
		t.Errorf("LSP %#x, RAE %v", got.LSP, got.RAE)
	}
}

func TestFeatures(t *testing.T) {
	c := NewCommand()
	set := FeaturesCommand{NSID: 3, FID: FeatureWriteProtect, SV: true, CDW11: 1, CDW12: 2}
	c.PutSetFeatures(set)
	if got := c.Features(); got != set || c.FID() != FeatureWriteProtect || c[OffFeatureSV] != 0x80 {
		t.Errorf("Set Features: %+v", got)
	}
	get := FeaturesCommand{FID: FeatureKeepAliveTimer, SEL: SELCapabilities}
	c.PutGetFeatures(get)
	if got := c.Features(); got != get || c[OffFeatureSEL] != SELCapabilities {
		t.Errorf("Get Features: %+v", got)
	}
	if n := NumberOfQueues(0x0003_0007); n.SQ() != 7 || n.CQ() != 3 || n.Pairs() != 4 {
		t.Errorf("NumberOfQueues: SQ %d CQ %d pairs %d", n.SQ(), n.CQ(), n.Pairs())
	}
}

func TestAbort(t *testing.T) {
	c := NewCommand()
	c.PutAbort(2, 0x1FFF)
	if sqid, cid := c.Abort(); sqid != 2 || cid != 0x1FFF {
		t.Errorf("SQID %d CID %#x", sqid, cid)
	}
}

func TestDSM(t *testing.T) {
	c := NewCommand()
	c.PutDSM(1, 1, DSMAD)
	if nr, attr := c.DSM(); nr != 1 || attr != DSMAD || IOOpcode(c.Opcode()) != IODatasetManagement {
		t.Errorf("NR %d attributes %#x", nr, attr)
	}
	want := []DSMRange{{1, 8, 0x100}, {0, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF}}
	var b []byte
	for _, r := range want {
		b = r.AppendTo(b)
	}
	got, err := AppendDSMRanges(nil, b, 1)
	if err != nil || len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := AppendDSMRanges(nil, b, 2); err == nil {
		t.Error("three ranges in the bytes of two")
	}
}

func TestCopy(t *testing.T) {
	c := NewCommand()
	for _, want := range []CopyCommand{
		{NSID: 3, SDLBA: 1<<64 - 1, NR: 255, DESFMT: 15, FUA: true, LR: true},
		{NSID: 1, SDLBA: 8, NR: 1},
	} {
		c.PutCopy(want)
		if got := c.Copy(); got != want || IOOpcode(c.Opcode()) != IOCopy || c.Direction() != HostToController {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	want := []CopyRange{{1 << 40, 0xFFFF}, {7, 0}}
	var b []byte
	for _, r := range want {
		b = r.AppendTo(b)
	}
	got, err := AppendCopyRanges(nil, b, 1)
	if err != nil || len(got) != 2 || got[0] != want[0] || got[1] != want[1] || got[0].Blocks() != 1<<16 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := AppendCopyRanges(nil, b, 2); err == nil {
		t.Error("three ranges in the bytes of two")
	}
}

func TestDirection(t *testing.T) {
	for _, tt := range []struct {
		put  func(Command)
		want Direction
	}{
		{func(c Command) { c.PutIO(IORead, 1, 0, 0, 0) }, ControllerToHost},
		{func(c Command) { c.PutIO(IOWrite, 1, 0, 0, 0) }, HostToController},
		{func(c Command) { c.PutFlush(1) }, NoData},
		{func(c Command) { c.PutConnect(ConnectCommand{}) }, HostToController},
		{Command.PutDisconnect, NoData},
		{func(c Command) { c.PutIdentify(IdentifyCommand{}) }, ControllerToHost},
	} {
		c := NewCommand()
		tt.put(c)
		if got := c.Direction(); got != tt.want {
			t.Errorf("%v: %v, want %v", c, got, tt.want)
		}
	}
}

func TestCommandNames(t *testing.T) {
	for _, tt := range []struct {
		got  interface{ String() string }
		want string
	}{
		{AdminIdentify, "Identify"}, {AdminOpcode(0xC0), "admin opcode 0xc0"}, {AdminOpcode(3), "admin opcode 0x03"},
		{IODatasetManagement, "Dataset Management"}, {IOOpcode(0xFF), "I/O opcode 0xff"},
		{FabricsConnect, "Connect"}, {FabricsType(9), "fabrics command type 0x09"},
		{CNSController, "Identify Controller"}, {LogANA, "Asymmetric Namespace Access"},
		{FeatureNumberOfQueues, "Number of Queues"}, {CSIZNS, "ZNS"}, {AsyncNotice, "Notice"},
		{AsyncEventType(5), "asynchronous event type 0x05"}, {PropertyCSTS, "CSTS"}, {Property(0x30), "property 0x30"},
		{TransportLoop, "loop"}, {TransportRDMA, "rdma"}, {AddressIPv6, "ipv6"}, {SubsystemNVM, "nvme subsystem"},
		{ANAChange, "change"}, {ControllerDiscovery, "discovery"}, {Version1_3, "1.3.0"}, {ControllerToHost, "controller to host"},
		{EventANAChange, "Notice 0x03, log page Asymmetric Namespace Access"},
	} {
		if got := tt.got.String(); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
	if got := goldenCommand(t, "sqe_connect_io").String(); got != "Connect" {
		t.Errorf("command: %q", got)
	}
}

func TestParseCommandCutsCapacity(t *testing.T) {
	b := make([]byte, 4096)
	c, err := ParseCommand(b)
	if err != nil || len(c) != CommandSize || cap(c) != CommandSize {
		t.Errorf("length %d capacity %d, %v", len(c), cap(c), err)
	}
	if _, err := ParseCommand(b[:CommandSize-1]); err == nil || err.Error() != "nvme: command: 63 bytes, need 64" {
		t.Errorf("short command: %v", err)
	}
}

// The hot path may not allocate.
func TestHotPathDoesNotAllocate(t *testing.T) {
	b := make([]byte, 4096)
	out := make([]byte, 0, 64)
	ranges := make([]DSMRange, 0, MaxDSMRanges)
	var sum uint64
	n := testing.AllocsPerRun(100, func() {
		c, err := ParseCommand(b)
		if err != nil {
			t.Fatal(err)
		}
		s := c.SGL()
		sum += uint64(c.Opcode()) + uint64(c.CID()) + uint64(c.NSID()) + uint64(c.CDW(10)) + c.SLBA() +
			uint64(c.Blocks()) + s.Address + uint64(s.Length) + uint64(s.Key) + uint64(c.Direction())
		if c.FUA() || c.LR() || c.DEAC() || c.IsFabrics() {
			sum++
		}
		sum += c.Connect().value() + uint64(c.GetLogPage().NUMD) + uint64(c.Features().CDW11) + uint64(c.Identify().CNS)
		cqe := Completion{Result: sum, SQHD: 1, CID: c.CID(), Status: InvalidField.WithDNR()}
		cqe.Put(b[2048:])
		out = cqe.AppendTo(out[:0])
		if err := cqe.Parse(out); err != nil {
			t.Fatal(err)
		}
		h := MakeCommand(b[1024:])
		h.PutIO(IORead, 1, sum, 7, 0)
		h.SetSGL(SGL{Type: SGLKeyed, Address: sum, Length: 4096, Key: 1})
		if ranges, err = AppendDSMRanges(ranges[:0], b, 3); err != nil {
			t.Fatal(err)
		}
		if cqe.Status.DNR() && StatusOf(nil) == Success && !cqe.Status.OK() {
			sum++
		}
	})
	if n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func (c ConnectCommand) value() uint64 { return uint64(c.QID) + uint64(c.SQSize) + uint64(c.KATO) }

func BenchmarkCommand(b *testing.B) {
	b.ReportAllocs()
	buf := golden(b, "sqe_read")
	var sum uint64
	for b.Loop() {
		c, err := ParseCommand(buf)
		if err != nil {
			b.Fatal(err)
		}
		sum += c.SLBA() + uint64(c.Blocks()) + c.SGL().Address
	}
	_ = sum
}

func FuzzCommand(f *testing.F) {
	for _, name := range []string{"sqe_connect_rdma", "sqe_property_set_cc", "sqe_get_log_ana", "sqe_set_features_queues", "sqe_read", "sqe_identify_controller"} {
		f.Add(golden(f, name))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCommand(b)
		if err != nil {
			if len(b) >= CommandSize {
				t.Fatalf("%d bytes: %v", len(b), err)
			}
			return
		}
		_ = c.String()
		_ = c.Direction()
		_, _ = c.DSM()
		_, _ = c.Abort()
		_ = c.Property().Size()

		// What was read from a command, put into another, reads the same.
		d := NewCommand()
		d.SetSGL(c.SGL())
		if d.SGL() != c.SGL() {
			t.Errorf("SGL %v, want %v", d.SGL(), c.SGL())
		}
		if d.PutConnect(c.Connect()); d.Connect() != c.Connect() {
			t.Errorf("Connect %+v, want %+v", d.Connect(), c.Connect())
		}
		if d.PutIdentify(c.Identify()); d.Identify() != c.Identify() {
			t.Errorf("Identify %+v, want %+v", d.Identify(), c.Identify())
		}
		if d.PutGetLogPage(c.GetLogPage()); d.GetLogPage() != c.GetLogPage() {
			t.Errorf("Get Log Page %+v, want %+v", d.GetLogPage(), c.GetLogPage())
		}
		set, get := c.Features(), c.Features()
		set.SEL, get.SV = 0, false
		if d.PutSetFeatures(set); d.Features() != set {
			t.Errorf("Set Features %+v, want %+v", d.Features(), set)
		}
		if d.PutGetFeatures(get); d.Features() != get {
			t.Errorf("Get Features %+v, want %+v", d.Features(), get)
		}
		d.PutIO(IOWrite, c.NSID(), c.SLBA(), c.NLB(), c.Control())
		if d.SLBA() != c.SLBA() || d.Blocks() != c.Blocks() || d.Control() != c.Control() || d.NSID() != c.NSID() {
			t.Errorf("Write % x, want % x", []byte(d), []byte(c))
		}
	})
}
