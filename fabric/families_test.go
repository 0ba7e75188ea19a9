package fabric_test

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/fabric"
	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/internal/simnet"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport/rdma"
	"github.com/fabrid/fabrid/verbs/roce"
)

// One target at an address of each family, on a bad network: hosts of both find
// it where they have asked, and use it.
func TestFamilies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := simnet.New(simnet.Config{Seed: 6, Link: simnet.Link{
			Delay: 20 * time.Microsecond, Loss: 0.01, Duplicate: 0.005, HoldBack: 0.05, Corrupt: 0.001,
		}})
		newNode := func(name string) *fabric.Node {
			n, err := fabric.NewNode(fabric.Config{Name: name, Sim: true})
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		server, client := newNode("server"), newNode("client")
		tgt, port := serve(t)
		for _, c := range []struct {
			at, from string
			family   nvme.AddressFamily
		}{
			{"192.0.2.1", "192.0.2.2", nvme.AddressIPv4},
			{"2001:db8::1", "2001:db8::2", nvme.AddressIPv6},
		} {
			at := netip.MustParseAddr(c.at)
			device, err := server.OpenRoCE(roce.Config{Addr: at, Network: net})
			if err != nil {
				t.Fatal(err)
			}
			l, err := device.Listen(rdma.Config{Core: port, PoolSize: 4 << 20})
			if err != nil {
				t.Fatal(err)
			}
			device, err = client.OpenRoCETo(at, roce.Config{Addr: netip.MustParseAddr(c.from), Network: net})
			if err != nil {
				t.Fatal(err)
			}
			dialer, err := device.Dialer()
			if err != nil {
				t.Fatal(err)
			}
			log, err := host.Discover(t.Context(), host.Config{Dialer: dialer, Remote: l.Addr()})
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range log.Entries {
				if e.TRTYPE != nvme.TransportRDMA || e.ADRFAM != c.family || e.TRADDR != c.at || e.TRSVCID != "4420" {
					t.Errorf("at %s there is said to be %v %v %s %s", c.at, e.TRTYPE, e.ADRFAM, e.TRADDR, e.TRSVCID)
				}
			}
			for range 5 {
				use(t, dialer, l.Addr())
			}
			if s := device.Device.Stats(); s.DropsICRC+s.Retransmits+s.Duplicates == 0 {
				t.Errorf("the network of %s was good: %+v", c.at, s)
			}
		}
		if err := errors.Join(client.Close(t.Context()), tgt.Close(), server.Close(t.Context()), net.Close()); err != nil {
			t.Error(err)
		}
	})
}
