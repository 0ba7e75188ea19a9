package lockdep

import "sync"

// A Completion is an event that happens once and that goroutines wait for, as
// Linux's completion with complete_all. The zero value has not happened. It
// must not be copied after first use. It works in a synctest bubble: waiting
// blocks on a channel.
//
// The waiters wait for all that the completer does before. What it holds when
// it calls Complete the validator sees; what it takes and gives back on its way
// there must be declared: the completer's goroutine calls Acquire when it takes
// on the duty, and Release when it is done with it.
type Completion[Class any] struct {
	dep Map[Class] // first: a field of size zero at the end would be padded
	mu  sync.Mutex // guards below; nothing is locked or waited for under it

	done      chan struct{} // made when first asked for
	completed bool
}

// Complete lets all waiters go, now and later. Further calls do nothing. It
// may be called by any goroutine and does not block.
func (c *Completion[Class]) Complete() {
	c.mu.Lock()
	if c.completed {
		c.mu.Unlock()
		return
	}
	c.completed = true
	if c.done != nil { // else nobody waits yet
		close(c.done)
	}
	c.mu.Unlock()
	c.dep.End()
}

// Completed tells whether Complete has been called.
func (c *Completion[Class]) Completed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.completed
}

// Wait returns once Complete has been called.
func (c *Completion[Class]) Wait() {
	if c.Completed() {
		c.dep.Touch()
		return
	}
	<-c.Done()
}

// Done returns a channel that Complete closes, for a wait with others in a
// select. For the validator the call itself is the wait: it is made where the
// caller waits, with the locks held that it will wait with.
func (c *Completion[Class]) Done() <-chan struct{} {
	c.dep.Touch()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.completed {
			close(c.done)
		}
	}
	return c.done
}

// Acquire says that the calling goroutine is the one that waiters wait for,
// until it calls Release. Locks it takes meanwhile may not be held by a waiter.
func (c *Completion[Class]) Acquire() { c.dep.Acquire() }

// Release ends what Acquire began, on the same goroutine.
func (c *Completion[Class]) Release() { c.dep.Release() }
