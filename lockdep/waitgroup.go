package lockdep

import "sync"

// A WaitGroup is a [sync.WaitGroup] with a class. The zero value is ready to
// use. It must not be copied after first use.
//
// As with a [Completion], what a goroutine holds when it calls Done is seen,
// and what it does before must be declared: a function started with Go is
// known; any other goroutine that owes a Done calls Acquire when it begins and
// Release at its end.
type WaitGroup[Class any] struct {
	dep Map[Class] // first: a field of size zero at the end would be padded
	wg  sync.WaitGroup
}

// Add adds delta to the counter; see [sync.WaitGroup.Add].
func (g *WaitGroup[Class]) Add(delta int) { g.wg.Add(delta) }

// Done takes one from the counter.
func (g *WaitGroup[Class]) Done() {
	g.dep.End()
	g.wg.Done()
}

// Go runs f in a new goroutine, which waiters wait for. The goroutine belongs
// to the caller's validator.
func (g *WaitGroup[Class]) Go(f func()) {
	if Enabled {
		g.wg.Add(1)
		Go(func() {
			defer g.wg.Done()
			g.dep.Acquire()
			defer g.dep.Release()
			f()
		})
		return
	}
	g.wg.Go(f)
}

// Wait returns once the counter is zero.
func (g *WaitGroup[Class]) Wait() {
	g.dep.Touch()
	g.wg.Wait()
}

// Acquire says that the calling goroutine is one that Wait waits for, until it
// calls Release.
func (g *WaitGroup[Class]) Acquire() { g.dep.Acquire() }

// Release ends what Acquire began, on the same goroutine.
func (g *WaitGroup[Class]) Release() { g.dep.Release() }
