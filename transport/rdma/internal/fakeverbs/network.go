// Package fakeverbs is a provider of verbs and of connections for tests: in
// memory, on shards, without packets, timers or loss, but with the semantics
// of package verbs. It passes verbstest.
//
// A work request's memory is touched by the peer's loop between its post and
// its completion and at no other time, so that the race detector sees what
// uses it too early. A completion queue that is overrun panics.
package fakeverbs

import (
	"fmt"
	"net/netip"
	"sync/atomic"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
)

type networkMu struct{} // innermost

// A Network is what devices reach each other over. The zero value is ready.
type Network struct {
	mu        lockdep.Mutex[networkMu]
	devices   map[netip.Addr]*Device       // guarded by mu
	listeners map[netip.AddrPort]*listener // guarded by mu
	qps       map[uint32]*qp               // guarded by mu: by number, unique in the network
	lastQPN   uint32                       // guarded by mu
	lastPort  uint16                       // guarded by mu

	holdAcks    atomic.Bool
	holdFlushes atomic.Bool
	holdRTU     bool     // guarded by mu
	rtus        []func() // guarded by mu: held
}

// HoldAcks makes work requests that the peer has carried out not complete,
// until it is called with false.
func (n *Network) HoldAcks(hold bool) {
	n.holdAcks.Store(hold)
	if hold {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, q := range n.qps {
		q.shard.Post(&q.ackTask)
	}
}

// HoldFlushes makes queue pairs that go to Err flush nothing: a device that is
// stuck. Reset still takes everything back.
func (n *Network) HoldFlushes(hold bool) { n.holdFlushes.Store(hold) }

// HoldRTU makes passive ends of new connections not hear that the active end is
// there, until it is called with false.
func (n *Network) HoldRTU(hold bool) {
	n.mu.Lock()
	held := n.rtus
	n.rtus, n.holdRTU = nil, hold
	n.mu.Unlock()
	for _, rtu := range held {
		rtu()
	}
}

// rtu calls fn, now or when RTUs are no longer held.
func (n *Network) rtu(fn func()) {
	n.mu.Lock()
	hold := n.holdRTU
	if hold {
		n.rtus = append(n.rtus, fn)
	}
	n.mu.Unlock()
	if !hold {
		fn()
	}
}

// Options say how a device differs from the usual one.
type Options struct {
	// NoDMALKey: memory must be registered.
	NoDMALKey bool
	// MaxSGE, MaxQPWR, MaxQPRdAtom: zero is 16, 16384, 16.
	MaxSGE, MaxQPWR, MaxQPRdAtom int
}

// A Device is a device on a network. What is made of it is counted.
type Device struct {
	net    *Network
	addr   netip.Addr
	shards []*shard.Shard
	attr   verbs.DeviceAttr
	dma    bool

	keysMu  lockdep.RWMutex[keysMu]
	keys    map[uint32]*mr // guarded by keysMu: by index
	lastKey uint32         // guarded by keysMu

	vector atomic.Uint32 // of the next connection

	PDs, MRs, CQs, SRQs, QPs, Conns atomic.Int64
}

type keysMu struct{} // innermost

// NewDevice adds a device with one completion vector for each shard.
func (n *Network) NewDevice(addr netip.Addr, shards []*shard.Shard, o Options) *Device {
	or := func(v, def int) int {
		if v == 0 {
			return def
		}
		return v
	}
	d := &Device{
		net: n, addr: addr, shards: shards, dma: !o.NoDMALKey,
		keys: make(map[uint32]*mr),
		attr: verbs.DeviceAttr{
			Name:           "fake-" + addr.String(),
			NumCompVectors: len(shards),
			MaxQPWR:        or(o.MaxQPWR, 1<<14),
			MaxSGE:         or(o.MaxSGE, 16),
			MaxCQE:         1 << 20,
			MaxSRQWR:       1 << 16,
			MaxQPRdAtom:    or(o.MaxQPRdAtom, 16),
			MaxQPInitRd:    or(o.MaxQPRdAtom, 16),
			MaxMRSize:      1 << 40,
			MaxFastRegLen:  1 << 24,
		},
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.devices == nil {
		n.devices = make(map[netip.Addr]*Device)
		n.listeners = make(map[netip.AddrPort]*listener)
		n.qps = make(map[uint32]*qp)
	}
	n.devices[addr] = d
	d.attr.NodeGUID = uint64(len(n.devices))
	return d
}

// Leftovers returns an error if anything made of the device still exists.
func (d *Device) Leftovers() error {
	p, m, c, s, q, k := d.PDs.Load(), d.MRs.Load(), d.CQs.Load(), d.SRQs.Load(), d.QPs.Load(), d.Conns.Load()
	if p|m|c|s|q|k != 0 {
		return fmt.Errorf("%s: %d PDs, %d MRs, %d CQs, %d SRQs, %d QPs, %d connections are left", d.attr.Name, p, m, c, s, q, k)
	}
	return nil
}

// Attr implements [verbs.Device].
func (d *Device) Attr() verbs.DeviceAttr { return d.attr }

// AllocPD implements [verbs.Device].
func (d *Device) AllocPD() (verbs.PD, error) {
	d.PDs.Add(1)
	return &pd{dev: d}, nil
}

func (n *Network) addQP(q *qp) {
	n.mu.Lock()
	defer n.mu.Unlock()
	// Far from the beginning, and never one that was there shortly before.
	n.lastQPN = (n.lastQPN + 1) & (1<<24 - 1)
	if n.lastQPN < 0x100 || n.lastQPN == 1<<24-1 {
		n.lastQPN = 0x100
	}
	q.num = n.lastQPN
	n.qps[q.num] = q
}

func (n *Network) removeQP(q *qp) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.qps, q.num)
}

func (n *Network) findQP(num uint32) *qp {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.qps[num]
}
