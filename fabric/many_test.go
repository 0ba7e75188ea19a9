package fabric_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/fabrid/fabrid/fabric"
	"github.com/fabrid/fabrid/transport/rdma"
	"github.com/fabrid/fabrid/verbs/roce"
)

// Devices that share work beside each other, and each has its own name.
func TestOpenRoCEs(t *testing.T) {
	server, err := fabric.NewNode(fabric.Config{Name: "server"})
	if err != nil {
		t.Fatal(err)
	}
	tgt, port := serve(t)
	device, err := server.OpenRoCE(roce.Config{Addr: netip.MustParseAddr("127.4.20.20")})
	if err != nil {
		t.Fatal(err)
	}
	l, err := device.Listen(rdma.Config{Core: port})
	if err != nil {
		t.Fatal(err)
	}

	client, err := fabric.NewNode(fabric.Config{Name: "client"})
	if err != nil {
		t.Fatal(err)
	}
	addrs := []netip.Addr{netip.MustParseAddr("127.4.20.21"), netip.MustParseAddr("127.4.20.22"), netip.MustParseAddr("127.4.20.23")}
	guid := func(i int) uint64 { return 1<<57 | uint64(i) }
	devices, err := client.OpenRoCEs(addrs, roce.Config{}, guid)
	if err != nil || len(devices) != len(addrs) {
		t.Fatalf("%d devices, %v", len(devices), err)
	}
	for i, d := range devices {
		if d.Device.Addr().Addr() != addrs[i] || d.Device.Attr().NodeGUID != guid(i) {
			t.Errorf("device %d at %v with GUID %#x", i, d.Device.Addr(), d.Device.Attr().NodeGUID)
		}
		dialer, err := d.Dialer()
		if err != nil {
			t.Fatal(err)
		}
		use(t, dialer, l.Addr())
	}
	if all, err := client.OpenRoCEs([]netip.Addr{addrs[0].Next().Next().Next(), addrs[0].Next().Next().Next()}, roce.Config{}, guid); err == nil || len(all) != 1 {
		t.Errorf("one address twice: %d devices, %v", len(all), err)
	}
	if err := errors.Join(tgt.Close(), client.Close(t.Context()), server.Close(t.Context())); err != nil {
		t.Error(err)
	}
}
