package fabric_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/fabric"
	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport/rdma"
	"github.com/fabrid/fabrid/verbs/roce"
)

// A target and a host over RoCEv2, each with a device at an address of its own.
func Example() {
	ctx := context.Background()
	must := func(err error) {
		if err != nil {
			log.Fatal(err)
		}
	}
	node, err := fabric.NewNode(fabric.Config{})
	must(err)

	disk, err := bdev.NewMemory(bdev.MemoryConfig{Size: 1 << 20})
	must(err)
	tgt := target.New(target.Config{})
	sub, err := tgt.AddSubsystem(target.SubsystemConfig{NQN: "nqn.2025-01.example:disks", AllowAnyHost: true})
	must(err)
	_, err = sub.AddNamespace(target.NamespaceConfig{Device: disk})
	must(err)
	port, err := tgt.AddPort(target.PortConfig{ID: 1})
	must(err)
	must(port.Link(sub))

	device, err := node.OpenRoCE(roce.Config{Addr: netip.MustParseAddr("127.4.21.1")})
	must(err)
	listener, err := device.Listen(rdma.Config{Core: port})
	must(err)

	hostDevice, err := node.OpenRoCETo(listener.Addr().Addr(), roce.Config{})
	must(err)
	dialer, err := hostDevice.Dialer()
	must(err)
	c, err := host.Connect(ctx, host.Config{Dialer: dialer, Remote: listener.Addr(), NQN: "nqn.2025-01.example:disks"})
	must(err)
	fmt.Println(c.State(), len(c.Namespaces()))
	must(c.Disconnect(ctx))

	must(tgt.Close())
	must(node.Close(ctx)) // listeners and devices first
	must(disk.Close())
	// Output:
	// live 1
}
