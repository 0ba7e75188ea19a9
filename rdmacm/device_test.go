package rdmacm_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/rdmacm/rdmacmtest"
)

func TestRemoveDevice(t *testing.T) {
	run(t, rdmacm.Config{}, func(b *bench) {
		other := b.id() // of no device: it stays
		b.listen()
		gone := errors.New("device gone")
		b.react(rdmacm.DeviceRemoval, func(id *rdmacm.ID, _ *rdmacm.Event) error {
			if id.Num() == 4 { // this one takes its time
				return nil
			}
			return gone
		})
		accepted, _ := b.request()
		b.ok(accepted.Accept(stubQP{}, rdmacm.ConnParam{}))
		slow, c := b.request()
		b.want(`2 connect request 3 "please"`, `2 connect request 4 "please"`)

		ctx, cancel := context.WithTimeout(b.Context(), time.Second)
		defer cancel()
		if err := b.cm.RemoveDevice(ctx, b.p); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("RemoveDevice: %v", err)
		}
		b.mu.Lock()
		slices.Sort(b.log)
		b.mu.Unlock()
		b.want("2 device removal", "3 device removal", "4 device removal")
		b.state(slow, rdmacm.StateRemoved)
		c.Emit(rdmacm.Event{Type: rdmacm.Rejected})
		b.want()
		b.ok(slow.Disconnect())
		b.ok(slow.Destroy())
		b.ok(b.cm.RemoveDevice(b.Context(), b.p))
		b.state(other, rdmacm.StateIdle)
	})
}

// While a device is being removed there is nothing new on it.
func TestNothingNewWhileTheDeviceIsRemoved(t *testing.T) {
	run(t, rdmacm.Config{}, func(b *bench) {
		l := b.listen()
		ctx, cancel := context.WithCancel(b.Context())
		removed := make(chan error)
		go func() { removed <- b.cm.RemoveDevice(ctx, b.p) }()
		b.want("1 device removal")
		id := b.id()
		if err := id.Listen(b.p, remote); !errors.Is(err, rdmacm.ErrDeviceRemoved) {
			t.Errorf("Listen: %v", err)
		}
		if err := id.Resolve(b.p, netip.Addr{}, remote); !errors.Is(err, rdmacm.ErrDeviceRemoved) {
			t.Errorf("Resolve: %v", err)
		}
		b.state(id, rdmacm.StateIdle)
		c := b.p.Request(local, remote, rdmacm.ConnParam{}) // the provider does not know yet
		b.want()
		b.calls(c, "close")
		b.ok(l.Destroy())
		if err := <-removed; err != nil {
			t.Errorf("RemoveDevice: %v", err)
		}
		cancel()
		b.ok(id.Listen(b.p, local)) // what comes after is another device
	})
}

// So it is for a request that comes before the listener is told.
func TestRequestWhileTheDeviceIsRemoved(t *testing.T) {
	run(t, rdmacm.Config{}, func(b *bench) {
		l := b.listen()
		release := make(chan struct{})
		b.react(rdmacm.ConnectRequest, func(*rdmacm.ID, *rdmacm.Event) error { <-release; return nil })
		b.p.Request(local, remote, rdmacm.ConnParam{})
		b.want("1 connect request 2")
		removed := make(chan error)
		go func() { removed <- b.cm.RemoveDevice(b.Context(), b.p) }()
		synctest.Wait()
		b.state(l, rdmacm.StateListening)
		c := b.p.Request(local, remote, rdmacm.ConnParam{})
		b.calls(c, "close")
		b.react(rdmacm.DeviceRemoval, func(*rdmacm.ID, *rdmacm.Event) error { return errors.New("gone") })
		close(release)
		if err := <-removed; err != nil {
			t.Errorf("RemoveDevice: %v", err)
		}
		b.mu.Lock()
		slices.Sort(b.log)
		b.mu.Unlock()
		b.want("1 device removal", "2 device removal")
	})
}

// The provider says that its device is gone, the connection's end says so too,
// and so does the owner of the device: each ID is told once, in every state.
func TestDeviceRemovalIsToldOnce(t *testing.T) {
	run(t, rdmacm.Config{}, func(b *bench) {
		other := &rdmacmtest.Provider{Local: local.Addr()}
		b.id()                            // 1: idle, of no device
		b.ok(b.id().Listen(other, local)) // 2: of another
		b.listen()                        // 3
		requested, c := b.request()       // 4
		accepted, _ := b.request()        // 5
		b.ok(accepted.Accept(stubQP{}, rdmacm.ConnParam{}))
		refused, _ := b.request() // 6
		b.ok(refused.Reject(nil))
		resolved := b.id() // 7
		b.ok(resolved.Resolve(b.p, netip.Addr{}, remote))
		over := b.id() // 8
		b.ok(over.Resolve(b.p, netip.Addr{}, remote))
		b.ok(over.Connect(stubQP{}, rdmacm.ConnParam{}))
		conns := b.p.Conns()
		conns[len(conns)-1].Emit(rdmacm.Event{Type: rdmacm.Unreachable})
		b.want(`3 connect request 4 "please"`, `3 connect request 5 "please"`, `3 connect request 6 "please"`, "8 unreachable")
		if b.p.Watchers() != 1 || other.Watchers() != 1 {
			t.Errorf("%d and %d watch", b.p.Watchers(), other.Watchers())
		}

		cause := errors.New("unplugged")
		b.react(rdmacm.DeviceRemoval, func(_ *rdmacm.ID, ev *rdmacm.Event) error {
			if !errors.Is(ev.Err, cause) {
				t.Errorf("cause %v", ev.Err)
			}
			return nil
		})
		b.p.Remove(cause)
		c.Emit(rdmacm.Event{Type: rdmacm.DeviceRemoval, Err: cause})
		told := []string{"3 device removal", "4 device removal", "5 device removal", "6 device removal", "7 device removal", "8 device removal"}
		synctest.Wait()
		b.mu.Lock()
		slices.Sort(b.log)
		b.mu.Unlock()
		b.want(told...)
		b.state(requested, rdmacm.StateRemoved)
		if b.p.Watchers() != 0 || other.Watchers() != 1 {
			t.Errorf("%d and %d watch", b.p.Watchers(), other.Watchers())
		}
		ctx, cancel := context.WithTimeout(b.Context(), time.Second)
		defer cancel()
		if err := b.cm.RemoveDevice(ctx, b.p); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("RemoveDevice: %v", err)
		}
		b.p.Remove(cause)
		b.want()

		// Who comes too late hears of it as well.
		late := b.id()
		b.ok(late.Resolve(b.p, netip.Addr{}, remote))
		b.want("9 device removal")
		b.state(late, rdmacm.StateRemoved)
	})
}

// An address that goes away is told to those who listen at it, as often as it
// does, and to nobody else.
func TestAddrChange(t *testing.T) {
	run(t, rdmacm.Config{}, func(b *bench) {
		l := b.listen() // 1
		b.ok(b.id().Listen(b.p, netip.AddrPortFrom(netip.IPv4Unspecified(), 4420)))
		b.ok(b.id().Listen(b.p, netip.AddrPortFrom(remote.Addr(), 4420)))
		id, _ := b.request()
		b.ok(id.Accept(stubQP{}, rdmacm.ConnParam{}))
		b.want(`1 connect request 4 "please"`)
		for range 2 {
			b.p.LoseAddr(local.Addr(), errors.New("gone"))
			b.want("1 address change")
		}
		b.state(l, rdmacm.StateListening)
		b.ok(l.Destroy())
		b.p.LoseAddr(local.Addr(), errors.New("gone"))
		b.want()
	})
	// A CM that is closed watches nothing.
	p := &rdmacmtest.Provider{Local: local.Addr()}
	cm := rdmacm.New(rdmacm.Config{})
	id, err := cm.NewID(nil)
	if err == nil {
		err = id.Listen(p, local)
	}
	if err == nil {
		err = cm.Close()
	}
	if err != nil || p.Watchers() != 0 {
		t.Errorf("%v, %d watch", err, p.Watchers())
	}
}
