package load_test

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/load"
	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
)

func TestPatterns(t *testing.T) {
	const size, commands = 1 << 20, 1000
	for _, c := range []struct {
		pattern       load.Pattern
		reads, writes bool
	}{
		{load.Read, true, false},
		{load.Write, false, true},
		{load.RandRead, true, false},
		{load.RandWrite, false, true},
		{load.RandRW, true, true},
	} {
		for _, verify := range []bool{false, true} {
			ctrl := connect(t, memory(t, size), 2, false)
			r, err := load.Bench(t.Context(), load.BenchConfig{
				Controller: ctrl, NSID: 1, Pattern: c.pattern, IODepth: 8, NumJobs: 3, Commands: commands, Verify: verify,
			})
			if err != nil {
				t.Fatalf("%v: %v", c.pattern, err)
			}
			if r.Commands != commands || r.Bytes != commands*4096 || r.Histogram.TotalCount() != commands || r.Queues != 2 || r.Pattern != c.pattern.String() {
				t.Errorf("%v: %+v, want %d commands on 2 queues", c.pattern, r, commands)
			}
			if r.Errors != 0 || r.VerifyErrors != 0 || r.Err != nil || (r.Verified > 0) != verify {
				t.Errorf("%v: %d errors, %d verify errors, %d verified: %v", c.pattern, r.Errors, r.VerifyErrors, r.Verified, r.Err)
			}
			if (r.Read != nil) != c.reads || (r.Write != nil) != c.writes {
				t.Errorf("%v: reads %v, writes %v", c.pattern, r.Read, r.Write)
			}
			if c.reads && c.writes && (r.Read.Commands < commands/4 || r.Write.Commands < commands/4 || r.Read.Commands+r.Write.Commands != commands) {
				t.Errorf("%v: %d reads and %d writes of %d", c.pattern, r.Read.Commands, r.Write.Commands, commands)
			}
			if l := r.Latency; l.Min <= 0 || l.P50 < l.Min || l.P99 < l.P50 || l.P999 < l.P99 || l.Max < l.P999 || r.IOPS <= 0 || r.MiBs <= 0 {
				t.Errorf("%v: latency %+v, %v IOPS, %v MiB/s", c.pattern, l, r.IOPS, r.MiBs)
			}
		}
	}
}

// Sequential jobs write every block once before any a second time.
func TestWriteCoversTheNamespace(t *testing.T) {
	const size, block = 1 << 20, 8192
	ctrl := connect(t, memory(t, size), 2, false)
	r, err := load.Bench(t.Context(), load.BenchConfig{
		Controller: ctrl, NSID: 1, Pattern: load.Write, BlockSize: block, IODepth: 4, NumJobs: 2, Commands: size / block, Verify: true,
	})
	if err != nil || r.Err != nil || r.Verified != size/block {
		t.Fatalf("%+v, %v: want %d blocks verified", r, err, size/block)
	}
	ns, err := ctrl.Namespace(1)
	if err != nil {
		t.Fatal(err)
	}
	all := make([]byte, size)
	if _, err := ns.ReadAt(all, 0); err != nil {
		t.Fatal(err)
	}
	for at := 0; at < size; at += block {
		if !strings.HasPrefix(string(all[at:]), "fabrid") {
			t.Errorf("no header at %d", at)
		}
	}
}

func TestSizeBoundsTheRegion(t *testing.T) {
	const size = 1 << 20
	ctrl := connect(t, memory(t, size), 1, false)
	r, err := load.Bench(t.Context(), load.BenchConfig{
		Controller: ctrl, NSID: 1, Pattern: load.RandWrite, Size: size / 4, IODepth: 4, Commands: 500,
	})
	if err != nil || r.Err != nil {
		t.Fatal(err, r.Err)
	}
	ns, err := ctrl.Namespace(1)
	if err != nil {
		t.Fatal(err)
	}
	rest := make([]byte, size-size/4)
	if _, err := ns.ReadAt(rest, size/4); err != nil {
		t.Fatal(err)
	}
	for i, b := range rest {
		if b != 0 {
			t.Fatalf("byte %d is beyond the size and was written", size/4+i)
		}
	}
}

// A liar is a device that returns something else for one read.
type liar struct {
	bdev.Device
	after int32 // reads that are true before
	reads atomic.Int32
}

func (l *liar) Submit(op *bdev.Op) {
	if op.Kind == bdev.Read && l.reads.Add(1) == l.after+1 {
		done := op.Done
		op.Done = func(op *bdev.Op) {
			op.Done = done
			op.Data[0][100] ^= 1
			done(op)
		}
	}
	l.Device.Submit(op)
}

func TestVerifyFindsALie(t *testing.T) {
	for _, c := range []struct {
		name    string
		pattern load.Pattern
		after   int32
	}{
		{"as the pattern reads", load.RandRW, 200},
		{"at the end", load.RandWrite, 30},
		{"what was written before", load.RandRead, 100},
	} {
		ctrl := connect(t, &liar{Device: memory(t, 256<<10), after: c.after}, 1, false)
		r, err := load.Bench(t.Context(), load.BenchConfig{
			Controller: ctrl, NSID: 1, Pattern: c.pattern, IODepth: 4, Commands: 2000, Verify: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		// RandRW may have lied about a block that was not written before.
		if r.VerifyErrors > 1 || r.VerifyErrors == 0 && c.pattern != load.RandRW {
			t.Errorf("%s: %d verify errors", c.name, r.VerifyErrors)
		}
		if r.VerifyErrors == 1 && (r.Err == nil || !strings.Contains(r.FirstError, "CRC32C") || r.Errors != 0) {
			t.Errorf("%s: %d errors, the first is %v", c.name, r.Errors, r.Err)
		}
	}
}

func TestACommandThatFailsEndsTheRun(t *testing.T) {
	dev := bdev.NewFaulty(memory(t, 1<<20))
	ctrl := connect(t, dev, 2, false)
	dev.Fail(1000, errors.New("bad sector"), bdev.Write)
	r, err := load.Bench(t.Context(), load.BenchConfig{
		Controller: ctrl, NSID: 1, Pattern: load.RandWrite, IODepth: 4, Runtime: time.Hour, Verify: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Errors == 0 || r.Errors > 8 || r.VerifyErrors != 0 || r.Err == nil || r.FirstError != r.Err.Error() {
		t.Errorf("%d errors, %d verify errors, the first is %v", r.Errors, r.VerifyErrors, r.Err)
	}
	if s, ok := errors.AsType[nvme.Status](r.Err); !ok || s.OK() {
		t.Errorf("the error has status %v: %v", s, r.Err)
	}
}

func TestContextEndsTheRun(t *testing.T) {
	dev := bdev.NewFaulty(memory(t, 1<<20))
	ctrl := connect(t, dev, 1, false)
	dev.Hold()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		dev.WaitHeld(4)
		cancel()
		dev.Release()
	}()
	r, err := load.Bench(ctx, load.BenchConfig{Controller: ctrl, NSID: 1, Pattern: load.RandRead, IODepth: 4, Runtime: time.Hour})
	if err != nil || r.Err != nil || r.Commands < 4 {
		t.Errorf("%+v, %v", r, err)
	}
}

// Without a controller there is nothing to wait for.
func TestDisconnectEndsTheRun(t *testing.T) {
	dev := bdev.NewFaulty(memory(t, 1<<20))
	ctrl := connect(t, dev, 1, false)
	dev.Hold()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		dev.WaitHeld(4)
		cancel()
		_ = ctrl.Disconnect(ctx) // an error: there was no time to shut down in order
		dev.Release()
	}()
	r, err := load.Bench(t.Context(), load.BenchConfig{Controller: ctrl, NSID: 1, Pattern: load.RandRead, IODepth: 4, Runtime: time.Hour})
	if err != nil || r.Errors == 0 || r.Err == nil {
		t.Errorf("%+v, %v: want errors", r, err)
	}
	<-ctrl.Done()
}

// A slow device takes a fixed time for each op.
type slow struct {
	bdev.Device
	delay time.Duration
}

func (d slow) Submit(op *bdev.Op) {
	op.Shard.Arm(&shard.Timer{Fn: func() { d.Device.Submit(op) }}, op.Shard.Now()+d.delay)
}

func TestTimeAndRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const delay, depth, runtime = time.Millisecond, 4, 2 * time.Second
		ctrl := connect(t, slow{memory(t, 1<<20), delay}, 1, true)
		var told []load.Progress
		r, err := load.Bench(t.Context(), load.BenchConfig{
			Controller: ctrl, NSID: 1, Pattern: load.RandRead, IODepth: depth, Runtime: runtime,
			Interval: 300 * time.Millisecond, Progress: func(p load.Progress) { told = append(told, p) },
		})
		if err != nil || r.Err != nil {
			t.Fatal(err, r.Err)
		}
		const want = depth * uint64(runtime/delay)
		if r.Commands != want || r.RuntimeMS != 2000 || r.IOPS != 4000 || r.MiBs != 4000*4096/float64(1<<20) {
			t.Errorf("%d commands in %v ms, %v IOPS, %v MiB/s", r.Commands, r.RuntimeMS, r.IOPS, r.MiBs)
		}
		// A histogram tells apart thousandths.
		if l := r.Latency; l.Min < 999 || l.Max > 1001 || l.P50 < 999 || l.P50 > 1001 {
			t.Errorf("latency %+v, want 1000 µs", l)
		}
		if len(told) != 6 {
			t.Fatalf("progress was told %d times, want 6", len(told))
		}
		for i, p := range told {
			if p.Elapsed != time.Duration(i+1)*300*time.Millisecond || p.IOPS < 3980 || p.IOPS > 4020 || p.Verifying || p.Bytes != p.Commands*4096 {
				t.Errorf("progress %d: %+v", i, p)
			}
		}
	})
}

func TestWhatIsWrongWithTheConfiguration(t *testing.T) {
	ctrl := connect(t, memory(t, 1<<20), 1, false)
	for _, c := range []struct {
		cfg  load.BenchConfig
		want string
	}{
		{load.BenchConfig{Commands: 1}, "no Controller"},
		{load.BenchConfig{Controller: ctrl, NSID: 1}, "want an end"},
		{load.BenchConfig{Controller: ctrl, NSID: 9, Commands: 1}, "namespace"},
		{load.BenchConfig{Controller: ctrl, NSID: 1, Commands: 1, Pattern: 77}, "Pattern(77)"},
		{load.BenchConfig{Controller: ctrl, NSID: 1, Commands: 1, BlockSize: 1000}, "whole blocks"},
		{load.BenchConfig{Controller: ctrl, NSID: 1, Commands: 1, BlockSize: 16 << 20}, "at most"},
		{load.BenchConfig{Controller: ctrl, NSID: 1, Commands: 1, IODepth: -1}, "depth -1"},
		{load.BenchConfig{Controller: ctrl, NSID: 1, Commands: 1, IODepth: 1000}, "too few"},
		{load.BenchConfig{Controller: ctrl, NSID: 1, Commands: 1, ReadPercent: 101}, "101 % reads"},
	} {
		if _, err := load.Bench(t.Context(), c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want %q", c.cfg, err, c.want)
		}
	}
}

func TestResultAsJSON(t *testing.T) {
	ctrl := connect(t, memory(t, 1<<20), 1, false)
	r, err := load.Bench(t.Context(), load.BenchConfig{Controller: ctrl, NSID: 1, Pattern: load.RandRead, Commands: 10})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"iops", "mib_s", "errors", "verify_errors", "ios", "runtime_ms", "read"} {
		if _, ok := got[name]; !ok {
			t.Errorf("no %s in %s", name, text)
		}
	}
	latency, _ := got["lat_us"].(map[string]any)
	for _, name := range []string{"p50", "p99", "p999"} {
		if v, ok := latency[name].(float64); !ok || v <= 0 {
			t.Errorf("no %s in lat_us of %s", name, text)
		}
	}
}

// A command costs no allocation: more of them cost no more.
func TestCommandsDoNotAllocate(t *testing.T) {
	if lockdep.Enabled {
		t.Skip("the validator allocates")
	}
	ctrl := connect(t, memory(t, 1<<20), 1, false)
	const some = 1000
	more := uint64(21 * some)
	if testing.Short() {
		more = 4 * some
	}
	for _, verify := range []bool{false, true} {
		mallocs := func(commands uint64) uint64 {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			r, err := load.Bench(t.Context(), load.BenchConfig{
				Controller: ctrl, NSID: 1, Pattern: load.RandRW, IODepth: 16, Commands: commands, Verify: verify, Seed: 1,
			})
			runtime.ReadMemStats(&after)
			if err != nil || r.Err != nil {
				t.Fatal(err, r.Err)
			}
			return after.Mallocs - before.Mallocs
		}
		mallocs(some) // whatever is made once
		few, many := mallocs(some), mallocs(more)
		if many > few+200 {
			t.Errorf("verify %v: %d allocations for %d commands, %d for %d", verify, few, some, many, more)
		}
	}
}
