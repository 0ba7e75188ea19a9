package transport

import (
	"fmt"
	"time"

	"github.com/fabrid/fabrid/admission"
	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/workqueue"
)

// A State is a stage in the life of a target's queue.
type State uint8

// The stages of a queue's life, in order.
const (
	Waiting       State = iota // a connection was asked for and waits to be admitted
	Connecting                 // admitted: memory is charged, the fabric is connecting
	Live                       // carries commands
	Disconnecting              // takes no new command, flushes what it has
	Releasing                  // belongs to the delete workqueue
	Freed
	numStates
)

var stateNames = [numStates]string{"waiting", "connecting", "live", "disconnecting", "releasing", "freed"}

func (s State) String() string {
	if s < numStates {
		return stateNames[s]
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// nextState[from][to] is the whole rule of a queue's life: states only move
// forward. The test draws it.
var nextState = [numStates][numStates]bool{
	Waiting:       {Connecting: true, Freed: true},
	Connecting:    {Live: true, Disconnecting: true, Releasing: true},
	Live:          {Disconnecting: true, Releasing: true},
	Disconnecting: {Releasing: true},
	Releasing:     {Freed: true},
}

// A Releaser is what a fabric does to release a queue. Its methods are called
// once each, in this order, on the delete workqueue. They may wait, until the
// deadline, for the queue's shard, and for nothing that runs on the delete
// workqueue.
type Releaser interface {
	// Drain stops the queue: no receive is posted any more, what was posted is
	// flushed, by force if the deadline passes, and after it nothing of the
	// queue's runs on its shard but what orphaned requests need.
	Drain(deadline time.Time)

	// Free gives back what the fabric holds: receives, queue pair, completion
	// queue, connection. Memory that orphaned requests use stays theirs until
	// they are completed.
	Free(orphans int)
}

// LifeConfig is what a life needs.
type LifeConfig struct {
	Queues   *Queues
	Delete   *workqueue.Queue // runs releases and nothing else
	Releaser Releaser
	// Grant is returned last. Nil if nothing is charged, or not yet: see
	// [Life.Admit].
	Grant *admission.Grant
	// DrainTimeout and QuiesceTimeout bound the waits of a release. Zero means
	// the defaults.
	DrainTimeout, QuiesceTimeout time.Duration
}

// Bounds of a release's waits.
const (
	DefaultDrainTimeout   = 2 * time.Second
	DefaultQuiesceTimeout = 5 * time.Second
)

type lifeMu struct{} // innermost: nothing is locked while it is held, but Queues

// A Life is the life of one queue. Its methods may be called from any
// goroutine.
type Life struct {
	cfg     LifeConfig
	release workqueue.Work

	mu    lockdep.Mutex[lifeMu]
	state State            // guarded by mu
	since time.Time        // guarded by mu
	cause error            // guarded by mu: why it leaves
	queue Queue            // guarded by mu
	grant *admission.Grant // guarded by mu
}

// Init begins a life, in [Waiting], and enters it in the list of queues.
func (l *Life) Init(cfg LifeConfig) {
	if cfg.DrainTimeout == 0 {
		cfg.DrainTimeout = DefaultDrainTimeout
	}
	if cfg.QuiesceTimeout == 0 {
		cfg.QuiesceTimeout = DefaultQuiesceTimeout
	}
	l.cfg = cfg
	l.grant = cfg.Grant
	l.since = time.Now()
	l.release.Init("release queue", l.runRelease)
	cfg.Queues.add(l)
}

// SetQueue tells the life the core's end of the queue, which release will
// quiesce and destroy.
func (l *Life) SetQueue(q Queue) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = q
}

// State returns the stage and for how long the queue has been in it.
func (l *Life) State() (State, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state, time.Since(l.since)
}

// Cause returns why the queue leaves, nil while it does not.
func (l *Life) Cause() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cause
}

// Move goes to a later stage and reports whether it did: false means that the
// table has no such move, because somebody else made one first.
func (l *Life) Move(to State) bool { return l.move(to, nil) }

// Admit moves a waiting queue to [Connecting], charged with g, and reports
// whether it did: if not, g is still the caller's.
func (l *Life) Admit(g *admission.Grant) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.moveLocked(Connecting, nil) {
		return false
	}
	l.grant = g
	return true
}

// Leave moves a queue that is connecting or live to [Disconnecting] and
// reports whether this call did: the first cause wins.
func (l *Life) Leave(cause error) bool { return l.move(Disconnecting, cause) }

func (l *Life) move(to State, cause error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.moveLocked(to, cause)
}

func (l *Life) moveLocked(to State, cause error) bool {
	if !nextState[l.state][to] {
		return false
	}
	l.cfg.Queues.count(l.state, to)
	l.state, l.since = to, time.Now()
	if l.cause == nil {
		l.cause = cause
	}
	return true
}

// BeginRelease hands the queue to the delete workqueue. Whatever the causes
// and however they race, it acts once, and it does not wait.
func (l *Life) BeginRelease(cause error) {
	if l.move(Releasing, cause) {
		l.cfg.Delete.Queue(&l.release)
	}
}

// Refuse ends the life of a queue that was never admitted.
func (l *Life) Refuse(cause error) {
	if l.move(Freed, cause) {
		l.cfg.Queues.remove(l)
	}
}

// runRelease is the release, on the delete workqueue. Nothing waits for it but
// flushes of that workqueue.
func (l *Life) runRelease() {
	l.cfg.Releaser.Drain(time.Now().Add(l.cfg.DrainTimeout)) // 1. no packet reaches it, its WRs are flushed

	// Not before the drain: a cause from outside the shard may come while the
	// core is opening the queue, and what it opened must be destroyed.
	l.mu.Lock()
	q, grant := l.queue, l.grant
	l.mu.Unlock()
	orphans := 0
	if q != nil {
		orphans = q.Quiesce(time.Now().Add(l.cfg.QuiesceTimeout)) // 2. what is left keeps its buffers
		q.Destroy()
	}
	l.cfg.Releaser.Free(orphans) // 3. queue pair, connection, memory
	if l.move(Freed, nil) {
		l.cfg.Queues.remove(l)
	}
	if grant != nil {
		grant.Return() // 4. last: only now may another take its place
	}
}
