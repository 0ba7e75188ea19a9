package roce

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/verbs"
)

// What the machine says of addresses that it has, and has not.
func TestHasAddr(t *testing.T) {
	d := &Device{}
	for addr, want := range map[string]bool{
		"127.0.0.1": true, "127.99.1.2": true, "192.0.2.1": false, "2001:db8::1": false,
	} {
		if got := d.hasAddr(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
}

// A listener cannot be made where the address is missing; and can again when it
// is back, which is what a supervisor waits for.
func TestCMListenWithoutTheAddress(t *testing.T) {
	withCM(t, cmCaps{}, func(n *cmNet) {
		e := n.b
		var told []rdmacm.DeviceEvent
		e.run(func() {
			e.m.watch(&cmWatcher{func(ev rdmacm.DeviceEvent) { told = append(told, ev) }})
		})
		e.accepts()
		e.run(func() { e.lost = true })
		time.Sleep(probePeriod + time.Millisecond)
		key := netip.AddrPortFrom(e.addr, cmPortB)
		e.run(func() {
			if len(told) != 1 || told[0].Type != rdmacm.AddrChange || told[0].Addr != e.addr || !errors.Is(told[0].Err, errAddrGone) {
				t.Errorf("told %+v", told)
			}
			e.m.unlisten(key)
			if _, err := e.m.listen(key, nil); err == nil {
				t.Error("listens without an address")
			}
			// All addresses are always there, and cost no timer.
			if _, err := e.m.listen(netip.AddrPortFrom(netip.IPv4Unspecified(), cmPortB), nil); err != nil {
				t.Error(err)
			}
			e.m.unlisten(listenKey(netip.IPv4Unspecified(), cmPortB))
		})
		time.Sleep(2 * probePeriod)
		e.run(func() {
			if e.m.prober.Armed() {
				t.Error("probes for nobody")
			}
			e.lost = false
		})
		e.accepts()
		n.a.connect()
		time.Sleep(time.Second)
		n.a.told("established")
		n.b.told("established")
		n.closeAll()
	})
}

// A device is unplugged under a listener and connections: their owners are told,
// each once, let go, and the device can be closed. The peer is told too.
func TestDeviceIsUnplugged(t *testing.T) {
	a, b := newCMNode(t, "127.77.1.1"), newCMNode(t, "127.77.1.2")
	cause := errors.New("unplugged")
	events := make(chan rdmacm.EventType, 16)
	removals := make(chan *rdmacm.ID, 16)
	qpB := b.qp(make([]byte, 64))
	handler := func(id *rdmacm.ID, ev *rdmacm.Event) error {
		switch ev.Type {
		case rdmacm.ConnectRequest:
			return ev.Conn.Accept(qpB, rdmacm.ConnParam{})
		case rdmacm.DeviceRemoval:
			if !errors.Is(ev.Err, cause) {
				t.Errorf("%v: %v", id, ev.Err)
			}
			removals <- id
		}
		events <- ev.Type
		return nil
	}
	l := must(b.cm.NewID(handler))
	to := netip.AddrPortFrom(netip.MustParseAddr("127.77.1.2"), 4420)
	if err := l.Listen(b.dev, to); err != nil {
		t.Fatal(err)
	}
	idle := must(b.cm.NewID(handler))
	if err := idle.Resolve(b.dev, netip.Addr{}, netip.MustParseAddrPort("127.77.1.1:4420")); err != nil {
		t.Fatal(err)
	}
	qpA := a.qp(make([]byte, 64))
	peer := make(chan rdmacm.EventType, 8)
	id := must(a.cm.NewID(func(_ *rdmacm.ID, ev *rdmacm.Event) error { peer <- ev.Type; return nil }))
	if err := id.Resolve(a.dev, netip.Addr{}, to); err != nil {
		t.Fatal(err)
	}
	if err := id.Connect(qpA, rdmacm.ConnParam{}); err != nil {
		t.Fatal(err)
	}
	if ev := await(t, peer, "event"); ev != rdmacm.Established {
		t.Fatalf("a was told %v", ev)
	}
	if ev := await(t, events, "event"); ev != rdmacm.Established {
		t.Fatalf("b was told %v", ev)
	}

	if err := b.dev.Remove(cause); err != nil {
		t.Fatal(err)
	}
	gone := map[*rdmacm.ID]bool{}
	for range 3 {
		id := await(t, removals, "device removal")
		if gone[id] {
			t.Errorf("%v was told twice", id)
		}
		gone[id] = true
		// Its owner lets it go, as soon as it likes.
		go func() {
			if err := id.Destroy(); err != nil {
				t.Error(err)
			}
		}()
	}
	if !gone[l] || !gone[idle] {
		t.Errorf("told were %v", gone)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := b.cm.RemoveDevice(ctx, b.dev); err != nil {
		t.Error(err)
	}
	if n := b.cm.Len(); n != 0 || len(removals) != 0 {
		t.Errorf("%d IDs left, %d told twice", n, len(removals))
	}
	if ev := await(t, peer, "event"); ev != rdmacm.Disconnected {
		t.Errorf("a was told %v", ev)
	}
	late := must(b.cm.NewID(handler))
	if err := late.Listen(b.dev, to); !errors.Is(err, cause) {
		t.Errorf("Listen on a removed device: %v", err)
	}
	if s := qpB.State(); s != verbs.Err {
		t.Errorf("the queue pair is in %v", s)
	}
	a.close(qpA)
	b.close(qpB)
	if err := b.dev.Remove(cause); err == nil {
		t.Error("removed from a closed shard")
	}
}
