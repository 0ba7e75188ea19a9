//go:build lockdep

package lockdep_test

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/fabrid/fabrid/lockdep"
)

// inOrder locks in the order given and unlocks in reverse.
func inOrder(locks ...sync.Locker) func() {
	return func() {
		for _, l := range locks {
			l.Lock()
			defer l.Unlock()
		}
	}
}

// A nested is a lock at a nesting level.
type nested struct {
	lock  func(int)
	level int
	free  func()
}

func (n nested) Lock()   { n.lock(n.level) }
func (n nested) Unlock() { n.free() }

// Each step runs with what the steps before it have shown, on a goroutine of
// its own: orders are found though the goroutines never meet.
func TestOrder(t *testing.T) {
	var ctrl, ctrl2 lockdep.Mutex[ctrlLock]
	var queue, queue2 lockdep.Mutex[queueLock]
	var bdev lockdep.RWMutex[bdevLock]
	var loop lockdep.Map[loopMap]
	reader := readLocker{bdev.RLock, bdev.RUnlock}
	loopHeld := readLocker{loop.Acquire, loop.Release}
	loopWait := readLocker{loop.Touch, func() {}}
	loopEnd := readLocker{loop.End, func() {}}
	var event lockdep.Map[eventMap]
	eventHeld := readLocker{event.Acquire, event.Release}
	eventAlone := readLocker{event.AcquireAlone, event.Release}
	eventWait := readLocker{event.Touch, func() {}}
	ctrlTried := readLocker{func() { ctrl.TryLock() }, ctrl.Unlock}
	level1 := func(m *lockdep.Mutex[ctrlLock]) sync.Locker { return nested{m.LockNested, 1, m.Unlock} }

	type step struct {
		name string
		run  func()
		want []string
	}
	for _, tc := range []struct {
		name  string
		steps []step
	}{
		{"direct", []step{
			{"ctrl then queue", inOrder(&ctrl, &queue), nil},
			{"the same again", inOrder(&ctrl, &queue), nil},
			{"other objects, same classes", inOrder(&ctrl2, &queue2), nil},
			{"reverse", inOrder(&queue2, &ctrl), []string{circular(ctrlName, queueName)}},
			{"reverse is reported once", inOrder(&queue, &ctrl2), nil},
			{"the first order still stands", inOrder(&ctrl, &queue), nil},
		}},
		{"through a third", []step{
			{"ctrl then queue", inOrder(&ctrl, &queue), nil},
			{"queue then bdev", inOrder(&queue, &bdev), nil},
			{"all three, in order", inOrder(&ctrl, &queue, &bdev), nil},
			{"bdev then ctrl", inOrder(&bdev, &ctrl), []string{circular(ctrlName, queueName, bdevName)}},
		}},
		{"three at once are ordered pairwise", []step{
			{"all three", inOrder(&ctrl, &queue, &bdev), nil},
			{"last then first", inOrder(&bdev, &ctrl), []string{circular(ctrlName, queueName, bdevName)}},
		}},
		{"two of one class", []step{
			{"queue then queue", inOrder(&queue, &queue2), []string{recursive(queueName)}},
			{"with another between", inOrder(&queue, &bdev, &queue2), nil}, // reported once
		}},
		{"nesting levels", []step{
			{"outer then inner", inOrder(&ctrl, level1(&ctrl2)), nil},
			{"two inner", inOrder(level1(&ctrl), level1(&ctrl2)), []string{recursive(ctrlName + "/1")}},
			{"inner then outer", inOrder(level1(&ctrl), &ctrl2), []string{circular(ctrlName, ctrlName+"/1")}},
		}},
		{"readers are ordered as writers", []step{
			{"queue then read", inOrder(&queue, reader), nil},
			{"read then queue", inOrder(reader, &queue), []string{circular(queueName, bdevName)}},
			{"read twice", inOrder(reader, reader), []string{recursive(bdevName)}},
		}},
		{"waiting for a loop", []step{
			{"the loop takes ctrl", inOrder(loopHeld, &ctrl), nil},
			{"wait with queue held", inOrder(&queue, loopWait), nil},
			{"wait with ctrl held", inOrder(&ctrl, loopWait), []string{circular(loopName, ctrlName)}},
			{"the loop waits for itself", inOrder(loopHeld, loopWait), []string{recursive(loopName)}},
			{"queue before loop before ctrl", inOrder(&ctrl, &queue), []string{circular(queueName, loopName, ctrlName)}},
		}},
		{"a loop is acquired without waiting", []step{
			{"ctrl then the loop", inOrder(&ctrl, loopHeld), nil},
			{"the loop takes ctrl", inOrder(loopHeld, &ctrl), nil},
			{"a wait with ctrl held", inOrder(&ctrl, loopWait), []string{circular(loopName, ctrlName)}},
		}},
		{"a lock held outside a loop comes before those inside", []step{
			{"ctrl, the loop, bdev", inOrder(&ctrl, loopHeld, &bdev), nil},
			{"bdev then ctrl", inOrder(&bdev, &ctrl), []string{circular(ctrlName, bdevName)}},
		}},
		{"but who waits for the outer one waits for the inner", []step{
			{"both, with a lock between", inOrder(loopHeld, &queue, eventHeld), nil},
			{"the inner one waits for the outer", inOrder(eventHeld, loopWait), []string{circular(loopName, eventName)}},
		}},
		{"what is taken inside both is taken once", []step{
			{"both, and ctrl", inOrder(loopHeld, eventHeld, &ctrl), nil},
			{"wait with ctrl held", inOrder(&ctrl, loopWait), []string{circular(loopName, eventName, ctrlName)}},
			{"for the inner too", inOrder(&ctrl, eventWait), []string{circular(eventName, ctrlName)}},
		}},
		{"an end waits for what it needed", []step{
			{"an end with ctrl held", inOrder(&ctrl, loopEnd), nil},
			{"and with queue and ctrl", inOrder(&queue, &ctrl, loopEnd), nil},
			{"a wait with bdev held", inOrder(&bdev, loopWait), nil},
			{"a wait with queue held", inOrder(&queue, loopWait), []string{circular(loopName, queueName)}},
			{"bdev before ctrl, by way of the loop", inOrder(&ctrl, &bdev), []string{circular(bdevName, loopName, ctrlName)}},
		}},
		{"an end found late", []step{
			{"a wait with ctrl held", inOrder(&ctrl, loopWait), nil},
			{"an end with ctrl tried", inOrder(ctrlTried, loopEnd), nil},
			{"an end with ctrl held", inOrder(&ctrl, loopEnd), []string{circular(ctrlName, loopName)}},
		}},
		{"an end by one of many", []step{
			{"an end inside an event", inOrder(eventHeld, loopEnd), nil},
			{"a wait inside an event", inOrder(eventHeld, loopWait), nil},
		}},
		{"an end by one alone", []step{
			{"an end inside an event", inOrder(eventAlone, loopEnd), nil},
			{"a wait inside an event", inOrder(eventAlone, loopWait), []string{circular(loopName, eventName)}},
			{"an end inside itself", inOrder(readLocker{loop.AcquireAlone, loop.Release}, loopEnd), nil},
		}},
		{"the order found late", []step{
			{"wait with ctrl held", inOrder(&ctrl, loopWait), nil},
			{"the loop takes ctrl", inOrder(loopHeld, &ctrl), []string{circular(ctrlName, loopName)}},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWatch()
			for _, s := range tc.steps {
				done := make(chan struct{})
				w.Go(func() { defer close(done); s.run() })
				<-done
				if got := w.take(); !slices.Equal(got, s.want) {
					t.Errorf("%s: reports %q, want %q", s.name, got, s.want)
				}
			}
		})
	}
}

type readLocker struct{ lock, unlock func() }

func (l readLocker) Lock()   { l.lock() }
func (l readLocker) Unlock() { l.unlock() }

func TestTryLock(t *testing.T) {
	var ctrl, ctrl2 lockdep.Mutex[ctrlLock]
	var queue lockdep.Mutex[queueLock]
	var bdev lockdep.RWMutex[bdevLock]
	w := newWatch()
	w.Run(func() {
		inOrder(&ctrl, &queue)()

		queue.Lock()
		if !ctrl.TryLock() { // the reverse order, but it does not wait
			t.Error("TryLock of a free mutex: false")
		}
		if ctrl.TryLock() {
			t.Error("TryLock of a locked mutex: true")
		}
		if !ctrl2.TryLock() { // two of a class, without waiting
			t.Error("TryLock of a second free mutex: false")
		}
		inOrder(&bdev)() // after ctrl and, though ctrl was only tried, after queue
		ctrl2.Unlock()
		ctrl.Unlock()
		queue.Unlock()
		if got := w.take(); got != nil {
			t.Errorf("reports %q, want none", got)
		}

		if !bdev.TryRLock() {
			t.Error("TryRLock of a free lock: false")
		}
		if bdev.TryLock() {
			t.Error("TryLock of a lock that is read: true")
		}
		bdev.RUnlock()
		if !bdev.TryLock() {
			t.Error("TryLock of a free lock: false")
		}
		inOrder(&ctrl)()
		bdev.Unlock()
		if got, want := w.take(), []string{circular(ctrlName, bdevName)}; !slices.Equal(got, want) {
			t.Errorf("lock after a tried one: reports %q, want %q", got, want)
		}
		inOrder(&bdev, &queue)()
		if got, want := w.take(), []string{circular(queueName, bdevName)}; !slices.Equal(got, want) {
			t.Errorf("order recorded across a tried lock: reports %q, want %q", got, want)
		}
	})
}

func TestUnlockByAnother(t *testing.T) {
	var mu lockdep.Mutex[ctrlLock]
	var rw lockdep.RWMutex[bdevLock]
	elsewhere := func(w *watch, f func()) {
		done := make(chan struct{})
		w.Go(func() { defer close(done); f() })
		<-done
	}
	for _, tc := range []struct {
		name         string
		lock, unlock func()
		want         string
		names        bool // the holder is in the report
	}{
		{"mutex", mu.Lock, mu.Unlock, notHeld(ctrlName), true},
		{"writer", rw.Lock, rw.Unlock, notHeld(bdevName), true},
		{"reader", rw.RLock, rw.RUnlock, notHeld(bdevName), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWatch()
			var text string
			hold := func() {
				tc.lock()
				elsewhere(w, tc.unlock)
				text = w.reports[0].Error()
				if got := w.take(); !slices.Equal(got, []string{tc.want}) {
					t.Errorf("reports %q, want %q", got, tc.want)
				}
			}
			if tc.names {
				w.Run(hold)
				if !strings.Contains(text, "it is held by another goroutine:") || !strings.Contains(text, "TestUnlockByAnother") {
					t.Errorf("report does not name the holder:\n%s", text)
				}
				return
			}
			w.Run(func() {
				hold()
				// A reader's hold cannot be told from the lock; it stays with
				// the goroutine that took it.
			})
			if got, want := w.take(), []string{stillHeld(bdevName)}; !slices.Equal(got, want) {
				t.Errorf("reports at the end %q, want %q", got, want)
			}
		})
	}
}

func TestUnlockTwiceIsReportedFirst(t *testing.T) {
	var m lockdep.Map[loopMap]
	w := newWatch()
	w.Run(func() {
		m.Acquire()
		m.Release()
		m.Release()
	})
	if got, want := w.take(), []string{notHeld(loopName)}; !slices.Equal(got, want) {
		t.Errorf("reports %q, want %q", got, want)
	}
}

func TestHandOver(t *testing.T) {
	var ctrl lockdep.Mutex[ctrlLock]
	var queue lockdep.Mutex[queueLock]
	w := newWatch()
	w.Run(func() {
		ctrl.LockNested(2)
		passed, done := make(chan struct{}), make(chan struct{})
		w.Go(func() {
			defer close(done)
			<-passed
			queue.Lock()
			ctrl.TakeOver() // does not wait: queue is not before ctrl
			ctrl.AssertHeld()
			queue.Unlock()
			inOrder(&queue)() // ctrl, at its level, is before queue
			ctrl.Unlock()
		})
		ctrl.HandOver()
		queue.Lock() // holds nothing: no order
		close(passed)
		queue.Unlock()
		<-done
		if got := w.take(); got != nil {
			t.Errorf("reports %q, want none", got)
		}
		inOrder(&queue, nested{ctrl.LockNested, 2, ctrl.Unlock})()
		if got, want := w.take(), []string{circular(ctrlName+"/2", queueName)}; !slices.Equal(got, want) {
			t.Errorf("reports %q, want %q", got, want)
		}
	})
}

func TestAssertions(t *testing.T) {
	var ctrl lockdep.Mutex[ctrlLock]
	var bdev lockdep.RWMutex[bdevLock]
	w := newWatch()
	w.Run(func() {
		lockdep.AssertNoneHeld("the loop's wait")
		ctrl.Lock()
		ctrl.AssertHeld()
		bdev.RLock()
		bdev.AssertHeld()
		if got := w.take(); got != nil {
			t.Errorf("reports %q, want none", got)
		}
		lockdep.AssertNoneHeld("the loop's wait")
		if got, want := w.take(), []string{stillHeld(ctrlName, bdevName)}; !slices.Equal(got, want) {
			t.Errorf("reports %q, want %q", got, want)
		}
		bdev.RUnlock()
		ctrl.Unlock()
		ctrl.AssertHeld()
		bdev.AssertHeld()
		if got, want := w.take(), []string{notHeld(ctrlName), notHeld(bdevName)}; !slices.Equal(got, want) {
			t.Errorf("reports %q, want %q", got, want)
		}
	})
}

// A completer takes a lock before it completes; a waiter may not hold it.
func TestCompletion(t *testing.T) {
	var ctrl lockdep.Mutex[ctrlLock]
	var c lockdep.Completion[doneEvent]
	w := newWatch()
	w.Run(func() {
		lockdep.Go(func() {
			c.Acquire()
			defer c.Release()
			inOrder(&ctrl)()
			c.Complete()
			c.Complete()
		})
		c.Wait()
		if !c.Completed() {
			t.Error("not completed after Wait")
		}
		ctrl.Lock()
		c.Wait() // long done, but the order is what counts
		<-c.Done()
		ctrl.Unlock()
	})
	if got, want := w.take(), []string{circular("lockdep_test.doneEvent", ctrlName)}; !slices.Equal(got, want) {
		t.Errorf("reports %q, want %q", got, want)
	}
}

func TestWaitGroup(t *testing.T) {
	var ctrl lockdep.Mutex[ctrlLock]
	var g lockdep.WaitGroup[helpers]
	w := newWatch()
	w.Run(func() {
		g.Go(inOrder(&ctrl))
		g.Add(1)
		lockdep.Go(func() {
			defer g.Done()
			g.Acquire()
			defer g.Release()
			inOrder(&ctrl)()
		})
		g.Wait()
		if got := w.take(); got != nil {
			t.Errorf("reports %q, want none", got)
		}
		ctrl.Lock()
		g.Wait()
		ctrl.Unlock()
	})
	if got, want := w.take(), []string{circular("lockdep_test.helpers", ctrlName)}; !slices.Equal(got, want) {
		t.Errorf("reports %q, want %q", got, want)
	}
}

// Who completes under a lock is waited for by those who hold it, though nobody
// has declared it; so is who is done with a group.
func TestCompleterIsSeen(t *testing.T) {
	var ctrl lockdep.Mutex[ctrlLock]
	var c, again lockdep.Completion[doneEvent]
	var g lockdep.WaitGroup[helpers]
	w := newWatch()
	w.Run(func() {
		inOrder(&ctrl, readLocker{c.Complete, func() {}})()
		ctrl.Lock()
		c.Wait()
		ctrl.Unlock()
		if got, want := w.take(), []string{circular("lockdep_test.doneEvent", ctrlName)}; !slices.Equal(got, want) {
			t.Errorf("completion: reports %q, want %q", got, want)
		}
		g.Add(1)
		inOrder(&ctrl, readLocker{g.Done, func() {}})()
		ctrl.Lock()
		g.Wait()
		ctrl.Unlock()
		if got, want := w.take(), []string{circular("lockdep_test.helpers", ctrlName)}; !slices.Equal(got, want) {
			t.Errorf("group: reports %q, want %q", got, want)
		}
	})
	again.Complete()
	w = newWatch()
	w.Run(func() {
		ctrl.Lock()
		again.Wait()
		again.Complete() // nobody waits for that
		ctrl.Unlock()
	})
	if got := w.take(); got != nil {
		t.Errorf("second Complete: reports %q, want none", got)
	}
}

// Maps of one type are told apart by name.
func TestNamedMaps(t *testing.T) {
	var a, a2, b lockdep.Map[workCompletion]
	a.Init("queue.release")
	a2.Init("queue.release")
	b.Init("ctrl.release")
	w := newWatch()
	w.Run(func() {
		inOrder(readLocker{a.Acquire, a.Release}, readLocker{b.Acquire, b.Release})()
		inOrder(readLocker{b.Acquire, b.Release}, readLocker{a2.Touch, func() {}})()
		inOrder(readLocker{a.Acquire, a.Release}, readLocker{a2.Acquire, a2.Release})()
	})
	want := []string{
		circular(`(work_completion)"queue.release"`, `(work_completion)"ctrl.release"`),
		recursive(`(work_completion)"queue.release"`),
	}
	if got := w.take(); !slices.Equal(got, want) {
		t.Errorf("reports %q, want %q", got, want)
	}
}
