package lockdep

import "reflect"

// A Map stands for something that goroutines wait for and that is not a lock:
// a work item, a whole workqueue, an event loop that is posted to. Those who
// must run for the wait to end hold the Map while they run; those who wait
// touch it. That is enough for the validator to find a wait that cannot end,
// even if the two never met in time:
//
//	// on the loop's goroutine, around what it runs
//	loop.dep.Acquire()
//	task()
//	loop.dep.Release()
//
//	// whoever posts a task and waits for it, before the wait
//	loop.dep.Touch()
//
// The class of a Map is its type parameter, and its name if Init gave it one:
// that is for things whose roles are known at run time only. Any number of
// goroutines may hold one Map. The zero value is ready to use. Without the
// validator a Map has size zero and its methods do nothing.
type Map[Class any] struct {
	dep mapState
}

// Init makes name a part of m's class: Maps with the same type parameter and
// the same name are of one class. It is called before m is used.
func (m *Map[Class]) Init(name string) {
	m.dep.setName(name)
}

// Acquire says that from here on, until Release, the calling goroutine does
// what others may wait for. It reports as [Mutex.Lock] does, and never blocks.
func (m *Map[Class]) Acquire() {
	if Enabled {
		acquire(key{typ: reflect.TypeFor[Class](), name: m.dep.getName()}, m, sharing)
	}
}

// Release ends what Acquire began, on the same goroutine.
func (m *Map[Class]) Release() {
	if Enabled {
		release(key{typ: reflect.TypeFor[Class](), name: m.dep.getName()}, m, nil)
	}
}

// Touch says that the calling goroutine is about to wait for those who hold m.
// It is called before the wait, whether or not there is something to wait for:
// the order is what counts.
func (m *Map[Class]) Touch() {
	if Enabled {
		acquire(key{typ: reflect.TypeFor[Class](), name: m.dep.getName()}, m, touching)
	}
}

// AcquireAlone is Acquire for a Map that one goroutine at a time can hold,
// because what it stands for is one goroutine, such as an event loop. Who waits
// there keeps all that is to be done there from being done; see [Map.End].
func (m *Map[Class]) AcquireAlone() {
	if Enabled {
		acquire(key{typ: reflect.TypeFor[Class](), name: m.dep.getName()}, m, blocking)
	}
}

// End says that the calling goroutine is about to let go those who wait for m,
// or some of them. They have waited for it to come here, and so may hold none of
// the locks that it holds now, nor be what it holds alone. Acquire, if the
// goroutine knows its duty from before, says more.
func (m *Map[Class]) End() {
	if Enabled {
		end(key{typ: reflect.TypeFor[Class](), name: m.dep.getName()}, m)
	}
}
