package target

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
)

// Errors that callers act upon.
var (
	ErrClosed   error = &transport.Cause{Word: "target_closed", Text: "target closed"} // a cause, too
	ErrExists         = errors.New("exists already")
	ErrNotFound       = errors.New("not found")
	ErrInUse          = errors.New("in use")
)

// Causes with which queues are disconnected.
var (
	ErrKeepAlive  error = &transport.Cause{Word: "keep_alive", Text: "keep alive timer expired"}
	ErrNoConnect  error = &transport.Cause{Word: "no_connect", Text: "no Connect command in time"}
	ErrReset      error = &transport.Cause{Word: "controller_reset", Text: "controller reset by its host"}
	ErrShutdown   error = &transport.Cause{Word: "controller_shutdown", Text: "controller shut down by its host"}
	ErrRemoved    error = &transport.Cause{Word: "removed", Text: "subsystem or port removed"}
	ErrAssociated error = &transport.Cause{Word: "admin_queue_down", Text: "admin queue down"}
)

// Defaults of [Config].
const (
	DefaultConnectTimeout = 30 * time.Second
	DefaultReserveTimeout = 30 * time.Second
	DefaultLeaveTimeout   = time.Second
	DefaultCloseTimeout   = 10 * time.Second
	DefaultDiscoveryKATO  = 2 * time.Minute
)

// Config describes a target to be. The zero value is good.
type Config struct {
	// Firmware is the firmware revision (FR) that controllers report, at most 8
	// ASCII characters. Empty: "1".
	Firmware string

	// ConnectTimeout is for how long a queue may exist without a successful
	// Connect command.
	ConnectTimeout time.Duration

	// ReserveTimeout is for how long room is kept for I/O queues that a host has
	// asked for, with Set Features (Number of Queues), and not connected.
	ReserveTimeout time.Duration

	// LeaveTimeout is for how long a queue that is told to leave in order waits
	// for the commands that it has.
	LeaveTimeout time.Duration

	// CloseTimeout bounds Close.
	CloseTimeout time.Duration

	// Events are called when something happens.
	Events Events
}

// Events tell an operator what happens. Any may be nil. They are called on
// shards or on the goroutine that caused them, without locks held, and must
// not block.
type Events struct {
	// ControllerCreated: a host has connected an admin queue.
	ControllerCreated func(ControllerInfo)
	// ControllerRemoved: the last queue of a controller is gone. The cause is why
	// its admin queue went down.
	ControllerRemoved func(info ControllerInfo, cause error)
	// ConnectRefused: a Connect command was answered with an error. The info has
	// what the host said it wanted.
	ConnectRefused func(info ControllerInfo, qid uint16, err error)
}

type targetMu struct{} // outermost; before controllerMu

func (targetMu) String() string { return "target" }

// A Target is a set of subsystems behind a set of ports. Its methods may be
// called from any goroutine, but those that say that they wait not on a shard.
type Target struct {
	cfg       Config
	started   time.Time
	discovery *Subsystem

	// The tables of commands. They are reached from here and not by their names,
	// because their functions, too, read them.
	connect                  *command
	fabrics, admin, io, disc *[256]command
	logs                     *[256]logPage

	// genctr is the generation of what the discovery log pages say. It changes
	// with mu held.
	genctr atomic.Uint64

	mu         lockdep.Mutex[targetMu]
	subsystems map[string]*Subsystem // guarded by mu
	ports      map[uint16]*Port      // guarded by mu
	closed     bool                  // guarded by mu
	queues     int                   // guarded by mu: those open
	changed    chan struct{}         // guarded by mu: closed and replaced when a queue is gone
}

// New returns a target without subsystems and ports.
func New(cfg Config) *Target {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&cfg.ConnectTimeout, DefaultConnectTimeout)
	def(&cfg.ReserveTimeout, DefaultReserveTimeout)
	def(&cfg.LeaveTimeout, DefaultLeaveTimeout)
	def(&cfg.CloseTimeout, DefaultCloseTimeout)
	if cfg.Firmware == "" {
		cfg.Firmware = "1"
	}
	t := &Target{
		cfg:        cfg,
		started:    time.Now(),
		connect:    &connectCommand,
		fabrics:    &fabricsCommands,
		admin:      &adminCommands,
		io:         &ioCommands,
		disc:       &discoveryCommands,
		logs:       &logPages,
		subsystems: make(map[string]*Subsystem),
		ports:      make(map[uint16]*Port),
		changed:    make(chan struct{}),
	}
	t.genctr.Store(1)
	t.discovery = newSubsystem(t, SubsystemConfig{
		NQN: nvme.DiscoveryNQN, AllowAnyHost: true,
		CNTLIDMin: 1, CNTLIDMax: nvme.MaxCNTLID, MaxQueueDepth: 1 << 16,
		Serial: deriveSerial(nvme.DiscoveryNQN), Model: DefaultModel,
	})
	return t
}

// Counts is how many of each thing a target has. After everything has been
// closed all are zero.
type Counts struct {
	Subsystems  int `json:"subsystems"`
	Namespaces  int `json:"namespaces"`
	Ports       int `json:"ports"`
	Controllers int `json:"controllers"` // with those of which queues are still being released
	Queues      int `json:"queues"`      // open: from Open to Destroy
}

// Counts returns how many of each thing there are.
func (t *Target) Counts() Counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := Counts{
		Subsystems:  len(t.subsystems),
		Ports:       len(t.ports),
		Controllers: len(t.discovery.controllers),
		Queues:      t.queues,
	}
	for _, s := range t.subsystems {
		c.Namespaces += len(s.table.Load().ids)
		c.Controllers += len(s.controllers)
	}
	return c
}

// Subsystems returns the subsystems in the order of their names, without the
// discovery subsystem.
func (t *Target) Subsystems() []*Subsystem {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*Subsystem, 0, len(t.subsystems))
	for _, s := range t.subsystems {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *Subsystem) int { return strings.Compare(a.cfg.NQN, b.cfg.NQN) })
	return all
}

// Subsystem returns the subsystem of that name, or nil.
func (t *Target) Subsystem(nqn string) *Subsystem {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.subsystems[nqn]
}

// Discovery returns the discovery subsystem, which every port has.
func (t *Target) Discovery() *Subsystem { return t.discovery }

// Ports returns the ports in the order of their numbers.
func (t *Target) Ports() []*Port {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*Port, 0, len(t.ports))
	for _, p := range t.ports {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *Port) int { return int(a.cfg.ID) - int(b.cfg.ID) })
	return all
}

// discoveryChangedLocked notes that a discovery log page is not what it was
// and tells the hosts that asked to be told.
func (t *Target) discoveryChangedLocked() {
	t.genctr.Add(1)
	for _, c := range t.discovery.controllers {
		c.raise(nvme.EventDiscoveryChange)
	}
}

// Close refuses new queues, completes the Asynchronous Event Requests,
// disconnects the queues, those for I/O first, and waits until all are gone,
// for at most [Config.CloseTimeout]; then it returns how many are left. The
// fabrics' listeners are closed before, and their delete workqueues after.
// Devices may be closed when it has returned nil. It waits. A second call
// waits again.
func (t *Target) Close() error {
	t.mu.Lock()
	t.closed = true
	var io, admin []*queue
	for _, p := range t.ports {
		p.removed.Store(true)
		for q := range p.queues {
			if q.isAdmin.Load() {
				admin = append(admin, q)
			} else {
				io = append(io, q)
			}
		}
	}
	t.mu.Unlock()

	deadline := time.Now().Add(t.cfg.CloseTimeout)
	cause := fmt.Errorf("target: close: %w", ErrClosed)
	for _, q := range io {
		q.leave(cause, inOrder)
	}
	gone := func() bool { return !slices.ContainsFunc(io, (*queue).alive) }
	// A controller's admin queue goes last, as far as half of the time allows.
	t.waitUntil(gone, time.Now().Add(t.cfg.CloseTimeout/2))
	for _, q := range admin {
		q.leave(cause, inOrder)
	}
	var left int
	if !t.waitUntil(func() bool { left = t.queues; return left == 0 }, deadline) {
		return fmt.Errorf("target: close: %d queues left after %v", left, t.cfg.CloseTimeout)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.ports)
	for _, s := range t.subsystems {
		s.removed = true
		s.publishLocked(nil)
	}
	clear(t.subsystems)
	return nil
}

// waitUntil waits until done, which is called with mu held whenever a queue
// is gone, or until the deadline, and returns done's last word.
func (t *Target) waitUntil(done func() bool, deadline time.Time) bool {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	for {
		t.mu.Lock()
		ok, changed := done(), t.changed
		t.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-changed:
		case <-timer.C:
			return false
		}
	}
}

// queueGone takes a queue out of its port and wakes who waits for it.
func (t *Target) queueGone(q *queue) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(q.port.queues, q)
	q.gone.Store(true)
	t.queues--
	close(t.changed)
	t.changed = make(chan struct{})
}

// open makes the core's end of a queue of port p.
func (t *Target) open(p *Port, f transport.Fabric, param transport.QueueParam) (*queue, error) {
	switch {
	case param.Depth < 1 || param.Depth > 1<<16:
		return nil, fmt.Errorf("target: open: depth %d, want 1 to %d", param.Depth, 1<<16)
	case param.Limits.MaxData < minMaxData:
		return nil, fmt.Errorf("target: open: limit of %d bytes of data, need %d", param.Limits.MaxData, minMaxData)
	}
	q := newQueue(p, f, param)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, fmt.Errorf("target: open: %w", ErrClosed)
	}
	if p.removed.Load() {
		return nil, fmt.Errorf("target: open: port %d: %w", p.cfg.ID, ErrRemoved)
	}
	p.queues[q] = struct{}{}
	t.queues++
	return q, nil
}
