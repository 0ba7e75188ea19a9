package target

import (
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
)

// An Address is where a port can be reached, as a discovery log page says it.
type Address struct {
	TRTYPE nvme.TransportType
	ADRFAM nvme.AddressFamily
	// TRADDR is the address. One that is empty or unspecified (0.0.0.0, ::)
	// stands for the one that the host has reached.
	TRADDR string
	// TRSVCID is the service, such as "4420". Empty or "0" stands for the port
	// that the host has reached.
	TRSVCID string
	// TSAS is what the fabric says if it is zero.
	TSAS nvme.TSAS
}

// PortConfig describes a port.
type PortConfig struct {
	// ID is the port identifier (PORTID) that hosts see.
	ID uint16
	// Addresses are those of the fabrics' listeners. The discovery log page has
	// one entry for each of them and subsystem. None: the address that the host
	// has reached.
	Addresses []Address
}

// A Port is where hosts come in: the [transport.Core] of its listeners, and
// the subsystems that can be reached through it. Its methods may be called
// from any goroutine but where they say otherwise.
type Port struct {
	target  *Target
	removed atomic.Bool // set with Target.mu held

	// Guarded by Target.mu.
	cfg        PortConfig
	subsystems map[string]*Subsystem
	queues     map[*queue]struct{}
}

var _ transport.Core = (*Port)(nil)

// AddPort adds a port without subsystems but that for discovery.
func (t *Target) AddPort(cfg PortConfig) (*Port, error) {
	cfg.Addresses = slices.Clone(cfg.Addresses)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, fmt.Errorf("target: add port %d: %w", cfg.ID, ErrClosed)
	}
	if t.ports[cfg.ID] != nil {
		return nil, fmt.Errorf("target: add port %d: %w", cfg.ID, ErrExists)
	}
	p := &Port{
		target:     t,
		cfg:        cfg,
		subsystems: make(map[string]*Subsystem),
		queues:     make(map[*queue]struct{}),
	}
	t.ports[cfg.ID] = p
	return p, nil
}

// ID returns the port identifier.
func (p *Port) ID() uint16 { return p.cfg.ID }

// Target returns the target that the port belongs to.
func (p *Port) Target() *Target { return p.target }

// SetAddresses replaces the addresses, of which hosts learn by discovery: when
// a listener has got its port number, say, or has lost its address.
func (p *Port) SetAddresses(all []Address) {
	p.target.mu.Lock()
	defer p.target.mu.Unlock()
	p.cfg.Addresses = slices.Clone(all)
	p.target.discoveryChangedLocked()
}

// Config returns the configuration.
func (p *Port) Config() PortConfig {
	p.target.mu.Lock()
	defer p.target.mu.Unlock()
	cfg := p.cfg
	cfg.Addresses = slices.Clone(cfg.Addresses)
	return cfg
}

// Link makes a subsystem reachable through the port.
func (p *Port) Link(s *Subsystem) error {
	t := p.target
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case s.target != t || s.removed || s.isDiscovery():
		return fmt.Errorf("target: link port %d with %s: %w", p.cfg.ID, s.cfg.NQN, ErrNotFound)
	case p.removed.Load():
		return fmt.Errorf("target: link port %d with %s: %w", p.cfg.ID, s.cfg.NQN, ErrRemoved)
	case p.subsystems[s.cfg.NQN] != nil:
		return fmt.Errorf("target: link port %d with %s: %w", p.cfg.ID, s.cfg.NQN, ErrExists)
	}
	p.subsystems[s.cfg.NQN] = s
	t.discoveryChangedLocked()
	return nil
}

// Unlink undoes Link and disconnects the hosts that came through the port.
func (p *Port) Unlink(s *Subsystem) error {
	t := p.target
	t.mu.Lock()
	defer t.mu.Unlock()
	if p.subsystems[s.cfg.NQN] != s {
		return fmt.Errorf("target: unlink port %d from %s: %w", p.cfg.ID, s.cfg.NQN, ErrNotFound)
	}
	delete(p.subsystems, s.cfg.NQN)
	t.discoveryChangedLocked()
	s.dropLocked(ErrRemoved, func(c *controller) bool { return c.port == p })
	return nil
}

// Subsystems returns the subsystems that can be reached through the port, in
// the order of their names.
func (p *Port) Subsystems() []*Subsystem {
	var all []*Subsystem
	for _, s := range p.target.Subsystems() {
		p.target.mu.Lock()
		if p.subsystems[s.cfg.NQN] == s {
			all = append(all, s)
		}
		p.target.mu.Unlock()
	}
	return all
}

// Remove takes the port out of the target and disconnects its queues. It does
// not wait for them.
func (p *Port) Remove() {
	t := p.target
	t.mu.Lock()
	defer t.mu.Unlock()
	if p.removed.Swap(true) {
		return
	}
	delete(t.ports, p.cfg.ID)
	clear(p.subsystems)
	cause := fmt.Errorf("target: port %d: %w", p.cfg.ID, ErrRemoved)
	for q := range p.queues {
		q.leave(cause, inOrder)
	}
}

// Open makes the core's end of a queue; see [transport.Core].
func (p *Port) Open(f transport.Fabric, param transport.QueueParam) (transport.Queue, error) {
	q, err := p.target.open(p, f, param)
	if err != nil {
		return nil, err
	}
	q.opened()
	return q, nil
}

// Removed reports whether nothing is opened any more; see [transport.Core].
func (p *Port) Removed() bool { return p.removed.Load() }

// reached returns what a host that has reached local, by a fabric of limits l,
// is to be told of a.
func (a Address) reached(l transport.Limits, local netip.AddrPort) Address {
	if a.TSAS == (nvme.TSAS{}) && a.TRTYPE == l.Type {
		a.TSAS = l.TSAS
	}
	if !local.IsValid() {
		return a
	}
	if addr, err := netip.ParseAddr(a.TRADDR); a.TRADDR == "" || err == nil && addr.IsUnspecified() {
		ip := local.Addr().Unmap().WithZone("")
		a.TRADDR, a.ADRFAM = ip.String(), nvme.AddressIPv6
		if ip.Is4() {
			a.ADRFAM = nvme.AddressIPv4
		}
	}
	if a.TRSVCID == "" || a.TRSVCID == "0" {
		a.TRSVCID = fmt.Sprint(local.Port())
	}
	return a
}
