package target_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport"
)

// at is the world as seen through another port.
func (w *world) at(p *target.Port) *world {
	o := &world{t: w.t, target: w.target, sub: w.sub, port: p, shard: w.shard, dev: w.dev}
	return o
}

// Several subsystems, ports and hosts at once: a port has the subsystems that it is
// linked with, a subsystem the hosts that it allows, and each has its own
// namespaces and identifiers.
func TestManyOfEach(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	defer w.close()
	any1 := w.sub
	any2 := w.subsystem(target.SubsystemConfig{NQN: subNQN + "-2", AllowAnyHost: true, CNTLIDMin: 100, CNTLIDMax: 102})
	mine := w.subsystem(target.SubsystemConfig{NQN: subNQN + "-3", Hosts: []string{hostNQN}, CNTLIDMin: 5, CNTLIDMax: 5})
	port2, err := w.target.AddPort(target.PortConfig{ID: 2})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*target.Subsystem{any2, mine} {
		if err := port2.Link(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.port.Link(mine); err != nil {
		t.Fatal(err)
	}
	// Added in no order; seen in that of their numbers.
	disks := map[uint32]*bdev.Memory{}
	for _, nsid := range []uint32{7, 2, 900, 1} {
		disks[nsid] = newMemory(t, uint64(nsid)*4096)
		if _, err := any2.AddNamespace(target.NamespaceConfig{NSID: nsid, Device: disks[nsid]}); err != nil {
			t.Fatal(err)
		}
		defer disks[nsid].Close()
	}
	if _, err := mine.AddNamespace(target.NamespaceConfig{Device: w.dev}); err != nil {
		t.Fatal(err)
	}

	// Which host is let in where, and what it is told of.
	two := w.at(port2)
	for _, tt := range []struct {
		name  string
		w     *world
		host  string
		sees  []string
		wants map[string]nvme.Status
	}{
		{"port 1", w, hostNQN, []string{any1.NQN(), mine.NQN()}, map[string]nvme.Status{any2.NQN(): nvme.ConnectInvalidParameters}},
		{"port 1, another host", w, otherNQN, []string{any1.NQN()}, map[string]nvme.Status{any2.NQN(): nvme.ConnectInvalidParameters, mine.NQN(): nvme.ConnectInvalidHost}},
		{"port 2", two, hostNQN, []string{any2.NQN(), mine.NQN()}, map[string]nvme.Status{any1.NQN(): nvme.ConnectInvalidParameters}},
		{"port 2, another host", two, otherNQN, []string{any2.NQN()}, map[string]nvme.Status{any1.NQN(): nvme.ConnectInvalidParameters, mine.NQN(): nvme.ConnectInvalidHost}},
	} {
		to := func(nqn string) func(*connectArgs) {
			return func(a *connectArgs) { a.SUBNQN, a.HOSTNQN = nqn, tt.host }
		}
		d := tt.w.enable(to(nvme.DiscoveryNQN)).admin
		log := parse[nvme.DiscoveryLog](t, d.page(getLog(nvme.LogDiscovery, 8192, nil), 8192))
		var sees []string
		for _, e := range log.Entries[1:] {
			sees = append(sees, e.SUBNQN)
			if e.PORTID != tt.w.port.ID() {
				t.Errorf("%s: port %d", tt.name, e.PORTID)
			}
		}
		if !slices.Equal(sees, tt.sees) {
			t.Errorf("%s: sees %v, want %v", tt.name, sees, tt.sees)
		}
		d.hangUp()
		for nqn, want := range tt.wants {
			q := tt.w.open(nil)
			a := adminConnect()
			to(nqn)(&a)
			if got := q.connect(a).Status; got != want.WithDNR() {
				t.Errorf("%s: Connect to %s: %v, want %v", tt.name, nqn, got, want)
			}
			q.hangUp()
		}
		for _, nqn := range tt.sees {
			h := tt.w.enable(to(nqn))
			id := parse[nvme.IdentifyController](t, h.admin.page(identify(nvme.CNSController, 0), 4096))
			if id.SUBNQN != nqn || id.CNTLID != h.cntlid {
				t.Errorf("%s: %s, CNTLID %d, want %d", tt.name, id.SUBNQN, id.CNTLID, h.cntlid)
			}
			h.admin.hangUp()
		}
		if tt.w != w {
			w.queues = append(w.queues, tt.w.queues...)
			tt.w.queues = nil
			tt.w.releases.Wait()
		}
	}

	// Identifiers of controllers: in their range, in turn, none twice; then none.
	var hosts []*host
	for range 3 {
		hosts = append(hosts, two.enable(func(a *connectArgs) { a.SUBNQN = any2.NQN() }))
	}
	ids := []uint16{hosts[0].cntlid, hosts[1].cntlid, hosts[2].cntlid}
	slices.Sort(ids)
	if !slices.Equal(ids, []uint16{100, 101, 102}) {
		t.Errorf("controllers %v", ids)
	}
	full := two.open(nil)
	a := adminConnect()
	a.SUBNQN = any2.NQN()
	if got := full.connect(a).Status; got != nvme.ConnectControllerBusy.WithDNR() {
		t.Errorf("a fourth of three: %v", got)
	}
	only := w.enable(func(a *connectArgs) { a.SUBNQN = mine.NQN() })
	if only.cntlid != 5 {
		t.Errorf("controller %d", only.cntlid)
	}

	// A queue belongs to the controller of its host and port.
	for _, wrong := range []func(*connectArgs){
		func(a *connectArgs) { a.HOSTNQN = otherNQN },
		func(a *connectArgs) { a.HostID[3]++ },
		func(a *connectArgs) { a.CNTLID = 5 },
		func(a *connectArgs) { a.SUBNQN = mine.NQN() },
	} {
		a := ioConnect(hosts[0].cntlid, 1)
		a.SUBNQN = any2.NQN()
		wrong(&a)
		q := two.open(nil)
		if got := q.connect(a).Status; got.OK() {
			t.Errorf("queue of another's controller: %+v", a)
		}
		q.hangUp()
	}
	q := two.open(func(p *transport.QueueParam) { p.Depth = 64 })
	a = ioConnect(hosts[0].cntlid, 1)
	a.SUBNQN = any2.NQN()
	if got := q.connect(a).Status; !got.OK() {
		t.Fatal(got)
	}

	// Namespaces in order, each with its own size, blocks and names.
	list, err := nvme.ParseNamespaceList(hosts[0].admin.page(identify(nvme.CNSActiveNamespaces, 0), 4096))
	if err != nil || !slices.Equal(list, []uint32{1, 2, 7, 900}) {
		t.Fatalf("%v, %v", list, err)
	}
	names := map[string]uint32{}
	for _, nsid := range list {
		n := parse[nvme.IdentifyNamespace](t, hosts[0].admin.page(identify(nvme.CNSNamespace, nsid), 4096))
		page := hosts[0].admin.page(identify(nvme.CNSNamespaceDescriptors, nsid), 4096)
		d := parse[nvme.NamespaceDescriptors](t, page)
		if n.NSZE != uint64(nsid)*8 || n.NGUID != d.NGUID || n.EUI64 != d.EUI64 || n.NSFEAT&nvme.NSFEATNABSPF != 0 || n.NAWUN != 0 || n.NAWUPF != 0 {
			t.Errorf("namespace %d: %+v", nsid, n)
		}
		// EUI-64, NGUID, UUID and CSI, once each, and nothing behind them.
		if at := []byte{page[0], page[12], page[32], page[52]}; !bytes.Equal(at, []byte{1, 2, 3, 4}) || !bytes.Equal(page[57:], make([]byte, 4096-57)) {
			t.Errorf("namespace %d: descriptors %v", nsid, at)
		}
		for _, name := range []string{d.UUID.String(), d.NGUID.String(), d.EUI64.String()} {
			if other, ok := names[name]; ok {
				t.Errorf("namespaces %d and %d are both %s", other, nsid, name)
			}
			names[name] = nsid
		}
		data := bytes.Repeat([]byte(fmt.Sprintf("%07d\n", nsid)), 64)
		q.ok(rw(nvme.IOWrite, nsid, 0, 0), data)
		got := make([]byte, 512)
		q.ok(rw(nvme.IORead, nsid, 0, 0), got)
		if !bytes.Equal(got, data) {
			t.Errorf("namespace %d: other data", nsid)
		}
	}
	if s := any2.Stats(); s.Reads != 4 || s.Writes != 4 || mine.Stats().Reads != 0 {
		t.Errorf("%+v", s)
	}

	// A host that is not allowed any more is out, everywhere; a port that is
	// unlinked keeps its others.
	any2.SetHosts(false, []string{otherNQN})
	for _, h := range hosts {
		<-h.admin.gone
	}
	<-q.gone
	if err := w.port.Unlink(any1); err != nil {
		t.Fatal(err)
	}
	only.csts() // is there still
	two.releases.Wait()
	w.queues = append(w.queues, two.queues...)
}

// A Flush of all namespaces, of which there may be thousands, lets others have the
// shard in between, and flushes each once.
func TestFlushOfAllGivesWay(t *testing.T) {
	rec := &recorder{Device: newMemory(t, 4096), t: t}
	w := newWorld(t, target.Config{}, rec)
	defer w.close()
	const n = 20
	for range n - 1 {
		if _, err := w.sub.AddNamespace(target.NamespaceConfig{Device: rec}); err != nil {
			t.Fatal(err)
		}
	}
	q := w.enable(nil).io(1, nil)
	flushes, others := 0, 0
	other := shard.Task{Fn: func() { others++ }}
	rec.fail = func(bdev.Kind) error {
		if flushes++; others < flushes-2 {
			t.Errorf("flush %d, and others had %d turns", flushes, others)
		}
		w.shard.Post(&other)
		return nil
	}
	q.ok(cmd(func(c nvme.Command) { c.PutFlush(nvme.NSIDBroadcast) }), nil)
	if flushes != n {
		t.Errorf("%d flushes of %d namespaces", flushes, n)
	}
}
