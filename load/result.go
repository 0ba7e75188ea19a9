package load

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A Result is what a run of [Bench] measured, over all jobs.
type Result struct {
	Pattern   string `json:"rw"`
	BlockSize int    `json:"bs"`
	IODepth   int    `json:"iodepth"`
	NumJobs   int    `json:"numjobs"`
	Queues    int    `json:"queues"`

	RuntimeMS float64 `json:"runtime_ms"` // of the measurement
	Summary
	Read  *Summary `json:"read,omitempty"`  // nil: the pattern does not
	Write *Summary `json:"write,omitempty"` // nil: the pattern does not

	// Errors counts commands that failed; the first ended the run.
	Errors uint64 `json:"errors"`
	// VerifyErrors counts blocks that were not what had been written; Verified
	// those that were looked at.
	VerifyErrors uint64 `json:"verify_errors"`
	Verified     uint64 `json:"verified"`
	// FirstError is the first of either kind in words.
	FirstError string `json:"first_error,omitempty"`
	Err        error  `json:"-"`
}

// A Summary is what was measured of reads, of writes, or of both.
type Summary struct {
	Commands uint64  `json:"ios"`
	Bytes    uint64  `json:"bytes"`
	IOPS     float64 `json:"iops"`
	MiBs     float64 `json:"mib_s"`
	Latency  Latency `json:"lat_us"`

	// Histogram has the latencies in ns.
	Histogram *hdrhistogram.Histogram `json:"-"`
}

// Latency is the distribution of a time in microseconds: of a command, from its
// submission to its end.
type Latency struct {
	Min  float64 `json:"min"`
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

func (r *run) result() *Result {
	cfg := &r.cfg
	res := &Result{
		Pattern: cfg.Pattern.String(), BlockSize: cfg.BlockSize, IODepth: cfg.IODepth,
		NumJobs: cfg.NumJobs, Queues: len(r.jobs) / cfg.NumJobs,
	}
	read, write := side{latency: newLatency()}, side{latency: newLatency()}
	var elapsed time.Duration
	for _, j := range r.jobs {
		read.add(&j.read)
		write.add(&j.write)
		elapsed = max(elapsed, j.elapsed)
		res.Errors += j.errors
		res.VerifyErrors += j.verifyErrors
		if j.verify != nil {
			res.Verified += j.verify.verified
		}
		if res.Err == nil && j.err != nil {
			res.Err, res.FirstError = j.err, j.err.Error()
		}
	}
	res.RuntimeMS = float64(elapsed) / float64(time.Millisecond)
	summarize := func(d side) *Summary { return d.summary(cfg.BlockSize, elapsed) }
	percent := cfg.Pattern.readPercent(cfg.ReadPercent)
	if percent > 0 {
		res.Read = summarize(read)
	}
	if percent < 100 {
		res.Write = summarize(write)
	}
	both := side{latency: newLatency()}
	both.add(&read)
	both.add(&write)
	res.Summary = *summarize(both)
	return res
}

func (d *side) add(o *side) {
	d.commands += o.commands
	d.latency.Merge(o.latency)
}

func (d *side) summary(blockSize int, elapsed time.Duration) *Summary {
	s := &Summary{Commands: d.commands, Bytes: d.commands * uint64(blockSize), Histogram: d.latency}
	if t := elapsed.Seconds(); t > 0 {
		s.IOPS = float64(s.Commands) / t
		s.MiBs = float64(s.Bytes) / t / (1 << 20)
	}
	if d.commands == 0 {
		return s
	}
	s.Latency = latencyOf(d.latency)
	return s
}

// latencyOf returns the distribution of times in ns; zeros if there are none.
func latencyOf(h *hdrhistogram.Histogram) Latency {
	if h.TotalCount() == 0 {
		return Latency{}
	}
	us := func(ns int64) float64 { return float64(ns) / 1e3 }
	return Latency{
		Min: us(h.Min()), Mean: h.Mean() / 1e3, Max: us(h.Max()),
		P50: us(h.ValueAtQuantile(50)), P90: us(h.ValueAtQuantile(90)),
		P99: us(h.ValueAtQuantile(99)), P999: us(h.ValueAtQuantile(99.9)),
	}
}
