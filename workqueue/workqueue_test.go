package workqueue_test

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/workqueue"
)

// bubble runs f in a synctest bubble and in a lock-order validator of its own,
// as the tests give names, which are classes, as they like.
func bubble(t *testing.T, f func(t *testing.T)) {
	synctest.Test(t, func(t *testing.T) {
		lockdep.NewValidator(lockdep.Config{}).Run(func() { f(t) })
	})
}

func newQueue(t *testing.T, c workqueue.Config) *workqueue.Queue {
	t.Helper()
	q := workqueue.New(c)
	t.Cleanup(q.Destroy)
	return q
}

func newWork(name string, fn func()) *workqueue.Work {
	w := new(workqueue.Work)
	w.Init(name, fn)
	return w
}

// A journal is what happened, in order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(s string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, s)
}

func (j *journal) check(t *testing.T, want ...string) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	if !slices.Equal(j.lines, want) {
		t.Errorf("journal: %q, want %q", j.lines, want)
	}
	j.lines = nil
}

// napping returns a work that takes d, and says so in j.
func (j *journal) napping(name string, d time.Duration) *workqueue.Work {
	return newWork(name, func() {
		j.add(name + " begins")
		time.Sleep(d)
		j.add(name + " ends")
	})
}

// wantPanic checks that f panics with a message that contains want.
func wantPanic(t *testing.T, want string, f func()) {
	t.Helper()
	defer func() {
		t.Helper()
		if got := fmt.Sprint(recover()); !strings.Contains(got, want) {
			t.Errorf("panic %q, want one with %q", got, want)
		}
	}()
	f()
}

func TestOrderedRunsInOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := newQueue(t, workqueue.Config{Name: "ordered", Ordered: true})
		var j journal
		for i := range 3 {
			q.Queue(j.napping(fmt.Sprint(i), time.Second))
		}
		start := time.Now()
		q.Flush()
		if got := time.Since(start); got != 3*time.Second {
			t.Errorf("three works in order took %v, want 3s", got)
		}
		j.check(t, "0 begins", "0 ends", "1 begins", "1 ends", "2 begins", "2 ends")
	})
}

func TestMaxActive(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := newQueue(t, workqueue.Config{Name: "bounded", MaxActive: 2})
		var j journal
		for i := range 6 {
			q.Queue(j.napping(fmt.Sprint(i), time.Second))
		}
		start := time.Now()
		synctest.Wait()
		if s := q.Stats(); len(s.Running) != 2 || s.Pending != 4 {
			t.Errorf("%d running, %d pending, want 2 and 4", len(s.Running), s.Pending)
		}
		q.Flush()
		if got := time.Since(start); got != 3*time.Second {
			t.Errorf("six works, two at a time, took %v, want 3s", got)
		}
	})
}

func TestQueueTwice(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := newQueue(t, workqueue.Config{Name: "q", MaxActive: 4})
		var j journal
		w := j.napping("w", time.Second)
		other := j.napping("other", 100*time.Millisecond)

		for i, want := range []bool{true, false} { // idle, pending
			if got := q.Queue(w); got != want {
				t.Errorf("queueing %d: %t, want %t", i, got, want)
			}
		}
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
			t.Errorf("%d runs, want 3", got)
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
		time.Sleep(3500 * time.Millisecond)
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
		if runs != was || runs < 2 {
			t.Errorf("%d runs, %d when cancelled", runs, was)
		}
		if !q.Queue(&w) {
			t.Error("queueing after cancel-sync: false")
		}
		synctest.Wait()
		w.CancelSync()
	})
}

func TestDelay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := newQueue(t, workqueue.Config{Name: "q"})
		start := time.Now()
		var j journal
		w := newWork("w", func() { j.add(time.Since(start).String()) })

		if !q.QueueAfter(w, 3*time.Second) || q.QueueAfter(w, time.Second) || q.Queue(w) {
			t.Error("queueing: want only the first to count")
		}
		if got := q.Stats().Delayed; got != 1 {
			t.Errorf("%d delayed, want 1", got)
		}
		q.Flush() // does not wait for it
		time.Sleep(5 * time.Second)
		j.check(t, "3s")

		q.QueueAfter(w, time.Second)
		if !q.ModAfter(w, 2*time.Second) {
			t.Error("change of a delay: false")
		}
		time.Sleep(5 * time.Second)
		j.check(t, "7s")

		if q.ModAfter(w, time.Second) {
			t.Error("change of no delay: true")
		}
		if !w.Cancel() || w.Busy() {
			t.Error("cancel of a delayed work: false, or still busy")
		}
		time.Sleep(5 * time.Second)
		j.check(t)

		q.QueueAfter(w, time.Hour)
		if !w.Flush() { // runs it now
			t.Error("flush of a delayed work: false")
		}
		j.check(t, "15s")
		q.QueueAfter(w, -1)
		w.Flush()
		j.check(t, "15s")

		q.QueueAfter(w, time.Second)
		time.Sleep(time.Second) // the end of the delay and this moment race
		w.CancelSync()
		if got := q.Stats().Delayed; got != 0 || w.Busy() {
			t.Errorf("%d delayed, busy %t, want none", got, w.Busy())
		}
	})
}

// A pending work that is given a delay leaves its place.
func TestModAfterOfPending(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := newQueue(t, workqueue.Config{Name: "q", MaxActive: 1})
		var j journal
		a, b, c := j.napping("a", time.Second), j.napping("b", 0), j.napping("c", 0)
		q.Queue(a)
		q.Queue(b)
		q.Queue(c)
		synctest.Wait()
		if !q.ModAfter(b, 5*time.Second) {
			t.Error("delay of a pending work: false")
		}
		q.Flush()
		j.check(t, "a begins", "a ends", "c begins", "c ends")
		time.Sleep(5 * time.Second)
		j.check(t, "b begins", "b ends")
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

func TestDestroyReportsDelayedWorks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := workqueue.New(workqueue.Config{Name: "q"})
		w := newWork("w", func() { t.Error("run in a destroyed queue") })
		q.QueueAfter(w, time.Second)
		wantPanic(t, `destruction of queue "q": 1 delayed works were not cancelled`, q.Destroy)
		time.Sleep(2 * time.Second)
	})
}

func TestMisuse(t *testing.T) {
	var zero workqueue.Work
	var zeroBarrier workqueue.Barrier
	q := newQueue(t, workqueue.Config{Name: "q"})
	wantPanic(t, "the work is not initialised", func() { q.Queue(&zero) })
	wantPanic(t, "the barrier is not initialised", func() { q.FlushAsync(&zeroBarrier) })
	wantPanic(t, "init of work: no name or no function", func() { zero.Init("", func() {}) })
	wantPanic(t, "init of work: no name or no function", func() { zero.Init("w", nil) })
	wantPanic(t, "init of barrier: no name or no function", func() { zeroBarrier.Init("b", nil) })
	for _, c := range []workqueue.Config{
		{},
		{Name: "q", MaxActive: -1},
		{Name: "q", MaxActive: 2, Ordered: true},
	} {
		wantPanic(t, "workqueue: new", func() { workqueue.New(c) })
	}
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

func TestSetMaxActive(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := newQueue(t, workqueue.Config{Name: "q", MaxActive: 1})
		for range 20 {
			q.Queue(newWork("w", func() { time.Sleep(time.Second) }))
		}
		for _, tc := range []struct{ maxActive, pending, running int }{
			{1, 18, 1}, // the first has run
			{4, 11, 4}, // one more, and the three that could begin at once
			{4, 7, 4},
			{2, 5, 2}, // four have run, two begun
			{1, 4, 1},
		} {
			if err := q.SetMaxActive(tc.maxActive); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			s := q.Stats()
			if s.Pending != tc.pending || len(s.Running) != tc.running || s.Workers != tc.running {
				t.Errorf("MaxActive %d: %d pending, %d running, %d workers, want %d, %d, %d",
					tc.maxActive, s.Pending, len(s.Running), s.Workers, tc.pending, tc.running, tc.running)
			}
		}
		if err := q.SetMaxActive(0); err == nil {
			t.Error("MaxActive 0: no error")
		}
		q.Flush()

		ordered := newQueue(t, workqueue.Config{Name: "o", Ordered: true})
		if err := ordered.SetMaxActive(2); !errors.Is(err, workqueue.ErrOrdered) {
			t.Errorf("MaxActive 2 of an ordered queue: %v, want %v", err, workqueue.ErrOrdered)
		}
		if err := ordered.SetMaxActive(1); err != nil {
			t.Errorf("MaxActive 1 of an ordered queue: %v", err)
		}
	})
}

func TestStats(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := newQueue(t, workqueue.Config{Name: "q", MaxActive: 2})
		var b workqueue.Barrier
		b.Init("b", func() {})
		q.Queue(newWork("young", func() { time.Sleep(time.Second) }))
		q.Queue(newWork("old", func() { time.Sleep(10 * time.Second) }))
		q.Queue(newWork("middle", func() { time.Sleep(10 * time.Second) }))
		q.FlushAsync(&b)
		time.Sleep(2 * time.Second)
		q.Queue(newWork("waits", func() {}))
		q.Queue(newWork("waits too", func() {}))
		time.Sleep(time.Second)
		got := fmt.Sprintf("%+v", q.Stats())
		want := "{Name:q Ordered:false MaxActive:2 Workers:2 Pending:2 OldestPending:1s Delayed:0 Barriers:1" +
			" Completed:1 Running:[{Name:old Age:3s} {Name:middle Age:2s}] Draining:false Destroyed:false}"
		if got != want {
			t.Errorf("stats:\n%s, want\n%s", got, want)
		}
	})
}

func TestBarrier(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := newQueue(t, workqueue.Config{Name: "q", MaxActive: 2})
		start := time.Now()
		var j journal
		at := func(what string) { j.add(fmt.Sprint(what, " at ", time.Since(start))) }
		nap := func(name string, d time.Duration) *workqueue.Work {
			return newWork(name, func() { time.Sleep(d); at(name) })
		}
		barrier := func(name string) *workqueue.Barrier {
			b := new(workqueue.Barrier)
			b.Init(name, func() { at(name) })
			return b
		}
		empty, first, second, canceled := barrier("empty"), barrier("first"), barrier("second"), barrier("canceled")

		q.FlushAsync(empty) // nothing to wait for
		synctest.Wait()
		j.check(t, "empty at 0s")

		q.Queue(nap("1s", time.Second))
		q.Queue(nap("3s", 3*time.Second))
		if !q.FlushAsync(first) || q.FlushAsync(first) {
			t.Error("FlushAsync twice: want true, then false")
		}
		q.FlushAsync(canceled)
		after := nap("after", time.Hour)
		q.Queue(after) // not waited for by first
		q.FlushAsync(second)
		if !canceled.Cancel() || canceled.Cancel() {
			t.Error("cancel twice: want true, then false")
		}
		time.Sleep(4 * time.Second)
		j.check(t, "1s at 1s", "3s at 3s", "first at 3s")
		if first.Cancel() {
			t.Error("cancel of a barrier that was called: true")
		}
		if !q.FlushAsync(first) { // may be used again
			t.Error("FlushAsync again: false")
		}
		q.Drain()
		j.check(t, "after at 1h0m1s", "second at 1h0m1s", "first at 1h0m1s")
	})
}

// A cancelled work no longer holds a barrier up, and a work may itself pass one.
func TestBarrierCornerCases(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := newQueue(t, workqueue.Config{Name: "q", MaxActive: 1})
		var j journal
		var b, inner workqueue.Barrier
		b.Init("b", func() { j.add("b") })
		inner.Init("inner", func() { j.add("inner"); q.Queue(j.napping("follows", 0)) })
		unrelated := newWork("unrelated", func() {})
		q.QueueAfter(unrelated, time.Hour) // delayed: no barrier waits for it
		defer unrelated.CancelSync()
		w := newWork("w", func() {
			q.FlushAsync(&inner)
			time.Sleep(time.Second)
			j.add("w")
		})
		pending := newWork("pending", func() {})
		q.Queue(w)
		q.Queue(pending)
		q.FlushAsync(&b)
		synctest.Wait()
		if err := q.SetMaxActive(2); err != nil { // somebody is free to call back
			t.Fatal(err)
		}
		q.Drain()
		j.mu.Lock()
		if j.lines[0] != "w" {
			t.Errorf("journal: %q, want w first", j.lines)
		}
		slices.Sort(j.lines)
		j.mu.Unlock()
		j.check(t, "b", "follows begins", "follows ends", "inner", "w")

		q.Queue(newWork("long", func() { time.Sleep(time.Hour) }))
		q.Queue(newWork("longer", func() { time.Sleep(2 * time.Hour) }))
		q.Queue(pending)
		q.FlushAsync(&b)
		b.Cancel()
		pending.Cancel()
		q.Drain()
		j.check(t)
	})
}

// runtime.Goexit, which t.FailNow calls, ends a worker; the queue goes on.
func TestGoexit(t *testing.T) {
	q := newQueue(t, workqueue.Config{Name: "q", MaxActive: 1})
	var b workqueue.Barrier
	b.Init("b", runtime.Goexit)
	q.Queue(newWork("exits", runtime.Goexit))
	q.FlushAsync(&b)
	ran := false
	q.Queue(newWork("w", func() { ran = true }))
	q.Flush()
	if s := q.Stats(); !ran || s.Workers != 1 || s.Completed != 2 {
		t.Errorf("ran %t, stats %+v", ran, s)
	}
}

// Many goroutines queue, flush and cancel; for the race detector, and nothing
// is lost.
func TestRace(t *testing.T) {
	q := newQueue(t, workqueue.Config{Name: "q", MaxActive: 3})
	const rounds = 300
	type item struct {
		workqueue.Work
		n int // guarded by the promise that a work never runs twice at a time
	}
	items := make([]item, 5)
	var accepted [5]int
	var mu sync.Mutex
	for i := range items {
		it := &items[i]
		it.Init("item", func() { it.n++ })
	}
	var g sync.WaitGroup
	for n := range 4 {
		g.Go(func() {
			var b workqueue.Barrier
			b.Init("b", func() {})
			for r := range rounds {
				i := (r + n) % len(items)
				change := 0
				if q.Queue(&items[i].Work) {
					change++
				}
				switch r % 11 {
				case 3:
					q.Flush()
				case 5:
					if items[i].Cancel() {
						change--
					}
				case 7:
					items[i].Flush()
				case 8:
					if items[i].CancelSync() {
						change--
					}
				case 9:
					q.FlushAsync(&b)
				case 10:
					if err := q.SetMaxActive(1 + r%4); err != nil {
						t.Error(err)
					}
				}
				mu.Lock()
				accepted[i] += change
				mu.Unlock()
			}
			b.Cancel()
		})
	}
	g.Wait()
	q.Drain()
	for i := range items {
		if items[i].n != accepted[i] {
			t.Errorf("item %d: %d runs, want %d", i, items[i].n, accepted[i])
		}
	}
}
