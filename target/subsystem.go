package target

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
)

// Defaults and bounds of [SubsystemConfig].
const (
	DefaultModel     = "fabrid"
	DefaultMaxQueues = 128
	MaxMaxQueues     = 4096

	// MaxNamespaces is the highest NSID, NN of Identify Controller.
	MaxNamespaces = 8192
)

// SubsystemConfig describes a subsystem.
type SubsystemConfig struct {
	// NQN is the subsystem's name; it passes [nvme.CheckNQN].
	NQN string
	// Serial (SN) is at most 20 printable ASCII characters. Empty: derived from
	// NQN, so that it is the same after a restart.
	Serial string
	// Model (MN) is at most 40 printable ASCII characters. Empty: DefaultModel.
	Model string

	// AllowAnyHost admits every host; otherwise those whose NQN is in Hosts.
	AllowAnyHost bool
	Hosts        []string

	// MaxQueues is the most I/O queues of a controller, at most MaxMaxQueues.
	// Zero: DefaultMaxQueues.
	MaxQueues int

	// MaxQueueDepth bounds the entries of an I/O queue, 2 to 65536, below what
	// the fabric can do. Zero: what the fabric can do.
	MaxQueueDepth int

	// CNTLIDMin and CNTLIDMax are the controller identifiers to use. Zero: 1 and
	// [nvme.MaxCNTLID].
	CNTLIDMin, CNTLIDMax uint16
}

// A Subsystem is an NVM subsystem: namespaces, and the controllers through
// which hosts use them. Its methods may be called from any goroutine.
type Subsystem struct {
	target *Target
	cfg    SubsystemConfig // but AllowAnyHost and Hosts

	// tallies is the statistics, one for each shard. The list is replaced as a
	// whole, with Target.mu held, and never nil.
	tallies atomic.Pointer[[]*tally]

	// table is what the I/O path looks namespaces up in. It is replaced as a
	// whole, with Target.mu held, and never nil.
	table atomic.Pointer[namespaces]

	// Guarded by Target.mu.
	anyHost     bool
	hosts       map[string]struct{}
	controllers map[uint16]*controller // with those being taken down, until their last queue is gone
	nextCNTLID  uint16
	removed     bool
	tallyOf     map[*shard.Shard]*tally
}

// AddSubsystem adds a subsystem. No host can reach it until a port has been
// linked with it.
func (t *Target) AddSubsystem(cfg SubsystemConfig) (*Subsystem, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("target: add subsystem %q: %w", cfg.NQN, err)
	}
	s := newSubsystem(t, cfg)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, fmt.Errorf("target: add subsystem %q: %w", cfg.NQN, ErrClosed)
	}
	if t.subsystems[cfg.NQN] != nil {
		return nil, fmt.Errorf("target: add subsystem %q: %w", cfg.NQN, ErrExists)
	}
	t.subsystems[cfg.NQN] = s
	return s, nil
}

// complete checks cfg and fills in its defaults.
func (cfg *SubsystemConfig) complete() error {
	if err := nvme.CheckNQN(cfg.NQN); err != nil {
		return err
	}
	if cfg.NQN == nvme.DiscoveryNQN {
		return fmt.Errorf("the name of the discovery subsystem: %w", ErrExists)
	}
	if cfg.Serial == "" {
		cfg.Serial = deriveSerial(cfg.NQN)
	}
	if cfg.Model == "" {
		cfg.Model = DefaultModel
	}
	if cfg.MaxQueues == 0 {
		cfg.MaxQueues = DefaultMaxQueues
	}
	if cfg.MaxQueueDepth == 0 {
		cfg.MaxQueueDepth = 1 << 16
	}
	if cfg.CNTLIDMin == 0 {
		cfg.CNTLIDMin = 1
	}
	if cfg.CNTLIDMax == 0 {
		cfg.CNTLIDMax = nvme.MaxCNTLID
	}
	switch {
	case !printable(cfg.Serial, 20):
		return fmt.Errorf("serial number %q: want at most 20 printable ASCII characters", cfg.Serial)
	case !printable(cfg.Model, 40):
		return fmt.Errorf("model number %q: want at most 40 printable ASCII characters", cfg.Model)
	case cfg.MaxQueues < 1 || cfg.MaxQueues > MaxMaxQueues:
		return fmt.Errorf("%d queues, want 1 to %d", cfg.MaxQueues, MaxMaxQueues)
	case cfg.MaxQueueDepth < 2 || cfg.MaxQueueDepth > 1<<16:
		return fmt.Errorf("queue depth %d, want 2 to %d", cfg.MaxQueueDepth, 1<<16)
	case cfg.CNTLIDMin > cfg.CNTLIDMax || cfg.CNTLIDMax > nvme.MaxCNTLID:
		return fmt.Errorf("controller identifiers %d to %d, want some up to %d", cfg.CNTLIDMin, cfg.CNTLIDMax, nvme.MaxCNTLID)
	}
	return nil
}

func printable(s string, most int) bool {
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return len(s) <= most
}

// deriveSerial makes a serial number that stays as long as the name does.
func deriveSerial(nqn string) string {
	h := sha256.Sum256([]byte("serial\x00" + nqn))
	return hex.EncodeToString(h[:10])
}

func newSubsystem(t *Target, cfg SubsystemConfig) *Subsystem {
	s := &Subsystem{
		target:      t,
		cfg:         cfg,
		anyHost:     cfg.AllowAnyHost,
		hosts:       make(map[string]struct{}),
		controllers: make(map[uint16]*controller),
		nextCNTLID:  cfg.CNTLIDMin,
		tallyOf:     make(map[*shard.Shard]*tally),
	}
	s.tallies.Store(new([]*tally))
	for _, h := range cfg.Hosts {
		s.hosts[h] = struct{}{}
	}
	s.table.Store(&namespaces{})
	return s
}

// NQN returns the subsystem's name.
func (s *Subsystem) NQN() string { return s.cfg.NQN }

// Config returns the configuration, with defaults filled in and the hosts as
// they are now.
func (s *Subsystem) Config() SubsystemConfig {
	s.target.mu.Lock()
	defer s.target.mu.Unlock()
	cfg := s.cfg
	cfg.AllowAnyHost = s.anyHost
	cfg.Hosts = make([]string, 0, len(s.hosts))
	for h := range s.hosts {
		cfg.Hosts = append(cfg.Hosts, h)
	}
	slices.Sort(cfg.Hosts)
	return cfg
}

// SetHosts changes which hosts may connect. Hosts that are connected and no
// longer allowed are disconnected.
func (s *Subsystem) SetHosts(any bool, hosts []string) {
	t := s.target
	t.mu.Lock()
	defer t.mu.Unlock()
	s.anyHost = any
	clear(s.hosts)
	for _, h := range hosts {
		s.hosts[h] = struct{}{}
	}
	t.discoveryChangedLocked()
	s.dropLocked(ErrRemoved, func(c *controller) bool { return !s.allowsLocked(c.hostNQN) })
}

func (s *Subsystem) allowsLocked(hostNQN string) bool {
	if s.anyHost {
		return true
	}
	_, ok := s.hosts[hostNQN]
	return ok
}

// isDiscovery reports whether it is the discovery subsystem.
func (s *Subsystem) isDiscovery() bool { return s.target.discovery == s }

// Remove takes the subsystem from its ports, disconnects its hosts and waits
// until no shard uses its namespaces any more, so that their devices may be
// closed. It waits.
func (s *Subsystem) Remove() error {
	t := s.target
	t.mu.Lock()
	if s.removed || s.isDiscovery() {
		t.mu.Unlock()
		return fmt.Errorf("target: remove subsystem %q: %w", s.cfg.NQN, ErrNotFound)
	}
	s.removed = true
	delete(t.subsystems, s.cfg.NQN)
	for _, p := range t.ports {
		delete(p.subsystems, s.cfg.NQN)
	}
	t.discoveryChangedLocked()
	for _, ns := range s.table.Load().byID {
		if ns != nil {
			ns.state.removed.Store(true)
		}
	}
	s.publishLocked(nil)
	s.dropLocked(ErrRemoved, func(*controller) bool { return true })
	shards := s.shardsLocked()
	t.mu.Unlock()
	graceOn(shards)
	return nil
}

// dropLocked disconnects the hosts of the controllers that which names.
func (s *Subsystem) dropLocked(cause error, which func(*controller) bool) {
	for _, c := range s.controllers {
		if which(c) {
			c.leave(fmt.Errorf("target: subsystem %s: %w", s.cfg.NQN, cause), inOrder)
		}
	}
}

// shardsLocked returns the shards on which the subsystem has queues.
func (s *Subsystem) shardsLocked() map[*shard.Shard]struct{} {
	shards := make(map[*shard.Shard]struct{})
	for _, c := range s.controllers {
		c.mu.Lock()
		for _, q := range c.queues {
			if q != nil {
				shards[q.param.Shard] = struct{}{}
			}
		}
		c.mu.Unlock()
	}
	return shards
}

// graceOn returns when each of the shards has been between two events: what
// had been looked up before is not used any more.
func graceOn(shards map[*shard.Shard]struct{}) {
	for sh := range shards {
		// A shard that is closed uses nothing.
		_ = sh.Run(func() {})
	}
}

// newControllerLocked enters a controller with an identifier of its own, or
// returns nil if there is none left. Identifiers are given in turn: one that
// a host still remembers is not given again soon.
func (s *Subsystem) newControllerLocked(q *queue) *controller {
	n := int(s.cfg.CNTLIDMax) - int(s.cfg.CNTLIDMin) + 1
	for range n {
		id := s.nextCNTLID
		if s.nextCNTLID++; s.nextCNTLID > s.cfg.CNTLIDMax {
			s.nextCNTLID = s.cfg.CNTLIDMin
		}
		if s.controllers[id] == nil {
			c := newController(s, q, id)
			s.controllers[id] = c
			return c
		}
	}
	return nil
}

// Controllers returns the controllers in the order of their identifiers.
func (s *Subsystem) Controllers() []ControllerInfo {
	s.target.mu.Lock()
	defer s.target.mu.Unlock()
	all := make([]ControllerInfo, 0, len(s.controllers))
	for _, c := range s.controllers {
		all = append(all, c.info())
	}
	slices.SortFunc(all, func(a, b ControllerInfo) int { return int(a.CNTLID) - int(b.CNTLID) })
	return all
}
