package transport

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/admission"
	"github.com/fabrid/fabrid/workqueue"
)

// A guest is a queue at a scene's gate.
type guest struct {
	Life
	entered chan error // nil: admitted
}

func (g *guest) Admitted()         { g.entered <- nil }
func (g *guest) Refused(why error) { g.entered <- why }
func (g *guest) Drain(time.Time)   {}
func (g *guest) Free(orphans int)  {}
func (g *guest) waiting() bool     { s, _ := g.State(); return s == Waiting }
func hostN(n byte) (h admission.Host) {
	h.Addr = netip.AddrFrom4([4]byte{192, 0, 2, n})
	return h
}

func (s *scene) guest(c Claim) *guest {
	g := &guest{entered: make(chan error, 4)}
	g.Init(LifeConfig{Gate: &s.gate, Queue: g}, c)
	return g
}

// answer returns what became of a guest, which must have been told once.
func (g *guest) answer(t *testing.T) error {
	t.Helper()
	synctest.Wait()
	if len(g.entered) != 1 {
		t.Fatalf("told %d times", len(g.entered))
	}
	return <-g.entered
}

// block keeps the delete workqueue busy until the function is called.
func (s *scene) block() func() {
	done := make(chan struct{})
	w := new(workqueue.Work)
	w.Init("block", func() { <-done })
	s.delete.Queue(w)
	return func() { close(done) }
}

func gateTest(t *testing.T, limits admission.Config, f func(t *testing.T, s *scene)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, limits)
		f(t, s)
		s.delete.Flush()
		s.connect.Flush()
		s.over(t)
	})
}

func TestGateAdmin(t *testing.T) {
	limits := admission.Config{Target: admission.Limits{Queues: 2, Waiting: 2}}
	t.Run("free", func(t *testing.T) {
		gateTest(t, limits, func(t *testing.T, s *scene) {
			g := s.guest(Claim{})
			if err := errors.Join(g.Enter(), g.answer(t)); err != nil {
				t.Fatal(err)
			}
			if state, _ := g.State(); state != Connecting || s.budget.Stats().Used.Queues != 2 {
				t.Errorf("%v, used %+v", state, s.budget.Stats().Used)
			}
			time.Sleep(time.Minute) // what bounded the wait is over
			g.Unreserve()
			if n := s.budget.Stats().Used.Queues; n != 1 {
				t.Errorf("%d queues charged for one without I/O queues", n)
			}
			g.BeginRelease(nil)
		})
	})
	t.Run("deletions first", func(t *testing.T) {
		gateTest(t, limits, func(t *testing.T, s *scene) {
			release := s.block()
			g := s.guest(Claim{})
			if err := g.Enter(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(DefaultWait - 1)
			synctest.Wait()
			if !g.waiting() {
				t.Fatal("does not wait for what is being deleted")
			}
			release()
			if err := g.answer(t); err != nil {
				t.Error(err)
			}
			g.BeginRelease(nil)
		})
	})
	t.Run("deletions have their time", func(t *testing.T) {
		gateTest(t, limits, func(t *testing.T, s *scene) {
			defer s.block()()
			g := s.guest(Claim{})
			if err := g.Enter(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(DefaultWait)
			if err := g.answer(t); err != nil {
				t.Error(err)
			}
			g.BeginRelease(nil)
		})
	})
	t.Run("room comes back", func(t *testing.T) {
		gateTest(t, limits, func(t *testing.T, s *scene) {
			a, b := s.guest(Claim{Host: hostN(1)}), s.guest(Claim{Host: hostN(2)})
			if err := errors.Join(a.Enter(), a.answer(t), b.Enter()); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if !b.waiting() {
				t.Fatal("b is in")
			}
			a.BeginRelease(nil)
			if err := b.answer(t); err != nil {
				t.Error(err)
			}
			b.BeginRelease(nil)
		})
	})
	t.Run("no room", func(t *testing.T) {
		gateTest(t, limits, func(t *testing.T, s *scene) {
			a, b := s.guest(Claim{}), s.guest(Claim{})
			if err := errors.Join(a.Enter(), a.answer(t), b.Enter()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(DefaultWait)
			err := b.answer(t)
			if err == nil || err.Error() != "no room in 2s: admission: 2 more queues on top of 2 pass the limit of 2 of the target" {
				t.Errorf("refused: %v", err)
			}
			if n := s.queues.Tally().Refused["target_queues"]; n != 1 {
				t.Errorf("tally %v", s.queues.Tally())
			}
			a.BeginRelease(&Cause{"cable", "cable pulled"})
			s.delete.Flush()
			if n := s.queues.Tally().Released["cable"]; n != 1 {
				t.Errorf("tally %v", s.queues.Tally())
			}
		})
	})
	t.Run("too many wait", func(t *testing.T) {
		gateTest(t, limits, func(t *testing.T, s *scene) {
			release := s.block()
			a, b, c := s.guest(Claim{}), s.guest(Claim{}), s.guest(Claim{})
			if err := errors.Join(a.Enter(), b.Enter()); err != nil {
				t.Fatal(err)
			}
			if err := c.Enter(); err == nil || Reason(err) != "target_waiting" {
				t.Errorf("a third: %v", err)
			}
			if state, _ := c.State(); state != Freed || len(c.entered) != 0 {
				t.Errorf("it is %v", state)
			}
			b.Withdraw(&Cause{"host_left", "the host left"})
			b.Withdraw(errors.New("again"))
			if err := b.answer(t); Reason(err) != "host_left" {
				t.Errorf("withdrawn: %v", err)
			}
			release()
			if err := a.answer(t); err != nil {
				t.Error(err)
			}
			a.Withdraw(errors.New("too late"))
			a.BeginRelease(nil)
		})
	})
}

func TestGateIO(t *testing.T) {
	gateTest(t, admission.Config{Target: admission.Limits{Queues: 3}}, func(t *testing.T, s *scene) {
		admin := s.guest(Claim{Host: hostN(1), IOBytes: 10})
		if err := errors.Join(admin.Enter(), admin.answer(t)); err != nil {
			t.Fatal(err)
		}
		admin.Connected(nil)
		if n := admin.Reserve(7, 4); n != 2 {
			t.Fatalf("%d reserved", n)
		}
		defer s.block()() // I/O queues do not wait for deletions
		other := s.guest(Claim{QID: 1, Host: hostN(2)})
		if err := other.Enter(); Reason(err) != "target_queues" {
			t.Errorf("another host's: %v", err)
		}
		io := s.guest(Claim{QID: 1, CNTLID: 7, Host: hostN(1), Bytes: 5})
		if err := errors.Join(io.Enter(), io.answer(t)); err != nil {
			t.Fatal(err)
		}
		io.Connected(&admin.Life)
		if u := s.budget.Stats().Used; u.Queues != 3 || u.Reserved != 1 || u.Connecting != 0 || u.Bytes != 15 {
			t.Errorf("used %+v", u)
		}
		admin.Unreserve()
		io.BeginRelease(nil)
		admin.BeginRelease(nil)
	})
}

// However grant, bound and withdrawal meet, a queue is told once.
func TestGateRaces(t *testing.T) {
	s := newStage(t, admission.Config{Target: admission.Limits{Queues: 2}})
	s.gate.Wait = 50 * time.Microsecond
	var last *guest
	in := 0
	for i := range 2000 {
		g := s.guest(Claim{Host: hostN(byte(i))})
		if err := g.Enter(); err != nil {
			t.Fatal(err)
		}
		if last != nil {
			last.BeginRelease(nil)
			last = nil
		}
		if i%3 == 0 {
			g.Withdraw(errors.New("left"))
		}
		if err := <-g.entered; err == nil {
			in++
			last = g
		}
	}
	if last != nil {
		last.BeginRelease(nil)
	}
	s.connect.Flush()
	s.delete.Flush()
	s.over(t)
	if in == 0 {
		t.Error("nobody came in")
	}
	for _, q := range s.queues.All() {
		t.Errorf("left: %+v", q.Info())
	}
}

// The oldest in a state is the one that came to it first, whoever began first.
func TestOldest(t *testing.T) {
	gateTest(t, admission.Config{}, func(t *testing.T, s *scene) {
		oldest := func(state State, want *guest) {
			t.Helper()
			var life *Life
			if want != nil {
				life = &want.Life
			}
			if got := s.queues.Oldest(state); got != life {
				t.Errorf("the oldest %v is %p, want %p", state, got, life)
			}
		}
		var g [3]*guest
		for i := range g {
			g[i] = s.guest(Claim{QID: 1})
			oldest(Waiting, g[i])
			if err := errors.Join(g[i].Enter(), g[i].answer(t)); err != nil {
				t.Fatal(err)
			}
		}
		oldest(Waiting, nil)
		oldest(Connecting, g[0])
		g[1].Move(Live)
		g[0].Move(Live)
		oldest(Live, g[1])
		oldest(Connecting, g[2])
		if all := s.queues.All(); !slices.Equal(all, []*Life{&g[2].Life, &g[1].Life, &g[0].Life}) {
			t.Errorf("all are %v", all)
		}
		var releases []func()
		for range s.delete.Stats().MaxActive {
			releases = append(releases, s.block())
		}
		for _, i := range []int{2, 0, 1} {
			g[i].BeginRelease(nil)
		}
		oldest(Live, nil)
		oldest(Releasing, g[2])
		for _, release := range releases {
			release()
		}
		s.delete.Flush()
		oldest(Releasing, nil)
		oldest(Freed, nil)
	})
}
