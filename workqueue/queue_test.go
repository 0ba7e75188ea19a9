package workqueue_test

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/workqueue"
)

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
		{Name: "q", MaxActive: workqueue.MaxActiveLimit + 1},
	} {
		wantPanic(t, "workqueue: new", func() { workqueue.New(c) })
	}
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
		for _, n := range []int{0, -1, workqueue.MaxActiveLimit + 1} {
			if err := q.SetMaxActive(n); err == nil {
				t.Errorf("MaxActive %d: no error", n)
			}
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
		s := q.Stats()
		type plain workqueue.Stats // without its String
		got := fmt.Sprintf("%+v", plain(s))
		want := "{Name:q Ordered:false MaxActive:2 Workers:2 Pending:2 OldestPending:1s Delayed:0 Barriers:1" +
			" Completed:1 Running:[{Name:old Age:3s} {Name:middle Age:2s}] Draining:false Destroyed:false}"
		if got != want {
			t.Errorf("stats:\n%s, want\n%s", got, want)
		}
		want = "workqueue \"q\": max_active 2, workers 2, running 2, pending 2 (oldest 1s), delayed 0, barriers 1, completed 1\n" +
			"    3s  old\n    2s  middle\n"
		if got := s.String(); got != want {
			t.Errorf("text:\n%s, want\n%s", got, want)
		}
	})
	got := workqueue.Stats{
		Name: "o", Ordered: true, MaxActive: 1, Draining: true, Destroyed: true,
		Running: []workqueue.Running{{Name: "w", Age: 1234567 * time.Nanosecond}},
	}.String()
	want := "workqueue \"o\": max_active 1, workers 0, running 1, pending 0, delayed 0, barriers 0, completed 0; ordered; draining; destroyed\n" +
		"    1.235ms  w\n"
	if got != want {
		t.Errorf("text:\n%s, want\n%s", got, want)
	}
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
