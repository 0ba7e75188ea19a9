// Package rdmacmtest has a provider of connections that only a test moves: it
// records what it is asked, and tells what the test says.
package rdmacmtest

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/verbs"
)

// A Provider is a provider whose peers are the test. It may be used from any
// goroutine.
type Provider struct {
	// Dev is what Device returns; it may be nil.
	Dev verbs.Device
	// Local is the address that Open takes if it is given none.
	Local netip.Addr
	// ListenErr and OpenErr are what Listen and Open fail with.
	ListenErr, OpenErr error
	// HoldDetach makes a closed Conn keep its queue pair until [Conn.Detach].
	HoldDetach bool

	mu        lockdep.Mutex[providerLock]
	listeners map[netip.AddrPort]func(rdmacm.Conn, rdmacm.ConnParam)
	conns     []*Conn
	watchers  map[*func(rdmacm.DeviceEvent)]struct{}
	removed   error
}

type providerLock struct{}

var _ rdmacm.Watcher = (*Provider)(nil)

// Listen implements [rdmacm.Provider].
func (p *Provider) Listen(addr netip.AddrPort, request func(rdmacm.Conn, rdmacm.ConnParam)) (func() error, error) {
	if p.ListenErr != nil {
		return nil, p.ListenErr
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listeners[addr] != nil {
		return nil, fmt.Errorf("rdmacmtest: listen at %v: in use", addr)
	}
	if p.listeners == nil {
		p.listeners = make(map[netip.AddrPort]func(rdmacm.Conn, rdmacm.ConnParam))
	}
	p.listeners[addr] = request
	return func() error {
		// Under the lock that Request holds, so that none is under way when it
		// returns.
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.listeners, addr)
		return nil
	}, nil
}

// Open implements [rdmacm.Provider].
func (p *Provider) Open(local netip.Addr, remote netip.AddrPort) (rdmacm.Conn, error) {
	if p.OpenErr != nil {
		return nil, p.OpenErr
	}
	if !local.IsValid() {
		local = p.Local
	}
	return p.newConn(netip.AddrPortFrom(local, 49152), remote), nil
}

// Watch implements [rdmacm.Watcher].
func (p *Provider) Watch(sink func(rdmacm.DeviceEvent)) (stop func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.removed != nil {
		p.mu.Unlock()
		sink(rdmacm.DeviceEvent{Type: rdmacm.DeviceRemoval, Err: p.removed})
		p.mu.Lock()
		return func() {}
	}
	if p.watchers == nil {
		p.watchers = make(map[*func(rdmacm.DeviceEvent)]struct{})
	}
	p.watchers[&sink] = struct{}{}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.watchers, &sink)
	}
}

// Watchers returns how many watch.
func (p *Provider) Watchers() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.watchers)
}

// Remove takes the device away.
func (p *Provider) Remove(cause error) {
	p.mu.Lock()
	p.removed = cause
	p.mu.Unlock()
	p.tell(rdmacm.DeviceEvent{Type: rdmacm.DeviceRemoval, Err: cause})
}

// LoseAddr takes an address away.
func (p *Provider) LoseAddr(addr netip.Addr, cause error) {
	p.tell(rdmacm.DeviceEvent{Type: rdmacm.AddrChange, Addr: addr, Err: cause})
}

func (p *Provider) tell(ev rdmacm.DeviceEvent) {
	p.mu.Lock()
	watchers := slices.Collect(maps.Keys(p.watchers))
	p.mu.Unlock()
	for _, sink := range watchers {
		(*sink)(ev)
	}
}

// Device implements [rdmacm.Provider].
func (p *Provider) Device() verbs.Device { return p.Dev }

// Request plays a peer that asks for a connection. It returns nil if nobody
// listens at addr.
func (p *Provider) Request(addr, from netip.AddrPort, param rdmacm.ConnParam) *Conn {
	c := p.newConn(addr, from)
	p.mu.Lock()
	defer p.mu.Unlock()
	request := p.listeners[addr]
	if request == nil {
		return nil
	}
	request(c, param)
	return c
}

// Conns returns every Conn there has been, oldest first.
func (p *Provider) Conns() []*Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.conns)
}

func (p *Provider) newConn(local, remote netip.AddrPort) *Conn {
	c := &Conn{p: p, local: local, remote: remote}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns = append(p.conns, c)
	return c
}

// A Conn is a [rdmacm.Conn] that does nothing but what the test says.
type Conn struct {
	p             *Provider
	local, remote netip.AddrPort

	mu     lockdep.Mutex[connLock]
	sink   func(rdmacm.Event)
	calls  []string
	detach func()
}

type connLock struct{}

var _ rdmacm.Conn = (*Conn)(nil)

// Vector implements [rdmacm.Conn]: it is 0.
func (c *Conn) Vector() int { return 0 }

// LocalAddr implements [rdmacm.Conn].
func (c *Conn) LocalAddr() netip.AddrPort { return c.local }

// RemoteAddr implements [rdmacm.Conn].
func (c *Conn) RemoteAddr() netip.AddrPort { return c.remote }

// Notify implements [rdmacm.Conn].
func (c *Conn) Notify(sink func(rdmacm.Event)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sink != nil {
		panic("rdmacmtest: second Notify")
	}
	c.sink = sink
}

// Connect implements [rdmacm.Conn].
func (c *Conn) Connect(_ verbs.QP, p rdmacm.ConnParam) { c.record("connect %q", p.PrivateData) }

// Accept implements [rdmacm.Conn].
func (c *Conn) Accept(_ verbs.QP, p rdmacm.ConnParam) { c.record("accept %q", p.PrivateData) }

// Reject implements [rdmacm.Conn].
func (c *Conn) Reject(reason int, private []byte) { c.record("reject %d %q", reason, private) }

// Disconnect implements [rdmacm.Conn].
func (c *Conn) Disconnect() { c.record("disconnect") }

// Close implements [rdmacm.Conn].
func (c *Conn) Close(detached func()) {
	c.record("close")
	c.mu.Lock()
	c.detach = detached
	c.mu.Unlock()
	if !c.p.HoldDetach {
		c.Detach()
	}
}

// Detach lets go of the queue pair, if the Conn has been closed and has not let
// go before, and reports whether it did.
func (c *Conn) Detach() bool {
	c.mu.Lock()
	detached := c.detach
	c.detach = nil
	c.mu.Unlock()
	if detached == nil {
		return false
	}
	detached()
	return true
}

// Emit tells the consumer of an event.
func (c *Conn) Emit(ev rdmacm.Event) {
	c.mu.Lock()
	sink := c.sink
	c.mu.Unlock()
	sink(ev)
}

// Calls returns the calls that were made, in order: "accept" and the private
// data, "close", ...
func (c *Conn) Calls() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.calls)
}

func (c *Conn) record(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, fmt.Sprintf(format, args...))
}
