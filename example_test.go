package fabrid_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/fabric"
	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport/loop"
	"github.com/fabrid/fabrid/transport/rdma"
	"github.com/fabrid/fabrid/verbs/roce"
)

const nqn = "nqn.2014-08.org.example:disks"

// START HERE: a target with a disk in memory, and a host that uses it, within
// this process.
func Example() {
	ctx := context.Background()
	node, err := fabric.NewNode(fabric.Config{})
	check(err)

	disk, err := bdev.NewMemory(bdev.MemoryConfig{Size: 64 << 20})
	check(err)
	tgt, port := newTarget(disk)

	// The port listens on the fabric within the process.
	address := netip.MustParseAddrPort("192.0.2.1:4420")
	_, err = node.Loop().Listen(loop.Config{Core: port, Addr: address})
	check(err)

	// The host: connect, write, read.
	c, err := host.Connect(ctx, host.Config{Dialer: node.Loop().Dialer(), Remote: address, NQN: nqn})
	check(err)
	ns, err := c.Namespace(1)
	check(err)
	block := make([]byte, ns.BlockSize())
	copy(block, "written over a fabric")
	_, err = ns.WriteAt(block, 0)
	check(err)

	text := make([]byte, 21)
	_, err = ns.ReadAt(text, 0)
	check(err)
	fmt.Printf("%d MiB in blocks of %d: %q\n", ns.Size()>>20, ns.BlockSize(), text)

	// In the reverse order.
	check(c.Disconnect(ctx))
	check(tgt.Close())
	check(node.Close(ctx))
	check(disk.Close())
	// Output:
	// 64 MiB in blocks of 4096: "written over a fabric"
}

// newTarget returns a target: a subsystem with a namespace, reached through a
// port.
func newTarget(disk bdev.Device) (*target.Target, *target.Port) {
	tgt := target.New(target.Config{})
	subsystem, err := tgt.AddSubsystem(target.SubsystemConfig{NQN: nqn, AllowAnyHost: true})
	check(err)
	_, err = subsystem.AddNamespace(target.NamespaceConfig{Device: disk})
	check(err)
	port, err := tgt.AddPort(target.PortConfig{ID: 1})
	check(err)
	check(port.Link(subsystem))
	return tgt, port
}

// The same over RDMA: RoCEv2 on the loopback interface, in the place of which
// any other will do. Each end of a connection has a device, with an address of
// its own. Who looks for subsystems asks the discovery controller.
func Example_roce() {
	ctx := context.Background()
	node, err := fabric.NewNode(fabric.Config{})
	check(err)

	disk, err := bdev.NewMemory(bdev.MemoryConfig{Size: 64 << 20})
	check(err)
	tgt, port := newTarget(disk)

	server, err := node.OpenRoCE(roce.Config{Addr: netip.MustParseAddr("127.4.20.1")})
	check(err)
	listener, err := server.Listen(rdma.Config{Core: port})
	check(err)

	client, err := node.OpenRoCETo(listener.Addr().Addr(), roce.Config{})
	check(err)
	dialer, err := client.Dialer()
	check(err)
	found, err := host.Discover(ctx, host.Config{Dialer: dialer, Remote: listener.Addr()})
	check(err)
	for _, e := range found.Entries {
		if e.SUBNQN != nqn {
			continue
		}
		fmt.Println(e.TRTYPE, e.TRADDR, e.TRSVCID, e.SUBNQN)
		c, err := host.Connect(ctx, host.Config{Dialer: dialer, Remote: listener.Addr(), NQN: e.SUBNQN})
		check(err)
		ns, err := c.Namespace(1)
		check(err)
		check(ns.WriteZeroes(ctx, 0, ns.Blocks(), true))
		check(c.Disconnect(ctx))
	}

	check(tgt.Close())
	check(node.Close(ctx))
	check(disk.Close())
	// Output:
	// rdma 127.4.20.1 4420 nqn.2014-08.org.example:disks
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
