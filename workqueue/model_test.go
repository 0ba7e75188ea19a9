package workqueue_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/fabrid/fabrid/workqueue"
)

// An op is a step of a random script. Steps happen at virtual times, so works,
// delays and waits overlap in every way that the times allow.
type op struct {
	Kind string
	Item int           // which work
	D    time.Duration // of a delay, or before the next step
	N    int           // of MaxActive
}

const modelItems = 4

func drawScript(t *rapid.T) []op {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) op {
		return op{
			Kind: rapid.SampledFrom([]string{
				"queue", "queue", "queue", "queue", "pass", "pass", "flush", "flush work", "cancel",
				"cancel sync", "queue after", "mod after", "barrier", "cancel barrier", "max active",
			}).Draw(t, "kind"),
			Item: rapid.IntRange(0, modelItems-1).Draw(t, "item"),
			D:    time.Duration(rapid.IntRange(0, 8).Draw(t, "d")) * time.Second,
			N:    rapid.IntRange(1, 3).Draw(t, "n"),
		}
	}), 1, 40).Draw(t, "script")
}

// A model runs a script and checks the queue against what it promises. The
// checks are inequalities over counters, which must hold however goroutines of
// one virtual moment are ordered.
type model struct {
	q     *workqueue.Queue
	items [modelItems]*modelItem

	mu        sync.Mutex // guards below and the items
	maxActive int
	running   int
	limit     int // running may not be more: maxActive, or what ran when it was lowered
	faults    []string
}

type modelItem struct {
	workqueue.Work
	accepted  int  // queueings that were taken
	canceled  int  // those of them that were taken back
	ended     int  // runs
	running   bool // a run has begun
	delayed   bool // the last queueing may not be pending yet
	canceling int  // calls of CancelSync in progress
}

func (m *model) fault(format string, args ...any) {
	m.faults = append(m.faults, fmt.Sprintf(format, args...))
}

func newModel(durations []int, maxActive int) *model {
	m := &model{
		q:         workqueue.New(workqueue.Config{Name: "model", MaxActive: maxActive}),
		maxActive: maxActive,
		limit:     maxActive,
	}
	for i := range m.items {
		it := new(modelItem)
		m.items[i] = it
		d := time.Duration(durations[i]) * time.Second
		it.Init("model.item", func() {
			m.mu.Lock()
			if it.running {
				m.fault("item %d runs twice at a time", i)
			}
			it.running, it.delayed = true, false
			if m.running++; m.running > m.limit {
				m.fault("%d works run, at most %d should", m.running, m.limit)
			}
			m.mu.Unlock()
			if d > 0 {
				time.Sleep(d)
			}
			m.mu.Lock()
			it.running = false
			it.ended++
			m.running--
			m.limit = max(m.maxActive, m.running)
			m.mu.Unlock()
		})
	}
	return m
}

// due returns how many queueings of each item must have ended, in a run or a
// cancel, once all that is pending or running now has. The end of a delay is
// out of the model's sight, so what is delayed does not count.
func (m *model) due() (due [modelItems]int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, it := range m.items {
		due[i] = it.accepted
		if it.delayed {
			due[i]--
		}
	}
	return due
}

// checkDue reports which of the items are behind. A CancelSync in progress may
// have taken one queueing back and not said so.
func (m *model) checkDue(what string, due [modelItems]int, items ...int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, i := range items {
		it := m.items[i]
		if got := it.ended + it.canceled + it.canceling; got < due[i] {
			m.fault("%s was over when item %d had ended %d times, want %d", what, i, got, due[i])
		}
	}
}

// step takes one step. It holds mu while it queues, so that no run is seen
// before its queueing is counted.
func (m *model) step(o op, waits *sync.WaitGroup, b *barriers) {
	it, due := m.items[o.Item], m.due()
	all := []int{0, 1, 2, 3}
	switch o.Kind {
	case "pass":
		time.Sleep(o.D)
		return
	case "cancel sync":
		m.mu.Lock()
		it.canceling++
		m.mu.Unlock()
		waits.Go(func() {
			canceled := it.CancelSync()
			m.mu.Lock()
			defer m.mu.Unlock()
			it.canceling--
			if canceled {
				it.canceled++
				it.delayed = false
			}
		})
		return
	case "flush":
		waits.Go(func() {
			m.q.Flush()
			m.checkDue("flush", due, all...)
		})
		return
	case "flush work":
		waits.Go(func() {
			it.Flush()
			m.checkDue("flush of work", due, o.Item)
		})
		return
	case "barrier":
		b.add(m.q, func() { m.checkDue("barrier", due, all...) })
		return
	case "cancel barrier":
		b.cancel(o.Item)
		return
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	switch o.Kind {
	case "queue":
		if m.q.Queue(&it.Work) {
			it.accepted++
		}
	case "queue after":
		if m.q.QueueAfter(&it.Work, o.D) {
			it.accepted++
			it.delayed = o.D > 0
		}
	case "mod after":
		if m.q.ModAfter(&it.Work, o.D) {
			it.canceled++
		}
		if it.canceling == 0 {
			it.accepted++
			it.delayed = o.D > 0
		}
	case "cancel":
		if it.Cancel() {
			it.canceled++
			it.delayed = false
		}
	case "max active":
		m.maxActive, m.limit = o.N, max(o.N, m.running)
		if err := m.q.SetMaxActive(o.N); err != nil {
			m.fault("%v", err)
		}
	default:
		m.fault("no step %q", o.Kind)
	}
}

// run plays the script in the bubble of the caller. All that can happen at one
// moment has happened before the next step.
func (m *model) run(script []op) {
	var waits sync.WaitGroup
	var b barriers
	for _, o := range script {
		synctest.Wait()
		m.step(o, &waits, &b)
	}
	waits.Wait()
	time.Sleep(time.Minute) // all delays end
	m.q.Drain()
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, it := range m.items {
		if it.ended+it.canceled != it.accepted || it.Busy() {
			m.fault("item %d: %d queueings, of which %d ran and %d were cancelled; busy %t",
				i, it.accepted, it.ended, it.canceled, it.Busy())
		}
	}
	if b.called != b.waiting {
		m.fault("%d barriers called, want %d", b.called, b.waiting)
	}
}

// barriers are those of a script.
type barriers struct {
	list    []*workqueue.Barrier
	waiting int // in all, less those that were cancelled

	mu     sync.Mutex
	called int // guarded by mu
}

func (b *barriers) add(q *workqueue.Queue, check func()) {
	x := new(workqueue.Barrier)
	x.Init("model.barrier", func() {
		check()
		b.mu.Lock()
		defer b.mu.Unlock()
		b.called++
	})
	q.FlushAsync(x)
	b.list = append(b.list, x)
	b.waiting++
}

func (b *barriers) cancel(i int) {
	if len(b.list) > 0 && b.list[i%len(b.list)].Cancel() {
		b.waiting--
	}
}

func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		script := drawScript(rt)
		durations := rapid.SliceOfN(rapid.IntRange(0, 5), modelItems, modelItems).Draw(rt, "durations")
		maxActive := rapid.IntRange(1, 3).Draw(rt, "max active")
		var faults []string
		bubble(t, func(*testing.T) {
			m := newModel(durations, maxActive)
			defer m.q.Destroy()
			m.run(script)
			faults = m.faults
		})
		if len(faults) > 0 {
			rt.Fatalf("%q", faults)
		}
	})
}
