package fabric_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/fabric"
	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport/rdma"
	"github.com/fabrid/fabrid/verbs/roce"
)

type recoverUsers struct{}

// Over RoCEv2, a host whose target goes away and comes back, again and again,
// loses nothing: what it reads is what it wrote last. A read that is canceled
// while the device has it leaves its memory alone. A target that does not come
// back is given up in time.
func TestHostRecoversOverRoCE(t *testing.T) {
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	node, err := fabric.NewNode(fabric.Config{})
	must(err)
	memory, err := bdev.NewMemory(bdev.MemoryConfig{Size: 1 << 20, BlockSize: 512})
	must(err)
	disk := bdev.NewFaulty(memory)
	tgt := target.New(target.Config{})
	sub, err := tgt.AddSubsystem(target.SubsystemConfig{NQN: nqn, AllowAnyHost: true})
	must(err)
	_, err = sub.AddNamespace(target.NamespaceConfig{Device: disk})
	must(err)
	port, err := tgt.AddPort(target.PortConfig{ID: 1})
	must(err)
	must(port.Link(sub))
	device, err := node.OpenRoCE(roce.Config{Addr: netip.MustParseAddr("127.4.20.9")})
	must(err)
	l, err := device.Listen(rdma.Config{Core: port})
	must(err)
	remote := l.Addr()
	from, err := node.OpenRoCETo(remote.Addr(), roce.Config{})
	must(err)
	dialer, err := from.Dialer()
	must(err)
	reconnected := make(chan int, 16)
	c, err := host.Connect(ctx, host.Config{
		Dialer: dialer, Remote: remote, NQN: nqn, NrIOQueues: 2,
		ReconnectDelay: 20 * time.Millisecond, KATO: time.Second, CtrlLossTMO: 30 * time.Second,
		Events: host.Events{Reconnected: func(attempt int) { reconnected <- attempt }},
	})
	must(err)
	ns, err := c.Namespace(1)
	must(err)

	const users, region = 4, 64 << 10
	stop := make(chan struct{})
	var wg lockdep.WaitGroup[recoverUsers]
	for i := range users {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 9))
			first := int64(i * region)
			model := make([]byte, region)
			for {
				select {
				case <-stop:
					return
				default:
				}
				off := r.IntN(region)
				p := model[off : off+1+r.IntN(min(region-off, 9000))]
				for j := range p {
					p[j] = byte(r.Uint32())
				}
				if _, err := ns.WriteAt(p, first+int64(off)); err != nil {
					t.Error(err)
					return
				}
				got := make([]byte, region)
				if _, err := ns.ReadAt(got, first); err != nil || !bytes.Equal(got, model) {
					t.Errorf("user %d: %v, equal %v", i, err, bytes.Equal(got, model))
					return
				}
			}
		})
	}
	losses := 3
	if testing.Short() {
		losses = 1
	}
	for range losses {
		must(l.Shutdown(ctx))
		l, err = device.Listen(rdma.Config{Core: port})
		must(err)
		<-reconnected
		must(ns.Flush(ctx))
	}
	close(stop)
	wg.Wait()
	if n := c.Reconnects(); n != losses {
		t.Errorf("%d reconnects, want %d", n, losses)
	}

	disk.Hold(bdev.Read)
	short, cancel := context.WithCancel(ctx)
	buf := make([]byte, 4096)
	ended := make(chan error, 1)
	go func() { _, err := ns.ReadAtContext(short, buf, 0); ended <- err }()
	disk.WaitHeld(1)
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) { // aborted
			t.Error(err)
		}
		copy(buf, "mine")
		disk.Release()
	case <-time.After(50 * time.Millisecond): // the target ends it
		disk.Release()
		<-ended
		copy(buf, "mine")
	}
	must(ns.Flush(ctx))
	if string(buf[:4]) != "mine" {
		t.Error("written after the call has returned")
	}

	must(c.Disconnect(ctx))
	c, err = host.Connect(ctx, host.Config{
		Dialer: dialer, Remote: remote, NQN: nqn,
		ReconnectDelay: 20 * time.Millisecond, CtrlLossTMO: 300 * time.Millisecond, FastIOFailTMO: 100 * time.Millisecond,
	})
	must(err)
	ns, err = c.Namespace(1)
	must(err)
	must(l.Shutdown(ctx))
	start := time.Now()
	var pe *host.PathError
	if err := ns.Flush(ctx); !errors.As(err, &pe) || !errors.Is(err, host.ErrLost) {
		t.Errorf("a flush without a target: %v", err)
	}
	<-c.Done()
	if d := time.Since(start); d > 10*time.Second || !errors.Is(c.Cause(), host.ErrLost) {
		t.Errorf("given up after %v: %v", d, c.Cause())
	}
	must(tgt.Close())
	must(node.Close(ctx))
	must(disk.Close())
}
