//go:build interop

package interop

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const mib = 1 << 20

// The lab proves itself: what fabrid's target has to pass, the kernel's does.
func TestLabKernelToKernel(t *testing.T) {
	l := newLab(t, 1500)
	target := &linuxTarget{l.guest(2, "target"), targetAddress}
	host := &linuxHost{guest: l.guest(3, "host"), address: targetAddress}
	target.up(128 * mib)
	host.discover()
	host.connect()
	host.filesystem("ext4")
	host.verifiedIO(usual, 5*time.Second)
	host.reset()
	host.admin("Linux", 128*mib)
	host.disconnect()
	host.quiet()
	target.quiet()
	target.noControllers()
	l.lossless(2)
	l.lossless(3)
}

func TestLinuxHostOnFabridTarget(t *testing.T) {
	l := newLab(t, 1500)
	l.build = fabrid // as it is shipped
	target := l.serve(nativeAddress, 256*mib)
	host := &linuxHost{guest: l.guest(3, "host"), address: nativeAddress}
	host.discover()
	host.connect()
	host.filesystem("ext4")
	host.verifiedIO(usual, ioTime(t))
	host.quiet()
	l.lossless(3)
	host.reset()
	host.admin("fabrid", 256*mib)
	host.disconnect()
	host.quiet()
	l.lossless(3)
	target.noQueues()
	target.stop()
}

func TestFabridHostOnLinuxTarget(t *testing.T) {
	l := newLab(t, 1500)
	target := &linuxTarget{l.guest(2, "target"), targetAddress}
	target.up(128 * mib)
	for _, args := range [][]string{nil, {"--json"}} {
		out := l.must(time.Minute, "discover", append([]string{"discover", "-t", "rdma", "-a", targetAddress, "-s", nvmePort}, args...)...)
		if !strings.Contains(out, nqn) {
			t.Errorf("discover %v: want %s, got\n%s", args, nqn, out)
		}
		if args != nil && !json.Valid([]byte(out)) {
			t.Errorf("discover %v: no JSON:\n%s", args, out)
		}
	}
	for _, size := range []string{"4k", "128k"} {
		l.bench(targetAddress, size, 15*time.Second)
	}
	target.noControllers()
	target.quiet()
	l.lossless(2)
}

func TestTwoFabrids(t *testing.T) {
	l := newLab(t, 1500)
	target := l.serve("127.0.0.1", 64*mib)
	for _, size := range []string{"4k", "128k"} {
		l.bench("127.0.0.1", size, 5*time.Second)
	}
	target.noQueues()
	target.stop()
}

func TestDemo(t *testing.T) {
	l := newLab(t, 1500)
	l.build = fabrid
	out := l.must(2*time.Minute, "demo", "demo", "--json")
	values := 0
	for d := json.NewDecoder(strings.NewReader(out)); ; values++ {
		var v map[string]any
		if err := d.Decode(&v); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("demo: %v in\n%s", err, out)
		}
	}
	if values == 0 {
		t.Error("demo: no JSON")
	}
}

// bench runs verified random I/O of one block size from a fabrid host, with two
// I/O queues.
func (l *lab) bench(address, size string, d time.Duration) {
	l.t.Helper()
	out := l.must(d+time.Minute, "bench-"+size, "bench", "-t", "rdma", "-a", address, "-s", nvmePort, "-n", nqn, "-i", "2",
		"--rw", "randrw", "--bs", size, "--iodepth", "16", "--runtime", d.String(), "--verify", "--json")
	var result struct {
		IOPS         float64
		Errors       *uint64
		VerifyErrors *uint64 `json:"verify_errors"`
	}
	decode(l.t, out, &result)
	if result.IOPS <= 0 || result.Errors == nil || *result.Errors != 0 || result.VerifyErrors == nil || *result.VerifyErrors != 0 {
		l.t.Errorf("bench of %s: want iops, no errors and no verify_errors, got\n%s", size, out)
	}
	l.t.Logf("bench of %s: %.0f IOPS", size, result.IOPS)
}

// A server is a process of fabrid serve.
type server struct {
	*process
}

// serve starts a target with one namespace and waits until it listens.
func (l *lab) serve(address string, size int, flags ...string) server {
	l.t.Helper()
	p := l.start("serve", append([]string{"serve", "--addr", address, "--port", nvmePort, "--size", strconv.Itoa(size/mib) + "MiB", "--nqn", nqn}, flags...)...)
	ready := func() bool { return strings.Contains(p.stdout(), "ready") }
	eventually(10*time.Second, func() bool { return ready() || p.ended(0) })
	if !ready() || p.ended(0) {
		l.t.Fatal("serve: not ready")
	}
	return server{p}
}

// noQueues checks that all that hosts had is gone soon, by the counters that
// the target prints on SIGUSR1.
func (s server) noQueues() {
	s.t.Helper()
	var last string
	gone := eventually(10*time.Second, func() bool {
		last = s.counters()
		var c struct {
			Queues                    map[string]uint64
			Buffers, MRs, Controllers *uint64
		}
		decode(s.t, last, &c)
		for _, state := range []string{"waiting", "connecting", "live", "disconnecting", "releasing"} {
			if n, ok := c.Queues[state]; !ok || n != 0 {
				return false
			}
		}
		for _, n := range []*uint64{c.Buffers, c.MRs, c.Controllers} {
			if n == nil || *n != 0 {
				return false
			}
		}
		return true
	})
	if !gone {
		s.t.Errorf("serve: want no queue and nothing of a queue, has %s", last)
	}
}

// counters asks the target for its counters and returns its answer, a line of JSON.
func (s server) counters() string {
	s.t.Helper()
	lines := func() (all []string) {
		for in := bufio.NewScanner(strings.NewReader(s.stderr())); in.Scan(); {
			if strings.HasPrefix(in.Text(), `{"queues"`) {
				all = append(all, in.Text())
			}
		}
		return all
	}
	before := len(lines())
	s.signal(syscall.SIGUSR1)
	if s.ended(0) || !eventually(5*time.Second, func() bool { return len(lines()) > before }) {
		s.t.Fatal("serve: no counters after SIGUSR1")
	}
	return lines()[before]
}

// stop asks the target to end, which it must do in order and in time.
func (s server) stop() {
	s.t.Helper()
	s.signal(syscall.SIGTERM)
	if !s.ended(5 * time.Second) {
		s.t.Fatal("serve: still runs 5 s after SIGTERM")
	}
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		s.t.Errorf("serve: exit code %d after SIGTERM, want 0", code)
	}
}
