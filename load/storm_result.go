package load

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/rdmacm"
)

// A StormResult is what became of a [Storm].
type StormResult struct {
	Hosts   int     `json:"hosts"`
	Queues  int     `json:"queues"` // I/O queues that each host asked for
	Depth   int     `json:"depth"`
	Rate    float64 `json:"rate"` // 0: as fast as can be
	AbortAt string  `json:"abort_at"`
	Vanish  float64 `json:"vanish"`
	Seed    uint64  `json:"seed"`

	RuntimeMS float64 `json:"runtime_ms"` // until the last host had left

	// Attempts is how often hosts began to connect: each came to be Connected,
	// Aborted, Refused or Failed; the Connected can fail later.
	Attempts  uint64 `json:"attempts"`
	Connected uint64 `json:"connected"` // hosts, with all of their queues
	// QueuesConnected are the queues of those, admin queues too.
	QueuesConnected uint64 `json:"queues_connected"`
	// Short counts hosts that were granted fewer I/O queues than they asked for.
	Short uint64 `json:"short"`
	// Cycles counts hosts that got to where they were to get to, and left as they
	// were to.
	Cycles    uint64  `json:"cycles"`
	CyclesSec float64 `json:"cycles_s"`
	Vanished  uint64  `json:"vanished"` // leaves without a word
	MaxLive   int     `json:"max_live"` // the most hosts that were connected at once

	Aborted  map[string]uint64 `json:"aborted,omitempty"` // by stage
	Refused  uint64            `json:"refused"`
	Refusals []StormCount      `json:"refusals,omitempty"` // most first
	Failed   uint64            `json:"failed"`
	Failures []StormCount      `json:"failures,omitempty"` // most first
	// FirstFailure is the first of Failures in words.
	FirstFailure string `json:"first_failure,omitempty"`

	// Connect is the time from the REQ of the admin queue to the last Connect;
	// Cycle that to the end of the leave.
	Connect Latency `json:"connect_us"`
	Cycle   Latency `json:"cycle_us"`

	Seconds []StormSecond `json:"seconds"`
}

// A StormCount is how often hosts met with something.
type StormCount struct {
	Step string `json:"step"` // what the host was about
	// Reason is that of a REJ, and Status what the target gave with reason 28
	// or, where Reason is 0, the status of a completion.
	Reason uint16 `json:"reason,omitempty"`
	Status uint16 `json:"status,omitempty"`
	What   string `json:"what"`
	Count  uint64 `json:"count"`
}

// A StormSecond is what happened in one second of a run.
type StormSecond struct {
	Attempts  uint64 `json:"attempts"`
	Connected uint64 `json:"connected"`
	Cycles    uint64 `json:"cycles"`
	Refused   uint64 `json:"refused"`
	Failed    uint64 `json:"failed"`
}

// StormProgress is what a run has done.
type StormProgress struct {
	Elapsed time.Duration
	// Ending: no host begins any more, some have not left yet.
	Ending bool
	Live   int // hosts that are connected
	Total  StormSecond
	// Rate is what was done in the last interval, per second.
	Rate struct{ Connected, Cycles, Refused, Failed float64 }
}

// A stormReason is why a cycle ended early.
type stormReason struct {
	step           stormStep
	reason, status uint16
	what           string // of failures
}

// count returns how often it was, in words.
func (r stormReason) count(n uint64) StormCount {
	c := StormCount{Step: r.step.String(), Reason: r.reason, Status: r.status, What: r.what, Count: n}
	switch {
	case r.what != "":
	case r.reason == nvme.RDMACMConsumerReject && r.status != 0:
		c.What = nvme.RDMACMStatus(r.status).String()
	case r.reason != 0:
		c.What = rdmacm.RejectReason(int(r.reason))
	case r.step == stepConnect || r.step == stepIOConnect:
		c.What = nvme.Status(r.status).FabricsName()
	default:
		c.What = nvme.Status(r.status).String()
	}
	return c
}

// stormStats is what a storm counts. It belongs to the shard.
type stormStats struct {
	attempts, connected, queues, short, cycles, vanished uint64

	refused, failed uint64
	aborted         [numStops]uint64
	refusals        map[stormReason]uint64
	failures        map[stormReason]uint64
	firstFailure    string
	live, maxLive   int
	connect, cycle  *hdrhistogram.Histogram
	seconds         []StormSecond
	elapsed         time.Duration
}

func (st *stormStats) init() {
	st.refusals, st.failures = make(map[stormReason]uint64), make(map[stormReason]uint64)
	st.connect, st.cycle = newLatency(), newLatency()
}

// second returns the counts of the second that now is in. A day of them is 4 MB.
func (st *stormStats) second(now time.Duration) *StormSecond {
	for int(now/time.Second) >= len(st.seconds) {
		st.seconds = append(st.seconds, StormSecond{})
	}
	return &st.seconds[now/time.Second]
}

func (st *stormStats) refuse(r stormReason, now time.Duration) {
	st.refused++
	st.refusals[r]++
	st.second(now).Refused++
}

func (st *stormStats) fail(r stormReason, now time.Duration, err error) {
	st.failed++
	st.failures[r]++
	st.second(now).Failed++
	if st.firstFailure == "" {
		st.firstFailure = err.Error()
	}
}

// clampLatency is a time in ns as histograms take it.
func clampLatency(d time.Duration) int64 { return min(max(int64(d), minLatency), maxLatency) }

// progress returns what has been done, with rates since last.
func (s *storm) progress(last StormProgress) StormProgress {
	st := &s.stats
	p := StormProgress{Elapsed: s.now(), Ending: s.stopping, Live: st.live, Total: StormSecond{
		Attempts: st.attempts, Connected: st.connected, Cycles: st.cycles, Refused: st.refused, Failed: st.failed,
	}}
	if d := (p.Elapsed - last.Elapsed).Seconds(); d > 0 {
		p.Rate.Connected = float64(p.Total.Connected-last.Total.Connected) / d
		p.Rate.Cycles = float64(p.Total.Cycles-last.Total.Cycles) / d
		p.Rate.Refused = float64(p.Total.Refused-last.Total.Refused) / d
		p.Rate.Failed = float64(p.Total.Failed-last.Total.Failed) / d
	}
	return p
}

func (s *storm) result() *StormResult {
	cfg, st := &s.cfg, &s.stats
	r := &StormResult{
		Hosts: len(s.hosts), Queues: cfg.Queues, Depth: cfg.Depth, Rate: cfg.Rate,
		AbortAt: cfg.AbortAt.String(), Vanish: cfg.Vanish, Seed: cfg.Seed,
		RuntimeMS: float64(st.elapsed) / float64(time.Millisecond),
		Attempts:  st.attempts, Connected: st.connected, QueuesConnected: st.queues, Short: st.short,
		Cycles: st.cycles, Vanished: st.vanished, MaxLive: st.maxLive,
		Refused: st.refused, Refusals: counts(st.refusals), Failed: st.failed, Failures: counts(st.failures),
		FirstFailure: st.firstFailure, Connect: latencyOf(st.connect), Cycle: latencyOf(st.cycle), Seconds: st.seconds,
	}
	if d := st.elapsed.Seconds(); d > 0 {
		r.CyclesSec = float64(st.cycles) / d
	}
	for stage, n := range st.aborted {
		if n > 0 {
			if r.Aborted == nil {
				r.Aborted = make(map[string]uint64)
			}
			r.Aborted[StormStage(stage).String()] = n
		}
	}
	return r
}

// counts returns what was counted, most first.
func counts(m map[stormReason]uint64) []StormCount {
	var all []StormCount
	for _, r := range slices.SortedFunc(maps.Keys(m), func(a, b stormReason) int {
		return cmp.Or(cmp.Compare(m[b], m[a]), cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)))
	}) {
		all = append(all, r.count(m[r]))
	}
	return all
}
