package shard

import "sync/atomic"

// A Task is a piece of work that can be posted to a shard. It is part of what
// it works on, so that posting allocates nothing. The zero value with Fn set is
// ready; Fn does not change while the task is posted.
type Task struct {
	// Fn runs on the shard. The task may be posted again from within it.
	Fn func()

	next   *Task
	posted atomic.Bool
}

// An inbox is a queue that any goroutine may push to and one takes from.
type inbox struct{ head atomic.Pointer[Task] }

func (b *inbox) push(t *Task) {
	for {
		h := b.head.Load()
		t.next = h
		if b.head.CompareAndSwap(h, t) {
			return
		}
	}
}

// take empties the inbox and returns its tasks, first posted first.
func (b *inbox) take() *Task {
	if b.head.Load() == nil {
		return nil
	}
	var first *Task
	for t := b.head.Swap(nil); t != nil; {
		next := t.next
		t.next, first = first, t
		t = next
	}
	return first
}
