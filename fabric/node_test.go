package fabric_test

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/fabrid/fabrid/admission"
	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/fabric"
	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/transport/loop"
	"github.com/fabrid/fabrid/transport/rdma"
	"github.com/fabrid/fabrid/verbs/roce"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const nqn = "nqn.2014-08.org.example:fabric"

// serve makes a target and returns its port.
func serve(t *testing.T) (*target.Target, *target.Port) {
	t.Helper()
	disk, err := bdev.NewMemory(bdev.MemoryConfig{Size: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := disk.Close(); err != nil {
			t.Error(err)
		}
	})
	tgt := target.New(target.Config{})
	sub, err := tgt.AddSubsystem(target.SubsystemConfig{NQN: nqn, AllowAnyHost: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sub.AddNamespace(target.NamespaceConfig{Device: disk}); err != nil {
		t.Fatal(err)
	}
	port, err := tgt.AddPort(target.PortConfig{ID: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := port.Link(sub); err != nil {
		t.Fatal(err)
	}
	return tgt, port
}

// use connects, writes, reads and disconnects.
func use(t *testing.T, dialer transport.Dialer, remote netip.AddrPort) {
	t.Helper()
	c, err := host.Connect(t.Context(), host.Config{Dialer: dialer, Remote: remote, NQN: nqn})
	if err != nil {
		t.Fatal(err)
	}
	ns, err := c.Namespace(1)
	if err != nil {
		t.Fatal(err)
	}
	want, got := bytes.Repeat([]byte("fabrid!\n"), 8192), make([]byte, 65536)
	if _, err := ns.WriteAt(want, 4096); err != nil {
		t.Error(err)
	}
	if _, err := ns.ReadAt(got, 4096); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read what was not written, or %v", err)
	}
	if err := c.Disconnect(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestLoop(t *testing.T) {
	node, err := fabric.NewNode(fabric.Config{})
	if err != nil {
		t.Fatal(err)
	}
	tgt, port := serve(t)
	addr := netip.MustParseAddrPort("192.0.2.1:4420")
	if _, err := node.Loop().Listen(loop.Config{Core: port, Addr: addr}); err != nil {
		t.Fatal(err)
	}
	if _, err := node.Loop().Listen(loop.Config{Core: port, Addr: addr}); err == nil {
		t.Error("two listeners at one address")
	}
	use(t, node.Loop().Dialer(), addr)
	if err := errors.Join(tgt.Close(), node.Close(t.Context())); err != nil {
		t.Error(err)
	}
}

func TestRoCE(t *testing.T) {
	var events atomic.Int32
	server, err := fabric.NewNode(fabric.Config{
		Name: "server", Limits: admission.Config{Target: admission.Limits{Queues: 2}},
		CMEvents: func(*rdmacm.ID, *rdmacm.Event) { events.Add(1) },
	})
	if err != nil {
		t.Fatal(err)
	}
	tgt, port := serve(t)
	device, err := server.OpenRoCE(roce.Config{Addr: netip.MustParseAddr("127.4.20.7")})
	if err != nil {
		t.Fatal(err)
	}
	l, err := device.Listen(rdma.Config{Core: port})
	if err != nil {
		t.Fatal(err)
	}
	if want := netip.MustParseAddrPort("127.4.20.7:4420"); l.Addr() != want {
		t.Errorf("listens at %v, want %v", l.Addr(), want)
	}

	client, err := fabric.NewNode(fabric.Config{Name: "client"})
	if err != nil {
		t.Fatal(err)
	}
	from, err := client.OpenRoCETo(l.Addr().Addr(), roce.Config{})
	if err != nil {
		t.Fatal(err)
	}
	dialer, err := from.Dialer()
	if err != nil {
		t.Fatal(err)
	}
	use(t, dialer, l.Addr())
	if events.Load() == 0 {
		t.Error("no event of the connection manager was told")
	}

	// The budget has room for an admin queue and one for I/O, of one host.
	c, err := host.Connect(t.Context(), host.Config{Dialer: dialer, Remote: l.Addr(), NQN: nqn})
	if err != nil {
		t.Fatal(err)
	}
	n := server.Counts()
	if n.Queues.Live != 2 || n.Admitted != 2 || n.AdmittedBytes == 0 || n.QPs != 2 || n.CMIDs != 3 {
		t.Errorf("with a host: %+v", n)
	}
	_, err = host.Connect(t.Context(), host.Config{Dialer: dialer, Remote: l.Addr(), NQN: nqn})
	if r, ok := errors.AsType[*transport.RefusedError](err); !ok || !r.Listening || !r.Busy {
		t.Errorf("a host too many: %v", err)
	}
	if err := c.Disconnect(t.Context()); err != nil {
		t.Error(err)
	}

	if err := tgt.Close(); err != nil {
		t.Error(err)
	}
	if err := l.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if n := server.Counts(); n.Queues.Total()+n.Buffers+n.MRs+n.QPs+n.CMIDs+n.Admitted != 0 || n.AdmittedBytes != 0 {
		t.Errorf("after the end: %+v", n)
	}
	if err := errors.Join(client.Close(t.Context()), server.Close(t.Context())); err != nil {
		t.Error(err)
	}
	del, _ := server.Workqueues()
	if wq := del.Stats(); !wq.Destroyed || wq.Pending != 0 || wq.Completed < 4 {
		t.Errorf("the delete workqueue: %+v", wq)
	}
}

// Closing a node with hosts still connected takes leave of them.
func TestCloseWithHosts(t *testing.T) {
	node, err := fabric.NewNode(fabric.Config{})
	if err != nil {
		t.Fatal(err)
	}
	_, port := serve(t)
	device, err := node.OpenRoCE(roce.Config{Addr: netip.MustParseAddr("127.4.20.8")})
	if err != nil {
		t.Fatal(err)
	}
	l, err := device.Listen(rdma.Config{Core: port})
	if err != nil {
		t.Fatal(err)
	}
	other, err := fabric.NewNode(fabric.Config{})
	if err != nil {
		t.Fatal(err)
	}
	from, err := other.OpenRoCETo(l.Addr().Addr(), roce.Config{})
	if err != nil {
		t.Fatal(err)
	}
	dialer, err := from.Dialer()
	if err != nil {
		t.Fatal(err)
	}
	lost := make(chan error, 1)
	c, err := host.Connect(t.Context(), host.Config{
		Dialer: dialer, Remote: l.Addr(), NQN: nqn, CtrlLossTMO: host.Off, ReconnectDelay: time.Millisecond,
		Events: host.Events{Dead: func(cause error) { lost <- cause }},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-lost; !errors.Is(err, host.ErrLost) {
		t.Errorf("the host lost its controller for %v", err)
	}
	<-c.Done()
	if err := other.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestClosedNode(t *testing.T) {
	node, err := fabric.NewNode(fabric.Config{})
	if err != nil {
		t.Fatal(err)
	}
	_, port := serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // nothing has to be waited for
	if err := node.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if err := node.Close(ctx); !errors.Is(err, fabric.ErrClosed) {
		t.Errorf("second close: %v", err)
	}
	if _, err := node.Loop().Listen(loop.Config{Core: port, Addr: netip.MustParseAddrPort("192.0.2.1:1")}); !errors.Is(err, fabric.ErrClosed) {
		t.Errorf("listen: %v", err)
	}
	if _, err := node.OpenRoCE(roce.Config{Addr: netip.MustParseAddr("127.4.20.9")}); err == nil {
		t.Error("a device on a closed node")
	}
}

// A stuckCore is a target that does not come back from opening a queue.
type stuckCore struct{ entered, leave chan struct{} }

func (c stuckCore) Open(transport.Fabric, transport.QueueParam) (transport.Queue, error) {
	close(c.entered)
	<-c.leave
	return nil, errors.New("never mind")
}

func (stuckCore) Removed() bool { return false }

// A queue that goes down only after the node's time has run out is released
// nevertheless.
func TestCloseWithoutTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node, err := fabric.NewNode(fabric.Config{Sim: true})
		if err != nil {
			t.Fatal(err)
		}
		addr := netip.MustParseAddrPort("192.0.2.1:4420")
		core := stuckCore{make(chan struct{}), make(chan struct{})}
		if _, err := node.Loop().Listen(loop.Config{Core: core, Addr: addr}); err != nil {
			t.Fatal(err)
		}
		dialed := make(chan error, 1)
		go func() {
			_, err := node.Loop().Dialer().Dial(context.Background(), transport.HostQueueParam{Remote: addr, QID: 1, Depth: 32, MaxData: 4096})
			dialed <- err
		}()
		<-core.entered
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		closed := make(chan error, 1)
		go func() { closed <- node.Close(ctx) }()
		synctest.Wait() // Close has come to the shard
		close(core.leave)
		if err := <-closed; !errors.Is(err, context.Canceled) {
			t.Errorf("close: %v", err)
		}
		if err := <-dialed; err == nil {
			t.Error("dialed")
		}
		if c := node.Counts(); c.Queues.Total() != 0 || c.Admitted != 0 {
			t.Errorf("left: %+v", c)
		}
	})
}
