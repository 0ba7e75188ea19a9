//go:build lockdep

package lockdep_test

import (
	"fmt"
	"strings"
	"sync"

	"github.com/fabrid/fabrid/lockdep"
)

type (
	ctrlLock  struct{}
	queueLock struct{}
	bdevLock  struct{}
	loopMap   struct{}
	eventMap  struct{}
	doneEvent struct{}
	helpers   struct{}

	workCompletion struct{}
)

func (workCompletion) String() string { return "work_completion" }

// A watch collects what a validator of its own reports.
type watch struct {
	*lockdep.Validator
	mu      sync.Mutex
	reports []*lockdep.Report
}

func newWatch() *watch {
	w := new(watch)
	w.Validator = lockdep.NewValidator(lockdep.Config{Report: func(r *lockdep.Report) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.reports = append(w.reports, r)
	}})
	return w
}

// take returns the reports since the last call, one line each.
func (w *watch) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var lines []string
	for _, r := range w.reports {
		lines = append(lines, fmt.Sprint(r.Kind, ": ", strings.Join(r.Classes, " -> ")))
	}
	w.reports = nil
	return lines
}

func circular(classes ...string) string {
	return fmt.Sprint(lockdep.Circular, ": ", strings.Join(classes, " -> "))
}

func recursive(class string) string { return fmt.Sprint(lockdep.Recursive, ": ", class) }
func notHeld(class string) string   { return fmt.Sprint(lockdep.NotHeld, ": ", class) }
func stillHeld(classes ...string) string {
	return fmt.Sprint(lockdep.StillHeld, ": ", strings.Join(classes, " -> "))
}

const (
	ctrlName  = "lockdep_test.ctrlLock"
	queueName = "lockdep_test.queueLock"
	bdevName  = "lockdep_test.bdevLock"
	loopName  = "lockdep_test.loopMap"
	eventName = "lockdep_test.eventMap"
)
