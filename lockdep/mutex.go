package lockdep

import (
	"reflect"
	"sync"
)

// A Mutex is a [sync.Mutex] with a class. The zero value is an unlocked mutex
// of level 0. It must not be copied after first use. It is a [sync.Locker], so
// it serves a [sync.Cond].
type Mutex[Class any] struct {
	dep lockState // first: a field of size zero at the end would be padded
	mu  sync.Mutex
}

// Lock locks m. With the validator it reports, before it can block, a lock that
// may deadlock with the order seen so far, and a second lock of the class and
// level that the goroutine already holds.
func (m *Mutex[Class]) Lock() {
	if Enabled {
		m.lockNested(0)
		return
	}
	m.mu.Lock()
}

// LockNested is Lock at a nesting level, for the case where locks of one class
// are held together by design, in a known order: a listener's and then, one
// level down, that of a connection of it. Class and level together are the
// class that the validator sees; level 0 is what Lock uses.
func (m *Mutex[Class]) LockNested(level int) {
	if Enabled {
		m.lockNested(level)
		return
	}
	m.mu.Lock()
}

func (m *Mutex[Class]) lockNested(level int) {
	h := acquire(key{typ: reflect.TypeFor[Class](), level: level}, m, blocking)
	m.mu.Lock()
	m.dep.setHolder(h)
}

// TryLock locks m if that needs no waiting, and tells whether it did. What does
// not wait cannot deadlock, so it may break the order; what is locked next,
// while m is held, is checked as usual.
func (m *Mutex[Class]) TryLock() bool {
	ok := m.mu.TryLock()
	if Enabled && ok {
		m.dep.setHolder(acquire(key{typ: reflect.TypeFor[Class]()}, m, trying))
	}
	return ok
}

// Unlock unlocks m. Unlike sync's it must be called by the goroutine that
// locked m, or took it over; the validator reports others.
func (m *Mutex[Class]) Unlock() {
	if Enabled {
		m.unlock()
		return
	}
	m.mu.Unlock()
}

func (m *Mutex[Class]) unlock() {
	release(key{typ: reflect.TypeFor[Class]()}, m, m.dep.getHolder())
	m.dep.setHolder(nil)
	m.mu.Unlock()
}

// HandOver gives up the calling goroutine's hold of m and leaves m locked, for
// the goroutine that calls TakeOver and will unlock it. What passes m's
// ownership between them must order the two calls, as a channel does.
func (m *Mutex[Class]) HandOver() {
	if Enabled {
		release(key{typ: reflect.TypeFor[Class]()}, m, m.dep.getHolder())
	}
}

// TakeOver makes the calling goroutine the holder of m, which another has
// locked and handed over. It does not wait, so it adds no order before m.
func (m *Mutex[Class]) TakeOver() {
	if Enabled {
		k := key{typ: reflect.TypeFor[Class]()}
		if h := m.dep.getHolder(); h != nil {
			k = h.class.key // with the level it was locked at
		}
		m.dep.setHolder(acquire(k, m, trying))
	}
}

// AssertHeld reports, with the validator, that the calling goroutine does not
// hold m. It stands at the top of functions whose callers must.
func (m *Mutex[Class]) AssertHeld() {
	if Enabled {
		assertHeld(key{typ: reflect.TypeFor[Class]()}, m, m.dep.getHolder())
	}
}
