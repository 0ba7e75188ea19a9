package target_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/target"
)

func TestAdminErrors(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	defer w.close()
	h := w.enable(nil)
	var (
		page   = make([]byte, 4096)
		field  = nvme.InvalidField.WithDNR()
		length = nvme.SGLInvalidDataLength.WithDNR()
		ns     = nvme.InvalidNamespace.WithDNR()
		opcode = nvme.InvalidOpcode.WithDNR()
	)
	change := func(c nvme.Command, f func(nvme.Command)) nvme.Command { f(c); return c }
	log := func(f func(*nvme.GetLogPageCommand)) nvme.Command { return getLog(nvme.LogEffects, 4096, f) }
	features := func(put func(nvme.Command, nvme.FeaturesCommand), f nvme.FeaturesCommand) nvme.Command {
		return cmd(func(c nvme.Command) { put(c, f) })
	}
	set, get := nvme.Command.PutSetFeatures, nvme.Command.PutGetFeatures
	tests := []struct {
		name string
		c    nvme.Command
		data []byte
		want nvme.Status
	}{
		{"opcode", change(nvme.NewCommand(), func(c nvme.Command) { c.SetOpcode(0x80) }), nil, opcode},
		{"I/O queue creation", change(nvme.NewCommand(), func(c nvme.Command) { c.SetOpcode(uint8(nvme.AdminCreateIOSQ)) }), nil, opcode},
		{"Disconnect", cmd(nvme.Command.PutDisconnect), nil, opcode},
		{"FCTYPE", change(propGet(0), func(c nvme.Command) { c[4] = 0x77 }), nil, opcode},
		{"fused", change(identify(1, 0), func(c nvme.Command) { c.SetFlags(0x41) }), page, field},
		{"PRP", change(identify(1, 0), func(c nvme.Command) { c.SetFlags(0) }), page, field},
		{"metadata SGL", change(identify(1, 0), func(c nvme.Command) { c.SetFlags(0x80) }), page, field},

		{"Identify: CNS", identify(0x55, 0), page, field},
		{"Identify: CNS 07h", identify(nvme.CNSActiveNamespacesIOCS, 0), page, field},
		{"Identify: short", identify(nvme.CNSController, 0), page[:4095], length},
		{"Identify: long", identify(nvme.CNSController, 0), make([]byte, 8192), length},
		{"Identify: no data", identify(nvme.CNSController, 0), nil, length},
		{"Identify Namespace: NSID 0", identify(nvme.CNSNamespace, 0), page, ns},
		{"Identify Namespace: all", identify(nvme.CNSNamespace, nvme.NSIDBroadcast), page, ns},
		{"Identify Namespace: beyond NN", identify(nvme.CNSNamespace, target.MaxNamespaces+1), page, ns},
		{"Active: all", identify(nvme.CNSActiveNamespaces, 0xFFFFFFFF), page, ns},
		{"Active: all but one", identify(nvme.CNSActiveNamespaces, 0xFFFFFFFE), page, ns},
		{"Descriptors: inactive", identify(nvme.CNSNamespaceDescriptors, 2), page, ns},
		{"Descriptors: NSID 0", identify(nvme.CNSNamespaceDescriptors, 0), page, ns},
		{"CNS 05h: ZNS", change(identify(5, 1), func(c nvme.Command) { c[nvme.OffCSI] = 2 }), page, field},
		{"CNS 05h: NSID 0", identify(5, 0), page, ns},
		{"CNS 06h: ZNS", change(identify(6, 0), func(c nvme.Command) { c[nvme.OffCSI] = 2 }), page, field},
		{"CNS 08h: NSID 0", identify(8, 0), page, ns},

		{"Get Log: LID", getLog(nvme.LogANA, 4096, nil), page, nvme.InvalidLogPage.WithDNR()},
		{"Get Log: discovery", getLog(nvme.LogDiscovery, 1024, nil), page[:1024], nvme.InvalidLogPage.WithDNR()},
		{"Get Log: CSI", log(func(g *nvme.GetLogPageCommand) { g.CSI = nvme.CSIZNS }), page, nvme.InvalidLogPage.WithDNR()},
		{"Get Log: CSI 255", log(func(g *nvme.GetLogPageCommand) { g.CSI = 255 }), page, nvme.InvalidLogPage.WithDNR()},
		{"Get Log: NUMDU alone", log(func(g *nvme.GetLogPageCommand) { g.NUMD = 1 << 16 }), page, length},
		{"Get Log: offset and index", log(func(g *nvme.GetLogPageCommand) { g.OT, g.LPO = true, 1 }), page, field},
		{"Get Log: offset 1", log(func(g *nvme.GetLogPageCommand) { g.LPO = 1 }), page, field},
		{"Get Log: namespace", log(func(g *nvme.GetLogPageCommand) { g.NSID = 1 }), page, field},
		{"Get Log: OT", log(func(g *nvme.GetLogPageCommand) { g.OT = true }), page, field},
		{"Get Log: offset", log(func(g *nvme.GetLogPageCommand) { g.LPO = 2 }), page, field},
		{"Get Log: offset beyond the page", log(func(g *nvme.GetLogPageCommand) { g.LPO = 4100 }), page, field},
		{"Get Log: offset far beyond", log(func(g *nvme.GetLogPageCommand) { g.LPO = 1<<64 - 4 }), page, field},
		{"Get Log: NUMD is not the length", log(func(g *nvme.GetLogPageCommand) { g.NUMD-- }), page, length},
		{"Get Log: NUMD of 16 GiB", log(func(g *nvme.GetLogPageCommand) { g.NUMD = 0xFFFFFFFF }), page, length},
		{"Get Log: beyond MDTS", log(func(g *nvme.GetLogPageCommand) { g.SetLength(1<<20 + 4) }), make([]byte, 1<<20+4), field},

		{"Set Features: FID", setFeature(nvme.FeatureTimestamp, 0), nil, field},
		{"Set Features: data", setFeature(nvme.FeatureNumberOfQueues, 0), page, length},
		{"Set Features: save", features(set, nvme.FeaturesCommand{FID: 7, SV: true}), nil, nvme.FeatureNotSaveable.WithDNR()},
		{"Set Features: save what cannot be changed", features(set, nvme.FeaturesCommand{FID: 2, SV: true}), nil, nvme.FeatureNotSaveable.WithDNR()},
		{"Set Features: save what is not there", features(set, nvme.FeaturesCommand{FID: nvme.FeatureTimestamp, SV: true}), nil, field},
		{"Set Features: controller's, of a namespace", features(set, nvme.FeaturesCommand{FID: 11, NSID: 1}), nil, nvme.FeatureNotNamespaceSpecific.WithDNR()},
		{"Set Features: controller's, of an inactive namespace", features(set, nvme.FeaturesCommand{FID: 11, NSID: 2}), nil, nvme.FeatureNotNamespaceSpecific.WithDNR()},
		{"Set Features: controller's, NSID beyond NN", features(set, nvme.FeaturesCommand{FID: 11, NSID: target.MaxNamespaces + 1}), nil, ns},
		{"Set Features: namespace's, NSID 0", features(set, nvme.FeaturesCommand{FID: 5}), nil, ns},
		{"Set Features: namespace's, inactive", features(set, nvme.FeaturesCommand{FID: 5, NSID: 2}), nil, ns},
		{"Set Features: error recovery", features(set, nvme.FeaturesCommand{FID: 5, NSID: 1, CDW11: 1}), nil, nvme.FeatureNotChangeable.WithDNR()},
		{"Set Features: error recovery of all", features(set, nvme.FeaturesCommand{FID: 5, NSID: nvme.NSIDBroadcast, CDW11: 1}), nil, nvme.FeatureNotChangeable.WithDNR()},
		{"Set Features: write atomicity", setFeature(nvme.FeatureWriteAtomicity, 2), nil, field},
		{"Set Features: queues", setFeature(nvme.FeatureNumberOfQueues, 0xFFFF), nil, field},
		{"Set Features: completion queues", setFeature(nvme.FeatureNumberOfQueues, 0xFFFF0000), nil, field},
		{"Set Features: events", setFeature(nvme.FeatureAsyncEventConfig, 0x900), nil, field},
		{"Set Features: host identifier without data", setFeature(nvme.FeatureHostIdentifier, 1), nil, nvme.CommandSequenceError.WithDNR()},
		{"Set Features: host identifier", setFeature(nvme.FeatureHostIdentifier, 1), page[:16], nvme.CommandSequenceError.WithDNR()},
		{"Set Features: power state", setFeature(nvme.FeaturePowerManagement, 1), nil, nvme.FeatureNotChangeable.WithDNR()},
		{"Set Features: write cache that is not there", setFeature(nvme.FeatureVolatileWriteCache, 0), nil, field},
		{"Get Features: FID", getFeature(nvme.FeatureTimestamp, 0), nil, field},
		{"Get Features: SEL 4", features(get, nvme.FeaturesCommand{FID: 7, SEL: 4}), nil, field},
		{"Get Features: SEL 7", features(get, nvme.FeaturesCommand{FID: 7, SEL: 7}), nil, field},
		{"Get Features: SEL of a feature that is not there", features(get, nvme.FeaturesCommand{FID: nvme.FeatureTimestamp, SEL: nvme.SELCapabilities}), nil, field},
		{"Get Features: data for capabilities", features(get, nvme.FeaturesCommand{FID: 7, SEL: nvme.SELCapabilities}), page, length},
		{"Get Features: controller's, NSID beyond NN", features(get, nvme.FeaturesCommand{FID: 7, NSID: target.MaxNamespaces + 1}), nil, ns},
		{"Get Features: namespace's, NSID 0", features(get, nvme.FeaturesCommand{FID: 5}), nil, ns},
		{"Get Features: namespace's, inactive", features(get, nvme.FeaturesCommand{FID: 5, NSID: 2}), nil, ns},
		{"Get Features: namespace's, all", features(get, nvme.FeaturesCommand{FID: 5, NSID: nvme.NSIDBroadcast}), nil, ns},
		{"Get Features: temperature threshold of a third kind", getFeature(nvme.FeatureTemperatureThreshold, 2<<20), nil, field},
		{"Get Features: 64-bit host identifier", getFeature(nvme.FeatureHostIdentifier, 0), page[:8], field},
		{"Get Features: data", getFeature(nvme.FeatureNumberOfQueues, 0), page, length},
		{"Get Features: temperature sensor", getFeature(nvme.FeatureTemperatureThreshold, 1<<16), nil, field},

		{"Keep Alive: data", cmd(nvme.Command.PutKeepAlive), page, length},
		{"Keep Alive: no KATO", cmd(nvme.Command.PutKeepAlive), nil, nvme.KeepAliveInvalid.WithDNR()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w.t = t
			h.admin.fails(tt.c, tt.data, tt.want)
		})
	}
	w.t = t
	s := h.admin.sendSGL(identify(1, 0), page, nvme.SGLInvalidType.WithDNR())
	if <-s.done; s.Completion.Status != nvme.SGLInvalidType.WithDNR() {
		t.Errorf("bad SGL: %v", s.Completion.Status)
	}
}

// Inactive namespaces are zeros, and lists go on from where they are asked to.
func TestNamespaceLists(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	defer w.close()
	for _, id := range []uint32{3, 1024, 700} {
		if _, err := w.sub.AddNamespace(target.NamespaceConfig{NSID: id, Device: w.dev}); err != nil {
			t.Fatal(err)
		}
	}
	q := w.enable(nil).admin
	for _, tt := range []struct {
		from uint32
		want []uint32
	}{
		{0, []uint32{1, 3, 700, 1024}}, {1, []uint32{3, 700, 1024}}, {2, []uint32{3, 700, 1024}},
		{1023, []uint32{1024}}, {1024, nil}, {0xFFFFFFFD, nil},
	} {
		got, err := nvme.ParseNamespaceList(q.page(identify(nvme.CNSActiveNamespaces, tt.from), 4096))
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("above %d: %v, %v, want %v", tt.from, got, err, tt.want)
		}
	}
	for _, cns := range []nvme.CNS{nvme.CNSNamespace, nvme.CNSNamespaceIndependent, nvme.CNSNamespaceIOCS} {
		if !bytes.Equal(q.page(identify(cns, 2), 4096), make([]byte, 4096)) {
			t.Errorf("CNS %02xh of an inactive namespace is not zero", uint8(cns))
		}
	}
}

func TestFeatures(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	defer w.close()
	q := w.enable(nil).admin
	for _, tt := range []struct {
		fid  nvme.Feature
		arg  uint32
		want uint64
	}{
		{nvme.FeatureArbitration, 0, 7}, {nvme.FeaturePowerManagement, 0, 0}, {nvme.FeatureTemperatureThreshold, 0, 0xFFFF},
		{nvme.FeatureTemperatureThreshold, 1 << 20, 1 << 20},
		{nvme.FeatureNumberOfQueues, 0, 3 | 3<<16}, {nvme.FeatureWriteAtomicity, 0, 0},
		{nvme.FeatureAsyncEventConfig, 0, 0}, {nvme.FeatureKeepAliveTimer, 0, 0},
	} {
		if got := q.ok(getFeature(tt.fid, tt.arg), nil).Result; got != tt.want {
			t.Errorf("%v: %#x, want %#x", tt.fid, got, tt.want)
		}
	}
	// The lesser of both halves, at most what there is, and remembered.
	for _, tt := range [][2]uint32{{0, 0}, {1 | 2<<16, 1 | 1<<16}, {3 | 0<<16, 0}, {0xFFFE | 0xFFFE<<16, 3 | 3<<16}} {
		if got := q.ok(setFeature(nvme.FeatureNumberOfQueues, tt[0]), nil).Result; got != uint64(tt[1]) {
			t.Errorf("Number of Queues: asked for %#x, got %#x, want %#x", tt[0], got, tt[1])
		}
		if got := q.ok(getFeature(nvme.FeatureNumberOfQueues, 0), nil).Result; got != uint64(tt[1]) {
			t.Errorf("Number of Queues: is %#x, want %#x", got, tt[1])
		}
	}
	q.ok(setFeature(nvme.FeaturePowerManagement, 0), nil) // what it is already
	b := make([]byte, 16)
	q.ok(getFeature(nvme.FeatureHostIdentifier, 1), b)
	if !bytes.Equal(b, hostID[:]) {
		t.Errorf("host identifier %x", b)
	}
}

// Events are told when they are wanted, once, until their log page is read
// with RAE clear.
func TestAsyncEvents(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	defer w.close()
	h := w.enable(nil)
	q := h.admin
	add := func(id uint32) {
		t.Helper()
		if _, err := w.sub.AddNamespace(target.NamespaceConfig{NSID: id, Device: w.dev}); err != nil {
			t.Fatal(err)
		}
	}
	changed := func(rae bool) []uint32 {
		t.Helper()
		b := q.page(getLog(nvme.LogChangedNamespaces, 4096, func(g *nvme.GetLogPageCommand) { g.RAE = rae }), 4096)
		ids, overflow, err := nvme.ParseChangedNamespaces(b)
		if err != nil || overflow {
			t.Fatal(err, overflow)
		}
		return ids
	}
	expect := func(what string, got []uint32, want ...uint32) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: changed %v, want %v", what, got, want)
		}
	}
	check := func(s *slot) {
		t.Helper()
		<-s.done
		if got := nvme.AsyncEvent(s.Completion.Result); s.Completion.Status != nvme.Success || got != nvme.EventNamespaceChanged {
			t.Errorf("event %v, %v", got, s.Completion.Status)
		}
	}

	aer := h.aer()
	add(2) // not asked for: no event, but the list has it
	if !aer.pending() {
		t.Error("event that nobody asked for")
	}
	expect("not enabled", changed(false), 2)
	q.ok(setFeature(nvme.FeatureAsyncEventConfig, 0x100), nil)
	if got := q.ok(getFeature(nvme.FeatureAsyncEventConfig, 0), nil).Result; got != 0x100 {
		t.Errorf("Asynchronous Event Configuration %#x", got)
	}
	add(9)
	check(aer)

	// Masked: no more events, and reading with RAE does not change it.
	aer = h.aer()
	add(5)
	expect("masked", changed(true), 5, 9)
	add(7)
	if !aer.pending() {
		t.Error("event while masked")
	}
	expect("read again", changed(false), 5, 7, 9)
	expect("read", changed(false))
	if err := w.sub.RemoveNamespace(7); err != nil {
		t.Fatal(err)
	}
	check(aer)
	expect("removed", changed(false), 7)

	// Without an AER the event waits for one.
	if _, err := w.sub.RefreshNamespace(5); err != nil {
		t.Fatal(err)
	}
	aer = h.aer()
	check(aer)
	expect("refreshed", changed(false), 5)

	// An event that was read about before it was told is not told.
	add(7)
	expect("read before", changed(false), 7)
	aer = h.aer()
	h.csts()
	if !aer.pending() {
		t.Error("event that the host knows of")
	}

	// The limit: four.
	for range 3 {
		h.aer()
	}
	q.fails(cmd(nvme.Command.PutAsyncEventRequest), nil, nvme.AsyncEventLimitExceeded.WithDNR())

	// Other hosts are told, too, each for itself.
	second := w.enable(func(a *connectArgs) { a.HOSTNQN = otherNQN })
	second.admin.ok(setFeature(nvme.FeatureAsyncEventConfig, 0x100), nil)
	other := second.aer()
	if err := w.sub.RemoveNamespace(9); err != nil {
		t.Fatal(err)
	}
	check(aer)
	check(other)
}

func TestAbort(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	defer w.close()
	h := w.enable(nil)
	abort := h.abort
	first, second := h.aer(), h.aer()
	cid := second.Command.CID()
	for _, a := range [][2]uint16{{0, cid + 1}, {1, cid}, {99, cid}, {0xFFFF, cid}} {
		if got := abort(a[0], a[1]); got != 1 {
			t.Errorf("Abort of command %#x of queue %d: result %d, want 1: not aborted", a[1], a[0], got)
		}
	}
	if got := abort(0, cid); got != 0 {
		t.Errorf("Abort of an AER: result %d, want 0", got)
	}
	<-second.done
	if got := second.Completion.Status; got != nvme.AbortRequested {
		t.Errorf("aborted AER: %v", got)
	}
	if !first.pending() {
		t.Error("another AER was aborted")
	}
	if got := abort(0, cid); got != 1 {
		t.Errorf("Abort of what is gone: result %d, want 1", got)
	}
}

// Errors with a field are in the log, newest first, and their status has More.
func TestErrorLog(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	defer w.close()
	h := w.enable(nil)
	io := h.io(1, nil)
	entries := func(n int) []nvme.ErrorLogEntry {
		b := h.admin.page(getLog(nvme.LogError, 64*n, nil), 64*n)
		var es []nvme.ErrorLogEntry
		for i := range n {
			es = append(es, parse[nvme.ErrorLogEntry](t, b[64*i:64*i+64]))
		}
		return es
	}
	if e := entries(1)[0]; e.ErrorCount != 0 {
		t.Errorf("no error yet: %+v", e)
	}
	c := identify(0x55, 3)
	cqe := h.admin.do(c, make([]byte, 4096))
	if cqe.Status != nvme.InvalidField.WithDNR().WithMore() {
		t.Errorf("%v, More %v", cqe.Status, cqe.Status.More())
	}
	r := rw(nvme.IORead, 1, 1<<40, 0)
	io.do(r, make([]byte, 512))
	want := []nvme.ErrorLogEntry{
		{ErrorCount: 2, SQID: 1, CID: r.CID(), Status: nvme.LBAOutOfRange.WithDNR(), Location: 40, LBA: 1 << 40, NSID: 1, Opcode: 2},
		{ErrorCount: 1, SQID: 0, CID: c.CID(), Status: nvme.InvalidField.WithDNR(), Location: 40, NSID: 3, Opcode: 6},
		{},
	}
	got := entries(3)
	for i := range want {
		if want[i].ErrorCount != 0 {
			want[i].TRTYPE, want[i].Version = nvme.TransportRDMA, 1
		}
		if got[i] != want[i] {
			t.Errorf("entry %d:\n got %+v\nwant %+v", i, got[i], want[i])
		}
	}
	for range 100 {
		h.admin.do(identify(0x55, 3), make([]byte, 4096))
	}
	if es := entries(64); es[0].ErrorCount != 102 || es[63].ErrorCount != 39 {
		t.Errorf("after 102 errors: %d to %d", es[0].ErrorCount, es[63].ErrorCount)
	}
	smart := parse[nvme.SMARTLog](t, h.admin.page(getLog(nvme.LogSMART, 512, nil), 512))
	if smart.ErrorLogEntries.Lo != 102 {
		t.Errorf("SMART says %d errors", smart.ErrorLogEntries.Lo)
	}
}

func TestLogs(t *testing.T) {
	w := newWorld(t, target.Config{Firmware: "0.7"}, nil)
	defer w.close()
	h := w.enable(nil)
	io := h.io(1, nil)
	for range 3 {
		io.ok(rw(nvme.IORead, 1, 0, 1023), make([]byte, 1024*512))
	}
	io.ok(rw(nvme.IOWrite, 1, 0, 0), make([]byte, 512))
	smart := func() nvme.SMARTLog {
		return parse[nvme.SMARTLog](t, h.admin.page(getLog(nvme.LogSMART, 512, nil), 512))
	}
	check := func() {
		t.Helper()
		if s := smart(); s.HostReads.Lo != 3 || s.HostWrites.Lo != 1 || s.DataUnitsRead.Lo != 4 || s.DataUnitsWritten.Lo != 1 || s.CriticalWarning != 0 {
			t.Errorf("%+v", s)
		}
	}
	check()
	io.hangUp() // what it has done is still counted
	check()
	fw := parse[nvme.FirmwareSlotLog](t, h.admin.page(getLog(nvme.LogFirmwareSlot, 512, nil), 512))
	if fw.AFI != 1 || fw.FRS[0] != "0.7" || fw.FRS[1] != "" {
		t.Errorf("%+v", fw)
	}
	// A part of a page, and what is behind its end.
	whole := h.admin.page(getLog(nvme.LogEffects, 4096, nil), 4096)
	part := h.admin.page(getLog(nvme.LogEffects, 4096, func(g *nvme.GetLogPageCommand) { g.LPO = 1024 }), 4096)
	if !bytes.Equal(part, append(whole[1024:], make([]byte, 1024)...)) {
		t.Error("the page in parts says something else")
	}
	// At its end, and across it: nothing is there, and no error. Any number of
	// dwords, also more than 16 bits say.
	for _, tt := range []struct{ lpo, n, left int }{{4096, 4, 0}, {4092, 4, 4}, {4092, 8, 4}, {0, 4, 4}, {0, 4100, 4096}, {4, 1 << 18 << 2, 4092}} {
		b := bytes.Repeat([]byte{0xEE}, tt.n)
		h.admin.ok(getLog(nvme.LogEffects, tt.n, func(g *nvme.GetLogPageCommand) { g.LPO = uint64(tt.lpo) }), b)
		if !bytes.Equal(b[:tt.left], whole[tt.lpo:][:tt.left]) || !bytes.Equal(b[tt.left:], make([]byte, tt.n-tt.left)) {
			t.Errorf("%d bytes from %d: something else", tt.n, tt.lpo)
		}
	}
}

// Asynchronous Event Requests that a host leaves behind, as every host does, are
// no errors.
func TestAERsAreNoErrors(t *testing.T) {
	for name, leave := range map[string]func(h *host, aer *slot){
		"shutdown": func(h *host, _ *slot) { h.admin.ok(propSet(nvme.PropertyCC, ccEnabled|1<<14), nil) },
		"hang up":  func(h *host, _ *slot) { h.admin.hangUp() },
		"abort": func(h *host, aer *slot) {
			h.admin.ok(cmd(func(c nvme.Command) { c.PutAbort(0, aer.Command.CID()) }), nil)
		},
	} {
		w := newWorld(t, target.Config{}, nil)
		h := w.enable(nil)
		before := w.sub.Stats()
		aer := h.aer()
		leave(h, aer)
		<-aer.done
		if n := w.sub.Stats(); n.Errors != before.Errors || n.Others == before.Others {
			t.Errorf("%s: %+v, before %+v", name, n, before)
		}
		w.close()
	}
}

// What each command counts for.
func TestSMART(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	defer w.close()
	h := w.enable(nil)
	q := h.io(1, nil)
	page := func() nvme.SMARTLog {
		return parse[nvme.SMARTLog](t, h.admin.page(getLog(nvme.LogSMART, 512, nil), 512))
	}
	const unit, blocks = 512_000, 1000 // of 512 bytes: a data unit
	buf := make([]byte, unit)
	source, from := copyCmd(1000, nvme.CopyRange{NLB: blocks - 1})
	for _, tt := range []struct {
		name                          string
		c                             nvme.Command
		data                          []byte
		unitsR, unitsW, reads, writes uint64
	}{
		{name: "read", c: rw(nvme.IORead, 1, 0, blocks-1), data: buf, unitsR: 1, reads: 1},
		{name: "compare", c: rw(nvme.IOCompare, 1, 0, blocks-1), data: buf, unitsR: 1, reads: 1},
		{name: "verify", c: rw(nvme.IOVerify, 1, 0, blocks-1), unitsR: 1},
		{name: "write", c: rw(nvme.IOWrite, 1, 0, blocks-1), data: buf, unitsW: 1, writes: 1},
		{name: "copy", c: source, data: from, unitsW: 1, reads: 1, writes: 1},
		{name: "write zeroes", c: rw(nvme.IOWriteZeroes, 1, 0, blocks-1)},
		{name: "write uncorrectable", c: rw(nvme.IOWriteUncorrectable, 1, 2000, 0)},
		{name: "deallocate", c: dsm(0, nvme.DSMAD), data: ranges(nvme.DSMRange{NLB: blocks})},
		{name: "flush", c: cmd(func(c nvme.Command) { c.PutFlush(1) })},
	} {
		before := page()
		q.ok(tt.c, tt.data)
		after := page()
		got := [4]uint64{
			after.DataUnitsRead.Lo - before.DataUnitsRead.Lo, after.DataUnitsWritten.Lo - before.DataUnitsWritten.Lo,
			after.HostReads.Lo - before.HostReads.Lo, after.HostWrites.Lo - before.HostWrites.Lo,
		}
		if want := [4]uint64{tt.unitsR, tt.unitsW, tt.reads, tt.writes}; got != want {
			t.Errorf("%s: units read, written, reads, writes %v, want %v", tt.name, got, want)
		}
	}
	q.fails(rw(nvme.IORead, 1, 2000, 0), buf[:512], nvme.UnrecoveredReadError.WithDNR())
	if s := page(); s.MediaErrors.Lo != 1 || s.CriticalWarning != 0 || s.AvailableSpare != 100 || s.PowerCycles.Lo != 1 {
		t.Errorf("%+v", s)
	}
}
