package lockdep

import (
	"reflect"
	"sync"
)

// An RWMutex is a [sync.RWMutex] with a class. The zero value is unlocked and
// of level 0. It must not be copied after first use.
//
// Readers count as holders like any other. A reader waits for a writer that
// waits for an earlier reader, so two goroutines that only read, in opposite
// orders, can deadlock as soon as others write; and a goroutine that reads
// twice can deadlock with itself. The validator reports both.
type RWMutex[Class any] struct {
	dep lockState // first: a field of size zero at the end would be padded
	mu  sync.RWMutex
}

// Lock locks m for writing; see [Mutex.Lock].
func (m *RWMutex[Class]) Lock() {
	if Enabled {
		m.lockNested(0)
		return
	}
	m.mu.Lock()
}

// LockNested is Lock at a nesting level; see [Mutex.LockNested].
func (m *RWMutex[Class]) LockNested(level int) {
	if Enabled {
		m.lockNested(level)
		return
	}
	m.mu.Lock()
}

func (m *RWMutex[Class]) lockNested(level int) {
	h := acquire(key{typ: reflect.TypeFor[Class](), level: level}, m, blocking)
	m.mu.Lock()
	m.dep.setHolder(h)
}

// TryLock locks m for writing if that needs no waiting; see [Mutex.TryLock].
func (m *RWMutex[Class]) TryLock() bool {
	ok := m.mu.TryLock()
	if Enabled && ok {
		m.dep.setHolder(acquire(key{typ: reflect.TypeFor[Class]()}, m, trying))
	}
	return ok
}

// Unlock undoes Lock, on the same goroutine.
func (m *RWMutex[Class]) Unlock() {
	if Enabled {
		m.unlock()
		return
	}
	m.mu.Unlock()
}

func (m *RWMutex[Class]) unlock() {
	release(key{typ: reflect.TypeFor[Class]()}, m, m.dep.getHolder())
	m.dep.setHolder(nil)
	m.mu.Unlock()
}

// RLock locks m for reading. It is not recursive.
func (m *RWMutex[Class]) RLock() {
	if Enabled {
		acquire(key{typ: reflect.TypeFor[Class]()}, m, reading)
	}
	m.mu.RLock()
}

// RLockNested is RLock at a nesting level; see [Mutex.LockNested].
func (m *RWMutex[Class]) RLockNested(level int) {
	if Enabled {
		acquire(key{typ: reflect.TypeFor[Class](), level: level}, m, reading)
	}
	m.mu.RLock()
}

// TryRLock locks m for reading if that needs no waiting; see [Mutex.TryLock].
func (m *RWMutex[Class]) TryRLock() bool {
	ok := m.mu.TryRLock()
	if Enabled && ok {
		acquire(key{typ: reflect.TypeFor[Class]()}, m, trying)
	}
	return ok
}

// RUnlock undoes RLock, on the same goroutine.
func (m *RWMutex[Class]) RUnlock() {
	if Enabled {
		release(key{typ: reflect.TypeFor[Class]()}, m, nil)
	}
	m.mu.RUnlock()
}

// AssertHeld reports, with the validator, that the calling goroutine holds m
// neither for reading nor for writing.
func (m *RWMutex[Class]) AssertHeld() {
	if Enabled {
		assertHeld(key{typ: reflect.TypeFor[Class]()}, m, m.dep.getHolder())
	}
}
