package target

import (
	"crypto/sha256"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/nvme"
)

// NamespaceConfig describes a namespace.
type NamespaceConfig struct {
	// NSID is 1 to MaxNamespaces. Zero: the lowest that is free.
	NSID uint32
	// Device is where the blocks are. It stays the caller's, who may close it
	// when RemoveNamespace has returned.
	Device bdev.Device
	// ReadOnly makes the namespace write protected, as it is if the device is
	// read-only.
	ReadOnly bool

	// UUID, NGUID and EUI64 name the namespace to hosts. No other namespace in
	// the world may have the same: hosts refuse the second. Those that are zero
	// are derived from the subsystem's name and the NSID, and so stay the same.
	UUID  nvme.UUID
	NGUID nvme.NGUID
	EUI64 nvme.EUI64
}

// A Namespace is a namespace of a subsystem. It does not change; one whose
// device has changed is replaced.
type Namespace struct {
	subsystem *Subsystem
	cfg       NamespaceConfig
	info      bdev.Info
	shift     uint // log2 of the block size

	state *namespaceState
}

// A namespaceState is what a namespace shares with what replaces it.
type namespaceState struct {
	// removed is set before the namespace leaves the table: a request that has
	// found it there before submits nothing more.
	removed atomic.Bool

	marks  marks
	bounce bounce
}

// NSID returns the namespace's identifier.
func (n *Namespace) NSID() uint32 { return n.cfg.NSID }

// Config returns the configuration, with identifiers filled in.
func (n *Namespace) Config() NamespaceConfig { return n.cfg }

// Info returns the device's geometry as hosts see it.
func (n *Namespace) Info() bdev.Info { return n.info }

func (n *Namespace) readOnly() bool { return n.cfg.ReadOnly || n.info.ReadOnly }

// namespaces is the table of a subsystem's namespaces. It does not change.
type namespaces struct {
	byID []*Namespace // by NSID-1
	ids  []uint32     // ascending
}

// find returns the namespace, or nil.
func (t *namespaces) find(nsid uint32) *Namespace {
	if i := nsid - 1; uint64(i) < uint64(len(t.byID)) { // nsid 0 wraps and is not found
		return t.byID[i]
	}
	return nil
}

// volatile reports whether any namespace has a volatile write cache.
func (t *namespaces) volatile() bool {
	return slices.ContainsFunc(t.byID, func(n *Namespace) bool { return n != nil && n.info.VolatileWriteCache })
}

// publishLocked replaces the table by one of the given namespaces.
func (s *Subsystem) publishLocked(all []*Namespace) {
	t := &namespaces{}
	slices.SortFunc(all, func(a, b *Namespace) int { return int(a.cfg.NSID) - int(b.cfg.NSID) })
	for _, n := range all {
		t.ids = append(t.ids, n.cfg.NSID)
	}
	if len(all) > 0 {
		t.byID = make([]*Namespace, t.ids[len(t.ids)-1])
		for _, n := range all {
			t.byID[n.cfg.NSID-1] = n
		}
	}
	s.table.Store(t)
}

// allLocked returns the namespaces but the one that is to be left out.
func (s *Subsystem) allLocked(without *Namespace) []*Namespace {
	return slices.DeleteFunc(slices.Clone(s.table.Load().byID), func(n *Namespace) bool { return n == nil || n == without })
}

// changedLocked tells the hosts that a namespace is not what it was.
func (s *Subsystem) changedLocked(nsid uint32) {
	for _, c := range s.controllers {
		c.namespaceChanged(nsid)
	}
}

// AddNamespace adds a namespace and tells the hosts.
func (s *Subsystem) AddNamespace(cfg NamespaceConfig) (*Namespace, error) {
	fail := func(err error) (*Namespace, error) {
		return nil, fmt.Errorf("target: add namespace %d to %s: %w", cfg.NSID, s.cfg.NQN, err)
	}
	t := s.target
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.isDiscovery() || s.removed {
		return fail(ErrNotFound)
	}
	table := s.table.Load()
	if cfg.NSID == 0 {
		for cfg.NSID = 1; table.find(cfg.NSID) != nil; cfg.NSID++ {
		}
	}
	if cfg.NSID > MaxNamespaces {
		return fail(fmt.Errorf("want at most %d", MaxNamespaces))
	}
	if table.find(cfg.NSID) != nil {
		return fail(ErrExists)
	}
	cfg.derive(s.cfg.NQN)
	for _, o := range t.subsystems {
		for _, n := range o.allLocked(nil) {
			if n.cfg.UUID == cfg.UUID || n.cfg.NGUID == cfg.NGUID || n.cfg.EUI64 == cfg.EUI64 {
				return fail(fmt.Errorf("an identifier is that of namespace %d of %s: %w", n.cfg.NSID, o.cfg.NQN, ErrExists))
			}
		}
	}
	n, err := s.newNamespace(cfg)
	if err != nil {
		return fail(err)
	}
	s.publishLocked(append(s.allLocked(nil), n))
	s.changedLocked(cfg.NSID)
	return n, nil
}

func (s *Subsystem) newNamespace(cfg NamespaceConfig) (*Namespace, error) {
	if cfg.Device == nil {
		return nil, fmt.Errorf("no device: %w", ErrNotFound)
	}
	info := cfg.Device.Info()
	if info.BlockSize < 512 || info.BlockSize&(info.BlockSize-1) != 0 {
		return nil, fmt.Errorf("device with blocks of %d bytes, want a power of two from 512 on", info.BlockSize)
	}
	shift := uint(bits.TrailingZeros(uint(info.BlockSize)))
	if info.Blocks == 0 || info.Blocks > 1<<63>>shift {
		return nil, fmt.Errorf("device of %d blocks of %d bytes", info.Blocks, info.BlockSize)
	}
	return &Namespace{subsystem: s, cfg: cfg, info: info, shift: shift, state: new(namespaceState)}, nil
}

// RemoveNamespace removes a namespace, tells the hosts, and waits until no
// shard submits anything to its device any more, so that the device may be
// closed. It waits.
func (s *Subsystem) RemoveNamespace(nsid uint32) error {
	t := s.target
	t.mu.Lock()
	n := s.table.Load().find(nsid)
	if n == nil {
		t.mu.Unlock()
		return fmt.Errorf("target: remove namespace %d of %s: %w", nsid, s.cfg.NQN, ErrNotFound)
	}
	n.state.removed.Store(true)
	s.publishLocked(s.allLocked(n))
	s.changedLocked(nsid)
	shards := s.shardsLocked()
	t.mu.Unlock()
	graceOn(shards)
	return nil
}

// RefreshNamespace reads the device's geometry again and tells the hosts: the
// device has grown, say. A device that has shrunk fails what lies beyond its
// end by itself.
func (s *Subsystem) RefreshNamespace(nsid uint32) (*Namespace, error) {
	t := s.target
	t.mu.Lock()
	defer t.mu.Unlock()
	old := s.table.Load().find(nsid)
	if old == nil {
		return nil, fmt.Errorf("target: refresh namespace %d of %s: %w", nsid, s.cfg.NQN, ErrNotFound)
	}
	n, err := s.newNamespace(old.cfg)
	if err != nil {
		return nil, fmt.Errorf("target: refresh namespace %d of %s: %w", nsid, s.cfg.NQN, err)
	}
	n.state = old.state
	s.publishLocked(append(s.allLocked(old), n))
	s.changedLocked(nsid)
	return n, nil
}

// Namespaces returns the namespaces in the order of their identifiers.
func (s *Subsystem) Namespaces() []*Namespace {
	s.target.mu.Lock()
	defer s.target.mu.Unlock()
	return s.allLocked(nil)
}

// derive fills in the identifiers that are zero, from what does not change
// when the target is started again.
func (cfg *NamespaceConfig) derive(nqn string) {
	h := sha256.Sum256([]byte("namespace\x00" + nqn + "\x00" + strconv.FormatUint(uint64(cfg.NSID), 10)))
	if cfg.UUID.IsZero() {
		copy(cfg.UUID[:], h[:16])
		cfg.UUID[6] = cfg.UUID[6]&0x0F | 0x80 // version 8: made in a way of our own [RFC9562 5.8]
		cfg.UUID[8] = cfg.UUID[8]&0x3F | 0x80 // variant
	}
	if cfg.NGUID.IsZero() {
		h = sha256.Sum256(h[:])
		copy(cfg.NGUID[:], h[:16])
		local(&cfg.NGUID[8]) // its EUI-64 is the second half
	}
	if cfg.EUI64.IsZero() {
		h = sha256.Sum256(h[:])
		copy(cfg.EUI64[:], h[:8])
		local(&cfg.EUI64[0])
	}
}

// local makes the first byte of an EUI-64 that of a locally administered
// identifier of one device: no manufacturer gives such.
func local(b *byte) { *b = *b&^1 | 2 }
