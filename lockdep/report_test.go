//go:build lockdep

package lockdep_test

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/fabrid/fabrid/lockdep"
)

// What one validator has seen, another has not; a goroutine belongs to the
// validator that it was started in.
func TestValidatorsAreApart(t *testing.T) {
	var ctrl lockdep.Mutex[ctrlLock]
	var queue lockdep.Mutex[queueLock]
	v, w := newWatch(), newWatch()
	outside := lockdep.Current()
	v.Run(func() {
		if lockdep.Current() != v.Validator {
			t.Error("Current inside Run is another validator")
		}
		inOrder(&ctrl, &queue)()
		w.Run(func() { inOrder(&queue, &ctrl)() })
		w.Run(func() {
			done := make(chan struct{})
			lockdep.Go(func() {
				defer close(done)
				inOrder(&ctrl, &queue)()
			})
			<-done
		})
	})
	if lockdep.Current() != outside {
		t.Error("Current after Run is not what it was before")
	}
	if got := v.take(); got != nil {
		t.Errorf("outer: reports %q, want none", got)
	}
	if got, want := w.take(), []string{circular(queueName, ctrlName)}; !slices.Equal(got, want) {
		t.Errorf("inner: reports %q, want %q", got, want)
	}
}

func TestRunReportsWhatIsStillHeld(t *testing.T) {
	var ctrl lockdep.Mutex[ctrlLock]
	w := newWatch()
	w.Run(ctrl.Lock)
	if got, want := w.take(), []string{stillHeld(ctrlName)}; !slices.Equal(got, want) {
		t.Errorf("reports %q, want %q", got, want)
	}
}

// caught returns what f panics with, as a report.
func caught(f func()) (r *lockdep.Report) {
	defer func() { r, _ = recover().(*lockdep.Report) }()
	f()
	return nil
}

// Without a Report function a report is a panic, each time, before the lock.
func TestPanicIsTheDefault(t *testing.T) {
	var ctrl lockdep.Mutex[ctrlLock]
	var queue lockdep.Mutex[queueLock]
	lockdep.NewValidator(lockdep.Config{}).Run(func() {
		inOrder(&ctrl, &queue)()
		for range 2 {
			r := caught(inOrder(&queue, &ctrl))
			if r == nil || r.Kind != lockdep.Circular {
				t.Fatalf("panic with %v, want a circular report", r)
			}
		}
		if !ctrl.TryLock() {
			t.Fatal("the lock was taken though it was reported")
		}
		ctrl.Unlock()
		inOrder(&ctrl, &queue)()
	})
}

// A goroutine that locks what it has locked would wait for ever, so this
// panics whatever the Report function does.
func TestSelfDeadlockPanics(t *testing.T) {
	var ctrl lockdep.Mutex[ctrlLock]
	var bdev lockdep.RWMutex[bdevLock]
	reader := readLocker{bdev.RLock, bdev.RUnlock}
	for _, tc := range []struct {
		name          string
		first, second sync.Locker
		class         string
	}{
		{"mutex", &ctrl, &ctrl, ctrlName},
		{"writers", &bdev, &bdev, bdevName},
		{"reader, then writer", reader, &bdev, bdevName},
		{"writer, then reader", &bdev, reader, bdevName},
	} {
		w := newWatch()
		w.Run(func() {
			if r := caught(inOrder(tc.first, tc.second)); r == nil || r.Kind != lockdep.Recursive {
				t.Errorf("%s: panic with %v, want a recursive report", tc.name, r)
			}
		})
		if got, want := w.take(), []string{recursive(tc.class)}; !slices.Equal(got, want) {
			t.Errorf("%s: reports %q, want %q", tc.name, got, want)
		}
	}
}

// The report says all there is to know, and little else.
func TestReportText(t *testing.T) {
	var ctrl lockdep.Mutex[ctrlLock]
	var queue lockdep.Mutex[queueLock]
	var bdev lockdep.Mutex[bdevLock]
	w := newWatch()
	w.Run(func() {
		connectHandler := inOrder(&ctrl, &queue)
		connectHandler()
		inOrder(&queue, &bdev)()
		inOrder(&bdev, &ctrl)()
	})
	if len(w.reports) != 1 {
		t.Fatalf("%d reports, want 1", len(w.reports))
	}
	text := w.reports[0].Error()
	rest := text
	for _, want := range []string{
		"lockdep: possible circular locking dependency detected\n",
		"is trying to acquire:\n" + ctrlName,
		"report_test.go:",
		"but it is already holding:\n" + bdevName,
		"-> #2 " + bdevName, "while it held " + queueName,
		"-> #1 " + queueName, "while it held " + ctrlName,
		"inOrder",
		"-> #0 " + ctrlName, "while it holds " + bdevName,
		"holds 1:\n #0: " + bdevName,
	} {
		_, after, ok := strings.Cut(rest, want)
		if !ok {
			t.Fatalf("report lacks %q after what came before; it is:\n%s", want, text)
		}
		rest = after
	}
	for _, not := range []string{"lockdep.(*", "runtime.goexit", "lockdep.acquire"} {
		if strings.Contains(text, not) {
			t.Errorf("report has frames of its own, %q:\n%s", not, text)
		}
	}
}

// The process's validator ends a program that closes a cycle. It takes a
// process of its own to show it, as nothing else may.
func TestProcessValidator(t *testing.T) {
	const env = "LOCKDEP_TEST_CYCLE"
	if os.Getenv(env) != "" {
		var ctrl lockdep.Mutex[ctrlLock]
		var queue lockdep.Mutex[queueLock]
		inOrder(&ctrl, &queue)()
		inOrder(&queue, &ctrl)()
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestProcessValidator$")
	cmd.Env = append(os.Environ(), env+"=1")
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatalf("a cycle did not end the program:\n%s", out)
	}
	for _, want := range []string{"panic: ", "lockdep: possible circular locking dependency detected", "-> #1 " + queueName} {
		if !strings.Contains(string(out), want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
}

// The registry forgets goroutines that hold nothing.
func TestNothingIsLeftBehind(t *testing.T) {
	var ctrl lockdep.Mutex[ctrlLock]
	before := lockdep.Goroutines()
	for range 100 {
		done := make(chan struct{})
		go func() { defer close(done); inOrder(&ctrl)() }()
		<-done
		done = make(chan struct{})
		lockdep.Go(func() { defer close(done); inOrder(&ctrl)() })
		<-done
	}
	// A goroutine of Go leaves its scope after it has closed done, so the last
	// may still be there.
	if after := lockdep.Goroutines(); after > before+1 {
		t.Errorf("%d goroutines remembered, %d before", after, before)
	}
}

// What a goroutine holds when it ends is not held by those that Go begins
// later, though the runtime gives them what it was known by. In a process of
// its own, as it leaves much behind.
func TestHeirsHoldNothing(t *testing.T) {
	const env = "LOCKDEP_TEST_HEIRS"
	if os.Getenv(env) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestHeirsHoldNothing$")
		cmd.Env = append(os.Environ(), env+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v:\n%s", err, out)
		}
		return
	}
	const n = 64
	var locks [n]lockdep.Mutex[ctrlLock]
	var held, all sync.WaitGroup
	held.Add(n)
	all.Add(n)
	for i := range n {
		go func() { // lockdep.Go would report what is held at the end
			defer all.Done()
			locks[i].Lock()
			held.Done()
			held.Wait()
		}()
	}
	all.Wait()
	if got := lockdep.Goroutines(); got != n {
		t.Errorf("%d goroutines remembered, want %d", got, n)
	}
	all.Add(2 * n)
	for range 2 * n {
		lockdep.Go(func() {
			defer all.Done()
			lockdep.AssertNoneHeld("a new goroutine")
		})
	}
	all.Wait()
}

// A report has the number that stack traces show, of each goroutine in it.
func TestReportNumbers(t *testing.T) {
	var ctrl lockdep.Mutex[ctrlLock]
	var queue lockdep.Mutex[queueLock]
	w := newWatch()
	var first, second uint64
	on := func(id *uint64, f func()) {
		done := make(chan struct{})
		w.Go(func() {
			defer close(done)
			*id = lockdep.GoroutineID()
			f()
		})
		<-done
	}
	on(&first, inOrder(&ctrl, &queue))
	on(&second, inOrder(&queue, &ctrl))
	r := w.reports[0]
	if r.Goroutine != second {
		t.Errorf("report of goroutine %d, want %d", r.Goroutine, second)
	}
	for _, want := range []string{
		fmt.Sprintf("goroutine %d is trying to acquire", second),
		fmt.Sprintf("-> #1 %s, by goroutine %d while", queueName, first),
		fmt.Sprintf("-> #0 %s, by goroutine %d while", ctrlName, second),
	} {
		if !strings.Contains(r.Error(), want) {
			t.Errorf("report lacks %q:\n%v", want, r)
		}
	}
}

func BenchmarkWatchedMutex(b *testing.B) {
	var ctrl lockdep.Mutex[ctrlLock]
	n := 0
	for b.Loop() {
		ctrl.Lock()
		n++
		ctrl.Unlock()
	}
}
