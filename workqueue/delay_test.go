package workqueue_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/workqueue"
)

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

// A delay that is stopped at the moment it ends, and begun again, does not end
// early: the end that is under way is not taken for that of the new delay.
func TestDelayEndsAsItIsStopped(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := newQueue(t, workqueue.Config{Name: "q"})
		var mu sync.Mutex // guards below
		var stopped time.Time
		ran := 0
		stop := func(at time.Time) {
			mu.Lock()
			defer mu.Unlock()
			stopped = at
		}
		w := newWork("w", func() {
			mu.Lock()
			defer mu.Unlock()
			ran++
			if since := time.Since(stopped); !stopped.IsZero() && since < time.Hour {
				t.Errorf("run %v after a delay of 1h began", since)
			}
		})
		const rounds = 2000
		late := 0
		for i := range rounds {
			stop(time.Time{})
			q.QueueAfter(w, time.Second)
			time.Sleep(time.Second)
			if w.Cancel() {
				late++
				stop(time.Now())
				if i%2 == 0 {
					q.QueueAfter(w, time.Hour)
				} else {
					q.ModAfter(w, time.Hour)
				}
			}
			time.Sleep(2 * time.Hour)
		}
		q.Flush()
		if ran != rounds || w.Busy() {
			t.Errorf("%d runs, want %d; busy %t", ran, rounds, w.Busy())
		}
		t.Logf("%d of %d delays were stopped as they ended", late, rounds)
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
