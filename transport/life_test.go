package transport

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/fabrid/fabrid/admission"
	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/workqueue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const lifeTable = `
from to        waiting connecting    live disconnecting releasing   freed
waiting              .          x       .             .         .       x
connecting           .          .       x             x         x       .
live                 .          .       .             x         x       .
disconnecting        .          .       .             .         x       .
releasing            .          .       .             .         .       x
freed                .          .       .             .         .       .
`

func TestLifeTable(t *testing.T) {
	var b strings.Builder
	b.WriteString("\nfrom to       ")
	for to := range numStates {
		fmt.Fprintf(&b, " %7v", to)
	}
	for from := range numStates {
		fmt.Fprintf(&b, "\n%-14v", from)
		for to := range numStates {
			c := "."
			if nextState[from][to] {
				c = "x"
				if to <= from {
					t.Errorf("%v to %v goes back", from, to)
				}
			}
			fmt.Fprintf(&b, " %*s", max(7, len(to.String())), c)
		}
	}
	b.WriteString("\n")
	if b.String() != lifeTable {
		t.Errorf("the table is%swant%s", b.String(), lifeTable)
	}
	if s := numStates.String(); s != "State(6)" {
		t.Errorf("a state out of range is %q", s)
	}
}

// A scene is a life with everything around it, of which the order of events is
// written down.
type scene struct {
	life    Life
	queues  Queues
	budget  *admission.Budget
	delete  *workqueue.Queue
	connect *workqueue.Queue
	gate    Gate
	entered chan error // nil: admitted

	log       []string // of the delete workqueue, read after a flush
	onDrain   func(deadline time.Time)
	onQuiesce func(deadline time.Time)
	orphans   int
}

// newStage makes a scene in which nothing has happened.
func newStage(t *testing.T, limits admission.Config) *scene {
	t.Helper()
	s := &scene{
		budget:  admission.New(limits),
		delete:  workqueue.New(workqueue.Config{Name: "delete"}),
		connect: workqueue.New(workqueue.Config{Name: "connect"}),
		entered: make(chan error, 4),
	}
	t.Cleanup(s.connect.Destroy)
	t.Cleanup(s.delete.Destroy)
	s.gate = Gate{Queues: &s.queues, Delete: s.delete, Connect: s.connect, Budget: s.budget.NewPort(admission.Limits{})}
	return s
}

// newScene makes a scene with an I/O queue that has been admitted.
func newScene(t *testing.T, cfg LifeConfig) *scene {
	t.Helper()
	s := newStage(t, admission.Config{Target: admission.Limits{Queues: 1}})
	cfg.Gate, cfg.Queue = &s.gate, s
	s.life.Init(cfg, Claim{QID: 1, Bytes: 4096})
	if err := s.life.Enter(); err != nil {
		t.Fatal(err)
	}
	if err := <-s.entered; err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *scene) Admitted()         { s.entered <- nil }
func (s *scene) Refused(why error) { s.entered <- why }

func (s *scene) note(what string) {
	n := s.budget.Stats().Used.Queues
	state, _ := s.life.State()
	s.log = append(s.log, fmt.Sprintf("%s %v budget %d", what, state, n))
}

func (s *scene) Drain(deadline time.Time) {
	s.note("drain")
	if s.onDrain != nil {
		s.onDrain(deadline)
	}
}

func (s *scene) Free(orphans int) { s.note(fmt.Sprintf("free, orphans %d,", orphans)) }

// coreQueue is the core's end of a scene.
type coreQueue struct{ s *scene }

func (coreQueue) Receive([]*Request)        {}
func (coreQueue) DataReady(*Request, error) {}
func (coreQueue) Sent(*Request)             {}
func (coreQueue) Down(error)                {}

func (q coreQueue) Quiesce(deadline time.Time) int {
	q.s.note("quiesce")
	if q.s.onQuiesce != nil {
		q.s.onQuiesce(deadline)
	}
	return q.s.orphans
}

func (q coreQueue) Destroy() { q.s.note("destroy") }

func (s *scene) over(t *testing.T) {
	t.Helper()
	if c := s.queues.Counts(); c.Total() != 0 {
		t.Errorf("counts are %+v", c)
	}
	if n := len(s.queues.All()); n != 0 {
		t.Errorf("%d queues are left in the list", n)
	}
	if u := s.budget.Stats().Used; u != (admission.Usage{}) {
		t.Errorf("still charged: %+v", u)
	}
}

func TestReleaseStepsInOrder(t *testing.T) {
	s := newScene(t, LifeConfig{})
	s.orphans = 3
	s.life.SetQueue(coreQueue{s})
	s.life.Move(Live)
	s.life.BeginRelease(errors.New("cable"))
	s.delete.Flush()
	want := []string{
		"drain releasing budget 1",
		"quiesce releasing budget 1",
		"destroy releasing budget 1",
		"free, orphans 3, releasing budget 1",
	}
	if !slices.Equal(s.log, want) {
		t.Errorf("steps\n%s\nwant\n%s", strings.Join(s.log, "\n"), strings.Join(want, "\n"))
	}
	if err := s.life.Cause(); err == nil || err.Error() != "cable" {
		t.Errorf("cause %v", err)
	}
	if b := s.budget.Stats(); b.Used.Queues != 0 || b.Used.Bytes == 0 || b.OrphanedBytes != b.Used.Bytes {
		t.Errorf("with 3 orphans %+v is charged", b)
	}
	s.life.Settled()
	s.life.Settled() // once is enough
	s.over(t)
}

// Whichever comes first, what the core says last or the end of the release, the
// charge is returned once.
func TestOrphansSettleDuringRelease(t *testing.T) {
	s := newScene(t, LifeConfig{})
	s.orphans = 1
	s.onQuiesce = func(time.Time) { s.life.Settled() }
	s.life.SetQueue(coreQueue{s})
	s.life.BeginRelease(nil)
	s.delete.Flush()
	s.over(t)
}

// A core that is opened while the release has begun is destroyed nevertheless.
func TestReleaseFindsAQueueThatWasBeingOpened(t *testing.T) {
	s := newScene(t, LifeConfig{})
	s.onDrain = func(time.Time) { s.life.SetQueue(coreQueue{s}) } // the shard runs to its end
	s.life.BeginRelease(nil)
	s.delete.Flush()
	if !slices.Contains(s.log, "destroy releasing budget 1") {
		t.Errorf("steps %q: the core's end was not destroyed", s.log)
	}
	s.over(t)
}

func TestReleaseWithoutCoreQueue(t *testing.T) {
	s := newScene(t, LifeConfig{})
	s.life.BeginRelease(nil)
	s.delete.Flush()
	if want := []string{"drain releasing budget 1", "free, orphans 0, releasing budget 1"}; !slices.Equal(s.log, want) {
		t.Errorf("steps %q, want %q", s.log, want)
	}
	s.over(t)
}

type racers struct{}

// Whatever causes race, there is one release, with one cause.
func TestReleaseOnce(t *testing.T) {
	for range 200 {
		s := newScene(t, LifeConfig{})
		s.life.SetQueue(coreQueue{s})
		var wg lockdep.WaitGroup[racers]
		start := make(chan struct{})
		left := make([]bool, 4)
		for i := range left {
			wg.Go(func() {
				<-start
				cause := fmt.Errorf("cause %d", i)
				s.life.Move(Live)
				left[i] = s.life.Leave(cause)
				s.life.BeginRelease(cause)
			})
		}
		close(start)
		wg.Wait()
		s.delete.Flush()
		if len(s.log) != 4 {
			t.Fatalf("steps %q", s.log)
		}
		leavers := 0
		for i, did := range left {
			if did {
				leavers++
				if got, want := s.life.Cause().Error(), fmt.Sprintf("cause %d", i); got != want {
					t.Errorf("cause %q, the one who left says %q", got, want)
				}
			}
		}
		if leavers > 1 || s.life.Cause() == nil {
			t.Errorf("%d left, cause %v", leavers, s.life.Cause())
		}
		s.over(t)
	}
}

func TestDeadlinesAndAges(t *testing.T) {
	for _, c := range []struct {
		cfg            LifeConfig
		drain, quiesce time.Duration
	}{
		{LifeConfig{}, DefaultDrainTimeout, DefaultQuiesceTimeout},
		{LifeConfig{DrainTimeout: time.Minute, QuiesceTimeout: time.Hour}, time.Minute, time.Hour},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newScene(t, c.cfg)
			s.life.SetQueue(coreQueue{s})
			time.Sleep(3 * time.Second)
			if state, age := s.life.State(); state != Connecting || age != 3*time.Second {
				t.Errorf("%v for %v", state, age)
			}
			s.onDrain = func(deadline time.Time) {
				if d := time.Until(deadline); d != c.drain {
					t.Errorf("drain has %v, want %v", d, c.drain)
				}
				time.Sleep(time.Until(deadline)) // all of it
			}
			s.onQuiesce = func(deadline time.Time) {
				if d := time.Until(deadline); d != c.quiesce {
					t.Errorf("quiesce has %v, want %v", d, c.quiesce)
				}
			}
			s.life.BeginRelease(nil)
			time.Sleep(c.drain / 2)
			if state, age := s.life.State(); state != Releasing || age != c.drain/2 {
				t.Errorf("%v for %v", state, age)
			}
			if n := s.queues.Counts(); n.Releasing != 1 || n.Total() != 1 {
				t.Errorf("counts %+v while releasing", n)
			}
			s.delete.Flush()
			s.over(t)
		})
	}
}

// The release stands on the workqueue alone: it makes progress without memory,
// and so does letting in who waits for its room.
func TestReleaseDoesNotAllocate(t *testing.T) {
	if lockdep.Enabled {
		t.Skip("the validator allocates")
	}
	const lives = 64
	s := newStage(t, admission.Config{Target: admission.Limits{Queues: 2}})
	s.gate.Wait = time.Minute
	all := make([]*guest, lives+3)
	for i := range all {
		all[i] = s.guest(Claim{Host: hostN(byte(i % 3))})
		if err := all[i].Enter(); err != nil {
			t.Fatal(err)
		}
	}
	next := func() *guest {
		for {
			for i, g := range all {
				if g != nil && len(g.entered) == 1 {
					all[i] = nil
					return g
				}
			}
			runtime.Gosched()
		}
	}
	g := next()
	cause := &Cause{"test", "test"}
	s.queues.released(cause) // the first of its word makes room for it
	if n := testing.AllocsPerRun(lives, func() { g.BeginRelease(cause); g = next() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	for range 2 {
		g.BeginRelease(cause)
		s.delete.Flush()
		s.connect.Flush()
		if s.budget.Stats().Used.Queues > 0 {
			g = next()
		}
	}
	s.over(t)
}
