package lockdep_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/lockdep"
)

type (
	countLock struct{}
	tableLock struct{}
	ready     struct{}
	workers   struct{}
)

// With or without the validator a lock excludes. (The race detector sees more.)
func TestMutexExcludes(t *testing.T) {
	var (
		mu   lockdep.Mutex[countLock]
		rw   lockdep.RWMutex[tableLock]
		g    lockdep.WaitGroup[workers]
		n, m int
	)
	const goroutines, rounds = 8, 200
	for range goroutines {
		g.Go(func() {
			for range rounds {
				mu.Lock()
				n++
				mu.Unlock()
				rw.Lock()
				m++
				rw.Unlock()
				rw.RLock()
				_ = m
				rw.RUnlock()
			}
		})
	}
	g.Wait()
	if n != goroutines*rounds || m != n {
		t.Errorf("counted %d and %d, want %d", n, m, goroutines*rounds)
	}
}

// A Mutex serves a sync.Cond.
func TestMutexWithCond(t *testing.T) {
	var mu lockdep.Mutex[countLock]
	cond := sync.NewCond(&mu)
	full := false
	lockdep.Go(func() {
		mu.Lock()
		full = true
		mu.Unlock()
		cond.Signal()
	})
	mu.Lock()
	for !full {
		cond.Wait()
	}
	mu.Unlock()
}

func TestHandOverBetweenGoroutines(t *testing.T) {
	var mu lockdep.Mutex[countLock]
	mu.Lock()
	passed := make(chan struct{})
	lockdep.Go(func() {
		<-passed
		mu.TakeOver()
		mu.Unlock()
	})
	mu.HandOver()
	close(passed)
	mu.Lock() // waits for the other's Unlock
	defer mu.Unlock()
}

// Waits are durably blocking, so time in a bubble passes.
func TestWaitsInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c lockdep.Completion[ready]
		var g lockdep.WaitGroup[workers]
		start := time.Now()
		g.Go(func() {
			time.Sleep(time.Second)
			c.Complete()
		})
		g.Go(c.Wait)
		g.Wait()
		select {
		case <-c.Done():
		default:
			t.Error("Done is open after Complete")
		}
		if got := time.Since(start); got != time.Second {
			t.Errorf("waited %v, want 1s", got)
		}
	})
}

func TestGoroutineID(t *testing.T) {
	mine := lockdep.GoroutineID()
	if again := lockdep.GoroutineID(); again != mine {
		t.Errorf("goroutine id %d, then %d", mine, again)
	}
	ids := make(chan uint64)
	for range 10 {
		go func() { ids <- lockdep.GoroutineID() }()
	}
	seen := map[uint64]bool{mine: true}
	for range 10 {
		id := <-ids
		if seen[id] {
			t.Errorf("goroutine id %d twice", id)
		}
		seen[id] = true
	}
	if n := testing.AllocsPerRun(100, func() { lockdep.GoroutineID() }); n > 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func BenchmarkGoroutineID(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		lockdep.GoroutineID()
	}
}
