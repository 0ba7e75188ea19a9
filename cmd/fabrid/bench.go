package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/load"
)

// benchFlags are the flags of bench, with fio's names.
type benchFlags struct {
	hostFlags
	rw         string
	rwMixRead  int
	bs         size
	ioDepth    int
	numJobs    int
	runtime    span
	numberIOs  uint64
	size       size
	nsid       uint32
	seed       uint64
	verify     bool
	asJSON     bool
	noProgress bool
}

func (p *program) benchCommand() *cobra.Command {
	f := benchFlags{
		bs: load.DefaultBlockSize, runtime: span(10 * time.Second),
		rwMixRead: load.DefaultReadPercent, ioDepth: 1, numJobs: 1,
	}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Read and write a namespace, and measure",
		Long: "Read and write a namespace and measure. What the namespace held is overwritten by patterns that\n" +
			"write. Every I/O queue has --numjobs jobs, each with --iodepth commands outstanding on a part of\n" +
			"the namespace of its own.\n\n" +
			"SIGINT or SIGTERM ends the run early, with its report. A command that fails, or a block that does not\n" +
			"verify, ends it with exit code 1. While the connection is lost a run waits for it, beyond --runtime too.",
		Example: "  fabrid bench -t rdma -a 192.0.2.1 --rw randread --bs 4k --iodepth 32\n" +
			"  fabrid bench -t rdma -a 192.0.2.1 -i 2 --rw randrw --runtime 60s --verify",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.bench(cmd.Context(), &f) },
	}
	f.register(cmd, true)
	flags := cmd.Flags()
	flags.StringVar(&f.rw, "rw", "randread", "read, write, randread, randwrite or randrw")
	flags.Var(number{&f.rwMixRead, 1, 100}, "rwmixread", "reads of randrw in %")
	flags.Var(&f.bs, "bs", "bytes of a command")
	flags.Var(number{&f.ioDepth, 1, 1 << 16}, "iodepth", "commands that a job has outstanding; what exceeds --queue-size waits for its turn")
	flags.Var(number{&f.numJobs, 1, 1 << 16}, "numjobs", "jobs of each I/O queue")
	flags.Var(&f.runtime, "runtime", "how long to run")
	flags.Uint64Var(&f.numberIOs, "number-ios", 0, "end after so many commands, if that is earlier")
	flags.Var(&f.size, "size", "use so much of the namespace, from its beginning (default all); more than there is, is all")
	flags.Uint32Var(&f.nsid, "nsid", 1, "namespace")
	flags.Uint64Var(&f.seed, "seed", 0, "make the same choices as another run with that seed")
	flags.BoolVar(&f.verify, "verify", false, "write blocks with headers and checksums, and check what is read; before patterns that only read, write all of them")
	flags.BoolVar(&f.asJSON, "json", false, "print JSON")
	flags.BoolVar(&f.noProgress, "no-progress", false, "no line of progress on a terminal")
	return cmd
}

// config describes the load.
func (f *benchFlags) config(c *host.Controller) (load.BenchConfig, error) {
	pattern, err := load.ParsePattern(f.rw)
	if err == nil && f.bs == 0 {
		err = errors.New("--bs 0: want the bytes of a command, such as 4k")
	}
	return load.BenchConfig{
		Controller: c, NSID: f.nsid, Pattern: pattern, ReadPercent: f.rwMixRead, BlockSize: int(f.bs),
		IODepth: f.ioDepth, NumJobs: f.numJobs, Size: uint64(f.size),
		Runtime: time.Duration(f.runtime), Commands: f.numberIOs, Verify: f.verify, Seed: f.seed,
	}, err
}

func (p *program) bench(ctx context.Context, f *benchFlags) (err error) {
	ctx, stop := untilSignal(ctx)
	defer stop()
	if _, err := f.config(nil); err != nil {
		return err // before anything is connected
	}
	i, err := p.openInitiator(ctx, &f.hostFlags)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, i.close()) }()
	c, err := p.connect(ctx, &f.hostFlags, i)
	if err != nil {
		return err
	}
	// Whatever waits for a controller that does not come back ends with it.
	ended := make(chan struct{})
	defer close(ended)
	stopFollowing := context.AfterFunc(ctx, func() {
		select {
		case <-ended:
		case <-time.After(leaveTimeout):
			_ = disconnect(c) // told by the run's error
		}
	})
	defer stopFollowing()

	r, err := p.runBench(ctx, c, f)
	if derr := disconnect(c); err == nil && (r == nil || r.Err == nil) {
		err = derr
	}
	if r == nil {
		return err
	}
	if f.asJSON {
		err = errors.Join(err, json.NewEncoder(p.stdout).Encode(r))
	} else {
		report(p.stdout, r)
	}
	if err == nil {
		err = benchError(r)
	}
	return err
}

// leaveTimeout bounds how long a controller is waited for when it is to be
// disconnected.
const leaveTimeout = 5 * time.Second

func disconnect(c *host.Controller) error {
	ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	return c.Disconnect(ctx)
}

// benchError is the error of a run that did not go as it should.
func benchError(r *load.Result) error {
	if r.Err == nil {
		return nil
	}
	return fmt.Errorf("%d errors, %d verify errors; the first: %w", r.Errors, r.VerifyErrors, r.Err)
}

// runBench makes the load, with a line of progress on a terminal.
func (p *program) runBench(ctx context.Context, c *host.Controller, f *benchFlags) (*load.Result, error) {
	cfg, err := f.config(c)
	if err != nil {
		return nil, err
	}
	if !f.noProgress && isTerminal(p.stderr) {
		cfg.Progress = func(g load.Progress) { p.progressLine(g, cfg.Runtime) }
		defer fmt.Fprint(p.stderr, clearLine)
	}
	return load.Bench(ctx, cfg)
}

const clearLine = "\r\x1b[K"

func (p *program) progressLine(g load.Progress, runtime time.Duration) {
	if g.Verifying {
		fmt.Fprintf(p.stderr, "%sverifying what was written", clearLine)
		return
	}
	fmt.Fprintf(p.stderr, "%s%v of %v: %.0f IOPS, %.1f MiB/s", clearLine,
		g.Elapsed.Round(time.Second), runtime, g.IOPS, g.MiBs)
}
