package workqueue

import (
	"fmt"
	"math"
	"slices"

	"github.com/fabrid/fabrid/lockdep"
)

// A waiter is a goroutine that waits for the queue to reach a condition.
type waiter struct {
	reached func() bool // called with mu locked
	done    chan struct{}
}

// waitUnlock unlocks mu and returns when reached, called with mu locked, has
// returned true. It may only depend on works and barriers that end or leave.
func (q *Queue) waitUnlock(reached func() bool) {
	if reached() {
		q.mu.Unlock()
		return
	}
	w := &waiter{reached, make(chan struct{})}
	q.waiters = append(q.waiters, w)
	q.mu.Unlock()
	<-w.done
}

// advanceLocked lets go what waited for the work or barrier that has just ended
// or left.
func (q *Queue) advanceLocked() {
	if q.barriers.First() != nil {
		oldest := q.oldestLocked()
		for b := q.barriers.First(); b != nil && b.ticket < oldest; b = q.barriers.First() {
			q.barriers.Remove(b)
			q.readyLocked(b)
		}
	}
	if len(q.waiters) > 0 {
		q.waiters = slices.DeleteFunc(q.waiters, func(w *waiter) bool {
			if !w.reached() {
				return false
			}
			close(w.done)
			return true
		})
	}
}

// Idle tells whether everything that was queued has run, so that a flush would
// not have to wait, nor a barrier. Delayed works do not count: they are not
// queued yet.
func (q *Queue) Idle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.oldestLocked() == math.MaxUint64
}

// oldestLocked returns the lowest ticket that is outstanding, that is pending
// or running; more than any if none is.
func (q *Queue) oldestLocked() uint64 {
	oldest := uint64(math.MaxUint64)
	if w := q.pending.First(); w != nil {
		oldest = w.ticket
	}
	for _, k := range q.workers {
		if k.work != nil {
			oldest = min(oldest, k.ticket)
		}
	}
	return oldest
}

// Flush waits until everything has run that was queued before the call, or was
// cancelled. It does not wait for what is queued later, nor for what is delayed.
//
// Flush must not be called by what the queue runs: it panics. A goroutine that
// holds a lock which a work of the queue takes must not flush; the lock-order
// validator finds that. [Queue.FlushAsync] does not wait.
func (q *Queue) Flush() {
	q.dep.Touch()
	id := lockdep.GoroutineID()
	q.mu.Lock()
	q.refuseWorkerLocked(id, "flush of queue", q.name)
	ticket := q.ticket
	q.waitUnlock(func() bool { return q.oldestLocked() > ticket })
}

// Drain waits until the queue is empty: until nothing is pending or running, not
// even what its works queue meanwhile, and no barrier is left. While it waits
// others may not queue anything; see [Queue.Queue]. Delays that end meanwhile
// are let in, those that do not are not waited for.
//
// Drain must not be called by what the queue runs: it panics.
func (q *Queue) Drain() {
	q.dep.Touch()
	id := lockdep.GoroutineID()
	q.mu.Lock()
	q.refuseWorkerLocked(id, "drain of queue", q.name)
	q.draining++
	q.waitUnlock(func() bool {
		empty := q.emptyLocked()
		if empty {
			q.draining--
		}
		return empty
	})
}

func (q *Queue) emptyLocked() bool {
	return q.pending.Len()+q.running+q.barriers.Len()+q.ready.Len() == 0
}

// Destroy drains the queue and ends its workers; when it returns, they have
// ended. Nothing may be queued any more. Calling it again only waits.
//
// Works that are delayed must be cancelled first: Destroy panics if it leaves
// any behind. It must not be called by what the queue runs: it panics.
func (q *Queue) Destroy() {
	q.dep.Touch()
	id := lockdep.GoroutineID()
	q.mu.Lock()
	q.refuseWorkerLocked(id, "destruction of queue", q.name)
	q.draining++
	armed := 0
	q.waitUnlock(func() bool {
		empty := q.emptyLocked()
		if empty { // in one step, so that nothing comes between
			q.draining--
			q.destroyed = true
			armed = q.armed
			q.more.Broadcast()
		}
		return empty
	})
	q.exited.Wait()
	if armed > 0 {
		panic(fmt.Sprintf("workqueue: destruction of queue %q: %d delayed works were not cancelled", q.name, armed))
	}
}
