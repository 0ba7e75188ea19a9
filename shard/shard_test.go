package shard

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/fabrid/fabrid/lockdep"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, cfg Config) *Shard {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestPostsRunInOrder(t *testing.T) {
	s := start(t, Config{Name: "order"})
	var got []int
	tasks := make([]Task, 100)
	for i := range tasks {
		tasks[i].Fn = func() { got = append(got, i) }
	}
	// Posted from the shard, so that all lie in the inbox at once.
	if err := s.Run(func() {
		for i := range tasks {
			s.Post(&tasks[i])
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Run(func() {}); err != nil {
		t.Fatal(err)
	}
	if len(got) != len(tasks) || !slices.IsSorted(got) {
		t.Errorf("ran %v", got)
	}
}

// However many tasks there are, timers and descriptors have their turn between
// them, and what they lead to is flushed.
func TestManyTasksTakeTurns(t *testing.T) {
	s := start(t, Config{})
	var event [2]int
	if err := unix.Pipe2(event[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(event[0])
	defer unix.Close(event[1])
	ran := 0
	timerAt, readyAt, flushedAt := 0, 0, 0
	timer := Timer{Fn: func() { timerAt = ran }}
	flusher := Flusher{Fn: func() { flushedAt = ran }}
	var id int
	tasks := make([]Task, 20*inboxQuantum)
	for i := range tasks {
		tasks[i].Fn = func() { ran++ }
	}
	if err := s.Run(func() {
		var err error
		if id, err = s.Add(event[0], Readable, func(uint32) {
			if readyAt == 0 {
				readyAt = ran
				s.Flush(&flusher)
			}
		}); err != nil {
			t.Error(err)
		}
		for i := range tasks {
			s.Post(&tasks[i])
		}
		s.Arm(&timer, s.Now())
		if _, err := unix.Write(event[1], []byte{1}); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Run(func() {
		if err := s.Remove(id); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if ran != len(tasks) {
		t.Errorf("%d of %d tasks ran", ran, len(tasks))
	}
	if most := 2 * inboxQuantum; timerAt > most || readyAt > most || flushedAt > most {
		t.Errorf("a timer fired after %d tasks, a descriptor was seen after %d, a flush was made after %d; want %d at most", timerAt, readyAt, flushedAt, most)
	}
}

func TestPostOfAPostedTaskIsOneRun(t *testing.T) {
	s := start(t, Config{})
	runs := 0
	task := Task{Fn: func() { runs++ }}
	var first, second bool
	if err := s.Run(func() { first, second = s.Post(&task), s.Post(&task) }); err != nil {
		t.Fatal(err)
	}
	if err := s.Run(func() {}); err != nil {
		t.Fatal(err)
	}
	if !first || second || runs != 1 {
		t.Errorf("posts %v, %v made %d runs", first, second, runs)
	}
}

func TestManyPosters(t *testing.T) {
	s := start(t, Config{Spin: 20 * time.Microsecond})
	const posters, rounds = 4, 2000
	count := 0
	var wg lockdep.WaitGroup[struct{ posters struct{} }]
	for range posters {
		wg.Go(func() {
			for range rounds {
				if err := s.Run(func() { count++ }); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if count != posters*rounds {
		t.Errorf("%d of %d posts ran", count, posters*rounds)
	}
}

func TestPostAfterCloseNeverRuns(t *testing.T) {
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	ran := false
	task := Task{Fn: func() { ran = true }}
	if !s.Post(&task) {
		t.Error("the open shard takes no task")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if !ran {
		t.Error("a task posted before Close did not run")
	}
	late := Task{Fn: func() { t.Error("a task posted after Close ran") }}
	if s.Post(&late) {
		t.Error("the closed shard takes a task")
	}
	if err := s.Run(func() {}); err != ErrClosed {
		t.Errorf("Run after Close: %v", err)
	}
}

func TestFlushersRunOnceAfterTheBatch(t *testing.T) {
	s := start(t, Config{})
	var order []string
	f := Flusher{Fn: func() { order = append(order, "flush") }}
	done := make(chan struct{})
	a := Task{Fn: func() { order = append(order, "a"); s.Flush(&f) }}
	b := Task{Fn: func() { order = append(order, "b"); s.Flush(&f) }}
	end := Task{Fn: func() { close(done) }}
	if err := s.Run(func() { s.Post(&a); s.Post(&b) }); err != nil {
		t.Fatal(err)
	}
	s.Post(&end)
	<-done
	if want := []string{"a", "b", "flush"}; !slices.Equal(order[:3], want) {
		t.Errorf("order %v, want %v", order, want)
	}
}

func TestDescriptor(t *testing.T) {
	s := start(t, Config{})
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	got := make(chan byte, 1)
	var id int
	if err := s.Run(func() {
		var err error
		id, err = s.Add(p[0], Readable, func(uint32) {
			var b [1]byte
			if n, _ := unix.Read(p[0], b[:]); n == 1 {
				got <- b[0]
			}
		})
		if err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []byte{7, 8} {
		if _, err := unix.Write(p[1], []byte{want}); err != nil {
			t.Fatal(err)
		}
		if b := <-got; b != want {
			t.Errorf("read %d, want %d", b, want)
		}
	}
	if err := s.Run(func() {
		if err := s.Remove(id); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
}

// What takes the place of a descriptor does not get its events.
func TestDescriptorRemovedInABatch(t *testing.T) {
	s := start(t, Config{})
	var pipes [3][2]int
	for i := range pipes {
		if err := unix.Pipe2(pipes[i][:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pipes[i][0])
		defer unix.Close(pipes[i][1])
	}
	const silent = 2 // has nothing to read
	for _, i := range []int{0, 1} {
		if _, err := unix.Write(pipes[i][1], []byte{1}); err != nil {
			t.Fatal(err)
		}
	}
	var ids []int
	add := func(i int, ready func(uint32)) {
		id, err := s.Add(pipes[i][0], Readable, ready)
		if err != nil {
			t.Error(err)
		}
		ids = append(ids, id)
	}
	remove := func() {
		for _, id := range ids {
			if err := s.Remove(id); err != nil {
				t.Error(err)
			}
		}
		ids = nil
	}
	changed := make(chan struct{})
	both := func(uint32) { // both are readable, and the first takes them away
		remove()
		// It takes the slot that was freed last: that of the second.
		add(silent, func(uint32) { t.Error("called for what is not readable") })
		close(changed)
	}
	if err := s.Run(func() { add(0, both); add(1, both) }); err != nil {
		t.Fatal(err)
	}
	<-changed
	if err := s.Run(remove); err != nil {
		t.Fatal(err)
	}
}

// A handler sees the time at which it was woken, not that of the sleep before.
func TestNowAfterASleep(t *testing.T) {
	s := start(t, Config{})
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	seen := make(chan time.Duration, 1)
	var id int
	var before time.Duration
	if err := s.Run(func() {
		var err error
		before = s.Now()
		id, err = s.Add(fds[0], Readable, func(uint32) {
			seen <- s.Now()
			unix.Read(fds[0], make([]byte, 8))
		})
		if err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	const nap = 20 * time.Millisecond
	<-time.After(nap)
	if _, err := unix.Write(fds[1], []byte{1}); err != nil {
		t.Fatal(err)
	}
	if now := <-seen; now-before < nap {
		t.Errorf("the handler saw %v, %v after the sleep began", now, now-before)
	}
	if err := s.Run(func() {
		if err := s.Remove(id); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
}

func TestTimersInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSim(Config{})
		var at []time.Duration
		a := Timer{Fn: func() { at = append(at, s.Now()) }}
		b := Timer{Fn: func() { at = append(at, s.Now()); s.Disarm(&a) }}
		if err := s.Run(func() {
			s.Arm(&a, 3*time.Second)
			s.Arm(&b, time.Second)
			s.Arm(&a, 2*time.Second) // later than b: b disarms it
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if err := s.Run(func() { s.Arm(&a, s.Now()+time.Millisecond) }); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if err := s.Run(func() { s.Arm(&a, s.Now()+48*time.Hour) }); err != nil {
			t.Fatal(err)
		}
		time.Sleep(49 * time.Hour)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if want := []time.Duration{time.Second, 5*time.Second + time.Millisecond, 6*time.Second + 48*time.Hour}; !slices.Equal(at, want) {
			t.Errorf("fired at %v, want %v", at, want)
		}
	})
}

// The heap agrees with sorting, whatever is armed, moved and disarmed.
func TestTimerHeap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var h timers
	all := make([]Timer, 200)
	for range 5000 {
		x := &all[r.IntN(len(all))]
		if r.IntN(3) == 0 {
			h.disarm(x)
		} else {
			h.arm(x, time.Duration(r.IntN(1000)))
		}
	}
	last := time.Duration(-1)
	for len(h) > 0 {
		x := h[0]
		if x.at < last {
			t.Fatalf("%v after %v", x.at, last)
		}
		last = x.at
		h.disarm(x)
	}
	for i := range all {
		if all[i].Armed() {
			t.Fatalf("timer %d is armed and not in the heap", i)
		}
	}
}

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	s := start(t, Config{})
	var timer Timer
	timer.Fn = func() {}
	var ran atomic.Int64
	task := Task{Fn: func() { s.Arm(&timer, s.Now()+time.Hour); s.Disarm(&timer); ran.Add(1) }}
	if n := testing.AllocsPerRun(200, func() {
		before := ran.Load()
		s.Post(&task)
		for ran.Load() == before {
			runtime.Gosched()
		}
	}); n != 0 {
		t.Errorf("a post allocates %v times", n)
	}
}

func BenchmarkRun(b *testing.B) {
	s, err := New(Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	b.ReportAllocs()
	for b.Loop() {
		_ = s.Run(func() {})
	}
}
