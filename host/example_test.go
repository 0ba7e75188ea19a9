package host_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/netip"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/fabric"
	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport/loop"
)

// serveExample serves 1 MiB of memory within the process, and returns what a
// host needs to reach it.
func serveExample() (_ host.Config, closeAll func()) {
	node, err := fabric.NewNode(fabric.Config{})
	must(err)
	disk, err := bdev.NewMemory(bdev.MemoryConfig{Size: 1 << 20, BlockSize: 512})
	must(err)
	tgt := target.New(target.Config{})
	sub, err := tgt.AddSubsystem(target.SubsystemConfig{NQN: "nqn.2025-01.example:disks", AllowAnyHost: true})
	must(err)
	_, err = sub.AddNamespace(target.NamespaceConfig{NSID: 1, Device: disk})
	must(err)
	remote := netip.MustParseAddrPort("192.0.2.1:4420")
	port, err := tgt.AddPort(target.PortConfig{ID: 1, Addresses: []target.Address{
		{TRTYPE: nvme.TransportLoop, ADRFAM: nvme.AddressIPv4, TRADDR: "192.0.2.1", TRSVCID: "4420"},
	}})
	must(err)
	must(port.Link(sub))
	_, err = node.Loop().Listen(loop.Config{Core: port, Addr: remote})
	must(err)
	return host.Config{Dialer: node.Loop().Dialer(), Remote: remote}, func() {
		must(tgt.Close())
		must(node.Close(context.Background()))
		must(disk.Close())
	}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// Connect, use a namespace as a file, and leave.
func ExampleConnect() {
	cfg, closeAll := serveExample()
	defer closeAll()
	ctx := context.Background()

	cfg.NQN = "nqn.2025-01.example:disks"
	c, err := host.Connect(ctx, cfg)
	must(err)
	ns, err := c.Namespace(1)
	must(err)
	_, err = ns.WriteAt([]byte("any bytes at any offset"), 700)
	must(err)
	must(ns.Flush(ctx))
	text, err := io.ReadAll(io.NewSectionReader(ns, 704, 5))
	must(err)
	fmt.Printf("%s, %d bytes in all\n", text, ns.Size())
	must(c.Disconnect(ctx))
	// Output:
	// bytes, 1048576 bytes in all
}

// Ask what there is to connect to.
func ExampleDiscover() {
	cfg, closeAll := serveExample()
	defer closeAll()

	log, err := host.Discover(context.Background(), cfg)
	must(err)
	for _, e := range log.Entries {
		fmt.Println(e.SUBTYPE, e.TRADDR, e.SUBNQN)
	}
	// Output:
	// current discovery subsystem 192.0.2.1 nqn.2014-08.org.nvmexpress.discovery
	// nvme subsystem 192.0.2.1 nqn.2025-01.example:disks
}

// Write every block of a namespace with eight commands outstanding at a time.
func ExampleQueue_Submit() {
	cfg, closeAll := serveExample()
	defer closeAll()
	ctx := context.Background()
	cfg.NQN = "nqn.2025-01.example:disks"
	c, err := host.Connect(ctx, cfg)
	must(err)
	ns, err := c.Namespace(1)
	must(err)

	const bytes = 4096
	queue := c.Queues()[0]
	idle := make(chan struct{})
	var ios [8]host.IO
	next, running := uint64(0), 0 // the shard's
	submit := func(io *host.IO) {
		if next == ns.Blocks() {
			if running--; running == 0 {
				close(idle)
			}
			return
		}
		io.LBA = next
		next += bytes / uint64(ns.BlockSize())
		must(queue.Submit(io))
	}
	must(queue.Shard().Run(func() {
		for i := range ios {
			io := &ios[i]
			io.Op, io.Namespace, io.Data = nvme.IOWrite, ns, make([]byte, bytes)
			io.Done = func(io *host.IO) {
				must(io.Err)
				submit(io)
			}
			running++
			submit(io)
		}
	}))
	<-idle
	fmt.Println(next, "blocks")
	must(c.Disconnect(ctx))
	// Output:
	// 2048 blocks
}
