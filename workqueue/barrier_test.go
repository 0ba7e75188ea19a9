package workqueue_test

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/workqueue"
)

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

// A barrier that is cancelled before a worker comes to it holds up no drain. One
// processor runs what was made ready last first: here the cancel, when the drain
// waits, before the worker that the barrier woke.
func TestBarrierCanceledWhileDraining(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	bubble(t, func(t *testing.T) {
		q := newQueue(t, workqueue.Config{Name: "q", MaxActive: 1})
		early := 0
		for range 100 {
			var b workqueue.Barrier
			called, canceled := false, false
			b.Init("b", func() { called = true })
			synctest.Wait() // the worker waits
			q.FlushAsync(&b)
			done := make(chan struct{})
			go func() { defer close(done); canceled = b.Cancel() }()
			q.Drain()
			<-done
			if called == canceled {
				t.Fatalf("called %t, cancelled %t", called, canceled)
			}
			if canceled {
				early++
			}
		}
		if early == 0 {
			t.Error("no barrier was cancelled in time")
		}
	})
}
