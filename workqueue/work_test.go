package workqueue_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/workqueue"
)

func TestQueueTwice(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := newQueue(t, workqueue.Config{Name: "q", MaxActive: 4})
		var j journal
		w := j.napping("w", time.Second)
		other := j.napping("other", 100*time.Millisecond)

		ordered := newQueue(t, workqueue.Config{Name: "ordered", Ordered: true})
		ordered.Queue(other)
		synctest.Wait()
		for i, want := range []bool{true, false} { // idle, pending behind other
			if got := ordered.Queue(w); got != want {
				t.Errorf("queueing %d: %t, want %t", i, got, want)
			}
		}
		ordered.Flush()
		j.check(t, "other begins", "other ends", "w begins", "w ends")

		q.Queue(w)
		synctest.Wait() // it runs
		for i, want := range []bool{true, false} {
			if got := q.Queue(w); got != want {
				t.Errorf("queueing %d while it runs: %t, want %t", i, got, want)
			}
		}
		q.Queue(other) // not held up by w, which waits for itself
		synctest.Wait()
		j.check(t, "w begins", "other begins")
		if !w.Busy() {
			t.Error("not busy though running")
		}
		q.Flush()
		j.check(t, "other ends", "w ends", "w begins", "w ends")
		if w.Busy() {
			t.Error("busy after it has run")
		}
		if got := q.Stats().Completed; got != 3 {
			t.Errorf("%d runs in q, want 3", got)
		}
	})
}

// A work may move to another queue when it is idle, and not before.
func TestTwoQueues(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a := newQueue(t, workqueue.Config{Name: "a"})
		b := newQueue(t, workqueue.Config{Name: "b"})
		var j journal
		w := j.napping("w", time.Second)
		a.Queue(w)
		synctest.Wait()
		wantPanic(t, `queueing of work "w" in queue "b": the work is in use in another queue`, func() { b.Queue(w) })
		wantPanic(t, `init of work "again": in use in queue "a" as "w"`, func() { w.Init("again", func() {}) })
		a.Flush()
		a.QueueAfter(w, time.Second)
		w.Cancel()
		b.QueueAfter(w, time.Second)
		w.Flush()
		j.check(t, "w begins", "w ends", "w begins", "w ends")
		if got := b.Stats().Completed; got != 1 {
			t.Errorf("%d runs in b, want 1", got)
		}
	})
}

func TestFlushWork(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := newQueue(t, workqueue.Config{Name: "q", MaxActive: 1})
		var j journal
		first, w := j.napping("first", time.Second), j.napping("w", time.Second)
		if w.Flush() {
			t.Error("flush of an idle work: true")
		}
		q.Queue(first)
		q.Queue(w)
		q.Queue(newWork("last", func() { time.Sleep(time.Hour) }))
		start := time.Now()
		if !w.Flush() {
			t.Error("flush of a pending work: false")
		}
		j.check(t, "first begins", "first ends", "w begins", "w ends")
		if got := time.Since(start); got != 2*time.Second {
			t.Errorf("flush of the second work took %v, want 2s", got)
		}
	})
}

// A flush of a running work that is queued again waits for both runs; a cancel
// of the second lets it go after the first.
func TestFlushWorkQueuedAgain(t *testing.T) {
	for _, tc := range []struct {
		cancel bool
		want   time.Duration
	}{{false, 2 * time.Second}, {true, time.Second}} {
		bubble(t, func(t *testing.T) {
			q := newQueue(t, workqueue.Config{Name: "q"})
			w := newWork("w", func() { time.Sleep(time.Second) })
			q.Queue(w)
			synctest.Wait()
			start := time.Now()
			q.Queue(w)
			if tc.cancel {
				time.AfterFunc(time.Second/2, func() { w.Cancel() })
			}
			w.Flush()
			if got := time.Since(start); got != tc.want {
				t.Errorf("cancel %t: flush took %v, want %v", tc.cancel, got, tc.want)
			}
			q.Flush()
		})
	}
}

func TestCancel(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := newQueue(t, workqueue.Config{Name: "q", MaxActive: 1})
		var j journal
		first, w := j.napping("first", time.Second), j.napping("w", time.Second)
		if w.Cancel() || w.CancelSync() {
			t.Error("cancel of an idle work: true")
		}
		q.Queue(first)
		q.Queue(w)
		synctest.Wait()
		flushed := make(chan time.Time, 1)
		go func() { w.Flush(); flushed <- time.Now() }()
		synctest.Wait()
		if !w.Cancel() {
			t.Error("cancel of a pending work: false")
		}
		if got := time.Since(<-flushed); got != 0 {
			t.Errorf("flush of a cancelled work returned %v ago, want now", got)
		}
		if first.Cancel() {
			t.Error("cancel of a running work: true")
		}
		q.Queue(first)
		start := time.Now()
		if !first.CancelSync() {
			t.Error("cancel-sync of a work that is queued again: false")
		}
		if got := time.Since(start); got != time.Second {
			t.Errorf("cancel-sync took %v, want 1s", got)
		}
		q.Flush()
		j.check(t, "first begins", "first ends")
	})
}

// CancelSync ends a work that queues itself, and everybody may wait for that.
func TestCancelSyncOfSelfQueueing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := newQueue(t, workqueue.Config{Name: "q"})
		var w workqueue.Work
		runs := 0
		w.Init("w", func() {
			runs++
			time.Sleep(time.Second)
			q.Queue(&w)
			q.QueueAfter(&w, time.Second)
			q.ModAfter(&w, time.Second)
		})
		q.Queue(&w)
		time.Sleep(2500 * time.Millisecond) // a run, a delay, half a run
		if s := q.Stats(); len(s.Running) != 1 {
			t.Fatalf("%d running, want 1", len(s.Running))
		}
		var g sync.WaitGroup
		for range 3 {
			g.Go(func() { w.CancelSync() })
		}
		g.Wait()
		if w.Busy() {
			t.Error("busy after cancel-sync")
		}
		was := runs
		time.Sleep(time.Hour)
		if runs != was || runs != 2 {
			t.Errorf("%d runs, %d when cancelled", runs, was)
		}
		if !q.Queue(&w) {
			t.Error("queueing after cancel-sync: false")
		}
		synctest.Wait()
		if !q.Queue(&w) {
			t.Error("queueing while it runs, after an earlier cancel-sync: false")
		}
		w.CancelSync()
	})
}
