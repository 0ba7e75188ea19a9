package workqueue

import (
	"fmt"
	"sync/atomic"

	"github.com/fabrid/fabrid/internal/list"
)

// A Barrier is a flush that calls back instead of waiting, for those who must
// not wait. Like a [Work] it is meant to be a field, is initialised with Init,
// and must not be copied. Its methods may be called by any goroutine.
type Barrier struct {
	name string
	fn   func()

	// queue is where the barrier waits, nil if it does not. It follows the
	// rule of Work.owner and guards the fields below in the same way.
	queue atomic.Pointer[Queue]

	links  list.Links[Barrier]
	ready  bool   // in queue.ready, else in queue.barriers
	ticket uint64 // the last one that it waits for
}

// barrierCompletion is the class of barriers' functions, with their names.
type barrierCompletion struct{}

func (barrierCompletion) String() string { return "flush_barrier" }

type barrierPlace struct{}

func (barrierPlace) Links(b *Barrier) *list.Links[Barrier] { return &b.links }

// Init sets what b calls. The name serves as a Work's does. Init panics if b is
// in use.
//
// fn runs on a worker of the queue, ahead of what is pending, and so is bound
// by the rules of a work's function; it should be short. b may be used again
// from when fn begins.
func (b *Barrier) Init(name string, fn func()) {
	if q := b.queue.Load(); q != nil {
		panic(fmt.Sprintf("workqueue: init of barrier %q: in use in queue %q as %q", name, q.name, b.name))
	}
	if name == "" || fn == nil {
		panic("workqueue: init of barrier: no name or no function")
	}
	b.name, b.fn = name, fn
}

// FlushAsync has b's function called, on a worker, as soon as everything has run
// that was queued before the call, or was cancelled, and a worker is free, which
// the one that ran the last of them is. It returns false, and does nothing, if b
// is waiting already. It does not block, allocates nothing, and may be called
// from anywhere, also by what the queue runs.
//
// It panics in the cases in which [Queue.Queue] does.
func (q *Queue) FlushAsync(b *Barrier) bool {
	q.mu.Lock()
	why := ""
	switch {
	case b.fn == nil:
		why = "the barrier is not initialised"
	case q.closedLocked():
		why = q.whyClosedLocked()
	case !b.queue.CompareAndSwap(nil, q):
		if b.queue.Load() == q {
			q.mu.Unlock()
			return false
		}
		why = "the barrier is in use in another queue"
	}
	if why != "" {
		q.mu.Unlock()
		panic(fmt.Sprintf("workqueue: barrier %q in queue %q: %s", b.name, q.name, why))
	}
	b.ticket = q.ticket
	b.ready = false
	if q.oldestLocked() > b.ticket {
		q.readyLocked(b)
	} else {
		q.barriers.Push(b)
	}
	q.mu.Unlock()
	return true
}

// readyLocked has b's function run by the next worker that is free.
func (q *Queue) readyLocked(b *Barrier) {
	b.ready = true
	q.ready.Push(b)
	q.more.Signal()
}

// Cancel takes b out of its queue and tells whether it did: true means that the
// function will not be called, false that b was not waiting: it has been or is
// being called, or there was no FlushAsync.
func (b *Barrier) Cancel() bool {
	for {
		q := b.queue.Load()
		if q == nil {
			return false
		}
		q.mu.Lock()
		if b.queue.Load() != q {
			q.mu.Unlock()
			continue
		}
		if b.ready {
			q.ready.Remove(b)
		} else {
			q.barriers.Remove(b)
		}
		b.queue.Store(nil)
		q.advanceLocked()
		q.mu.Unlock()
		return true
	}
}
