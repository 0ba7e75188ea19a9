package shard

import (
	"errors"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/fabrid/fabrid/lockdep"
)

// ErrClosed is returned by [Shard.Run] on a shard that has been closed.
var ErrClosed = errors.New("shard: closed")

// Config describes a shard to be. The zero value is good.
type Config struct {
	// Name appears in reports.
	Name string

	// Role is the shard's class for the lock-order validator, if it is not that
	// of most shards: they may wait for it, or it for them.
	Role string

	// Spin is for how long the shard looks for work before it sleeps, as long as
	// its recent sleeps were shorter than that: a wait in the kernel costs
	// several microseconds that a short spin saves. Zero: it sleeps at once.
	Spin time.Duration
}

// A Shard is an event loop. Post, Run and Close may be called from any
// goroutine; everything else on the shard only.
type Shard struct {
	cfg    Config
	poller poller
	start  time.Time

	inbox    inbox
	asleep   atomic.Bool // the loop is, or is about to be, in poller.wait
	closing  atomic.Bool
	posting  atomic.Int64 // posts under way, so that close loses none
	finished chan struct{}
	dep      lockdep.Map[shardLoop] // held by the loop

	// Owned by the loop.
	backlog  *Task // taken from the inbox, to be run
	now      time.Duration
	timers   timers
	flushers []*Flusher // those that asked for this round
	flushing []*Flusher // scratch
	lastNap  time.Duration
}

// forever is the timeout of a wait that only an event ends.
const forever time.Duration = -1

// A poller waits for events of descriptors and runs their handlers.
type poller interface {
	// wait waits until an event, a wake or the timeout, and runs handlers. The
	// timeout may be forever; zero polls. It reports whether a handler ran.
	wait(timeout time.Duration) bool
	// wake ends a wait, the present one or the next.
	wake()
	close() error
}

// A Flusher is told at the end of a round, after every event and task, if it
// asked for that round: the place to send what has gathered.
type Flusher struct {
	Fn     func()
	queued bool
}

// New starts a shard on the machine's descriptors and clock.
func New(cfg Config) (*Shard, error) {
	p, err := newEpoll()
	if err != nil {
		return nil, err
	}
	s := newShard(cfg, p)
	// A handler that runs after a long sleep must not see the time before it.
	p.woken = s.tick
	lockdep.Go(func() {
		runtime.LockOSThread()
		s.loop()
	})
	return s, nil
}

// NewSim starts a simulated shard: without descriptors, on the time package's
// clock. All of its waits are durably blocking in the sense of
// testing/synctest.
func NewSim(cfg Config) *Shard {
	cfg.Spin = 0
	s := newShard(cfg, newSimPoller())
	lockdep.Go(s.loop)
	return s
}

func newShard(cfg Config, p poller) *Shard {
	s := &Shard{cfg: cfg, poller: p, start: time.Now(), finished: make(chan struct{})}
	s.dep.Init(cfg.Role)
	return s
}

// Name returns the shard's name.
func (s *Shard) Name() string { return s.cfg.Name }

// Now returns the shard's time when it last woke up or began a round:
// monotonic, from the start of the shard.
func (s *Shard) Now() time.Duration { return s.now }

func (s *Shard) tick() { s.now = time.Since(s.start) }

// Arm sets t to fire when the shard's time reaches at, instead of when it was
// set to before.
func (s *Shard) Arm(t *Timer, at time.Duration) { s.timers.arm(t, at) }

// Disarm makes t not fire.
func (s *Shard) Disarm(t *Timer) { s.timers.disarm(t) }

// Flush asks for f to be called at the end of this round.
func (s *Shard) Flush(f *Flusher) {
	if !f.queued {
		f.queued = true
		s.flushers = append(s.flushers, f)
	}
}

// Post has t run on the shard, soon. A task that waits to run already is left
// at that, and Post returns false: one run serves all posts before it. Post
// also returns false, and the task never runs, once the shard is closed.
func (s *Shard) Post(t *Task) bool {
	s.posting.Add(1)
	defer s.posting.Add(-1)
	if s.closing.Load() || !t.posted.CompareAndSwap(false, true) {
		return false
	}
	s.inbox.push(t)
	if s.asleep.Load() && s.asleep.CompareAndSwap(true, false) {
		s.poller.wake()
	}
	return true
}

// shardLoop is the class of all that runs on a shard, with its role: who waits
// for a shard may hold nothing that is taken there, and may not be on one.
type shardLoop struct{}

func (shardLoop) String() string { return "shard" }

// Run runs fn on the shard and returns when it has run. It must not be called
// on a shard, nor while holding a lock that code on the shard takes.
func (s *Shard) Run(fn func()) error {
	s.dep.Touch()
	done := make(chan struct{})
	t := Task{Fn: func() { fn(); close(done) }}
	if !s.Post(&t) {
		return ErrClosed
	}
	<-done
	return nil
}

// Close runs what was posted, ends the loop and waits for that. Descriptors
// must have been removed before; timers do not fire any more.
func (s *Shard) Close() error {
	s.dep.Touch()
	if s.closing.Swap(true) {
		<-s.finished
		return nil
	}
	s.poller.wake()
	<-s.finished
	return s.poller.close()
}

func (s *Shard) loop() {
	defer close(s.finished)
	s.dep.AcquireAlone()
	defer s.dep.Release()
	for {
		s.tick()
		worked := s.runInbox()
		worked = s.runTimers() || worked
		s.runFlushers()
		if s.closing.Load() && s.posting.Load() == 0 && s.inbox.head.Load() == nil && s.backlog == nil {
			return
		}
		if worked {
			s.poller.wait(0)
			continue
		}
		s.rest()
	}
}

// rest waits for the next event: at first without sleeping, while the last
// sleeps were short.
func (s *Shard) rest() {
	if spin := s.cfg.Spin; spin > 0 && s.lastNap < spin {
		for until := s.now + spin; ; {
			if s.poller.wait(0) || s.inbox.head.Load() != nil {
				return
			}
			now := time.Since(s.start)
			if len(s.timers) > 0 && s.timers[0].at <= now {
				return
			}
			if now >= until {
				break
			}
		}
	}
	timeout := forever
	before := time.Since(s.start)
	if len(s.timers) > 0 {
		timeout = max(0, s.timers[0].at-before)
	}
	s.asleep.Store(true)
	if s.inbox.head.Load() == nil && !s.closing.Load() {
		s.poller.wait(timeout)
	}
	s.asleep.Store(false)
	s.lastNap = time.Since(s.start) - before
}

// inboxQuantum is how many tasks run before descriptors and timers have their
// turn: a storm posts hundreds at once, of tens of microseconds each, and those
// whose I/O goes on must not wait for all of them.
const inboxQuantum = 16

// runInbox runs some tasks, in the order in which they were posted, and reports
// whether there were any.
func (s *Shard) runInbox() bool {
	n := 0
	for ; n < inboxQuantum; n++ {
		if s.backlog == nil {
			if n > 0 {
				break // what they have posted is for the next round
			}
			s.backlog = s.inbox.take()
		}
		t := s.backlog
		if t == nil {
			break
		}
		s.backlog, t.next = t.next, nil
		// Cleared before the run: a post from now on is a run of its own.
		t.posted.Store(false)
		t.Fn()
	}
	return n > 0
}

func (s *Shard) runTimers() bool {
	ran := false
	for len(s.timers) > 0 && s.timers[0].at <= s.now {
		t := s.timers[0]
		s.timers.disarm(t)
		t.Fn()
		ran = true
	}
	return ran
}

func (s *Shard) runFlushers() {
	for len(s.flushers) > 0 {
		s.flushers, s.flushing = s.flushing[:0], s.flushers
		for i, f := range s.flushing {
			s.flushing[i] = nil
			f.queued = false
			f.Fn()
		}
	}
}
