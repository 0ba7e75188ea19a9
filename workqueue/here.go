package workqueue

import "github.com/fabrid/fabrid/lockdep"

// Here tells whether the caller is w's function, on the goroutine that runs it:
// who is about to wait for w asks. It costs little while w is not running.
func (w *Work) Here() bool {
	q := w.lockOwner()
	if q == nil {
		return false
	}
	running := w.running
	q.mu.Unlock()
	if !running {
		return false
	}
	id := lockdep.GoroutineID() // dear, and not for a lock
	q.mu.Lock()
	defer q.mu.Unlock()
	k := q.workerLocked(id)
	return k != nil && k.work == w
}
