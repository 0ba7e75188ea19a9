package load_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/fabric"
	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport/loop"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const nqn = "nqn.2014-08.org.example:load"

// connect serves a device within the process and connects a host to it, with so
// many I/O queues.
func connect(t *testing.T, dev bdev.Device, queues int, sim bool) *host.Controller {
	t.Helper()
	ctx := t.Context()
	node, err := fabric.NewNode(fabric.Config{Sim: sim})
	if err != nil {
		t.Fatal(err)
	}
	tgt := target.New(target.Config{})
	t.Cleanup(func() {
		if err := tgt.Close(); err != nil {
			t.Error(err)
		}
		if err := node.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	})
	sub, err := tgt.AddSubsystem(target.SubsystemConfig{NQN: nqn, AllowAnyHost: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sub.AddNamespace(target.NamespaceConfig{Device: dev}); err != nil {
		t.Fatal(err)
	}
	port, err := tgt.AddPort(target.PortConfig{ID: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := port.Link(sub); err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort("192.0.2.1:4420")
	if _, err := node.Loop().Listen(loop.Config{Core: port, Addr: addr}); err != nil {
		t.Fatal(err)
	}
	c, err := host.Connect(ctx, host.Config{Dialer: node.Loop().Dialer(), Remote: addr, NQN: nqn, NrIOQueues: queues})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.State() == host.Dead {
			return // by the test
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := c.Disconnect(ctx); err != nil {
			t.Error(err)
		}
	})
	return c
}

func memory(t *testing.T, size uint64) *bdev.Memory {
	t.Helper()
	dev, err := bdev.NewMemory(bdev.MemoryConfig{Size: size})
	if err != nil {
		t.Fatal(err)
	}
	return dev
}
