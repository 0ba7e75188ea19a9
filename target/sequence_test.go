package target_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport"
)

// A Linux host, from Connect to its partition scan, and its way out. What the
// host checks is checked.
func TestLinuxHost(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	defer w.close()

	// 1: Connect. The admin queue of Linux has 32 entries.
	q := w.open(nil)
	a := adminConnect()
	a.KATO = 5000
	cqe := q.connect(a)
	if cqe.Status != nvme.Success || cqe.Result == 0 || cqe.Result > nvme.MaxCNTLID || cqe.SQHD != 1 {
		t.Fatalf("Connect: %+v", cqe)
	}
	h := &host{w, q, uint16(cqe.Result)}

	// 2 to 7: properties.
	capability := nvme.CAP(q.ok(propGet(nvme.PropertyCAP), nil).Result)
	if capability.MQES() != 127 || capability.CSS() != nvme.CAPCSSNVM || capability.MPSMIN() != 0 || capability.TO() == 0 ||
		capability.CRWMS() || capability.CRIMS() || !capability.CQR() {
		t.Errorf("CAP %#x", uint64(capability))
	}
	q.ok(propSet(nvme.PropertyCC, ccDisabled), nil)
	q.ok(propGet(nvme.PropertyCAP), nil)
	q.ok(propSet(nvme.PropertyCC, ccEnabled), nil)
	if csts := h.csts(); csts != 1 {
		t.Errorf("CSTS %#x, want RDY", uint32(csts))
	}
	vs := nvme.VS(q.ok(propGet(nvme.PropertyVS), nil).Result)
	if vs < nvme.Version1_3 {
		t.Errorf("VS %v", vs)
	}

	// 8: Identify Controller.
	id := parse[nvme.IdentifyController](t, q.page(identify(nvme.CNSController, 0), 4096))
	checkIdentifyController(t, &id, h)

	// 9: effects; 11: SMART of the whole controller, for hwmon.
	effects := parse[nvme.EffectsLog](t, q.page(getLog(nvme.LogEffects, 4096, nil), 4096))
	if effects.ACS[nvme.AdminIdentify] != nvme.EffectCSUPP || effects.IOCS[nvme.IOWrite] != nvme.EffectCSUPP|nvme.EffectLBCC ||
		effects.ACS[nvme.AdminFormatNVM] != 0 || effects.IOCS[nvme.IOVerify] != nvme.EffectCSUPP || effects.IOCS[nvme.IOZoneAppend] != 0 {
		t.Errorf("effects: Identify %#x, Write %#x, Format %#x", effects.ACS[6], effects.IOCS[1], effects.ACS[0x80])
	}
	all := func(g *nvme.GetLogPageCommand) { g.NSID = nvme.NSIDBroadcast }
	parse[nvme.SMARTLog](t, q.page(getLog(nvme.LogSMART, 512, all), 512))

	// 12: the number of queues is as many as there are.
	n := nvme.NumberOfQueues(q.ok(setFeature(nvme.FeatureNumberOfQueues, 7|7<<16), nil).Result)
	if n.Pairs() != 4 {
		t.Errorf("Number of Queues: asked for 8, got %d, want 4", n.Pairs())
	}

	// 13: Linux connects all queues of the fabric first.
	var ios []*queue
	for range 4 {
		ios = append(ios, w.open(func(p *transport.QueueParam) { p.Depth = 128 }))
	}
	for i, q := range ios {
		a := ioConnect(h.cntlid, uint16(i+1))
		a.SQSize = 127
		if cqe := q.connect(a); cqe.Status != nvme.Success || uint16(cqe.Result) != h.cntlid {
			t.Fatalf("Connect of queue %d: %+v", i+1, cqe)
		}
	}

	// 14, 15: events.
	if got := q.ok(setFeature(nvme.FeatureAsyncEventConfig, uint32(id.OAES)), nil).Result; got != uint64(id.OAES) {
		t.Errorf("Asynchronous Event Configuration: %#x, want %#x", got, id.OAES)
	}
	aer := h.aer()

	// 16 to 21: the scan.
	parse[nvme.IdentifyControllerNVM](t, q.page(identify(nvme.CNSControllerIOCS, 0), 4096))
	ids, err := nvme.ParseNamespaceList(q.page(identify(nvme.CNSActiveNamespaces, 0), 4096))
	if err != nil || len(ids) != 1 || ids[0] != 1 {
		t.Fatalf("active namespaces %v, %v", ids, err)
	}
	ns := w.sub.Namespaces()[0].Config()
	desc := parse[nvme.NamespaceDescriptors](t, q.page(identify(nvme.CNSNamespaceDescriptors, 1), 4096))
	if desc.UUID != ns.UUID || desc.NGUID != ns.NGUID || desc.EUI64 != ns.EUI64 || desc.UUID.IsZero() || desc.CSI != 0 || !desc.HasCSI {
		t.Errorf("descriptors %+v, want %+v", desc, ns)
	}
	ind := parse[nvme.IdentifyNamespaceIndependent](t, q.page(identify(nvme.CNSNamespaceIndependent, 1), 4096))
	if ind.NSTAT&nvme.NSTATReady == 0 || ind.NMIC&nvme.NMICShared == 0 {
		t.Errorf("CNS 08h: %+v", ind)
	}
	for range 2 {
		n := parse[nvme.IdentifyNamespace](t, q.page(identify(nvme.CNSNamespace, 1), 4096))
		if n.NSZE != 2048 || n.NCAP != 2048 || n.Format().BlockSize() != 512 || n.NMIC&nvme.NMICShared == 0 ||
			n.NGUID != ns.NGUID || n.EUI64 != ns.EUI64 || n.DLFEAT != nvme.DLFEATReadZeroes|nvme.DLFEATWriteZeroes ||
			n.NSATTR != 0 || n.NVMCAP.Lo != 1<<20 {
			t.Errorf("Identify Namespace: %+v", n)
		}
	}

	// 23: reads, and keep alive.
	for _, q := range ios {
		b := bytes.Repeat([]byte{1}, 4096)
		q.ok(rw(nvme.IORead, 1, 0, 7), b)
		if !bytes.Equal(b, make([]byte, 4096)) {
			t.Error("a new device does not read as zeros")
		}
	}
	q.ok(cmd(nvme.Command.PutKeepAlive), nil)
	if !aer.pending() {
		t.Errorf("the AER ended with %+v and nothing had happened", aer.Completion)
	}

	// Removal: the I/O queues hang up, then CC.SHN, then the admin queue.
	for _, q := range ios {
		q.hangUp()
	}
	q.ok(propSet(nvme.PropertyCC, ccShutdown), nil)
	<-aer.done
	if got := aer.Completion.Status.Field(); got != 0x800C { // as seen from Linux targets
		t.Errorf("AER at shutdown: %#x, want 0x800C", got)
	}
	if csts := h.csts(); csts != 8 {
		t.Errorf("CSTS %#x after shutdown, want SHST complete", uint32(csts))
	}
	q.hangUp()
	if c := w.target.Counts(); c.Controllers != 0 || c.Queues != 0 {
		t.Errorf("%+v after the host has left", c)
	}
}

// checkIdentifyController checks what makes Linux give up, and that what is
// said is so.
func checkIdentifyController(t *testing.T, id *nvme.IdentifyController, h *host) {
	t.Helper()
	want := nvme.IdentifyController{
		SN: h.sub.Config().Serial, MN: "fabrid", FR: "1", RAB: 6,
		CMIC: 3, MDTS: 8, CNTLID: h.cntlid, VER: nvme.Version1_4, OAES: 0x100, CTRATT: 0x41,
		CNTRLTYPE: nvme.ControllerIO, ACL: 3, AERL: 3, FRMW: 3, LPA: 0x26, ELPE: 63, KAS: 10,
		SQES: 0x66, CQES: 0x44, MAXCMD: 128, NN: target.MaxNamespaces, ONCS: 0x19F, OCFS: 1, VWC: 6, SGLS: 0x100005, MNAN: target.MaxNamespaces,
		SUBNQN: subNQN, IOCCSZ: 0x104, IORCSZ: 1, MSDBD: 1,
	}
	if *id != want {
		t.Errorf("Identify Controller:\n got %+v\nwant %+v", *id, want)
	}
	if len(id.SN) != 20 {
		t.Errorf("serial number %q", id.SN)
	}
}

// A discovery controller, as Linux and nvme-cli use it.
func TestDiscovery(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	defer w.close()
	w.subsystem(target.SubsystemConfig{NQN: subNQN + "-elsewhere", AllowAnyHost: true})
	private := w.subsystem(target.SubsystemConfig{NQN: subNQN + "-private", Hosts: []string{otherNQN}})
	if err := w.port.Link(private); err != nil {
		t.Fatal(err)
	}
	h := w.connect(func(a *connectArgs) { a.SUBNQN = nvme.DiscoveryNQN })
	q := h.admin
	// Linux writes no entry sizes to a discovery controller, or does.
	q.ok(propSet(nvme.PropertyCC, 1), nil)
	if csts := h.csts(); csts != 1 {
		t.Fatalf("CSTS %#x", uint32(csts))
	}
	id := parse[nvme.IdentifyController](t, q.page(identify(nvme.CNSController, 0), 4096))
	if id.CNTRLTYPE != nvme.ControllerDiscovery || id.OAES != 1<<31 || id.SUBNQN != nvme.DiscoveryNQN || id.CNTLID != h.cntlid ||
		id.MAXCMD != 128 || id.SGLS != 0x100005 || id.LPA != 0x24 || id.NN != 0 || id.ONCS != 0 {
		t.Errorf("Identify Controller: %+v", id)
	}
	q.ok(setFeature(nvme.FeatureAsyncEventConfig, 1<<31), nil)
	aer := h.aer()

	// The header first, with RAE, then all of it without.
	header := parse[nvme.DiscoveryHeader](t, q.page(getLog(nvme.LogDiscovery, 1024, func(g *nvme.GetLogPageCommand) { g.RAE = true }), 1024))
	if header.NUMREC != 2 || header.RECFMT != 0 {
		t.Fatalf("header %+v, want 2 entries", header)
	}
	log := parse[nvme.DiscoveryLog](t, q.page(getLog(nvme.LogDiscovery, 3072, nil), 3072))
	if log.GENCTR != header.GENCTR || len(log.Entries) != 2 {
		t.Fatalf("%+v", log)
	}
	for i, want := range []nvme.DiscoveryEntry{
		{SUBTYPE: nvme.SubsystemCurrentDiscovery, SUBNQN: nvme.DiscoveryNQN},
		{SUBTYPE: nvme.SubsystemNVM, SUBNQN: subNQN},
	} {
		want.TRTYPE, want.ADRFAM, want.TREQ = nvme.TransportRDMA, nvme.AddressIPv4, nvme.TREQDisableSQFlowOK
		want.PORTID, want.CNTLID, want.ASQSZ = 1, 0xFFFF, 32
		want.TRSVCID, want.TRADDR = "4420", "192.0.2.1" // the address reached, not 0.0.0.0
		if log.Entries[i] != want {
			t.Errorf("entry %d:\n got %+v\nwant %+v", i, log.Entries[i], want)
		}
	}
	// In parts, as a host with little memory does it.
	part := func(g *nvme.GetLogPageCommand) { g.LPO = 1024 }
	if b := q.page(getLog(nvme.LogDiscovery, 2048, part), 2048); parse[nvme.DiscoveryEntry](t, b[1024:]) != log.Entries[1] {
		t.Error("the log in parts says something else")
	}
	// Beyond its end there is nothing.
	if b := q.page(getLog(nvme.LogDiscovery, 4096, nil), 4096); !bytes.Equal(b[3072:], make([]byte, 1024)) {
		t.Error("something behind the end of the log")
	}

	// A change is told once, until the log has been read without RAE.
	if !aer.pending() {
		t.Error("AER ended before anything changed")
	}
	private.SetHosts(true, nil)
	<-aer.done
	if got := nvme.AsyncEvent(aer.Completion.Result); got != nvme.EventDiscoveryChange {
		t.Errorf("event %v", got)
	}
	aer = h.aer()
	private.SetHosts(false, []string{hostNQN})
	q.page(getLog(nvme.LogDiscovery, 1024, func(g *nvme.GetLogPageCommand) { g.RAE = true }), 1024)
	private.SetHosts(false, []string{hostNQN})
	if !aer.pending() {
		t.Error("event while masked")
	}
	log = parse[nvme.DiscoveryLog](t, q.page(getLog(nvme.LogDiscovery, 4096, nil), 4096))
	if len(log.Entries) != 3 || log.GENCTR == header.GENCTR || log.Entries[2].SUBNQN != private.NQN() {
		t.Errorf("%+v", log)
	}
	if err := w.port.Unlink(private); err != nil {
		t.Fatal(err)
	}
	<-aer.done

	// What an I/O controller has and this one has not.
	bad := nvme.InvalidField.WithDNR()
	q.fails(identify(nvme.CNSNamespace, 1), make([]byte, 4096), bad)
	q.fails(identify(nvme.CNSActiveNamespaces, 0), make([]byte, 4096), bad)
	q.fails(setFeature(nvme.FeatureNumberOfQueues, 1), nil, bad)
	q.fails(getLog(nvme.LogSMART, 512, nil), make([]byte, 512), nvme.InvalidLogPage.WithDNR())

	// Close, as Linux does it: CC.SHN.
	q.ok(propSet(nvme.PropertyCC, 0x464061), nil)
	if csts := h.csts(); csts != 8 {
		t.Errorf("CSTS %#x after shutdown", uint32(csts))
	}
}

// What discovery says of a port's addresses.
func TestDiscoveryAddresses(t *testing.T) {
	tsas := nvme.RDMATSAS{QPTYPE: 1, PRTYPE: 4, CMS: 1}.TSAS()
	tests := []struct {
		name  string
		local string
		addrs []target.Address
		want  []string // transport, family, address and service of each entry, without the first
	}{
		{"none", "192.0.2.1:4420", nil, []string{"rdma ipv4 192.0.2.1 4420"}},
		{"none, IPv6", "[2001:db8::1]:4420", nil, []string{"rdma ipv6 2001:db8::1 4420"}},
		{"wildcard of both families", "192.0.2.1:4420",
			[]target.Address{{TRTYPE: 1, ADRFAM: 2, TRADDR: "::", TRSVCID: "4420"}, {TRTYPE: 1, ADRFAM: 1, TRADDR: "0.0.0.0", TRSVCID: "4420"}},
			[]string{"rdma ipv4 192.0.2.1 4420"}}, // the same: once
		{"IPv4 in IPv6", "[::ffff:192.0.2.1]:4420",
			[]target.Address{{TRTYPE: 1, ADRFAM: 2, TRADDR: "::", TRSVCID: "4420"}}, []string{"rdma ipv4 192.0.2.1 4420"}},
		{"zone", "[fe80::1%eth0]:4420",
			[]target.Address{{TRTYPE: 1, ADRFAM: 2, TRADDR: "::", TRSVCID: "4420"}}, []string{"rdma ipv6 fe80::1 4420"}},
		{"ephemeral port", "192.0.2.1:45123",
			[]target.Address{{TRTYPE: 1, ADRFAM: 1, TRADDR: "0.0.0.0", TRSVCID: "0"}}, []string{"rdma ipv4 192.0.2.1 45123"}},
		{"several", "192.0.2.1:4420",
			[]target.Address{
				{TRTYPE: 1, ADRFAM: 1, TRADDR: "0.0.0.0", TRSVCID: "4420"},
				{TRTYPE: 3, ADRFAM: 1, TRADDR: "198.51.100.1", TRSVCID: "8009"},
			},
			[]string{"rdma ipv4 192.0.2.1 4420", "tcp ipv4 198.51.100.1 8009"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, target.Config{}, nil)
			defer w.close()
			w.port.SetAddresses(tt.addrs)
			q := w.open(func(p *transport.QueueParam) { p.Local, p.Limits.TSAS = addrPort(tt.local), tsas })
			a := adminConnect()
			a.SUBNQN = nvme.DiscoveryNQN
			if cqe := q.connect(a); !cqe.Status.OK() {
				t.Fatal(cqe.Status)
			}
			q.ok(propSet(nvme.PropertyCC, ccEnabled), nil)
			b := q.page(getLog(nvme.LogDiscovery, 8192, nil), 8192)
			log := parse[nvme.DiscoveryLog](t, b)
			if len(log.Entries) != len(tt.want)+1 {
				t.Fatalf("%d entries: %+v", len(log.Entries), log.Entries)
			}
			here := log.Entries[0]
			if got := entryText(here); got != tt.want[0] {
				t.Errorf("the discovery subsystem is at %q, want %q", got, tt.want[0])
			}
			for i, e := range log.Entries[1:] {
				if got := entryText(e); got != tt.want[i] {
					t.Errorf("entry %d: %q, want %q", i, got, tt.want[i])
				}
				if e.TRTYPE == nvme.TransportRDMA && (e.TSAS != tsas || here.TSAS != tsas) {
					t.Errorf("entry %d: TSAS %x, and %x", i, e.TSAS[:12], here.TSAS[:12])
				}
			}
			if n := binary.LittleEndian.Uint64(b[8:]); n != uint64(len(log.Entries)) {
				t.Errorf("NUMREC %d", n)
			}
		})
	}
}

func entryText(e nvme.DiscoveryEntry) string {
	return e.TRTYPE.String() + " " + e.ADRFAM.String() + " " + e.TRADDR + " " + e.TRSVCID
}
