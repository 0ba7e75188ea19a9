package transport

import (
	"fmt"
	"time"

	"github.com/fabrid/fabrid/admission"
	"github.com/fabrid/fabrid/internal/list"
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

// An Entrant is a fabric's queue: what the gate and the life have it do.
//
// One of Admitted and Refused is called, once, if [Life.Enter] returns nil:
// Admitted maybe before it does, on the caller's goroutine, else both on the
// connect workqueue. They may allocate, and do not wait.
//
// Drain and Free are called once each, in this order, on the delete workqueue,
// if it was admitted. They may wait for the queue's shard, and for nothing that
// runs on the delete workqueue.
//
// Drain waits until its deadline and no longer. What is then left is the shard's,
// which cannot be forced: Free waits for it, and on a shard that never runs again
// for ever. Its queue stays charged, for its memory is in use, and visible, as one
// that is releasing at step "free" for longer than any deadline.
type Entrant interface {
	// Admitted has the queue made: it is charged, and [Connecting].
	Admitted()

	// Refused tells that it never will be, and why. Its life is over.
	Refused(cause error)

	// Drain stops the queue: no receive is posted any more, what was posted is
	// flushed. When the deadline passes, what the shard does next of the queue's
	// is to flush by force; after that nothing of it runs there but what orphaned
	// requests need.
	Drain(deadline time.Time)

	// Free gives back what the fabric holds: receives, queue pair, completion
	// queue, connection. Memory that orphaned requests use stays theirs until
	// they are completed.
	Free(orphans int)
}

// LifeConfig is what a life needs.
type LifeConfig struct {
	Gate  *Gate
	Queue Entrant
	// DrainTimeout and QuiesceTimeout bound the waits of a release. Zero means
	// the defaults.
	DrainTimeout, QuiesceTimeout time.Duration
}

// Bounds of a release's waits.
const (
	DefaultDrainTimeout   = 2 * time.Second
	DefaultQuiesceTimeout = 5 * time.Second
)

// lifeMu is held while nothing is locked but Queues and a workqueue.
type lifeMu struct{}

// A Life is the life of one queue. Its methods may be called from any
// goroutine.
type Life struct {
	cfg     LifeConfig
	claim   Claim
	entry   entry
	grant   admission.Grant
	release workqueue.Work

	mu    lockdep.Mutex[lifeMu]
	state State     // guarded by mu
	since time.Time // guarded by mu
	step  string    // guarded by mu: of the release
	cause error     // guarded by mu: why it leaves
	queue Queue     // guarded by mu

	settled  bool // guarded by mu: the core holds no request any more
	orphaned bool // guarded by mu: it does, and the queue is gone

	links list.Links[Life] // guarded by Queues.mu
}

// Init begins a life, in [Waiting], and enters it in the list of queues.
func (l *Life) Init(cfg LifeConfig, c Claim) {
	if cfg.DrainTimeout == 0 {
		cfg.DrainTimeout = DefaultDrainTimeout
	}
	if cfg.QuiesceTimeout == 0 {
		cfg.QuiesceTimeout = DefaultQuiesceTimeout
	}
	l.cfg, l.claim = cfg, c
	l.since = time.Now()
	l.release.Init("release queue", l.runRelease)
	cfg.Gate.Queues.add(l)
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
	l.cfg.Gate.Queues.moved(l, l.state, to)
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
		l.cfg.Gate.Queues.released(l.Cause())
		l.cfg.Gate.Delete.Queue(&l.release)
	}
}

// runRelease is the release, on the delete workqueue. Nothing waits for it but
// flushes of that workqueue.
func (l *Life) runRelease() {
	l.stepTo("drain")
	l.cfg.Queue.Drain(time.Now().Add(l.cfg.DrainTimeout)) // 1. no packet reaches it, its WRs are flushed

	// Not before the drain: a cause from outside the shard may come while the
	// core is opening the queue, and what it opened must be destroyed.
	l.mu.Lock()
	q := l.queue
	l.mu.Unlock()
	orphans := 0
	if q != nil {
		l.stepTo("quiesce")
		orphans = q.Quiesce(time.Now().Add(l.cfg.QuiesceTimeout)) // 2. what is left keeps its buffers
		q.Destroy()
	}
	l.stepTo("free")
	l.cfg.Queue.Free(orphans) // 3. queue pair, connection, memory
	l.move(Freed, nil)
	if orphans > 0 && !l.isSettled() {
		l.grant.Orphan() // 4. its place is free, its memory is not
		l.mu.Lock()
		l.orphaned = !l.settled
		orphaned := l.orphaned
		l.mu.Unlock()
		if orphaned {
			return
		}
	}
	l.grant.Return() // 4. last: only now may another take its place
}

func (l *Life) isSettled() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.settled
}

// Settled is the core's word, once the queue is down, that it holds no request of
// the queue any more. If the queue was released before, its bytes have stayed
// charged until now. It does not block, and further calls do nothing.
func (l *Life) Settled() {
	if !l.charged() {
		return
	}
	l.mu.Lock()
	orphaned := l.orphaned
	l.settled, l.orphaned = true, false
	l.mu.Unlock()
	if orphaned {
		l.grant.Return()
	}
}

func (l *Life) stepTo(step string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.step = step
}

// Info is what an operator wants to know of a queue.
type Info struct {
	Claim
	State State
	Age   time.Duration // in this state
	Step  string        // of the release, if it has begun: "drain", "quiesce" or "free"
	Cause error         // why it leaves, nil while it does not
}

// Info returns what there is to know of the queue.
func (l *Life) Info() Info {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Info{l.claim, l.state, time.Since(l.since), l.step, l.cause}
}
