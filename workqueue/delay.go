package workqueue

import "time"

// A delay is the timer of a Work. One is made when a work is first delayed and
// used again, unless its timer could not be stopped any more: then its function
// is about to look for w.delay, and must not find what belongs to a later delay.
type delay struct {
	queue *Queue
	work  *Work
	timer *time.Timer
}

// QueueAfter is [Queue.Queue] after a delay. It tells whether it did: false says
// that w is pending, or delayed already, which stays as it is, or that
// CancelSync waits for its end. With a delay of zero or less w is queued at once.
//
// The first delay of a work allocates its timer, and the end of each is seen by
// a goroutine of the runtime's: the promises of Queue about memory do not hold.
func (q *Queue) QueueAfter(w *Work, d time.Duration) bool {
	q.mu.Lock()
	if !q.takeLocked(w, "delayed queueing") {
		q.mu.Unlock()
		return false
	}
	q.delayLocked(w, d)
	q.mu.Unlock()
	return true
}

// ModAfter queues w after a delay, counted from now, whatever was to be: if w is
// delayed, the delay is replaced; if it is pending, it is taken out and delayed;
// else it is QueueAfter. It tells whether w was delayed or pending. While
// CancelSync waits for w's end, it does nothing.
func (q *Queue) ModAfter(w *Work, d time.Duration) bool {
	q.mu.Lock()
	was := false
	if w.owner.Load() == q {
		was = w.cancelLocked(q)
	}
	if q.takeLocked(w, "delayed queueing") { // which unlocks if it panics
		q.delayLocked(w, d)
	}
	q.mu.Unlock()
	return was
}

// delayLocked has w, which q owns, queued after d.
func (q *Queue) delayLocked(w *Work, d time.Duration) {
	if d <= 0 {
		q.pushLocked(w)
		return
	}
	w.armed = true
	q.armed++
	if w.delay != nil && w.delay.queue == q {
		w.delay.timer.Reset(d)
		return
	}
	t := &delay{queue: q, work: w}
	w.delay = t
	t.timer = time.AfterFunc(d, t.end)
}

// disarmLocked stops w's delay, which q counts.
func (w *Work) disarmLocked(q *Queue) {
	w.armed = false
	q.armed--
	if !w.delay.timer.Stop() {
		w.delay = nil
	}
}

// end queues the work when its delay ends, also in a queue that is drained: it
// was let in when the delay began. In a destroyed queue, Destroy has reported it.
func (t *delay) end() {
	q, w := t.queue, t.work
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.owner.Load() != q || w.delay != t || q.destroyed { // else w is armed
		return
	}
	w.armed = false
	q.armed--
	q.pushLocked(w)
}
