package target_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/target"
)

// What is said to be supported is, and nothing else.
func TestSupportedLogPages(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	defer w.close()
	for _, nqn := range []string{subNQN, nvme.DiscoveryNQN} {
		q := w.enable(func(a *connectArgs) { a.SUBNQN = nqn }).admin
		id := parse[nvme.IdentifyController](t, q.page(identify(nvme.CNSController, 0), 4096))
		if id.LPA&nvme.LPASupportedLogs == 0 || (id.LPA&nvme.LPAEffects != 0) != (nqn == subNQN) {
			t.Errorf("%s: LPA %#x", nqn, id.LPA)
		}
		pages := parse[nvme.SupportedLogPages](t, q.page(getLog(nvme.LogSupportedPages, 1024, nil), 1024))
		n := 0
		for lid, s := range pages.LID {
			switch got := q.do(getLog(nvme.LogPage(lid), 4096, nil), make([]byte, 4096)).Status.Base(); s {
			case nvme.LogSupported:
				n++
				if got != nvme.Success {
					t.Errorf("%s: log page %v: %v", nqn, nvme.LogPage(lid), got)
				}
			case 0:
				if got != nvme.InvalidLogPage {
					t.Errorf("%s: log page %v: %v", nqn, nvme.LogPage(lid), got)
				}
			default:
				t.Errorf("%s: log page %v: %#x", nqn, nvme.LogPage(lid), s)
			}
		}
		if want := map[string]int{subNQN: 8, nvme.DiscoveryNQN: 4}[nqn]; n != want {
			t.Errorf("%s: %d log pages, want %d", nqn, n, want)
		}

		features := parse[nvme.FeatureEffectsLog](t, q.page(getLog(nvme.LogFeatureEffects, 1024, nil), 1024))
		for fid, e := range features.FIS {
			get := cmd(func(c nvme.Command) {
				c.PutGetFeatures(nvme.FeaturesCommand{FID: nvme.Feature(fid), SEL: nvme.SELCapabilities, CDW11: 1, NSID: 1})
			})
			if nqn == nvme.DiscoveryNQN {
				get.SetNSID(0)
			}
			if nvme.Feature(fid) == nvme.FeatureTemperatureThreshold {
				get.SetCDW(11, 0)
			}
			cqe := q.do(get, nil)
			if (e&nvme.FeatureSupported != 0) != cqe.Status.OK() {
				t.Errorf("%s: feature %v: %#x, and %v", nqn, nvme.Feature(fid), e, cqe.Status)
			}
			scope := nvme.FeatureScopeController
			if nvme.FeatureCapabilities(cqe.Result)&nvme.FeatureNamespace != 0 {
				scope = nvme.FeatureScopeNamespace
			}
			if e != 0 && e != nvme.FeatureSupported|scope {
				t.Errorf("%s: feature %v: %#x, capabilities %#x", nqn, nvme.Feature(fid), e, cqe.Result)
			}
		}
		if mi := q.page(getLog(nvme.LogMIEffects, 4096, nil), 4096); !bytes.Equal(mi, make([]byte, 4096)) {
			t.Errorf("%s: commands of the Management Interface", nqn)
		}
	}
}

// A command has effects if it is supported, on either queue; ONCS says the same.
func TestEffects(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	defer w.close()
	h := w.enable(nil)
	q := h.io(1, nil)
	log := parse[nvme.EffectsLog](t, h.admin.page(getLog(nvme.LogEffects, 4096, nil), 4096))
	for _, tt := range []struct {
		q       *queue
		effects [256]nvme.CommandEffects
	}{{h.admin, log.ACS}, {q, log.IOCS}} {
		for op, e := range tt.effects {
			if op == int(nvme.AdminFabrics) || tt.q == h.admin && op == int(nvme.AdminAsyncEventRequest) {
				continue // which have no effects; which waits
			}
			c := cmd(func(c nvme.Command) { c.SetOpcode(uint8(op)); c.SetNSID(1) })
			got := tt.q.do(c, nil).Status.Base()
			if (got != nvme.InvalidOpcode) != (e&nvme.EffectCSUPP != 0) {
				t.Errorf("queue %p, opcode %#x: effects %#x, and %v", tt.q, op, e, got)
			}
		}
	}
	id := parse[nvme.IdentifyController](t, h.admin.page(identify(nvme.CNSController, 0), 4096))
	for op, bit := range map[nvme.IOOpcode]uint16{
		nvme.IOCompare: nvme.ONCSCompare, nvme.IOWriteUncorrectable: nvme.ONCSWriteUncorrectable, nvme.IODatasetManagement: nvme.ONCSDSM,
		nvme.IOWriteZeroes: nvme.ONCSWriteZeroes, nvme.IOReservRegister: nvme.ONCSReservations, nvme.IOVerify: nvme.ONCSVerify, nvme.IOCopy: nvme.ONCSCopy,
	} {
		if (log.IOCS[op] != 0) != (id.ONCS&bit != 0) {
			t.Errorf("%v: effects %#x, ONCS %#x", op, log.IOCS[op], id.ONCS)
		}
	}
	if id.FUSES != 0 || id.AWUN != 0 || id.AWUPF != 0 || id.ACWU != 0 || id.OACS != 0 {
		t.Errorf("FUSES %#x, AWUN %d, AWUPF %d, ACWU %d, OACS %#x", id.FUSES, id.AWUN, id.AWUPF, id.ACWU, id.OACS)
	}
}

// More namespaces than a Changed Namespace List holds are told as all.
func TestChangedNamespacesOverflow(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	defer w.close()
	null, err := bdev.NewNull(bdev.NullConfig{Size: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	const first, n = 7000, nvme.MaxNamespaceList
	for i := range uint32(3) {
		if _, err := w.sub.AddNamespace(target.NamespaceConfig{NSID: first + i, Device: null}); err != nil {
			t.Fatal(err)
		}
	}
	h := w.enable(nil)
	read := func(rae bool) ([]uint32, bool) {
		ids, all, err := nvme.ParseChangedNamespaces(h.admin.page(
			getLog(nvme.LogChangedNamespaces, 4096, func(g *nvme.GetLogPageCommand) { g.RAE = rae }), 4096))
		if err != nil {
			t.Fatal(err)
		}
		return ids, all
	}
	h.admin.ok(setFeature(nvme.FeatureAsyncEventConfig, 0x100), nil)
	aer := h.aer()
	// From above downwards, so that each goes to the front.
	for i := uint32(n); i > 0; i-- {
		if _, err := w.sub.AddNamespace(target.NamespaceConfig{NSID: i + 1, Device: null}); err != nil {
			t.Fatal(err)
		}
	}
	<-aer.done
	if ids, all := read(true); all || len(ids) != n || !slices.IsSorted(ids) || ids[0] != 2 || ids[n-1] != n+1 {
		t.Fatalf("%d changed, all %v", len(ids), all)
	}
	aer = h.aer()
	for i := range uint32(3) {
		if _, err := w.sub.RefreshNamespace(first + i); err != nil {
			t.Fatal(err)
		}
		if ids, all := read(true); !all || len(ids) != 0 {
			t.Fatalf("%d changed, all %v, and they are %d", len(ids), all, n+1+i)
		}
	}
	if !aer.pending() {
		t.Error("an event for what the host has not read")
	}
	if ids, all := read(false); !all {
		t.Errorf("%d changed, all %v", len(ids), all)
	}
	if ids, all := read(false); all || len(ids) != 0 {
		t.Errorf("read, and %d changed, all %v", len(ids), all)
	}
	if err := w.sub.RemoveNamespace(first); err != nil {
		t.Fatal(err)
	}
	<-aer.done
	if ids, all := read(false); all || !slices.Equal(ids, []uint32{first}) {
		t.Errorf("%v changed, all %v", ids, all)
	}
	// The list of the active ones, in two pages.
	ids, err := nvme.ParseNamespaceList(h.admin.page(identify(nvme.CNSActiveNamespaces, 0), 4096))
	if err != nil || len(ids) != 1024 || ids[1023] != 1024 {
		t.Fatalf("%d active, %v", len(ids), err)
	}
	ids, err = nvme.ParseNamespaceList(h.admin.page(identify(nvme.CNSActiveNamespaces, 1024), 4096))
	if err != nil || !slices.Equal(ids, []uint32{1025, first + 1, first + 2}) {
		t.Fatalf("then %v, %v", ids, err)
	}
}

// The log says which byte and bit of the command was wrong.
func TestErrorLocations(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	defer w.close()
	if _, err := w.sub.AddNamespace(target.NamespaceConfig{NSID: 5, Device: w.dev, ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	h := w.enable(nil)
	q := h.io(1, nil)
	with := func(c nvme.Command, f func(nvme.Command)) nvme.Command { f(c); return c }
	page, block := make([]byte, 4096), make([]byte, 512)
	set := func(f nvme.FeaturesCommand) nvme.Command { return cmd(func(c nvme.Command) { c.PutSetFeatures(f) }) }
	get := func(f nvme.FeaturesCommand) nvme.Command { return cmd(func(c nvme.Command) { c.PutGetFeatures(f) }) }
	log := func(f func(*nvme.GetLogPageCommand)) nvme.Command { return getLog(nvme.LogEffects, 4096, f) }
	put := func(f nvme.CopyCommand) nvme.Command { return cmd(func(c nvme.Command) { c.PutCopy(f) }) }
	const none = nvme.NoParameterError
	for _, tt := range []struct {
		name string
		q    *queue
		c    nvme.Command
		data []byte
		at   uint16
	}{
		{"opcode", q, with(cmd(func(nvme.Command) {}), func(c nvme.Command) { c.SetOpcode(0x55) }), nil, 0},
		{"FUSE", q, with(rw(nvme.IORead, 1, 0, 0), func(c nvme.Command) { c.SetFlags(0x42) }), block, 1},
		{"PSDT", q, with(rw(nvme.IORead, 1, 0, 0), func(c nvme.Command) { c.SetFlags(0x80) }), block, 1 | 6<<8},
		{"NSID", q, rw(nvme.IORead, 9, 0, 0), block, 4},
		{"read-only", q, rw(nvme.IOWrite, 5, 0, 0), block, 4},
		{"SLBA", q, rw(nvme.IORead, 1, 1<<40, 0), block, 40},
		{"DPTR", q, rw(nvme.IORead, 1, 0, 1), block, 24},
		{"range in the data", q, dsm(0, nvme.DSMAD), ranges(nvme.DSMRange{SLBA: 1 << 40, NLB: 1}), 0},
		{"NR", q, put(nvme.CopyCommand{NSID: 1, NR: 200}), page, 48},
		{"DESFMT", q, put(nvme.CopyCommand{NSID: 1, DESFMT: 2}), page, 49},
		{"medium", q, rw(nvme.IOCompare, 1, 0, 0), bytes.Repeat([]byte{1}, 512), none},
		{"LID", h.admin, getLog(0x55, 4096, nil), page, 40},
		{"LPO", h.admin, log(func(g *nvme.GetLogPageCommand) { g.LPO = 2 }), page, 48},
		{"LPO beyond the page", h.admin, log(func(g *nvme.GetLogPageCommand) { g.LPO = 8192 }), page, 48},
		{"OT", h.admin, log(func(g *nvme.GetLogPageCommand) { g.OT = true }), page, 58 | 7<<8},
		{"log of a CSI", h.admin, log(func(g *nvme.GetLogPageCommand) { g.CSI = 1 }), page, 59},
		{"log of a namespace", h.admin, log(func(g *nvme.GetLogPageCommand) { g.NSID = 1 }), page, 4},
		{"CNS", h.admin, identify(0x55, 0), page, 40},
		{"CSI", h.admin, with(identify(6, 0), func(c nvme.Command) { c[nvme.OffCSI] = 2 }), page, 47},
		{"FID", h.admin, set(nvme.FeaturesCommand{FID: 0x55}), nil, 40},
		{"SV", h.admin, set(nvme.FeaturesCommand{FID: 7, SV: true}), nil, 43 | 7<<8},
		{"feature of a namespace", h.admin, set(nvme.FeaturesCommand{FID: 7, NSID: 1}), nil, 4},
		{"SEL", h.admin, get(nvme.FeaturesCommand{FID: 7, SEL: 5}), nil, 41},
		{"NCQR", h.admin, setFeature(nvme.FeatureNumberOfQueues, 0xFFFF0000), nil, 46},
		{"event 9", h.admin, setFeature(nvme.FeatureAsyncEventConfig, 0x300), nil, 45 | 1<<8},
		{"TMPSEL", h.admin, getFeature(nvme.FeatureTemperatureThreshold, 3<<16), nil, 46},
		{"THSEL", h.admin, getFeature(nvme.FeatureTemperatureThreshold, 3<<20), nil, 46 | 4<<8},
		{"OFST", h.admin, propGet(0x24), nil, 44},
	} {
		before := parse[nvme.ErrorLogEntry](t, h.admin.page(getLog(nvme.LogError, 64, nil), 64))
		cqe := tt.q.do(tt.c, tt.data)
		e := parse[nvme.ErrorLogEntry](t, h.admin.page(getLog(nvme.LogError, 64, nil), 64))
		if tt.name == "range in the data" { // a field that the log cannot name
			if e != before || cqe.Status.More() {
				t.Errorf("%s: %+v", tt.name, e)
			}
			continue
		}
		if e.ErrorCount != before.ErrorCount+1 || e.Location != tt.at || e.CID != cqe.CID || !cqe.Status.More() || e.Opcode != tt.c.Opcode() {
			t.Errorf("%s: location %#x, want %#x; %+v", tt.name, e.Location, tt.at, e)
		}
	}
}

// Every selection of every feature.
func TestFeatureSelections(t *testing.T) {
	rec := &recorder{Device: newMemory(t, 1<<20), t: t, info: func(i *bdev.Info) { i.VolatileWriteCache = true }}
	w := newWorld(t, target.Config{}, rec)
	defer w.close()
	io := w.enable(nil).admin
	disc := w.enable(func(a *connectArgs) { a.SUBNQN = nvme.DiscoveryNQN }).admin
	io.ok(setFeature(nvme.FeatureNumberOfQueues, 1|1<<16), nil)
	io.ok(setFeature(nvme.FeatureWriteAtomicity, 1), nil)
	io.ok(setFeature(nvme.FeatureAsyncEventConfig, 0x100), nil)
	io.ok(setFeature(nvme.FeatureKeepAliveTimer, 9000), nil)
	disc.ok(setFeature(nvme.FeatureKeepAliveTimer, 9000), nil)
	const namespace, changeable = 2, 4 // and none can be saved
	for _, tt := range []struct {
		q                 *queue
		fid               nvme.Feature
		nsid, cdw11       uint32
		current, def, can uint64
	}{
		{io, nvme.FeatureArbitration, 0, 0, 7, 7, 0},
		{io, nvme.FeatureArbitration, 1, 0, 7, 7, 0}, // the controller's, also by a namespace
		{io, nvme.FeatureArbitration, nvme.NSIDBroadcast, 0, 7, 7, 0},
		{io, nvme.FeaturePowerManagement, 0, 0, 0, 0, 0},
		{io, nvme.FeatureTemperatureThreshold, 0, 0, 0xFFFF, 0xFFFF, 0},
		{io, nvme.FeatureErrorRecovery, 1, 0, 0, 0, namespace},
		{io, nvme.FeatureVolatileWriteCache, 0, 0, 1, 1, 0},
		{io, nvme.FeatureNumberOfQueues, 0, 0, 1 | 1<<16, 3 | 3<<16, changeable},
		{io, nvme.FeatureWriteAtomicity, 0, 0, 1, 0, changeable},
		{io, nvme.FeatureAsyncEventConfig, 0, 0, 0x100, 0, changeable},
		{io, nvme.FeatureKeepAliveTimer, 0, 0, 9000, 0, changeable},
		{io, nvme.FeatureHostIdentifier, 0, 1, 1, 1, 0},
		{disc, nvme.FeatureKeepAliveTimer, 0, 0, 9000, 120000, changeable},
		{disc, nvme.FeatureAsyncEventConfig, 0, 0, 0, 0, changeable},
	} {
		for sel, want := range map[uint8]uint64{
			nvme.SELCurrent: tt.current, nvme.SELDefault: tt.def, nvme.SELSaved: tt.def, nvme.SELCapabilities: tt.can,
		} {
			c := func() nvme.Command {
				return cmd(func(c nvme.Command) {
					c.PutGetFeatures(nvme.FeaturesCommand{FID: tt.fid, NSID: tt.nsid, CDW11: tt.cdw11, SEL: sel})
				})
			}
			data := make([]byte, 0)
			if tt.fid == nvme.FeatureHostIdentifier {
				data = bytes.Repeat([]byte{0xEE}, 16)
			}
			if got := tt.q.ok(c(), data).Result; got != want {
				t.Errorf("%v, NSID %d, selection %d: %#x, want %#x", tt.fid, tt.nsid, sel, got, want)
			}
			if tt.fid != nvme.FeatureHostIdentifier {
				continue
			}
			if sel == nvme.SELCapabilities { // with memory for it, or without
				tt.q.ok(c(), nil)
			} else if !bytes.Equal(data, hostID[:]) {
				t.Errorf("selection %d: host identifier %x", sel, data)
			}
		}
	}
	// A controller that is disabled forgets what was set.
	io.ok(propSet(nvme.PropertyCC, ccDisabled), nil)
	io.ok(propSet(nvme.PropertyCC, ccEnabled), nil)
	for fid, want := range map[nvme.Feature]uint64{
		nvme.FeatureNumberOfQueues: 3 | 3<<16, nvme.FeatureWriteAtomicity: 0, nvme.FeatureAsyncEventConfig: 0,
	} {
		if got := io.ok(getFeature(fid, 0), nil).Result; got != want {
			t.Errorf("%v after a reset: %#x, want %#x", fid, got, want)
		}
	}
}

// Controller Busy Time is minutes in which I/O commands were outstanding, each
// once, whatever controllers and queues they are of.
func TestControllerBusyTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := bdev.NewFaulty(newMemory(t, 1<<20))
		w := newWorld(t, target.Config{}, f)
		defer w.close()
		a, b := w.enable(nil), w.enable(nil)
		qa, qb := a.io(1, nil), b.io(1, nil)
		aer := a.aer() // is outstanding, and no I/O
		page := func() nvme.SMARTLog {
			return parse[nvme.SMARTLog](t, b.admin.page(getLog(nvme.LogSMART, 512, nil), 512))
		}
		time.Sleep(10 * time.Minute)
		f.Hold()
		one := qa.send(rw(nvme.IORead, 1, 0, 0), make([]byte, 512))
		time.Sleep(3 * time.Minute)
		two := qb.send(rw(nvme.IORead, 1, 0, 0), make([]byte, 512))
		time.Sleep(4 * time.Minute)
		f.Release()
		<-one.done
		<-two.done
		time.Sleep(44 * time.Minute)
		qa.ok(rw(nvme.IORead, 1, 0, 0), make([]byte, 512))
		if s := page(); s.ControllerBusyTime.Lo != 7 || s.PowerOnHours.Lo != 1 || s.HostReads.Lo != 3 {
			t.Errorf("busy for %d minutes of %d hours, %d reads", s.ControllerBusyTime.Lo, s.PowerOnHours.Lo, s.HostReads.Lo)
		}
		if got := w.sub.Stats().Busy; got != 7*time.Minute {
			t.Errorf("busy for %v", got)
		}
		if !aer.pending() {
			t.Error("the AER ended")
		}
	})
}

// Reading the statistics costs the same however many queues there are.
func BenchmarkStats(b *testing.B) {
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			w := newWorld(b, target.Config{}, nil)
			defer w.close()
			for range n {
				w.enable(nil).io(1, nil)
			}
			b.ReportAllocs()
			for b.Loop() {
				w.sub.Stats()
			}
		})
	}
}
