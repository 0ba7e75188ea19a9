package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/fabrid/fabrid/host"
)

// copyFlags are the flags of read and write.
type copyFlags struct {
	hostFlags
	file       string
	offset     size
	length     size
	depth      int
	bs         size
	nsid       uint32
	noFlush    bool
	noProgress bool
}

func (f *copyFlags) register(cmd *cobra.Command, file, length string) {
	f.depth, f.bs, f.file = host.DefaultCopyDepth, host.DefaultCopyBytes, "-"
	f.hostFlags.register(cmd, true)
	flags := cmd.Flags()
	flags.StringVarP(&f.file, "file", "f", "-", file)
	flags.Var(&f.offset, "offset", "first byte in the namespace")
	flags.Var(&f.length, "length", length)
	flags.Var(number{&f.nrIOQueues, 1, 65534}, "queues", "the same as --nr-io-queues")
	flags.Var(number{&f.depth, 1, 1 << 16}, "depth", "commands outstanding for each I/O queue")
	flags.Var(&f.bs, "bs", "bytes of a command, whole blocks")
	flags.Uint32Var(&f.nsid, "nsid", 1, "namespace")
	flags.BoolVar(&f.noProgress, "no-progress", false, "no progress and no summary on stderr")
}

const copyLong = `
SIGINT or SIGTERM ends it, with exit code 1, as any error does; the error says how many bytes there are, from the
first on. While the connection is lost it waits for it.`

func (p *program) readCommand() *cobra.Command {
	var f copyFlags
	cmd := &cobra.Command{
		Use:     "read",
		Short:   "Copy bytes of a namespace to a file or a pipe",
		Long:    "Copy bytes of a namespace, any range of them, to a file or to stdout, with many reads outstanding.\n" + copyLong,
		Example: "  fabrid read -a 192.0.2.1 --offset 1GiB --length 4k | hexdump -C\n  fabrid read -a 192.0.2.1 -i 2 --file disk.img",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.copy(cmd.Context(), &f, p.readRange)
		},
	}
	f.register(cmd, "where to; a file that exists is overwritten; - is stdout", "how many bytes; 0 for all from --offset on")
	return cmd
}

func (p *program) writeCommand() *cobra.Command {
	var f copyFlags
	cmd := &cobra.Command{
		Use:   "write",
		Short: "Copy a file or what comes from a pipe to a namespace",
		Long: "Copy a file, or stdin until its end, to any range of bytes of a namespace, with many writes outstanding, and\n" +
			"make them durable (Flush). A block at the beginning or at the end that is written in part is read before: while\n" +
			"that is done nobody else may write to it.\n" + copyLong,
		Example: "  fabrid write -a 192.0.2.1 --file disk.img\n  zcat disk.img.gz | fabrid write -a 192.0.2.1 -i 2 --offset 1GiB",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.copy(cmd.Context(), &f, p.writeRange)
		},
	}
	f.register(cmd, "where from; - is stdin", "how many bytes, fewer are an error; 0 for all that there are")
	cmd.Flags().BoolVar(&f.noFlush, "no-flush", false, "do not make durable what was written")
	return cmd
}

// copyRange copies the range that the flags name, and returns how many bytes it
// has copied.
type copyRange func(context.Context, *host.Namespace, *copyFlags, host.CopyConfig) (int64, error)

// copy connects, copies and disconnects.
func (p *program) copy(ctx context.Context, f *copyFlags, run copyRange) (err error) {
	ctx, stop := untilSignal(ctx)
	defer stop()
	if f.bs == 0 || f.bs > math.MaxInt32 {
		return fmt.Errorf("--bs %v: want the bytes of a command, such as 128k", &f.bs)
	}
	if f.offset > math.MaxInt64 || f.length > math.MaxInt64 {
		return errors.New("--offset or --length: more than 2^63-1")
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
	defer func() {
		if derr := disconnect(c); err == nil {
			err = derr
		}
	}()
	defer p.leaveAfter(ctx, c)()
	ns, err := c.Namespace(f.nsid)
	if err != nil {
		return err
	}
	cfg := host.CopyConfig{Depth: f.depth, Bytes: int(f.bs)}
	start := time.Now()
	progress := f.progress(p.stderr, start)
	cfg.Progress = progress.tell
	done, err := run(ctx, ns, f, cfg)
	progress.end()
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("interrupted: %w", err)
		}
		return fmt.Errorf("after %d bytes: %w", done, err)
	}
	if !f.noProgress {
		fmt.Fprintf(p.stderr, "%d bytes at %d of namespace %d, %s\n", done, uint64(f.offset), f.nsid, rate(done, time.Since(start)))
	}
	return nil
}

// leaveAfter ends what waits for a controller that does not answer, a while
// after ctx is done. The function that it returns ends that.
func (p *program) leaveAfter(ctx context.Context, c *host.Controller) (stop func()) {
	ended := make(chan struct{})
	stopFollowing := context.AfterFunc(ctx, func() {
		select {
		case <-ended:
		case <-time.After(leaveTimeout):
			_ = disconnect(c) // told by the error of what waits
		}
	})
	return func() {
		close(ended)
		stopFollowing()
	}
}

// readRange copies to the file.
func (p *program) readRange(ctx context.Context, ns *host.Namespace, f *copyFlags, cfg host.CopyConfig) (done int64, err error) {
	// A pipe whose reader has gone is an error, after which we leave in order.
	signal.Ignore(syscall.SIGPIPE)
	defer signal.Reset(syscall.SIGPIPE)
	length := int64(f.length)
	if length == 0 {
		length = max(ns.Size()-int64(f.offset), 0)
	}
	if f.file == "-" {
		return ns.CopyTo(ctx, &interruptible{ctx: ctx, write: p.data.Write}, int64(f.offset), length, cfg)
	}
	if room := ns.Size() - int64(f.offset); room < length { // before a file is lost for it
		return 0, fmt.Errorf("%d bytes from %d on, of the %d that namespace %d has", length, uint64(f.offset), ns.Size(), ns.NSID())
	}
	file, err := os.Create(f.file)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return ns.CopyTo(ctx, file, int64(f.offset), length, cfg)
}

// writeRange copies from the file.
func (p *program) writeRange(ctx context.Context, ns *host.Namespace, f *copyFlags, cfg host.CopyConfig) (int64, error) {
	room := max(ns.Size()-int64(f.offset), 0)
	var in io.Reader
	if f.file == "-" {
		in = &interruptible{ctx: ctx, read: p.stdin.Read}
	} else {
		file, err := os.Open(f.file)
		if err != nil {
			return 0, err
		}
		defer func() { _ = file.Close() }() // only read
		in = file
		if i, err := file.Stat(); err == nil && i.Mode().IsRegular() && f.length == 0 && i.Size() > room {
			return 0, fmt.Errorf("%s has %d bytes, namespace %d has room for %d from %d on", f.file, i.Size(), ns.NSID(), room, uint64(f.offset))
		}
	}
	length := int64(f.length)
	if length == 0 {
		length = room
	}
	done, err := ns.CopyFrom(ctx, in, int64(f.offset), length, cfg)
	switch {
	case err != nil:
	case done < int64(f.length):
		err = fmt.Errorf("the input ended after %d of %d bytes", done, uint64(f.length))
	case f.length == 0 && done == room:
		if k, rerr := in.Read(make([]byte, 1)); k > 0 {
			err = fmt.Errorf("the input is longer than the %d bytes that namespace %d has from %d on", room, ns.NSID(), uint64(f.offset))
		} else if rerr != nil && !errors.Is(rerr, io.EOF) {
			err = rerr
		}
	}
	if !f.noFlush && (err == nil || ctx.Err() == nil) {
		err = errors.Join(err, ns.Flush(ctx))
	}
	return done, err
}

// An interruptible is a reader or writer that may block for ever, of which the
// end of a context ends the wait. What is blocked then goes on with memory of its
// own, until the program ends.
type interruptible struct {
	ctx   context.Context
	read  func([]byte) (int, error)
	write func([]byte) (int, error)
	buf   []byte
}

type copied struct {
	n   int
	err error
}

func (i *interruptible) run(fn func([]byte) (int, error), n int) (int, error) {
	done := make(chan copied, 1)
	buf := i.buf[:n]
	go func() {
		n, err := fn(buf)
		done <- copied{n, err}
	}()
	select {
	case c := <-done:
		return c.n, c.err
	case <-i.ctx.Done():
		i.buf = nil // is not ours any more
		return 0, context.Cause(i.ctx)
	}
}

func (i *interruptible) grow(n int) {
	if cap(i.buf) < n {
		i.buf = make([]byte, n)
	}
	i.buf = i.buf[:cap(i.buf)]
}

func (i *interruptible) Read(p []byte) (int, error) {
	i.grow(len(p))
	n, err := i.run(i.read, len(p))
	return copy(p[:n], i.buf), err
}

func (i *interruptible) Write(p []byte) (int, error) {
	i.grow(len(p))
	copy(i.buf, p)
	return i.run(i.write, len(p))
}

// A copyProgress is a line of progress on a terminal.
type copyProgress struct {
	w     io.Writer // nil: none
	start time.Time
	last  time.Time
}

const progressEvery = 200 * time.Millisecond

func (f *copyFlags) progress(stderr io.Writer, start time.Time) *copyProgress {
	p := &copyProgress{start: start, last: start}
	if !f.noProgress && isTerminal(stderr) {
		p.w = stderr
	}
	return p
}

func (p *copyProgress) tell(done int64) {
	if now := time.Now(); p.w != nil && now.Sub(p.last) >= progressEvery {
		p.last = now
		fmt.Fprintf(p.w, "%s%s", clearLine, rate(done, now.Sub(p.start)))
	}
}

func (p *copyProgress) end() {
	if p.w != nil {
		fmt.Fprint(p.w, clearLine)
	}
}

// rate is so many bytes in so much time.
func rate(done int64, d time.Duration) string {
	mib := float64(done) / (1 << 20)
	return fmt.Sprintf("%.1f MiB in %v, %.1f MiB/s", mib, d.Round(time.Millisecond), mib/max(d.Seconds(), 1e-9))
}
