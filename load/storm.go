package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/shard"
)

// Defaults and bounds of a [StormConfig].
const (
	DefaultStormDepth   = 128
	DefaultStormTimeout = 10 * time.Second
	DefaultStormKATO    = 5 * time.Second
	MaxStormQueues      = 1024 // I/O queues of a host

	stormAdminDepth = 32 // that of every known host, and the most that Linux's target accepts
)

// A StormDevice is the device of one host of a [Storm]. Calls of its connections
// that are made on the shard have their events told there, too.
type StormDevice interface {
	rdmacm.Provider

	// Silence has nothing leave the device any more, or lets it speak again.
	// It is called on the shard.
	Silence(on bool)

	// Vanish ends every connection without a word to the peers, as a machine
	// does that loses power. The device can be used again at once. It is called
	// on the shard.
	Vanish()
}

// StormConfig describes a run of [Storm].
type StormConfig struct {
	// Shard is the event loop of all Devices. Required.
	Shard *shard.Shard
	// Devices are the hosts' own, one each, of one completion vector. Required.
	Devices []StormDevice
	// Remote is the target's port, and NQN a subsystem there. Required.
	Remote netip.AddrPort
	NQN    string

	// Queues is how many I/O queues a host asks for, Depth their size, as far as
	// the controller has it. A zero Depth is DefaultStormDepth.
	Queues, Depth int
	// KATO is the Keep Alive Timeout that hosts ask for: what makes a target
	// notice that one has vanished. Zero is DefaultStormKATO.
	KATO time.Duration

	// Rate is how many hosts begin to connect in a second, over all of them.
	// Zero: each begins again as soon as it has left or was refused.
	Rate float64
	// Hold is how long a host stays that has connected all of its queues.
	Hold time.Duration
	// AbortAt is the stage that hosts get to before they leave.
	AbortAt StormStage
	// Vanish is the part of leaves, 0 to 1, in which the host does not say so.
	Vanish float64

	// Runtime is how long hosts begin to connect; Cycles is how often, in all.
	// Whatever ends first ends the run; one is required.
	Runtime time.Duration
	Cycles  uint64

	// Timeout bounds each step of a host. Zero is DefaultStormTimeout.
	Timeout time.Duration

	// Seed makes runs repeat the same choices and the same names of hosts.
	// Zero: one by chance.
	Seed uint64

	// Progress is told every Interval what the run has done, on the goroutine
	// that called Storm. Nil: nobody is. A zero Interval is DefaultInterval.
	Progress func(StormProgress)
	Interval time.Duration
}

func (c StormConfig) withDefaults() (StormConfig, error) {
	orDefault(&c.Depth, DefaultStormDepth)
	orDefault(&c.KATO, DefaultStormKATO)
	orDefault(&c.Timeout, DefaultStormTimeout)
	orDefault(&c.Interval, DefaultInterval)
	if c.Seed == 0 {
		c.Seed = rand.Uint64()
	}
	bad := func(format string, args ...any) (StormConfig, error) {
		return c, fmt.Errorf("load: storm: "+format, args...)
	}
	switch {
	case c.Shard == nil || len(c.Devices) == 0:
		return bad("no Shard, or no Devices")
	case !c.Remote.IsValid() || c.Remote.Port() == 0:
		return bad("no port of a target: %v", c.Remote)
	case c.Queues < 0 || c.Queues > MaxStormQueues:
		return bad("%d I/O queues, want 0 to %d", c.Queues, MaxStormQueues)
	case c.Depth < 2 || c.Depth > 1<<16-1:
		return bad("depth %d, want 2 to 65535", c.Depth)
	case c.Rate < 0 || c.Hold < 0 || c.Runtime < 0 || c.Timeout < 0 || c.Interval < 0:
		return bad("rate %v, hold %v, runtime %v, timeout %v, interval %v", c.Rate, c.Hold, c.Runtime, c.Timeout, c.Interval)
	case c.KATO < 10*time.Millisecond || c.KATO/time.Millisecond > 1<<32-1:
		return bad("keep alive timeout %v, want 10 ms to 49 days", c.KATO)
	case int(c.AbortAt) >= numStages:
		return bad("%v", c.AbortAt)
	case c.Queues == 0 && (c.AbortAt == StageSetFeatures || c.AbortAt == StageBetweenQueues):
		return bad("no host gets to %v without I/O queues", c.AbortAt)
	case !(c.Vanish >= 0 && c.Vanish <= 1):
		return bad("%v of leaves without a word, want 0 to 1", c.Vanish)
	case c.Runtime == 0 && c.Cycles == 0:
		return bad("no runtime and no number of cycles: want an end")
	}
	if err := nvme.CheckNQN(c.NQN); err != nil {
		return bad("%w", err)
	}
	return c, nil
}

// stormEnded is the class of the wait for the last host.
type stormEnded struct{}

func (stormEnded) String() string { return "load.storm ended" }

// A storm is one call of Storm. It belongs to the shard.
type storm struct {
	cfg   StormConfig
	shard *shard.Shard
	hosts []*stormHost
	start time.Time

	running  int          // hosts that are not idle
	waiting  []*stormHost // for their turn, at a rate
	turn     time.Duration
	pace     shard.Timer // for the next turn
	end      shard.Timer
	stopping bool // no cycle begins any more
	hurried  bool // and nobody stays
	ended    lockdep.Completion[stormEnded]

	stats stormStats
}

// Storm has hosts connect to a target and leave it, again and again, as cfg
// says, and returns what became of it. Refusals and failures are what it
// counts; an error says that there was no run, or that something of it is left.
// When ctx is done hosts leave at once.
//
// One cycle of a host is: the connection and the Connect of its admin queue;
// CAP, CC.EN and CSTS.RDY; Set Features, Number of Queues; the connections of
// as many I/O queues as it was granted, and their Connects; and its leave. All
// hosts run on the one shard, which Storm must not be called on.
func Storm(ctx context.Context, cfg StormConfig) (*StormResult, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &storm{cfg: cfg, shard: cfg.Shard}
	s.pace.Fn = s.takeTurns
	s.end.Fn = func() { s.stop(true) }
	s.stats.init()
	if err := s.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("load: storm: %w", err), s.close())
	}
	if err := s.shard.Run(s.begin); err != nil {
		return nil, errors.Join(fmt.Errorf("load: storm: %w", err), s.close())
	}
	stopFollowing := context.AfterFunc(ctx, func() { _ = s.shard.Run(s.abort) })
	s.wait()
	stopFollowing()
	var res *StormResult
	err = s.shard.Run(func() { res = s.result() })
	return res, errors.Join(err, s.close())
}

// open makes the hosts.
func (s *storm) open() error {
	for i, d := range s.cfg.Devices {
		h, err := newStormHost(s, i, d)
		if h != nil {
			s.hosts = append(s.hosts, h)
		}
		if err != nil {
			return fmt.Errorf("host %d: %w", i, err)
		}
	}
	return nil
}

// close gives back what hosts have.
func (s *storm) close() error {
	var errs []error
	for _, h := range s.hosts {
		if err := h.free(); err != nil {
			errs = append(errs, fmt.Errorf("load: storm: host %d: %w", h.index, err))
		}
	}
	return errors.Join(errs...)
}

// now is the time since the run began, now and not when the round did.
func (s *storm) now() time.Duration { return time.Since(s.start) }

func (s *storm) begin() {
	s.start = time.Now()
	if s.cfg.Runtime > 0 {
		s.shard.Arm(&s.end, s.shard.Now()+s.cfg.Runtime)
	}
	s.running = len(s.hosts) + 1 // that of this function
	for _, h := range s.hosts {
		s.ready(h)
	}
	s.release()
}

// release counts a host that is idle now.
func (s *storm) release() {
	if s.running--; s.running == 0 && s.stopping {
		s.shard.Disarm(&s.end)
		s.shard.Disarm(&s.pace)
		s.stats.elapsed = s.now()
		s.ended.Complete()
	}
}

// ready takes a host that is to begin its next cycle.
func (s *storm) ready(h *stormHost) {
	switch {
	case s.stopping:
		s.release()
	case s.cfg.Rate > 0:
		s.waiting = append(s.waiting, h)
		s.takeTurns()
	default:
		s.launch(h)
	}
}

// launch has one host begin, and counts.
func (s *storm) launch(h *stormHost) {
	s.stats.attempts++
	s.stats.second(s.now()).Attempts++
	h.begin()
	if s.stats.attempts == s.cfg.Cycles {
		s.stop(false)
	}
}

// catchUp bounds how many turns that nobody could take are made up for later.
const catchUp = 100 * time.Millisecond

// takeTurns has as many hosts begin as the rate allows by now.
func (s *storm) takeTurns() {
	gap := max(1, time.Duration(float64(time.Second)/s.cfg.Rate))
	now := s.now()
	s.turn = max(s.turn, now-catchUp)
	for len(s.waiting) > 0 && s.turn <= now && !s.stopping {
		h := s.waiting[0]
		s.waiting = s.waiting[1:]
		s.turn += gap
		s.launch(h)
	}
	if len(s.waiting) > 0 && !s.stopping {
		s.shard.Arm(&s.pace, s.shard.Now()+max(0, s.turn-now))
	}
}

// stop has no cycle begin any more; those that are under way go on, but if
// hurried without Hold.
func (s *storm) stop(hurried bool) {
	if s.stopping && (s.hurried || !hurried) || s.ended.Completed() {
		return
	}
	s.stopping, s.hurried = true, hurried
	s.running++ // until the end of this function
	s.running -= len(s.waiting)
	s.waiting = nil
	for _, h := range s.hosts {
		h.hurry()
	}
	s.release()
}

// abort ends the run: hosts leave, wherever they are.
func (s *storm) abort() {
	s.stop(true)
	for _, h := range s.hosts {
		if h.step != stepIdle {
			h.leave(false)
		}
	}
}

// wait returns when no host does anything any more, and tells of the progress
// meanwhile.
func (s *storm) wait() {
	tick := make(<-chan time.Time)
	if s.cfg.Progress != nil {
		t := time.NewTicker(s.cfg.Interval)
		defer t.Stop()
		tick = t.C
	}
	var last StormProgress
	for {
		select {
		case <-s.ended.Done():
			return
		case <-tick:
			p := last
			if s.shard.Run(func() { p = s.progress(last) }) == nil {
				s.cfg.Progress(p)
			}
			last = p
		}
	}
}
