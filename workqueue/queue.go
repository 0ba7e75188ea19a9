package workqueue

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/fabrid/fabrid/internal/list"
	"github.com/fabrid/fabrid/lockdep"
)

const (
	// DefaultMaxActive is the MaxActive of a queue whose Config does not say.
	DefaultMaxActive = 8

	// MaxActiveLimit is the highest MaxActive, as each is a goroutine: what an
	// operator may ask for is bounded.
	MaxActiveLimit = 2048
)

// A Config describes a queue.
type Config struct {
	// Name is what [Queue.Stats] shows, and the queue's class for the
	// lock-order validator: all queues of one name play one role. Required.
	Name string

	// MaxActive is how many works may run at once, and how many workers there
	// are: 0 is DefaultMaxActive, MaxActiveLimit the most. [Queue.SetMaxActive]
	// changes it.
	MaxActive int

	// Ordered makes the queue run one work at a time, in the order in which
	// they were queued, for good. MaxActive is then 0 or 1.
	Ordered bool
}

// A Queue runs works, with a bounded number of goroutines that exist from the
// beginning: neither queueing nor running a work allocates memory or starts a
// goroutine, so that work which frees memory can always go on.
//
// Works are begun in the order in which they were queued; one that still runs
// is passed over until it has ended. A Queue's methods may be called by any
// goroutine, except as said with each. It blocks on channels and condition
// variables only, so it works in a synctest bubble, if made there.
type Queue struct {
	name      string
	ordered   bool
	dep       lockdep.Map[wqCompletion] // held by whatever a worker runs
	validator *lockdep.Validator        // of who made the queue: its workers' too
	exited    sync.WaitGroup            // workers; waited for only when none can be busy

	mu        lockdep.Mutex[queueLock] // guards below; nothing else is locked under it
	more      sync.Cond                // there may be something for a worker to do
	maxActive int
	workers   []*worker
	running   int                        // workers that run a work or a barrier
	pending   list.List[Work, workPlace] // by ticket
	armed     int                        // works whose delay runs
	ticket    uint64                     // the last one given
	completed uint64
	waiters   []*waiter
	barriers  list.List[Barrier, barrierPlace] // that wait, by ticket
	ready     list.List[Barrier, barrierPlace] // whose function is to be run
	draining  int                              // callers of Drain and Destroy
	destroyed bool
}

// queueLock is the class of a queue's mutex. It is innermost: held for a few
// instructions, and never while anything else is locked or run.
type queueLock struct{}

// wqCompletion is the class of all that a queue runs, with the queue's name.
type wqCompletion struct{}

func (wqCompletion) String() string { return "wq_completion" }

// New makes a queue and starts its workers. They belong to the lock-order
// validator of the caller. [Queue.Destroy] ends them. New panics if c makes no
// sense, which only a mistake in the program can cause.
func New(c Config) *Queue {
	n := c.MaxActive
	if n == 0 {
		n = DefaultMaxActive
		if c.Ordered {
			n = 1
		}
	}
	if c.Name == "" {
		panic("workqueue: new: no name")
	}
	if n < 0 || n > MaxActiveLimit || c.Ordered && n != 1 {
		panic(fmt.Sprintf("workqueue: new queue %q: MaxActive %d, ordered %t", c.Name, c.MaxActive, c.Ordered))
	}
	q := &Queue{name: c.Name, ordered: c.Ordered, maxActive: n, validator: lockdep.Current()}
	q.more.L = &q.mu
	q.dep.Init(c.Name)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.startWorkersLocked()
	return q
}

// Name returns the name that the Config gave.
func (q *Queue) Name() string { return q.name }

// Queue adds w to the queue, unless it is there already, and tells whether it
// did: false says that w is pending or delayed, or that CancelSync waits for
// its end. If w is running, it runs again after that. Queue does not block,
// and allocates nothing.
//
// While the queue is drained, only what it runs may queue works, and none may
// when it is destroyed; others panic, because the work would silently be lost.
// A Work that is in use in another queue panics too.
func (q *Queue) Queue(w *Work) bool {
	q.mu.Lock()
	if !q.takeLocked(w, "queueing") {
		q.mu.Unlock()
		return false
	}
	q.pushLocked(w)
	q.mu.Unlock()
	return true
}

// takeLocked makes q the owner of w for a new queueing. It returns false if w
// is queued already or may not be, and panics with q unlocked if that is an error.
func (q *Queue) takeLocked(w *Work, op string) bool {
	mine := w.owner.Load() == q
	if mine && (w.armed || w.pending || w.canceling) {
		return false
	}
	why := ""
	switch {
	case w.fn == nil:
		why = "the work is not initialised"
	case q.closedLocked():
		why = q.whyClosedLocked()
	case !mine && !w.owner.CompareAndSwap(nil, q):
		why = "the work is in use in another queue"
	default:
		w.noteQueue(q)
		return true
	}
	q.mu.Unlock()
	panic(fmt.Sprintf("workqueue: %s of work %q in queue %q: %s", op, w.name, q.name, why))
}

// closedLocked tells whether the caller may add nothing now.
func (q *Queue) closedLocked() bool {
	return q.destroyed || q.draining > 0 && q.workerLocked(lockdep.GoroutineID()) == nil
}

func (q *Queue) whyClosedLocked() string {
	if q.destroyed {
		return "the queue is destroyed"
	}
	return "the queue is being drained, and the caller is not run by it"
}

// pushLocked appends w, which q owns, and wakes a worker.
func (q *Queue) pushLocked(w *Work) {
	q.ticket++
	w.ticket = q.ticket
	w.queued = time.Now()
	w.pending = true
	q.pending.Push(w)
	if !w.running { // else the worker that runs it looks for more when it ends
		q.more.Signal()
	}
}

// SetMaxActive changes how many works may run at once. More workers are started
// at once; surplus ones end when they are idle. It returns an error if n is not
// 1 to MaxActiveLimit, if the queue is ordered, or if it is destroyed.
func (q *Queue) SetMaxActive(n int) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case n < 1 || n > MaxActiveLimit:
		return fmt.Errorf("workqueue: queue %q: MaxActive %d, need 1 to %d", q.name, n, MaxActiveLimit)
	case q.ordered && n != 1:
		return fmt.Errorf("workqueue: queue %q: MaxActive %d: %w", q.name, n, ErrOrdered)
	case q.destroyed:
		return fmt.Errorf("workqueue: queue %q: MaxActive %d: the queue is destroyed", q.name, n)
	}
	q.maxActive = n
	q.startWorkersLocked()
	q.more.Broadcast()
	return nil
}

// ErrOrdered is the error of SetMaxActive for a queue that runs its works in
// order.
var ErrOrdered = errors.New("the queue is ordered")
