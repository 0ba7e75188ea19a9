//go:build lockdep

package workqueue_test

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/workqueue"
)

type (
	handlerLock struct{}
	listLock    struct{}
)

const (
	handlerName = "workqueue_test.handlerLock"
	listName    = "workqueue_test.listLock"
)

// A watch is a validator that collects reports.
type watch struct {
	*lockdep.Validator
	mu   sync.Mutex
	seen []string // kind and classes
	text []string
}

func newWatch() *watch {
	w := new(watch)
	w.Validator = lockdep.NewValidator(lockdep.Config{Report: func(r *lockdep.Report) {
		w.mu.Lock()
		defer w.mu.Unlock()
		kind := map[lockdep.Kind]string{
			lockdep.Circular: "circular", lockdep.Recursive: "recursive",
			lockdep.NotHeld: "not held", lockdep.StillHeld: "still held",
		}[r.Kind]
		w.seen = append(w.seen, kind+": "+strings.Join(r.Classes, " -> "))
		w.text = append(w.text, r.Error())
	}})
	return w
}

func (w *watch) check(t *testing.T, want ...string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.seen, want) {
		t.Errorf("reports %q, want %q", w.seen, want)
	}
	w.seen = nil
}

// watched runs f in a bubble, with queue q in a validator of its own.
func watched(t *testing.T, f func(w *watch, q *workqueue.Queue)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatch()
		w.Run(func() {
			q := workqueue.New(workqueue.Config{Name: "delete"})
			f(w, q)
			q.Destroy()
		})
	})
}

// Who flushes a queue holding a lock that a work takes is reported, in either
// order, though no two of them ever run at once.
func TestFlushUnderLock(t *testing.T) {
	const cycle = `circular: (wq_completion)"delete" -> (work_completion)"release" -> ` + handlerName
	const short = `circular: (work_completion)"release" -> ` + handlerName
	const shortReverse = `circular: ` + handlerName + ` -> (work_completion)"release"`
	const reverse = `circular: ` + handlerName + ` -> (wq_completion)"delete" -> (work_completion)"release"`
	for _, tc := range []struct {
		name  string
		flush func(q *workqueue.Queue, w *workqueue.Work)
		late  string // report when the work has taken the lock before
		early string // report when it takes it afterwards
	}{
		{"flush", func(q *workqueue.Queue, w *workqueue.Work) { q.Flush() }, cycle, reverse},
		{"drain", func(q *workqueue.Queue, w *workqueue.Work) { q.Drain() }, cycle, reverse},
		{"flush of a work", func(q *workqueue.Queue, w *workqueue.Work) { w.Flush() }, cycle, shortReverse},
		{"cancel-sync", func(q *workqueue.Queue, w *workqueue.Work) { w.CancelSync() }, short, shortReverse},
		{"cancel", func(q *workqueue.Queue, w *workqueue.Work) { w.Cancel() }, "", ""},
		{"barrier", func(q *workqueue.Queue, w *workqueue.Work) {
			var b workqueue.Barrier
			b.Init("b", func() {})
			q.FlushAsync(&b)
		}, "", ""},
	} {
		check := func(w *watch, want string) {
			t.Helper()
			if want == "" {
				w.check(t)
				return
			}
			// A flush of a work has two ways to wait; each closes a cycle.
			w.mu.Lock()
			defer w.mu.Unlock()
			if !slices.Contains(w.seen, want) {
				t.Errorf("%s: reports %q, want %q", tc.name, w.seen, want)
			}
			w.seen = nil
		}
		var handler lockdep.Mutex[handlerLock]
		watched(t, func(w *watch, q *workqueue.Queue) {
			release := newWork("release", func() {
				handler.Lock()
				defer handler.Unlock()
			})
			q.Queue(release)
			q.Flush()
			handler.Lock()
			tc.flush(q, release)
			handler.Unlock()
			check(w, tc.late)
		})
		watched(t, func(w *watch, q *workqueue.Queue) {
			release := newWork("release", func() {
				handler.Lock()
				defer handler.Unlock()
			})
			idle := newWork("release", func() {})
			q.Queue(idle) // so that the validator knows where it goes
			q.Flush()
			handler.Lock()
			tc.flush(q, idle)
			handler.Unlock()
			w.check(t)
			q.Queue(release)
			q.Flush()
			check(w, tc.early)
		})
	}
}

// The report that made Linux's nvmet-rdma use a private workqueue, in small: a
// listener's handler lock, a connection's inside it, a flush inside both, and a
// work that takes the handler lock.
func TestCycleOfFour(t *testing.T) {
	watched(t, func(w *watch, q *workqueue.Queue) {
		cm := workqueue.New(workqueue.Config{Name: "ib_cm"})
		var listener, conn lockdep.Mutex[handlerLock]
		release := newWork("queue.release", func() {
			conn.Lock() // as destroying the id does
			defer conn.Unlock()
		})
		connect := newWork("cm.work", func() {
			listener.Lock()
			defer listener.Unlock()
			conn.LockNested(1)
			defer conn.Unlock()
			q.Flush()
		})
		cm.Queue(connect)
		cm.Flush()
		q.Queue(release)
		q.Flush()
		w.check(t, "circular: "+strings.Join([]string{
			handlerName, handlerName + "/1", `(wq_completion)"delete"`, `(work_completion)"queue.release"`,
		}, " -> "))
		for _, want := range []string{
			`-> #3 (work_completion)"queue.release"`,
			`-> #2 (wq_completion)"delete"`, "TestCycleOfFour",
			"-> #1 " + handlerName + "/1",
			"-> #0 " + handlerName,
		} {
			if !strings.Contains(w.text[0], want) {
				t.Errorf("report lacks %q:\n%s", want, w.text[0])
			}
		}
		cm.Destroy()
	})
}

// Queueing under a lock that the work takes is no wait: nothing to report.
func TestQueueUnderLock(t *testing.T) {
	watched(t, func(w *watch, q *workqueue.Queue) {
		var handler lockdep.Mutex[handlerLock]
		release := newWork("release", func() {
			handler.Lock()
			defer handler.Unlock()
		})
		handler.Lock()
		q.Queue(release)
		q.QueueAfter(newWork("later", func() {}), time.Second)
		q.Stats()
		handler.Unlock()
		time.Sleep(2 * time.Second)
		q.Drain()
		w.check(t)
	})
}

// A barrier's function is part of what a flush waits for.
func TestBarrierUnderLock(t *testing.T) {
	watched(t, func(w *watch, q *workqueue.Queue) {
		var handler lockdep.Mutex[handlerLock]
		var b workqueue.Barrier
		b.Init("connect", func() {
			handler.Lock()
			defer handler.Unlock()
		})
		q.FlushAsync(&b)
		q.Drain()
		handler.Lock()
		q.Flush()
		handler.Unlock()
		w.check(t, `circular: (wq_completion)"delete" -> (flush_barrier)"connect" -> `+handlerName)
	})
}

// A flush of its own queue from a work is a report beside the panic.
func TestFlushFromInsideIsReported(t *testing.T) {
	watched(t, func(w *watch, q *workqueue.Queue) {
		var self workqueue.Work
		self.Init("self", func() {
			wantPanic(t, "it would wait for its own queue", q.Flush)
			wantPanic(t, "it would wait for its own queue", func() { self.Flush() })
			wantPanic(t, "it would wait for itself", func() { self.CancelSync() })
		})
		q.Queue(&self)
		q.Drain()
		w.check(t, `recursive: (wq_completion)"delete"`, `recursive: (work_completion)"self"`)
	})
}

// Two queues whose works flush each other's deadlock when they meet.
func TestMutualFlush(t *testing.T) {
	watched(t, func(w *watch, q *workqueue.Queue) {
		other := workqueue.New(workqueue.Config{Name: "other"})
		q.Queue(newWork("a", other.Flush))
		q.Flush()
		other.Queue(newWork("b", q.Flush))
		other.Flush()
		w.check(t, `circular: (wq_completion)"delete" -> (work_completion)"a" -> (wq_completion)"other" -> (work_completion)"b"`)
		other.Destroy()
	})
}

// A work that returns with a lock is reported, by name.
func TestLockLeftBehind(t *testing.T) {
	watched(t, func(w *watch, q *workqueue.Queue) {
		var list lockdep.Mutex[listLock]
		q.Queue(newWork("leaves", func() { list.Lock() }))
		q.Drain()
		w.check(t, "still held: "+listName)
		if want := `work "leaves" of queue "delete" has returned`; !strings.Contains(w.text[0], want) {
			t.Errorf("report lacks %q:\n%s", want, w.text[0])
		}
		q.Destroy()
		w.seen = nil // the worker has reported it again at its end
	})
}
