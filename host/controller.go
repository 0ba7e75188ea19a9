package host

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
)

// A State is what a controller does, in Linux's words.
type State uint8

// States of a controller.
const (
	Live       State = iota // carries commands
	Connecting              // the connection is lost, and being made again
	Deleting                // is being disconnected by its user
	Dead                    // disconnected, or given up
)

func (s State) String() string {
	if s <= Dead {
		return [...]string{"live", "connecting", "deleting", "dead"}[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

type controllerMu struct{} // innermost in this package

type eventsGoroutine struct{}

type controllerEnded struct{} // completed by the controller's goroutine

// A Controller is a connection to a controller of a subsystem, kept alive until
// Disconnect. Its methods may be called from any goroutine but a shard's.
type Controller struct {
	cfg    Config
	queues []*Queue  // of I/O; fixed by the first connect
	calls  sync.Pool // of *call
	next   atomic.Uint32
	checks atomic.Uint32 // of the keep alive
	alive  struct {      // of Keep Alives that were answered
		answered atomic.Uint64
		longest  atomic.Int64
	}
	events events
	ana    atomic.Pointer[map[uint32]nvme.ANAState] // by group; nil: not reported

	fence time.Time // of the controller's goroutine: before it no command that writes is sent

	stopping context.Context // done when the user wants the end
	stop     context.CancelCauseFunc
	ended    lockdep.Completion[controllerEnded]

	mu         lockdep.Mutex[controllerMu]
	state      State                 // guarded by mu
	changed    chan struct{}         // guarded by mu; closed at the next change of state
	session    *session              // guarded by mu; nil unless live
	cause      error                 // guarded by mu: of the last loss or the end
	reconnects int                   // guarded by mu: that succeeded
	info       *Info                 // guarded by mu; not changed, but replaced
	namespaces map[uint32]*Namespace // guarded by mu
	shutdown   error                 // guarded by mu: what went wrong in the orderly end
	hurry      error                 // guarded by mu: why the end waits for nothing any more
}

// Info is what a controller said of itself when it was connected last.
type Info struct {
	CNTLID    uint16
	CAP       nvme.CAP
	VS        nvme.VS
	Identify  nvme.IdentifyController
	QueueSize int // of the I/O queues
	Queues    int // of I/O, that are granted
	// MaxData is the most data of a command in bytes: MDTS and Config.MaxData.
	MaxData int
}

// Connect connects to the controller that cfg describes and brings it to where
// I/O can start: queues connected, namespaces identified. ctx bounds the
// connecting only. A first connect is tried once, whatever CtrlLossTMO says. An
// error is a [*ConnectError], or says what is wrong with cfg.
func Connect(ctx context.Context, cfg Config) (*Controller, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Controller{cfg: cfg, state: Connecting, changed: make(chan struct{}), namespaces: make(map[uint32]*Namespace)}
	c.events.wake = make(chan struct{}, 1)
	c.calls.New = func() any { return newCall() }
	c.stopping, c.stop = context.WithCancelCause(context.Background())
	s, err := c.establish(ctx)
	if err != nil {
		c.stop(ErrClosed)
		return nil, err
	}
	c.goLive(s)
	lockdep.Go(func() {
		c.ended.Acquire()
		defer c.ended.Release()
		var told lockdep.WaitGroup[eventsGoroutine]
		told.Go(c.events.run)
		c.run(s)
		told.Wait()
		c.ended.Complete()
	})
	return c, nil
}

// Disconnect ends the controller: no new command is taken, those waiting end
// with [ErrClosed], those under way are waited for, the controller is shut down
// (CC.SHN, CSTS.SHST), and the queues are disconnected. When ctx is done the
// rest goes without waiting. It returns what went wrong in that, and nil if the
// controller was dead before. It may be called more than once.
func (c *Controller) Disconnect(ctx context.Context) error {
	c.stop(ErrClosed)
	select {
	case <-c.ended.Done():
	case <-ctx.Done():
		c.mu.Lock()
		c.hurry = context.Cause(ctx) // for the session that a reconnect may just have made
		s := c.session
		c.mu.Unlock()
		if s != nil {
			s.fail(context.Cause(ctx))
		}
		c.ended.Wait()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shutdown
}

// State returns what the controller does now.
func (c *Controller) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// Done returns a channel that is closed when the controller is [Dead] and
// nothing of it is left.
func (c *Controller) Done() <-chan struct{} { return c.ended.Done() }

// Cause returns why the connection was lost last, or why the controller is
// dead; nil if nothing happened yet.
func (c *Controller) Cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// Reconnects returns how often the connection was made again.
func (c *Controller) Reconnects() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reconnects
}

// KeepAlives returns how many Keep Alives were answered, and the longest time
// that one took. That time is out of the KATO that there was for it. A
// controller that counts any traffic gets none while there is some.
func (c *Controller) KeepAlives() (answered uint64, longest time.Duration) {
	return c.alive.answered.Load(), time.Duration(c.alive.longest.Load())
}

// Info returns what the controller said when it was connected last.
func (c *Controller) Info() Info {
	c.mu.Lock()
	defer c.mu.Unlock()
	return *c.info
}

// Queues returns the I/O queues, for [Queue.Submit]. They stay the same as long
// as the controller lives; a controller may have granted none.
func (c *Controller) Queues() []*Queue { return slices.Clone(c.queues) }

// Namespaces returns the namespaces that are attached, by NSID.
func (c *Controller) Namespaces() []*Namespace {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*Namespace, 0, len(c.namespaces))
	for _, n := range c.namespaces {
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b *Namespace) int { return int(int64(a.nsid) - int64(b.nsid)) })
	return all
}

// Namespace returns the namespace with the given NSID.
func (c *Controller) Namespace(nsid uint32) (*Namespace, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.namespaces[nsid]; n != nil {
		return n, nil
	}
	return nil, fmt.Errorf("host: namespace %d of %s: not attached, there are %d others", nsid, c.cfg.NQN, len(c.namespaces))
}

// pick returns the queue for the next call.
func (c *Controller) pick() (*Queue, error) {
	for range c.queues {
		q := c.queues[int(c.next.Add(1)%uint32(len(c.queues)))]
		if q.usable.Load() {
			return q, nil
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == Dead || c.state == Deleting {
		return nil, c.cause
	}
	return nil, fmt.Errorf("host: %s grants no I/O queue", c.cfg.NQN)
}

// setStateLocked tells those who wait for a change.
func (c *Controller) setStateLocked(s State) {
	c.state = s
	close(c.changed)
	c.changed = make(chan struct{})
}

// liveSession returns the session, once the controller is live.
func (c *Controller) liveSession(ctx context.Context) (*session, error) {
	for {
		c.mu.Lock()
		s, state, cause, changed := c.session, c.state, c.cause, c.changed
		c.mu.Unlock()
		switch {
		case state == Dead || state == Deleting:
			return nil, cause
		case s != nil:
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
