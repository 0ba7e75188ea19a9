package workqueue_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/workqueue"
)

func TestFlushWaitsForWhatWasQueuedBefore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := newQueue(t, workqueue.Config{Name: "q", MaxActive: 2})
		q.Flush() // nothing was queued
		var again *workqueue.Work
		again = newWork("again", func() { // is never done
			time.Sleep(time.Second)
			q.Queue(again)
		})
		long := newWork("long", func() { time.Sleep(10 * time.Second) })
		q.Queue(again)
		synctest.Wait()
		start := time.Now()
		q.Flush()
		if got := time.Since(start); got != time.Second {
			t.Errorf("flush of a work that queues itself took %v, want 1s", got)
		}
		q.Queue(long)
		time.Sleep(500 * time.Millisecond)
		q.Queue(newWork("short", func() { time.Sleep(time.Millisecond) }))
		q.Flush() // long runs since 0.5 s
		if got := time.Since(start); got < 11*time.Second || got >= 12*time.Second {
			t.Errorf("flush returned %v after the start, want when long has ended, after 11 s", got)
		}
		again.CancelSync()
	})
}

func TestDrain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := newQueue(t, workqueue.Config{Name: "q", MaxActive: 2})
		var j journal
		var chain workqueue.Work
		left := 3
		chain.Init("chain", func() {
			time.Sleep(time.Second)
			j.add(fmt.Sprint("chain ", left))
			if left--; left > 0 {
				q.Queue(&chain)
			}
		})
		w := newWork("outsider", func() {})
		var b workqueue.Barrier
		b.Init("outsider", func() {})
		late := newWork("late", func() { j.add("late") })
		q.QueueAfter(late, 1500*time.Millisecond) // ends while q is drained
		q.Queue(&chain)
		time.AfterFunc(1200*time.Millisecond, func() {
			if s := q.Stats(); !s.Draining {
				t.Error("not draining")
			}
			const why = "the queue is being drained, and the caller is not run by it"
			wantPanic(t, `queueing of work "outsider" in queue "q": `+why, func() { q.Queue(w) })
			wantPanic(t, why, func() { q.QueueAfter(w, time.Second) })
			wantPanic(t, why, func() { q.FlushAsync(&b) })
			if q.Queue(late) {
				t.Error("queueing what is delayed: true")
			}
		})
		start := time.Now()
		q.Drain()
		if got := time.Since(start); got != 3*time.Second {
			t.Errorf("drain took %v, want 3s", got)
		}
		j.check(t, "chain 3", "late", "chain 2", "chain 1")
		if !q.Queue(w) { // open again
			t.Error("queueing after drain: false")
		}
	})
}

func TestDestroy(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := workqueue.New(workqueue.Config{Name: "q"})
		var j journal
		w := j.napping("w", time.Second)
		q.Queue(w)
		var g sync.WaitGroup
		for range 2 {
			g.Go(q.Destroy)
		}
		g.Wait()
		q.Destroy()
		j.check(t, "w begins", "w ends")
		wantPanic(t, `workqueue: queueing of work "w" in queue "q": the queue is destroyed`, func() { q.Queue(w) })
		wantPanic(t, "the queue is destroyed", func() { q.QueueAfter(w, time.Second) })
		wantPanic(t, "the queue is destroyed", func() { q.ModAfter(w, time.Second) })
		var b workqueue.Barrier
		b.Init("b", func() {})
		wantPanic(t, "the queue is destroyed", func() { q.FlushAsync(&b) })
		if w.Busy() || w.Flush() || w.Cancel() || w.CancelSync() || b.Cancel() {
			t.Error("something is left in a destroyed queue")
		}
		q.Flush()
		q.Drain()
		if err := q.SetMaxActive(2); err == nil {
			t.Error("SetMaxActive of a destroyed queue: no error")
		}
		if s := q.Stats(); !s.Destroyed || s.Workers != 0 || s.Completed != 1 {
			t.Errorf("stats of a destroyed queue: %+v", s)
		}
	})
}

// When Destroy returns there is no worker left.
func TestDestroyWaitsForWorkers(t *testing.T) {
	for range 20 {
		q := workqueue.New(workqueue.Config{Name: "q", MaxActive: 50})
		q.Destroy()
		if got := q.Stats().Workers; got != 0 {
			t.Fatalf("%d workers after Destroy", got)
		}
	}
}

func TestDestroyReportsDelayedWorks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := workqueue.New(workqueue.Config{Name: "q"})
		w := newWork("w", func() { t.Error("run in a destroyed queue") })
		q.QueueAfter(w, time.Second)
		wantPanic(t, `destruction of queue "q": 1 delayed works were not cancelled`, q.Destroy)
		time.Sleep(2 * time.Second)
	})
}

// Waiting for one's own queue is refused, with or without the validator.
func TestWaitFromInside(t *testing.T) {
	q := newQueue(t, workqueue.Config{Name: "q", MaxActive: 2})
	other := newWork("other", func() {})
	var self workqueue.Work
	for _, tc := range []struct {
		name string
		wait func()
		want string
	}{
		{"flush", q.Flush, `flush of queue "q" from work "self" of queue "q": it would wait for its own queue`},
		{"drain", q.Drain, `drain of queue "q" from work "self"`},
		{"destroy", q.Destroy, `destruction of queue "q" from work "self"`},
		{"flush of itself", func() { self.Flush() }, `flush of work "self" from work "self"`},
		{"flush of another", func() { q.QueueAfter(other, time.Hour); other.Flush() }, `flush of work "other" from work "self"`},
		{"cancel-sync of itself", func() { self.CancelSync() }, `cancel-sync of work "self" from itself, in queue "q"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			self.Init("self", func() {
				// A validator of its own, without Report, would panic first.
				lockdep.NewValidator(lockdep.Config{Report: func(*lockdep.Report) {}}).Run(func() {
					wantPanic(t, tc.want, tc.wait)
				})
			})
			q.Queue(&self)
			q.Flush()
		})
	}
	other.CancelSync()
}

// What another queue runs may wait.
func TestWaitFromAnotherQueue(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := newQueue(t, workqueue.Config{Name: "q"})
		other := newQueue(t, workqueue.Config{Name: "other"})
		ran := false
		q.Queue(newWork("w", func() { time.Sleep(time.Second); ran = true }))
		other.Queue(newWork("waits", q.Flush))
		other.Flush()
		if !ran {
			t.Error("flush from another queue returned before the work had run")
		}
	})
}

func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := workqueue.New(workqueue.Config{Name: "idle"})
		defer q.Destroy()
		idle := func(want bool, when string) {
			t.Helper()
			if q.Idle() != want {
				t.Errorf("idle is %t %s", !want, when)
			}
		}
		idle(true, "at first")
		var w, late workqueue.Work
		end := make(chan struct{})
		w.Init("w", func() { <-end })
		late.Init("late", func() {})
		q.Queue(&w)
		idle(false, "while a work is pending or runs")
		synctest.Wait()
		idle(false, "while a work runs")
		close(end)
		synctest.Wait()
		idle(true, "when it has run")
		q.QueueAfter(&late, time.Hour)
		idle(true, "while a work is delayed")
		late.CancelSync()
	})
}
