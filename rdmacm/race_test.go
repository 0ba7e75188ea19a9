package rdmacm_test

import (
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/rdmacm/rdmacmtest"
	"pgregory.net/rapid"
)

// scenes bring an ID to where an event of a type is due.
var scenes = []struct {
	typ   rdmacm.EventType
	begin func(id *rdmacm.ID, p *rdmacmtest.Provider) error
}{
	{rdmacm.Established, connecting},
	{rdmacm.Rejected, connecting},
	{rdmacm.Unreachable, connecting},
	{rdmacm.ConnectError, connecting},
	{rdmacm.DeviceRemoval, connecting},
	{rdmacm.Disconnected, connected},
	{rdmacm.TimewaitExit, disconnected},
}

func connecting(id *rdmacm.ID, p *rdmacmtest.Provider) error {
	if err := id.Resolve(p, netip.Addr{}, remote); err != nil {
		return err
	}
	return id.Connect(stubQP{}, rdmacm.ConnParam{})
}

func connected(id *rdmacm.ID, p *rdmacmtest.Provider) error {
	err := connecting(id, p)
	conns := p.Conns()
	conns[len(conns)-1].Emit(rdmacm.Event{Type: rdmacm.Established})
	return err
}

func disconnected(id *rdmacm.ID, p *rdmacmtest.Provider) error {
	err := connected(id, p)
	conns := p.Conns()
	conns[len(conns)-1].Emit(rdmacm.Event{Type: rdmacm.Disconnected})
	return err
}

// Destroy races with each event: no handler runs when it has returned.
func TestDestroyRacesWithEvents(t *testing.T) {
	for _, s := range scenes {
		t.Run(s.typ.String(), func(t *testing.T) {
			cm := rdmacm.New(rdmacm.Config{})
			defer cm.Close()
			for range 200 {
				p := &rdmacmtest.Provider{Local: local.Addr()}
				var over atomic.Bool
				running := 0 // guarded by the handler mutex; the race detector watches
				id, err := cm.NewID(func(*rdmacm.ID, *rdmacm.Event) error {
					if over.Load() {
						t.Error("a handler runs after Destroy")
					}
					running++
					return nil
				})
				if err == nil {
					err = s.begin(id, p)
				}
				if err != nil {
					t.Fatal(err)
				}
				var wg sync.WaitGroup
				wg.Go(func() { p.Conns()[0].Emit(rdmacm.Event{Type: s.typ}) })
				wg.Go(func() { _ = id.Disconnect() })
				wg.Go(func() {
					if err := id.Destroy(); err != nil {
						t.Errorf("Destroy: %v", err)
					}
					over.Store(true)
					running++
				})
				wg.Wait()
				calls := p.Conns()[0].Calls()
				if calls[len(calls)-1] != "close" && calls[len(calls)-2] != "close" {
					t.Fatalf("the provider was asked %q", calls)
				}
			}
		})
	}
}

// A listener's end races with requests, and with the answers to them: every
// connection is closed once, and nothing is left.
func TestDestroyListenerRacesWithRequests(t *testing.T) {
	cm := rdmacm.New(rdmacm.Config{})
	for range 100 {
		p := &rdmacmtest.Provider{}
		var over atomic.Bool
		l, err := cm.NewID(func(_ *rdmacm.ID, ev *rdmacm.Event) error {
			if ev.Type != rdmacm.ConnectRequest {
				return nil
			}
			if over.Load() {
				t.Error("a request is told after the listener's Destroy")
			}
			if ev.Conn.Num()%3 == 0 {
				return errors.New("no")
			}
			return ev.Conn.Accept(stubQP{}, rdmacm.ConnParam{})
		})
		if err == nil {
			err = l.Listen(p, local)
		}
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for range 5 {
					if c := p.Request(local, remote, rdmacm.ConnParam{}); c != nil {
						c.Emit(rdmacm.Event{Type: rdmacm.Established})
					}
				}
			})
		}
		wg.Go(func() {
			if err := l.Destroy(); err != nil {
				t.Errorf("Destroy: %v", err)
			}
			over.Store(true)
		})
		wg.Wait()
	}
	if err := cm.Close(); err != nil {
		t.Error(err)
	}
	if n := cm.Len(); n != 0 {
		t.Errorf("%d IDs left", n)
	}
}

// Any calls and any events, in any order: the provider is asked for nothing
// that its contract does not have.
func TestAnyOrderKeepsTheProvidersContract(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cm := rdmacm.New(rdmacm.Config{})
		defer cm.Close()
		p := &rdmacmtest.Provider{Local: local.Addr()}
		got := make(chan *rdmacm.ID, 1)
		handler := func(_ *rdmacm.ID, ev *rdmacm.Event) error {
			if ev.Conn != nil {
				got <- ev.Conn
			}
			return nil
		}
		id, _ := cm.NewID(handler)
		if rapid.Bool().Draw(t, "passive") {
			if err := id.Listen(p, local); err != nil {
				t.Fatal(err)
			}
			p.Request(local, remote, rdmacm.ConnParam{})
			id = <-got
		} else if err := id.Resolve(p, netip.Addr{}, remote); err != nil {
			t.Fatal(err)
		}
		c := p.Conns()[0]
		for _, op := range rapid.SliceOfN(rapid.IntRange(0, 10), 0, 12).Draw(t, "ops") {
			switch op {
			case 0:
				_ = id.Connect(stubQP{}, rdmacm.ConnParam{})
			case 1:
				_ = id.Accept(stubQP{}, rdmacm.ConnParam{})
			case 2:
				_ = id.Reject(nil)
			case 3:
				_ = id.Disconnect()
			case 4:
				_ = id.Destroy()
			default:
				c.Emit(rdmacm.Event{Type: []rdmacm.EventType{rdmacm.Established, rdmacm.Rejected, rdmacm.ConnectError,
					rdmacm.Disconnected, rdmacm.DeviceRemoval, rdmacm.TimewaitExit}[op-5]})
			}
		}
		if err := id.Destroy(); err != nil {
			t.Fatal(err)
		}
		begun, left, closed := 0, 0, 0
		for _, call := range c.Calls() {
			if closed > 0 {
				t.Fatalf("asked after close: %q", c.Calls())
			}
			switch call {
			case "disconnect":
				left++
			case "close":
				closed++
			default:
				if left > 0 {
					t.Fatalf("asked to connect after disconnect: %q", c.Calls())
				}
				begun++
			}
		}
		if begun > 1 || left > 1 || closed != 1 {
			t.Fatalf("the provider was asked %q", c.Calls())
		}
	})
}
