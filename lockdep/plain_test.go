//go:build !lockdep

package lockdep_test

import (
	"sync"
	"testing"
	"unsafe"

	"github.com/fabrid/fabrid/lockdep"
)

type plainClass struct{}

// Without the validator a lock is sync's in size, and an annotation nothing.
func TestSizes(t *testing.T) {
	for _, tc := range []struct {
		name      string
		got, want uintptr
	}{
		{"Mutex", unsafe.Sizeof(lockdep.Mutex[plainClass]{}), unsafe.Sizeof(sync.Mutex{})},
		{"RWMutex", unsafe.Sizeof(lockdep.RWMutex[plainClass]{}), unsafe.Sizeof(sync.RWMutex{})},
		{"WaitGroup", unsafe.Sizeof(lockdep.WaitGroup[plainClass]{}), unsafe.Sizeof(sync.WaitGroup{})},
		{"Map", unsafe.Sizeof(lockdep.Map[plainClass]{}), 0},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: %d bytes, want %d", tc.name, tc.got, tc.want)
		}
	}
}

// Without the validator nothing is checked: this would be four reports.
func TestNothingIsReported(t *testing.T) {
	var a, a2 lockdep.Mutex[plainClass]
	var m lockdep.Map[plainClass]
	v := lockdep.NewValidator(lockdep.Config{Report: func(r *lockdep.Report) { t.Errorf("report: %v", r) }})
	v.Run(func() {
		a.Lock()
		a2.Lock()
		lockdep.AssertNoneHeld("here")
		m.Release()
		m.Acquire()
		m.AcquireAlone()
		m.Touch()
		m.End()
		done := make(chan struct{})
		v.Go(func() { defer close(done); a.Unlock(); a2.Unlock() })
		<-done
		a.AssertHeld()
	})
}

func TestNothingIsAllocated(t *testing.T) {
	var mu lockdep.Mutex[plainClass]
	var rw lockdep.RWMutex[plainClass]
	var m lockdep.Map[plainClass]
	if n := testing.AllocsPerRun(100, func() {
		m.Init("name")
		m.Acquire()
		mu.Lock()
		rw.RLock()
		m.Touch()
		rw.RUnlock()
		mu.Unlock()
		m.Release()
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func BenchmarkMutex(b *testing.B) {
	b.Run("sync", func(b *testing.B) {
		var mu sync.Mutex
		n := 0
		for b.Loop() {
			mu.Lock()
			n++
			mu.Unlock()
		}
	})
	b.Run("lockdep", func(b *testing.B) {
		var mu lockdep.Mutex[plainClass]
		n := 0
		for b.Loop() {
			mu.Lock()
			n++
			mu.Unlock()
		}
	})
}
