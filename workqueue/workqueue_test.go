package workqueue_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/workqueue"
)

// bubble runs f in a synctest bubble and in a lock-order validator of its own,
// as the tests give names, which are classes, as they like.
func bubble(t *testing.T, f func(t *testing.T)) {
	synctest.Test(t, func(t *testing.T) {
		lockdep.NewValidator(lockdep.Config{}).Run(func() { f(t) })
	})
}

func newQueue(t *testing.T, c workqueue.Config) *workqueue.Queue {
	t.Helper()
	q := workqueue.New(c)
	t.Cleanup(q.Destroy)
	return q
}

func newWork(name string, fn func()) *workqueue.Work {
	w := new(workqueue.Work)
	w.Init(name, fn)
	return w
}

// A journal is what happened, in order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(s string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, s)
}

func (j *journal) check(t *testing.T, want ...string) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	if !slices.Equal(j.lines, want) {
		t.Errorf("journal: %q, want %q", j.lines, want)
	}
	j.lines = nil
}

// napping returns a work that takes d, and says so in j.
func (j *journal) napping(name string, d time.Duration) *workqueue.Work {
	return newWork(name, func() {
		j.add(name + " begins")
		time.Sleep(d)
		j.add(name + " ends")
	})
}

// wantPanic checks that f panics with a message that contains want.
func wantPanic(t *testing.T, want string, f func()) {
	t.Helper()
	defer func() {
		t.Helper()
		if got := fmt.Sprint(recover()); !strings.Contains(got, want) {
			t.Errorf("panic %q, want one with %q", got, want)
		}
	}()
	f()
}
