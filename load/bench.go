package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/fabrid/fabrid/host"
)

// Defaults and bounds of a [BenchConfig].
const (
	DefaultBlockSize   = 4096
	DefaultReadPercent = 50
	DefaultInterval    = time.Second

	// maxVerifyBlocks bounds what a run remembers of what it has written: 4
	// bytes for each block.
	maxVerifyBlocks = 1 << 28
)

// BenchConfig describes a run of [Bench].
type BenchConfig struct {
	// Controller and NSID are the namespace to use. Required.
	Controller *host.Controller
	NSID       uint32

	Pattern Pattern
	// ReadPercent is how many of 100 commands of RandRW read. Zero is
	// DefaultReadPercent.
	ReadPercent int
	// BlockSize is the bytes of a command: a multiple of the namespace's block
	// size. Zero is DefaultBlockSize.
	BlockSize int
	// IODepth is how many commands a job has outstanding. Zero is 1.
	IODepth int
	// NumJobs is how many jobs each I/O queue has. Zero is 1. Each job has a
	// part of the namespace for itself.
	NumJobs int
	// Size is how much of the namespace is used, from its beginning, in bytes.
	// Zero is all.
	Size uint64

	// Runtime is how long commands are submitted; Commands is how many, in all.
	// Whatever ends first ends the run; one is required.
	Runtime  time.Duration
	Commands uint64

	// Verify has every block that is written checked: when the pattern reads
	// it, and when the run ends. A pattern that only reads is made to have
	// something to check: all of the blocks are written before the measurement
	// begins.
	Verify bool

	// Seed makes runs repeat the same choices. Zero: one by chance.
	Seed uint64

	// Progress is told every Interval what the run has done, on the goroutine
	// that called Bench. Nil: nobody is. A zero Interval is DefaultInterval.
	Progress func(Progress)
	Interval time.Duration
}

// Progress is what a run has done.
type Progress struct {
	Elapsed time.Duration
	// Verifying: the measurement has ended, and what was written is read back.
	Verifying bool
	// Commands and Bytes are what has been done so far.
	Commands, Bytes uint64
	// IOPS and MiBs are the rates of the last interval.
	IOPS, MiBs float64
}

// withDefaults returns c with defaults filled in, or what is wrong with it.
func (c BenchConfig) withDefaults() (BenchConfig, error) {
	orDefault(&c.ReadPercent, DefaultReadPercent)
	orDefault(&c.BlockSize, DefaultBlockSize)
	orDefault(&c.IODepth, 1)
	orDefault(&c.NumJobs, 1)
	orDefault(&c.Interval, DefaultInterval)
	if c.Seed == 0 {
		c.Seed = rand.Uint64()
	}
	switch {
	case c.Controller == nil:
		return c, errors.New("load: bench: no Controller")
	case c.Pattern >= numPatterns:
		return c, fmt.Errorf("load: bench: %v", c.Pattern)
	case c.ReadPercent < 0 || c.ReadPercent > 100:
		return c, fmt.Errorf("load: bench: %d %% reads, want 0 to 100", c.ReadPercent)
	case c.IODepth < 1 || c.NumJobs < 1:
		return c, fmt.Errorf("load: bench: %d jobs of depth %d, want 1 or more", c.NumJobs, c.IODepth)
	case c.Runtime < 0 || c.Runtime == 0 && c.Commands == 0:
		return c, fmt.Errorf("load: bench: runtime %v and %d commands: want an end", c.Runtime, c.Commands)
	case c.Interval < 0:
		return c, fmt.Errorf("load: bench: interval %v", c.Interval)
	}
	return c, nil
}

func orDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// A run is one call of Bench.
type run struct {
	cfg       BenchConfig
	namespace *host.Namespace
	shift     uint // of the namespace's blocks
	readOf    uint64
	start     time.Time
	jobs      []*job

	stop atomic.Bool // nothing more is to be submitted
}

// Bench makes the load that cfg describes and returns what it measured. What
// goes wrong with a command ends the run and is in the result; an error says
// that there was no run. When ctx is done the run ends early.
//
// Bench waits for the commands that are outstanding, also while the connection
// is lost: to end that, the caller disconnects the controller. It must not be
// called on a shard.
func Bench(ctx context.Context, cfg BenchConfig) (*Result, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &run{cfg: cfg}
	if err := r.prepare(); err != nil {
		return nil, err
	}
	stopFollowing := context.AfterFunc(ctx, func() { r.stop.Store(true) })
	defer stopFollowing()

	r.start = time.Now()
	for _, j := range r.jobs {
		if err := j.queue.Shard().Run(j.begin); err != nil {
			r.stop.Store(true)
			j.fail(fmt.Errorf("load: bench: queue %d: %w", j.queue.ID(), err)) // it has no other goroutine
			j.ended.Complete()
		}
	}
	r.wait()
	return r.result(), nil
}

// prepare checks the configuration against the namespace and makes the jobs.
func (r *run) prepare() error {
	cfg := &r.cfg
	ns, err := cfg.Controller.Namespace(cfg.NSID)
	if err != nil {
		return fmt.Errorf("load: bench: %w", err)
	}
	info := ns.Info()
	queues := cfg.Controller.Queues()
	size := info.Size()
	if cfg.Size != 0 {
		size = min(size, cfg.Size)
	}
	jobs := uint64(len(queues) * cfg.NumJobs)
	blocks := size / uint64(cfg.BlockSize)
	writes := cfg.Pattern.readPercent(cfg.ReadPercent) < 100 || cfg.Verify
	switch {
	case jobs == 0:
		return errors.New("load: bench: the controller grants no I/O queue")
	case cfg.BlockSize < info.BlockSize || cfg.BlockSize%info.BlockSize != 0:
		return fmt.Errorf("load: bench: %d bytes a command are not whole blocks of namespace %d, which has %d", cfg.BlockSize, cfg.NSID, info.BlockSize)
	case cfg.BlockSize > info.MaxData:
		return fmt.Errorf("load: bench: %d bytes a command, namespace %d takes %d at most", cfg.BlockSize, cfg.NSID, info.MaxData)
	case writes && info.ReadOnly:
		return fmt.Errorf("load: bench: %v on namespace %d, which is write protected", cfg.Pattern, cfg.NSID)
	case blocks/jobs < uint64(cfg.IODepth):
		return fmt.Errorf("load: bench: %d bytes are too few for %d jobs with %d commands of %d bytes each", size, jobs, cfg.IODepth, cfg.BlockSize)
	case cfg.Verify && blocks > maxVerifyBlocks:
		return fmt.Errorf("load: bench: %d blocks to verify, at most %d: use a smaller size or larger blocks", blocks, maxVerifyBlocks)
	}
	r.namespace = ns
	for b := info.BlockSize; b > 1; b >>= 1 {
		r.shift++
	}
	// Compared with 32 bits by chance.
	r.readOf = uint64(cfg.Pattern.readPercent(cfg.ReadPercent)) << 32 / 100
	for i := range jobs {
		share := cfg.Commands / jobs
		if i < cfg.Commands%jobs {
			share++
		}
		j := newJob(r, queues[i/uint64(cfg.NumJobs)], i, i*(blocks/jobs), blocks/jobs)
		j.left, j.limited = share, cfg.Commands > 0
		r.jobs = append(r.jobs, j)
	}
	return nil
}

// lays reports whether jobs write everything first: they check what they read,
// and would write nothing.
func (r *run) lays() bool {
	return r.cfg.Verify && r.cfg.Pattern.readPercent(r.cfg.ReadPercent) == 100
}

// wait returns when all jobs have ended, and tells of the progress meanwhile.
func (r *run) wait() {
	tick := make(<-chan time.Time)
	if r.cfg.Progress != nil {
		t := time.NewTicker(r.cfg.Interval)
		defer t.Stop()
		tick = t.C
	}
	last := Progress{}
	for _, j := range r.jobs {
		ended := j.ended.Done()
		for waiting := true; waiting; {
			select {
			case <-ended:
				waiting = false
			case <-tick:
				last = r.progress(last)
				r.cfg.Progress(last)
			}
		}
	}
}

// progress returns what has been done, with rates since last.
func (r *run) progress(last Progress) Progress {
	p := Progress{Verifying: true}
	for _, j := range r.jobs {
		// An error: the shard is closed, and the job has ended.
		_ = j.queue.Shard().Run(func() {
			c := j.read.commands + j.write.commands
			p.Commands += c
			p.Bytes += c * uint64(r.cfg.BlockSize)
			p.Verifying = p.Verifying && j.phase > measuring
		})
	}
	p.Elapsed = time.Since(r.start)
	if d := (p.Elapsed - last.Elapsed).Seconds(); d > 0 {
		p.IOPS = float64(p.Commands-last.Commands) / d
		p.MiBs = float64(p.Bytes-last.Bytes) / d / (1 << 20)
	}
	return p
}
