package workqueue

import (
	"fmt"
	"slices"
	"time"

	"github.com/fabrid/fabrid/lockdep"
)

// A worker is a goroutine that runs what is in the queue. Its fields are
// guarded by the queue's mu.
type worker struct {
	goroutine uint64 // its id, by which work that queues or waits is recognised
	work      *Work  // what it runs, nil if idle or at a barrier
	ticket    uint64 // of work
	name      string // of what it runs, empty if idle
	since     time.Time
}

// startWorkersLocked starts what is missing up to maxActive workers.
func (q *Queue) startWorkersLocked() {
	for len(q.workers) < q.maxActive {
		k := new(worker)
		q.workers = append(q.workers, k)
		q.exited.Add(1)
		q.validator.Go(func() {
			defer q.exited.Done()
			q.work(k)
		})
	}
}

// work is a worker's life.
func (q *Queue) work(k *worker) {
	returned := false
	defer func() {
		if returned {
			return
		}
		if r := recover(); r != nil {
			panic(r)
		}
		q.replace(k)
	}()
	id := lockdep.GoroutineID()
	q.mu.Lock()
	k.goroutine = id
	for {
		if b := q.ready.First(); b != nil {
			q.ready.Remove(b)
			q.runBarrierLocked(k, b)
			continue
		}
		if q.destroyed || len(q.workers) > q.maxActive {
			break
		}
		if w := q.nextLocked(); w != nil {
			q.runLocked(k, w)
			continue
		}
		q.more.Wait()
	}
	q.removeWorkerLocked(k)
	q.mu.Unlock()
	returned = true
}

// removeWorkerLocked takes k out. Should the wake-up that brought it here have
// been for a work, that is not lost: surplus begins with a broadcast, so that
// whoever stays is running something, or has yet to look.
func (q *Queue) removeWorkerLocked(k *worker) {
	i := slices.Index(q.workers, k)
	q.workers = slices.Delete(q.workers, i, i+1)
}

// replace puts a new worker in the place of k, whose goroutine was ended by the
// function that it ran ([runtime.Goexit], which t.Fatal calls). It is the one
// case in which the queue starts a goroutine by itself.
func (q *Queue) replace(k *worker) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if k.work != nil {
		q.finishWorkLocked(k, k.work)
	} else {
		q.idleLocked(k)
	}
	q.removeWorkerLocked(k)
	q.startWorkersLocked()
}

// nextLocked takes out the first pending work that is not running. At most
// maxActive works run, so it looks at few more than that.
func (q *Queue) nextLocked() *Work {
	for w := q.pending.First(); w != nil; w = q.pending.Next(w) {
		if !w.running {
			q.pending.Remove(w)
			w.pending = false
			return w
		}
	}
	return nil
}

// runLocked runs w. It unlocks mu meanwhile.
func (q *Queue) runLocked(k *worker, w *Work) {
	w.running, w.runTicket = true, w.ticket
	k.work, k.ticket = w, w.ticket
	q.busyLocked(k, w.name)
	q.mu.Unlock()

	q.dep.Acquire()
	w.dep.Acquire()
	w.fn()
	w.dep.Release()
	q.dep.Release()
	if lockdep.Enabled {
		lockdep.AssertNoneHeld(fmt.Sprintf("work %q of queue %q has returned", w.name, q.name))
	}

	q.mu.Lock()
	q.finishWorkLocked(k, w)
}

func (q *Queue) finishWorkLocked(k *worker, w *Work) {
	k.work, k.ticket = nil, 0
	w.running, w.canceling = false, false
	w.releaseLocked()
	q.completed++
	q.idleLocked(k)
}

// runBarrierLocked runs b's function. It unlocks mu meanwhile. The function
// keeps a worker from running works, so it is part of what a flush waits for.
func (q *Queue) runBarrierLocked(k *worker, b *Barrier) {
	fn, name := b.fn, b.name
	b.queue.Store(nil) // from here on it may be used again
	q.busyLocked(k, name)
	q.mu.Unlock()

	var dep lockdep.Map[barrierCompletion]
	dep.Init(name)
	q.dep.Acquire()
	dep.Acquire()
	fn()
	dep.Release()
	q.dep.Release()
	if lockdep.Enabled {
		lockdep.AssertNoneHeld(fmt.Sprintf("barrier %q of queue %q has returned", name, q.name))
	}

	q.mu.Lock()
	q.idleLocked(k)
}

func (q *Queue) busyLocked(k *worker, name string) {
	k.name, k.since = name, time.Now()
	q.running++
}

func (q *Queue) idleLocked(k *worker) {
	k.name, k.since = "", time.Time{}
	q.running--
	q.advanceLocked()
}

// workerLocked returns the worker that is goroutine id, or nil.
func (q *Queue) workerLocked(id uint64) *worker {
	for _, k := range q.workers {
		if k.goroutine == id {
			return k
		}
	}
	return nil
}

// refuseWorkerLocked panics, with q unlocked, if goroutine id is a worker of q:
// the wait that it is about to begin could wait for itself.
func (q *Queue) refuseWorkerLocked(id uint64, op, what string) {
	if k := q.workerLocked(id); k != nil {
		name := k.name
		q.mu.Unlock()
		panic(fmt.Sprintf("workqueue: %s %q from work %q of queue %q: it would wait for its own queue", op, what, name, q.name))
	}
}
