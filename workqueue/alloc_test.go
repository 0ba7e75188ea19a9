//go:build !lockdep

package workqueue_test

import (
	"testing"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/workqueue"
)

// Queueing, running, cancelling and passing a barrier allocate nothing. (With
// the validator they do.)
func TestNothingIsAllocated(t *testing.T) {
	q := newQueue(t, workqueue.Config{Name: "q", MaxActive: 2})
	ran := make(chan struct{})
	var chained, w, canceled workqueue.Work
	chained.Init("chained", func() { ran <- struct{}{} })
	w.Init("w", func() {
		q.Queue(&chained)
		q.Queue(&w)
		w.Cancel()
	})
	canceled.Init("canceled", func() {})
	var b workqueue.Barrier
	b.Init("b", func() { ran <- struct{}{} })
	if n := testing.AllocsPerRun(200, func() {
		q.Queue(&w)
		q.FlushAsync(&b)
		<-ran
		<-ran
		q.Queue(&canceled)
		canceled.CancelSync()
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

// Everything runs on the goroutines that New has started.
func TestNoGoroutineIsStarted(t *testing.T) {
	const maxActive = 3
	q := newQueue(t, workqueue.Config{Name: "q", MaxActive: maxActive})
	seen := make(map[uint64]int)
	ids := make(chan uint64, 16)
	for range 100 {
		for range cap(ids) {
			q.Queue(newWork("w", func() { ids <- lockdep.GoroutineID() }))
		}
		for range cap(ids) {
			seen[<-ids]++
		}
	}
	if len(seen) > maxActive {
		t.Errorf("works ran on %d goroutines, want at most %d", len(seen), maxActive)
	}
}

func BenchmarkQueue(b *testing.B) {
	q := workqueue.New(workqueue.Config{Name: "q", MaxActive: 1})
	defer q.Destroy()
	b.Run("pending", func(b *testing.B) { // it is there already
		var w, block workqueue.Work
		begun, release := make(chan struct{}), make(chan struct{})
		block.Init("block", func() { close(begun); <-release })
		w.Init("w", func() {})
		q.Queue(&block)
		<-begun
		q.Queue(&w)
		b.ReportAllocs()
		for b.Loop() {
			q.Queue(&w)
		}
		close(release)
		q.Flush()
	})
	b.Run("chain", func(b *testing.B) { // a work that queues itself
		var w workqueue.Work
		done := make(chan struct{})
		n := 0
		w.Init("w", func() {
			if n--; n <= 0 {
				close(done)
				return
			}
			q.Queue(&w)
		})
		n = b.N
		b.ReportAllocs()
		b.ResetTimer()
		q.Queue(&w)
		<-done
	})
	b.Run("round trip", func(b *testing.B) { // wakes a worker, waits for it
		var w workqueue.Work
		ran := make(chan struct{})
		w.Init("w", func() { ran <- struct{}{} })
		b.ReportAllocs()
		for b.Loop() {
			q.Queue(&w)
			<-ran
		}
	})
}
