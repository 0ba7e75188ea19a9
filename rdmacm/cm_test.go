package rdmacm_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/rdmacm/rdmacmtest"
	"github.com/fabrid/fabrid/verbs"
)

var (
	local  = netip.MustParseAddrPort("192.0.2.1:4420")
	remote = netip.MustParseAddrPort("192.0.2.2:50000")
)

type stubQP struct{ verbs.QP }

type logLock struct{}

// A bench is a CM, its provider, and what its handlers were told.
type bench struct {
	*testing.T
	cm *rdmacm.CM
	p  *rdmacmtest.Provider

	mu  lockdep.Mutex[logLock]
	log []string

	on map[rdmacm.EventType]rdmacm.Handler // set by react
}

// run runs f with a bench in a synctest bubble, and closes the CM.
func run(t *testing.T, cfg rdmacm.Config, f func(b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{T: t, p: &rdmacmtest.Provider{Local: local.Addr()}, on: map[rdmacm.EventType]rdmacm.Handler{}}
		b.cm = rdmacm.New(cfg)
		f(b)
		b.p.HoldDetach = false
		for _, c := range b.p.Conns() {
			c.Detach()
		}
		if err := b.cm.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if n := b.cm.Len(); n != 0 {
			t.Errorf("%d IDs after Close", n)
		}
		if _, err := b.cm.NewID(b.handle); !errors.Is(err, rdmacm.ErrClosed) {
			t.Errorf("NewID after Close: %v", err)
		}
	})
}

func (b *bench) handle(id *rdmacm.ID, ev *rdmacm.Event) error {
	b.mu.Lock()
	s := fmt.Sprintf("%d %v", id.Num(), ev.Type)
	if ev.Conn != nil {
		s += fmt.Sprintf(" %d", ev.Conn.Num())
	}
	if ev.Param.PrivateData != nil {
		s += fmt.Sprintf(" %q", ev.Param.PrivateData)
	}
	b.log = append(b.log, s)
	f := b.on[ev.Type]
	b.mu.Unlock()
	if f != nil {
		return f(id, ev)
	}
	return nil
}

// react sets what the handler of a type does.
func (b *bench) react(t rdmacm.EventType, f rdmacm.Handler) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.on[t] = f
}

// want waits until everything rests and compares what handlers were told since
// the last time.
func (b *bench) want(log ...string) {
	b.Helper()
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Equal(b.log, log) {
		b.Errorf("handlers were told %q, want %q", b.log, log)
	}
	b.log = nil
}

func (b *bench) calls(c *rdmacmtest.Conn, want ...string) {
	b.Helper()
	synctest.Wait()
	if got := c.Calls(); !slices.Equal(got, want) {
		b.Errorf("the provider was asked %q, want %q", got, want)
	}
}

func (b *bench) id() *rdmacm.ID {
	b.Helper()
	id, err := b.cm.NewID(b.handle)
	if err != nil {
		b.Fatal(err)
	}
	return id
}

func (b *bench) listen() *rdmacm.ID {
	b.Helper()
	id := b.id()
	b.ok(id.Listen(b.p, local))
	return id
}

// request has a peer ask for a connection and returns its ID.
func (b *bench) request() (*rdmacm.ID, *rdmacmtest.Conn) {
	b.Helper()
	var id *rdmacm.ID
	b.react(rdmacm.ConnectRequest, func(_ *rdmacm.ID, ev *rdmacm.Event) error { id = ev.Conn; return nil })
	c := b.p.Request(local, remote, rdmacm.ConnParam{PrivateData: []byte("please")})
	synctest.Wait()
	b.react(rdmacm.ConnectRequest, nil)
	if id == nil {
		b.Fatal("nobody was told of the request")
	}
	return id, c
}

func (b *bench) ok(err error) {
	b.Helper()
	if err != nil {
		b.Error(err)
	}
}

func (b *bench) state(id *rdmacm.ID, want rdmacm.State) {
	b.Helper()
	if got := id.State(); got != want {
		b.Errorf("%v is %v, want %v", id, got, want)
	}
}

func TestPassiveSide(t *testing.T) {
	var hook []string
	cfg := rdmacm.Config{Events: func(id *rdmacm.ID, ev *rdmacm.Event) {
		hook = append(hook, fmt.Sprintf("%v (%d): status %d %v", ev.Type, ev.Type, ev.Status, id))
	}}
	run(t, cfg, func(b *bench) {
		l := b.listen()
		b.react(rdmacm.ConnectRequest, func(id *rdmacm.ID, ev *rdmacm.Event) error {
			if id != l || ev.Conn.LocalAddr() != local || ev.Conn.RemoteAddr() != remote {
				t.Errorf("%v: %v to %v", id, ev.Conn.RemoteAddr(), ev.Conn.LocalAddr())
			}
			b.state(ev.Conn, rdmacm.StateRequested)
			return ev.Conn.Accept(stubQP{}, rdmacm.ConnParam{PrivateData: []byte("welcome")})
		})
		c := b.p.Request(local, remote, rdmacm.ConnParam{PrivateData: []byte("please")})
		b.want(`1 connect request 2 "please"`)
		b.calls(c, `accept "welcome"`)
		c.Emit(rdmacm.Event{Type: rdmacm.Established})
		b.want("2 established")
		c.Emit(rdmacm.Event{Type: rdmacm.Disconnected})
		b.want("2 disconnected")
	})
	want := []string{"connect request (4): status 0 ID 1", "established (9): status 0 ID 2", "disconnected (10): status 0 ID 2"}
	if !slices.Equal(hook, want) {
		t.Errorf("the hook was told %q, want %q", hook, want)
	}
}

func TestActiveSide(t *testing.T) {
	run(t, rdmacm.Config{}, func(b *bench) {
		id := b.id()
		if id.Device() != nil || id.LocalAddr().IsValid() || id.RemoteAddr().IsValid() {
			t.Error("an idle ID has a device or an address")
		}
		b.p.OpenErr = errors.New("no route")
		if err := id.Resolve(b.p, netip.Addr{}, remote); !errors.Is(err, b.p.OpenErr) {
			t.Errorf("Resolve: %v", err)
		}
		b.p.OpenErr = nil
		b.ok(id.Resolve(b.p, netip.Addr{}, remote))
		if id.LocalAddr().Addr() != local.Addr() || id.RemoteAddr() != remote {
			t.Errorf("from %v to %v", id.LocalAddr(), id.RemoteAddr())
		}
		if err := id.Connect(nil, rdmacm.ConnParam{}); err == nil {
			t.Error("connected without a queue pair")
		}
		private := []byte("please")
		b.ok(id.Connect(stubQP{}, rdmacm.ConnParam{PrivateData: private}))
		c := b.p.Conns()[0]
		c.Emit(rdmacm.Event{Type: rdmacm.Established, Param: rdmacm.ConnParam{PrivateData: []byte("welcome")}})
		b.want(`1 established "welcome"`)
		b.ok(id.Disconnect())
		b.ok(id.Disconnect())
		b.calls(c, `connect "please"`, "disconnect")
		b.state(id, rdmacm.StateDisconnecting)
		c.Emit(rdmacm.Event{Type: rdmacm.Disconnected})
		c.Emit(rdmacm.Event{Type: rdmacm.TimewaitExit})
		b.want("1 disconnected", "1 timewait exit")
		b.ok(id.Disconnect())
		b.ok(id.Destroy())
		b.ok(id.Destroy())
		b.calls(c, `connect "please"`, "disconnect", "close")
	})
}

// Every way in which a connection can fail, on both sides, is told once.
func TestFailures(t *testing.T) {
	for _, typ := range []rdmacm.EventType{rdmacm.Rejected, rdmacm.Unreachable, rdmacm.ConnectError} {
		t.Run(typ.String(), func(t *testing.T) {
			run(t, rdmacm.Config{}, func(b *bench) {
				b.listen()
				accepting, c1 := b.request()
				b.want(`1 connect request 2 "please"`)
				b.ok(accepting.Accept(stubQP{}, rdmacm.ConnParam{}))
				requested, c2 := b.request()
				b.want(`1 connect request 3 "please"`)
				connecting := b.id()
				b.ok(connecting.Resolve(b.p, netip.Addr{}, remote))
				b.ok(connecting.Connect(stubQP{}, rdmacm.ConnParam{}))
				c3 := b.p.Conns()[2]
				for i, c := range []*rdmacmtest.Conn{c1, c2, c3} {
					c.Emit(rdmacm.Event{Type: typ, Status: 3})
					c.Emit(rdmacm.Event{Type: typ, Status: 3})
					c.Emit(rdmacm.Event{Type: rdmacm.Established})
					b.want(fmt.Sprintf("%d %v", i+2, typ))
				}
				for _, id := range []*rdmacm.ID{accepting, requested, connecting} {
					b.state(id, rdmacm.StateDisconnected)
				}
				if err := requested.Accept(stubQP{}, rdmacm.ConnParam{}); err == nil {
					t.Error("accepted what is gone")
				}
				b.calls(c2)
			})
		})
	}
}

// A connection that the consumer leaves before it was told of it: it hears only
// that it is over.
func TestDisconnectBeforeEstablishedIsHandled(t *testing.T) {
	run(t, rdmacm.Config{}, func(b *bench) {
		id := b.id()
		b.ok(id.Resolve(b.p, local.Addr(), remote))
		b.ok(id.Connect(stubQP{}, rdmacm.ConnParam{}))
		c := b.p.Conns()[0]
		b.ok(id.Disconnect())
		c.Emit(rdmacm.Event{Type: rdmacm.Established})
		c.Emit(rdmacm.Event{Type: rdmacm.Disconnected})
		b.want("1 disconnected")
	})
}

func TestDeferredAnswer(t *testing.T) {
	run(t, rdmacm.Config{}, func(b *bench) {
		b.listen()
		id, c := b.request()
		time.Sleep(rdmacm.DefaultRequestTimeout - 1)
		b.ok(id.Accept(stubQP{}, rdmacm.ConnParam{}))
		if err := id.Accept(stubQP{}, rdmacm.ConnParam{}); err == nil {
			t.Error("accepted twice")
		}
		time.Sleep(time.Hour)
		b.calls(c, `accept ""`)

		id, c = b.request()
		b.ok(id.Reject([]byte("no")))
		time.Sleep(time.Hour)
		b.calls(c, `reject 28 "no"`)
		b.state(id, rdmacm.StateRefused)
	})
}

func TestRequestNobodyAnswers(t *testing.T) {
	run(t, rdmacm.Config{RequestTimeout: time.Second}, func(b *bench) {
		b.listen()
		id, c := b.request()
		time.Sleep(time.Second)
		b.want(`1 connect request 2 "please"`, "2 connect error")
		b.calls(c, `reject 3 ""`)
		b.state(id, rdmacm.StateDisconnected)
		var se *rdmacm.StateError
		if err := id.Accept(stubQP{}, rdmacm.ConnParam{}); !errors.As(err, &se) {
			t.Errorf("Accept after the time: %v", err)
		}
	})
}

// What happens to a connection while its request is handled is told after it;
// a request whose peer is gone before its turn is not told at all.
func TestEventsWaitForTheRequest(t *testing.T) {
	run(t, rdmacm.Config{}, func(b *bench) {
		b.listen()
		entered, proceed := make(chan struct{}), make(chan struct{})
		b.react(rdmacm.ConnectRequest, func(_ *rdmacm.ID, ev *rdmacm.Event) error {
			entered <- struct{}{}
			<-proceed
			return ev.Conn.Accept(stubQP{}, rdmacm.ConnParam{})
		})
		c1 := b.p.Request(local, remote, rdmacm.ConnParam{})
		<-entered
		c2 := b.p.Request(local, remote, rdmacm.ConnParam{})
		c2.Emit(rdmacm.Event{Type: rdmacm.Rejected})
		c1.Emit(rdmacm.Event{Type: rdmacm.ConnectError})
		b.want("1 connect request 2")
		close(proceed)
		b.want("2 connect error")
		b.calls(c1, `accept ""`)
		b.calls(c2, "close")
		if n := b.cm.Len(); n != 2 {
			t.Errorf("%d IDs, want the listener and one connection", n)
		}
	})
}

func TestBacklog(t *testing.T) {
	run(t, rdmacm.Config{Backlog: 2}, func(b *bench) {
		b.listen()
		proceed := make(chan struct{})
		b.react(rdmacm.ConnectRequest, func(*rdmacm.ID, *rdmacm.Event) error { <-proceed; return errors.New("no") })
		var conns []*rdmacmtest.Conn
		for range 4 {
			conns = append(conns, b.p.Request(local, remote, rdmacm.ConnParam{}))
			synctest.Wait()
		}
		b.calls(conns[3], `reject 3 ""`, "close")
		close(proceed)
		b.want("1 connect request 2", "1 connect request 3", "1 connect request 4")
		for _, c := range conns[:3] {
			b.calls(c, "close")
		}
	})
}

func TestHandlerErrorDestroysTheID(t *testing.T) {
	run(t, rdmacm.Config{}, func(b *bench) {
		b.p.HoldDetach = true
		l := b.listen()
		id, c := b.request()
		b.ok(id.Accept(stubQP{}, rdmacm.ConnParam{}))
		b.react(rdmacm.Established, func(*rdmacm.ID, *rdmacm.Event) error { return errors.New("no") })
		c.Emit(rdmacm.Event{Type: rdmacm.Established})
		c.Emit(rdmacm.Event{Type: rdmacm.Disconnected})
		b.want(`1 connect request 2 "please"`, "2 established")
		b.calls(c, `accept ""`, "close")
		b.state(id, rdmacm.StateDestroying)
		b.state(l, rdmacm.StateListening)

		// Who wants to know when the device has let go calls Destroy.
		done := make(chan error, 1)
		go func() { done <- id.Destroy() }()
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("Destroy did not wait for the device: %v", err)
		default:
		}
		c.Detach()
		b.ok(<-done)
	})
}

func TestDestroyFromOwnHandler(t *testing.T) {
	run(t, rdmacm.Config{}, func(b *bench) {
		l := b.listen()
		var id *rdmacm.ID
		b.react(rdmacm.ConnectRequest, func(_ *rdmacm.ID, ev *rdmacm.Event) error {
			id = ev.Conn
			for _, x := range []*rdmacm.ID{l, id} {
				if err := x.Destroy(); !errors.Is(err, rdmacm.ErrOwnHandler) {
					t.Errorf("Destroy of %v: %v", x, err)
				}
			}
			return nil
		})
		b.p.Request(local, remote, rdmacm.ConnParam{})
		b.want("1 connect request 2")
		b.state(id, rdmacm.StateRequested)
		b.state(l, rdmacm.StateListening)
	})
}

// Destroying a listener refuses the requests that nobody was told of; those
// that were told belong to the consumer.
func TestDestroyListener(t *testing.T) {
	run(t, rdmacm.Config{}, func(b *bench) {
		l := b.listen()
		told, c1 := b.request()
		entered, proceed := make(chan struct{}, 2), make(chan struct{})
		b.react(rdmacm.ConnectRequest, func(*rdmacm.ID, *rdmacm.Event) error {
			entered <- struct{}{}
			<-proceed
			return nil
		})
		b.p.Request(local, remote, rdmacm.ConnParam{})
		<-entered
		c3 := b.p.Request(local, remote, rdmacm.ConnParam{})
		var destroyed sync.WaitGroup
		destroyed.Go(func() { b.ok(l.Destroy()) })
		close(proceed)
		destroyed.Wait()
		b.mu.Lock()
		n := len(b.log)
		b.mu.Unlock()
		synctest.Wait()
		b.mu.Lock()
		if len(b.log) != n {
			t.Errorf("told after Destroy: %q", b.log[n:])
		}
		b.mu.Unlock()
		b.calls(c1)
		b.state(told, rdmacm.StateRequested)
		if n == 2 {
			b.calls(c3, "close")
		}
		if b.p.Request(local, remote, rdmacm.ConnParam{}) != nil {
			t.Error("still listening")
		}
	})
}

func TestListenErrorLeavesTheIDUsable(t *testing.T) {
	run(t, rdmacm.Config{}, func(b *bench) {
		b.p.ListenErr = errors.New("no such address")
		id := b.id()
		if err := id.Listen(b.p, local); !errors.Is(err, b.p.ListenErr) {
			t.Errorf("Listen: %v", err)
		}
		b.state(id, rdmacm.StateIdle)
		b.p.ListenErr = nil
		b.ok(id.Listen(b.p, local))
		if err := id.Listen(b.p, local); err == nil {
			t.Error("listened twice")
		}
		if id.LocalAddr() != local {
			t.Errorf("listens at %v", id.LocalAddr())
		}
	})
}
