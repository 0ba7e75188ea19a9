package target_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport"
)

func TestConfigErrors(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	defer w.close()
	for _, c := range []target.SubsystemConfig{
		{}, {NQN: "x"}, {NQN: nvme.DiscoveryNQN}, {NQN: subNQN},
		{NQN: subNQN + "2", Serial: strings.Repeat("1", 21)}, {NQN: subNQN + "2", Serial: "ä"},
		{NQN: subNQN + "2", Model: strings.Repeat("1", 41)},
		{NQN: subNQN + "2", MaxQueues: -1}, {NQN: subNQN + "2", MaxQueues: 5000},
		{NQN: subNQN + "2", MaxQueueDepth: 1}, {NQN: subNQN + "2", MaxQueueDepth: 65537},
		{NQN: subNQN + "2", CNTLIDMin: 2, CNTLIDMax: 1}, {NQN: subNQN + "2", CNTLIDMax: 0xFFF0},
	} {
		if _, err := w.target.AddSubsystem(c); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
	first := w.sub.Namespaces()[0].Config()
	odd := &recorder{Device: w.dev, t: t}
	for _, c := range []struct {
		cfg  target.NamespaceConfig
		info func(*bdev.Info)
	}{
		{target.NamespaceConfig{NSID: 1, Device: w.dev}, nil},
		{target.NamespaceConfig{NSID: target.MaxNamespaces + 1, Device: w.dev}, nil},
		{target.NamespaceConfig{NSID: 0xFFFFFFFF, Device: w.dev}, nil},
		{target.NamespaceConfig{}, nil},
		{target.NamespaceConfig{Device: w.dev, UUID: first.UUID}, nil},
		{target.NamespaceConfig{Device: w.dev, NGUID: first.NGUID}, nil},
		{target.NamespaceConfig{Device: w.dev, EUI64: first.EUI64}, nil},
		{target.NamespaceConfig{Device: odd}, func(i *bdev.Info) { i.BlockSize = 520 }},
		{target.NamespaceConfig{Device: odd}, func(i *bdev.Info) { i.BlockSize = 256 }},
		{target.NamespaceConfig{Device: odd}, func(i *bdev.Info) { i.Blocks = 0 }},
		{target.NamespaceConfig{Device: odd}, func(i *bdev.Info) { i.Blocks = 1 << 60 }},
	} {
		odd.info = c.info
		if n, err := w.sub.AddNamespace(c.cfg); err == nil {
			t.Errorf("%+v: no error, namespace %d", c.cfg, n.NSID())
		}
	}
	if _, err := w.target.AddPort(target.PortConfig{ID: 1}); !errors.Is(err, target.ErrExists) {
		t.Errorf("port twice: %v", err)
	}
	if err := w.port.Link(w.sub); !errors.Is(err, target.ErrExists) {
		t.Errorf("link twice: %v", err)
	}
	if err := w.port.Link(target.New(target.Config{}).Discovery()); !errors.Is(err, target.ErrNotFound) {
		t.Errorf("link with another target's: %v", err)
	}
	for _, change := range []func(*transport.QueueParam){
		func(p *transport.QueueParam) { p.Depth = 0 },
		func(p *transport.QueueParam) { p.Depth = 1<<16 + 1 },
		func(p *transport.QueueParam) { p.Limits.MaxData = 4095 },
	} {
		p := transport.QueueParam{Shard: w.shard, Depth: 1, Limits: limits}
		change(&p)
		if _, err := w.port.Open(nil, p); err == nil {
			t.Errorf("%+v: no error", p)
		}
	}
	if c := w.target.Counts(); c != (target.Counts{Subsystems: 1, Namespaces: 1, Ports: 1}) {
		t.Errorf("%+v", c)
	}
}

// Identifiers that are derived stay the same, and differ from one another.
func TestDerivedIdentifiers(t *testing.T) {
	type ids struct {
		uuid  nvme.UUID
		nguid nvme.NGUID
		eui64 nvme.EUI64
	}
	identifiers := func() map[ids]bool {
		w := newWorld(t, target.Config{}, nil)
		defer w.close()
		s2 := w.subsystem(target.SubsystemConfig{NQN: subNQN + "2"})
		m := map[ids]bool{}
		for _, s := range []*target.Subsystem{w.sub, s2} {
			for range 3 { // the lowest free NSID
				if _, err := s.AddNamespace(target.NamespaceConfig{Device: w.dev}); err != nil {
					t.Fatal(err)
				}
			}
			for i, n := range s.Namespaces() {
				c := n.Config()
				m[ids{c.UUID, c.NGUID, c.EUI64}] = true
				if c.NSID != uint32(i+1) {
					t.Errorf("namespace %d has NSID %d", i, c.NSID)
				}
				if c.EUI64[0]&3 != 2 || c.NGUID[8]&3 != 2 || c.UUID[6]>>4 != 8 || c.UUID[8]>>6 != 2 {
					t.Errorf("%v %v %v", c.UUID, c.NGUID, c.EUI64)
				}
			}
		}
		return m
	}
	first, again := identifiers(), identifiers()
	if len(first) != 7 {
		t.Errorf("%d different of 7", len(first))
	}
	for id := range first {
		if !again[id] {
			t.Errorf("%v is not the same again", id)
		}
	}
}

// What is configured is what hosts see.
func TestSubsystemConfig(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	defer w.close()
	s := w.subsystem(target.SubsystemConfig{
		NQN: subNQN + "-2", Serial: "S1", Model: "M1", AllowAnyHost: true,
		MaxQueues: 2, MaxQueueDepth: 64, CNTLIDMin: 100, CNTLIDMax: 200,
	})
	if err := w.port.Link(s); err != nil {
		t.Fatal(err)
	}
	if all := w.port.Subsystems(); len(all) != 2 || all[1] != s {
		t.Errorf("%v", all)
	}
	h := w.enable(func(a *connectArgs) { a.SUBNQN = s.NQN() })
	id := parse[nvme.IdentifyController](t, h.admin.page(identify(1, 0), 4096))
	if id.SN != "S1" || id.MN != "M1" || id.MAXCMD != 64 || id.CNTLID != 100 || id.SUBNQN != s.NQN() {
		t.Errorf("%+v", id)
	}
	if c := nvme.CAP(h.admin.ok(propGet(nvme.PropertyCAP), nil).Result); c.MQES() != 63 {
		t.Errorf("MQES %d", c.MQES())
	}
}
