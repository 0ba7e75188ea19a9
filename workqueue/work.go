package workqueue

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/fabrid/fabrid/internal/list"
	"github.com/fabrid/fabrid/lockdep"
)

// A Work is a function to be run by a [Queue], and its place there. It is meant
// to be a field of what it works on, so that queueing it allocates nothing:
//
//	type conn struct {
//		release workqueue.Work
//	}
//
//	c.release.Init("conn.release", c.doRelease)
//	queue.Queue(&c.release)
//
// A Work must be initialised with Init and must not be copied. Its methods may
// be called by any goroutine. It may be used with one queue after another, but
// not with a second one while it waits or runs in the first.
//
// A Work is never run by two goroutines at a time. Queued while it runs, it
// runs again afterwards; queued while it waits, it runs once.
type Work struct {
	name string
	fn   func()
	dep  lockdep.Map[workCompletion] // held while fn runs
	last atomic.Pointer[Queue]       // where it was queued last; with the validator only

	// owner is the queue that the Work is in: delayed, pending or running
	// there. It leaves nil by compare-and-swap, made under the new owner's mu,
	// and becomes nil under the old owner's mu; so who holds a queue's mu and
	// finds that queue here owns the fields below.
	owner atomic.Pointer[Queue]

	links     list.Links[Work]
	pending   bool      // in owner.pending
	running   bool      // its function is being run
	canceling bool      // CancelSync waits for the run; queueing is refused
	ticket    uint64    // of the latest queueing
	runTicket uint64    // of the queueing that is being run
	queued    time.Time // of the latest queueing
	delay     *delay    // the timer, once there was one; armed says if it counts
	armed     bool      // delay.timer will queue it
}

// workCompletion is the class of work items, with the name of the item.
type workCompletion struct{}

func (workCompletion) String() string { return "work_completion" }

type workPlace struct{}

func (workPlace) Links(w *Work) *list.Links[Work] { return &w.links }

// Init sets what w runs. The name is what [Queue.Stats] shows, and w's class for
// the lock-order validator: all works of one name play one role. Names like
// "package.thing.verb" keep unrelated works apart. Init panics if w is in use.
//
// fn runs on a worker of the queue. It must not wait for that queue, or for a
// work in it (CancelSync of another is allowed), and must release every lock
// that it takes. A panic in it ends the program.
func (w *Work) Init(name string, fn func()) {
	if q := w.owner.Load(); q != nil {
		panic(fmt.Sprintf("workqueue: init of work %q: in use in queue %q as %q", name, q.name, w.name))
	}
	if name == "" || fn == nil {
		panic("workqueue: init of work: no name or no function")
	}
	w.name, w.fn = name, fn
	w.dep.Init(name)
}

// Name returns the name that Init was given.
func (w *Work) Name() string { return w.name }

// lockOwner returns w's queue with its mu locked, or nil if w is idle.
func (w *Work) lockOwner() *Queue {
	for {
		q := w.owner.Load()
		if q == nil {
			return nil
		}
		q.mu.Lock()
		if w.owner.Load() == q {
			return q
		}
		q.mu.Unlock()
	}
}

func (w *Work) noteQueue(q *Queue) {
	if lockdep.Enabled {
		w.last.Store(q)
	}
}

// touchFlush tells the validator that the caller waits for w: for its own end,
// and for the queue to come to it. The queue counts though w may be idle now.
func (w *Work) touchFlush() {
	if lockdep.Enabled {
		if q := w.last.Load(); q != nil {
			q.dep.Touch()
		}
		w.dep.Touch()
	}
}

// Busy tells whether w is delayed, pending or running: for assertions and
// operators, as it may change at once.
func (w *Work) Busy() bool { return w.owner.Load() != nil }

// Flush waits until w has run as often as it was queued before the call, and
// tells whether there was anything to wait for. What is delayed is queued at
// once. Queueing w later, or while Flush waits, does not prolong the wait.
//
// Flush must not be called by a work of the same queue: it panics.
func (w *Work) Flush() bool {
	w.touchFlush()
	id := lockdep.GoroutineID()
	q := w.lockOwner()
	if q == nil {
		return false
	}
	q.refuseWorkerLocked(id, "flush of work", w.name)
	if w.armed {
		w.disarmLocked(q)
		q.pushLocked(w)
	}
	ticket := w.ticket
	if !w.pending {
		ticket = w.runTicket
	}
	q.waitUnlock(func() bool { return w.doneLocked(q, ticket) })
	return true
}

// Cancel takes w out of its queue, or stops its delay, so that what was queued
// does not run, and tells whether it did: false if w was idle, or has begun to
// run and is not queued again. It does not wait for a run in progress.
func (w *Work) Cancel() bool {
	q := w.lockOwner()
	if q == nil {
		return false
	}
	defer q.mu.Unlock()
	return w.cancelLocked(q)
}

// CancelSync is Cancel, and then waits for a run in progress. On return w is
// idle, even if it queues itself; while CancelSync waits, queueing w does
// nothing. (Other goroutines may queue it again afterwards.)
//
// CancelSync must not be called by w's own function: it panics.
func (w *Work) CancelSync() bool {
	w.dep.Touch()
	id := lockdep.GoroutineID()
	q := w.lockOwner()
	if q == nil {
		return false
	}
	canceled := w.cancelLocked(q)
	if !w.running { // and so idle
		q.mu.Unlock()
		return canceled
	}
	if k := q.workerLocked(id); k != nil && k.work == w {
		q.mu.Unlock()
		panic(fmt.Sprintf("workqueue: cancel-sync of work %q from itself, in queue %q: it would wait for itself", w.name, q.name))
	}
	w.canceling = true
	ticket := w.runTicket
	q.waitUnlock(func() bool { return w.doneLocked(q, ticket) })
	return canceled
}

// cancelLocked undoes what queueing did and has not come to a run.
func (w *Work) cancelLocked(q *Queue) bool {
	switch {
	case w.armed:
		w.disarmLocked(q)
	case w.pending:
		q.pending.Remove(w)
		w.pending = false
	default:
		return false
	}
	w.releaseLocked()
	q.advanceLocked()
	return true
}

// releaseLocked lets go of the owner if nothing is left to do there.
func (w *Work) releaseLocked() {
	if !w.armed && !w.pending && !w.running {
		w.owner.Store(nil)
	}
}

// doneLocked tells whether no queueing of w in q up to ticket is outstanding.
// If w has left q, those have ended; if it came back, it has a later ticket.
func (w *Work) doneLocked(q *Queue, ticket uint64) bool {
	if w.owner.Load() != q {
		return true
	}
	return !(w.pending && w.ticket <= ticket) && !(w.running && w.runTicket <= ticket)
}
