//go:build soak

package soak

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fabrid/fabrid/fabric"
	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/verbs/roce"
)

// What the target of the storms may hold, and what its process may be beyond
// that: the namespace, the program, and what its collector has not collected.
const (
	maxQueues    = 1024
	memoryBudget = 256 << 20
	namespace    = 16 << 20
	beyond       = 48 << 20
)

const nqn = "nqn.2014-08.org.example:storm"

// seconds is how long each of the large storms lasts: FABRID_SOAK_SECONDS, 60.
func seconds(t *testing.T) time.Duration {
	t.Helper()
	v := os.Getenv("FABRID_SOAK_SECONDS")
	if v == "" {
		v = "60"
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		t.Fatalf("FABRID_SOAK_SECONDS=%q, want a positive number", v)
	}
	return time.Duration(n) * time.Second
}

// A program is fabrid, built for the test.
type program struct {
	t    *testing.T
	path string
}

func build(t *testing.T) program {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fabrid")
	if out, err := exec.Command("go", "build", "-o", path, "github.com/fabrid/fabrid/cmd/fabrid").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program{t, path}
}

// A run is a process of the program that is to print JSON and end.
type run struct {
	cmd    *exec.Cmd
	out    strings.Builder
	stderr strings.Builder
}

func (p program) start(args ...string) *run {
	p.t.Helper()
	r := &run{cmd: exec.Command(p.path, args...)}
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.stderr
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := r.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	return r
}

// end waits for the end of a run and decodes what it printed.
func (r *run) end(t *testing.T, v any) {
	t.Helper()
	err := r.cmd.Wait()
	if err == nil {
		err = json.Unmarshal([]byte(r.out.String()), v)
	}
	if err != nil {
		t.Fatalf("%v: %v\n%s\n%s", r.cmd.Args, err, r.out.String(), r.stderr.String())
	}
}

// A server is a running target, with its metrics.
type server struct {
	program
	cmd    *exec.Cmd
	client http.Client
}

func (p program) serve(args ...string) *server {
	p.t.Helper()
	socket := filepath.Join(p.t.TempDir(), "admin.sock")
	s := &server{program: p, cmd: exec.Command(p.path, append([]string{"serve", "--addr", "127.0.0.1", "--nqn", nqn,
		"--size", strconv.Itoa(namespace), "--admin-socket", socket}, args...)...)}
	s.client.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := s.cmd.StdoutPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		s.client.CloseIdleConnections()
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		if err := s.cmd.Wait(); err != nil {
			p.t.Errorf("serve: %v", err)
		}
	})
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if lines.Text() == "ready" {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return s
		}
	}
	p.t.Fatal("serve: not ready")
	return nil
}

// A reading is the metrics at one time, by name with labels.
type reading map[string]float64

func (s *server) read() (reading, error) {
	resp, err := s.client.Get("http://fabrid/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	r := make(reading)
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), " "); ok && name != "#" {
			if v, err := strconv.ParseFloat(value, 64); err == nil {
				r[name] = v
			}
		}
	}
	if len(r) == 0 {
		return nil, fmt.Errorf("no metrics: %s", resp.Status)
	}
	return r, nil
}

func (s *server) mustRead() reading {
	s.t.Helper()
	r, err := s.read()
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// kato is how long hosts that behave may be unheard: half of it is to be spare.
const kato = 5 * time.Second

// An idler is a good host without I/O, which is kept alive by Keep Alives alone.
type idler struct {
	node *fabric.Node
	ctrl *host.Controller
}

func (s *server) idle() *idler {
	s.t.Helper()
	fail := func(err error) {
		s.t.Helper()
		if err != nil {
			s.t.Fatal(err)
		}
	}
	remote := netip.MustParseAddrPort("127.0.0.1:4420")
	node, err := fabric.NewNode(fabric.Config{})
	fail(err)
	dev, err := node.OpenRoCETo(remote.Addr(), roce.Config{})
	fail(err)
	dialer, err := dev.Dialer()
	fail(err)
	ctrl, err := host.Connect(s.t.Context(), host.Config{Dialer: dialer, Remote: remote, NQN: nqn, NrIOQueues: 1, KATO: kato})
	fail(err)
	return &idler{node, ctrl}
}

// leave returns how many Keep Alives were answered, and after how long at most.
func (i *idler) leave(t *testing.T) (answered uint64, longest time.Duration) {
	t.Helper()
	answered, longest = i.ctrl.KeepAlives()
	if n := i.ctrl.Reconnects(); n != 0 {
		t.Errorf("the idle host lost its connection %d times: %v", n, i.ctrl.Cause())
	}
	if err := errors.Join(i.ctrl.Disconnect(context.Background()), i.node.Close(context.Background())); err != nil {
		t.Errorf("the idle host: %v", err)
	}
	return answered, longest
}

// what a target holds when nobody is connected, beside its queues.
var held = []string{"go_goroutines", "process_open_fds"}

// idle reports what is left of queues, and what is more than there was.
func (r reading) idle(before reading) (left []string) {
	for name, v := range r {
		if strings.HasPrefix(name, "fabrid_queues{") && v != 0 {
			left = append(left, fmt.Sprint(name, " ", v))
		}
	}
	for _, name := range []string{"fabrid_budget_queues_used", "fabrid_budget_connecting_used", "fabrid_budget_waiting_used"} {
		if r[name] != 0 {
			left = append(left, fmt.Sprint(name, " ", r[name]))
		}
	}
	for _, name := range append(held, "fabrid_budget_memory_used_bytes") {
		if r[name] > before[name] {
			left = append(left, fmt.Sprintf("%s %v, before it was %v", name, r[name], before[name]))
		}
	}
	return left
}

// settle waits until the target holds what it held before, for as long as the
// last host may stay: half open, without a Connect, without a keep alive.
func (s *server) settle(before reading, within time.Duration) {
	s.t.Helper()
	var left []string
	tick := time.NewTicker(time.Second / 4)
	defer tick.Stop()
	for end := time.Now().Add(within); time.Now().Before(end); <-tick.C {
		if left = s.mustRead().idle(before); len(left) == 0 {
			return
		}
	}
	s.t.Errorf("left %v after the storm:\n%s", within, strings.Join(left, "\n"))
}

// A result is what bench and storm print, as far as it is of interest.
type result struct {
	// bench
	Errors       uint64
	VerifyErrors uint64 `json:"verify_errors"`
	Read         struct {
		IOPS    float64
		Latency struct{ P50, P99, Max float64 } `json:"lat_us"`
	}
	// storm
	Attempts, Connected, Refused, Failed uint64
	QueuesConnected                      uint64                          `json:"queues_connected"`
	RuntimeMS                            float64                         `json:"runtime_ms"`
	CyclesSec                            float64                         `json:"cycles_s"`
	Connect                              struct{ P50, P99, Max float64 } `json:"connect_us"`
	Cycle                                struct{ P50, P99, Max float64 } `json:"cycle_us"`
	Refusals, Failures                   []struct {
		Step, What     string
		Reason, Status uint16
		Count          uint64
	}
	FirstFailure string `json:"first_failure"`
}

// bench is the good host: verified reads of 4 KiB.
func (p program) bench(d time.Duration) *run {
	return p.start("bench", "-a", "127.0.0.1", "-n", nqn, "--rw", "randread", "--bs", "4k", "--iodepth", "32", "--runtime", d.String(), "--verify", "--json")
}

func (p program) storm(d time.Duration, args ...string) *run {
	return p.start(append([]string{"storm", "-a", "127.0.0.1", "-n", nqn, "--runtime", d.String(), "--json"}, args...)...)
}

// weather is a storm with good hosts in it: one that reads, and one that is idle.
type weather struct {
	storm, good result
	most        struct{ queues, charged, resident float64 } // of the target
	wrong       uint64                                      // refusals that are not as they should be
	keepAlives  uint64                                      // of the idle host
	longest     time.Duration                               // until the answer to one of them
}

// forecast is the table of all storms, one a line.
func forecast(t *testing.T, quiet result) {
	t.Logf("%-20s %9s %9s %8s %8s %7s %5s %6s %6s %8s %8s %9s %5s %8s %5s %9s %6s %9s", "", "hosts/s", "queues/s",
		"connected", "refused", "wrongly", "failed", "p50 ms", "p99 ms", "queues", "MiB", "resident", "ratio", "p99 us", "ratio", "max ms", "KAs", "longest")
	t.Logf("%-20s %97s %8s %9s %5.2f %8.0f %5.2f %9.1f", "quiet", "", "", "", 1.0, quiet.Read.Latency.P99, 1.0, quiet.Read.Latency.Max/1e3)
}

func (w *weather) log(t *testing.T, name string, quiet result) {
	sec := w.storm.RuntimeMS / 1e3
	t.Logf("%-20s %9.0f %9.0f %8d %8d %7d %5d %6.1f %6.1f %8.0f %8.0f %9.0f %5.2f %8.0f %5.2f %9.1f %6d %9v", name,
		float64(w.storm.Attempts)/sec, float64(w.storm.QueuesConnected)/sec, w.storm.Connected, w.storm.Refused, w.wrong, w.storm.Failed,
		w.storm.Connect.P50/1e3, w.storm.Connect.P99/1e3, w.most.queues, w.most.charged/(1<<20), w.most.resident/(1<<20),
		w.good.Read.IOPS/quiet.Read.IOPS, w.good.Read.Latency.P99, w.good.Read.Latency.P99/quiet.Read.Latency.P99, w.good.Read.Latency.Max/1e3,
		w.keepAlives, w.longest.Round(time.Microsecond))
}

// blow lets a storm go on while the good host works, and watches the target.
func (s *server) blow(name string, d time.Duration, quiet result, args ...string) (w weather) {
	t := s.t
	t.Helper()
	idle := s.idle()
	good := s.bench(d + time.Second)
	storm := s.storm(d, args...)
	over := make(chan struct{})
	watched := make(chan error, 1)
	go func() {
		for {
			select {
			case <-over:
				watched <- nil
				return
			case <-time.After(200 * time.Millisecond):
			}
			r, err := s.read()
			if err != nil {
				watched <- err
				return
			}
			w.most.resident = max(w.most.resident, r["process_resident_memory_bytes"])
		}
	}()
	storm.end(t, &w.storm)
	w.keepAlives, w.longest = idle.leave(t)
	good.end(t, &w.good)
	close(over)
	if err := <-watched; err != nil {
		t.Errorf("%s: metrics: %v", name, err)
	}
	r := s.mustRead()
	w.most.queues, w.most.charged = r["fabrid_budget_queues_most"], r["fabrid_budget_memory_most_bytes"]
	for _, f := range w.storm.Refusals {
		if f.Reason != 28 || f.Status != 6 {
			w.wrong += f.Count
			t.Errorf("%s: %d times: %s: REJ reason %d status %d, %s", name, f.Count, f.Step, f.Reason, f.Status, f.What)
		}
	}
	w.log(t, name, quiet)
	if w.most.queues > maxQueues || w.most.charged > memoryBudget {
		t.Errorf("%s: %v queues and %v bytes were charged at most", name, w.most.queues, w.most.charged)
	}
	if w.most.resident > memoryBudget+namespace+beyond {
		t.Errorf("%s: %.0f MiB resident", name, w.most.resident/(1<<20))
	}
	// The longest read bounds how long nothing was heard: 32 were always out.
	if silent := time.Duration(w.good.Read.Latency.Max * float64(time.Microsecond)); silent > kato/2 || w.longest > kato/2 {
		t.Errorf("%s: a read took %v and a Keep Alive %v, of a KATO of %v", name, silent, w.longest, kato)
	}
	if d > kato && w.keepAlives == 0 {
		t.Errorf("%s: no Keep Alive in %v", name, d)
	}
	if w.good.Errors != 0 || w.good.VerifyErrors != 0 {
		t.Errorf("%s: the good host had %d errors, %d of them of verification", name, w.good.Errors, w.good.VerifyErrors)
	}
	return w
}

// thousand is who comes.
var thousand = []string{"--hosts", "1000", "--queues", "4"}

// calm serves, and has the good host measured before any storm.
func calm(t *testing.T) (s *server, quiet result, before reading) {
	t.Helper()
	s = build(t).serve("--max-queues", strconv.Itoa(maxQueues), "--memory-budget", strconv.Itoa(memoryBudget), "--use-srq")
	s.bench(seconds(t)/4).end(t, &quiet)
	t.Logf("quiet: good host %.0f IOPS; bounds: %d queues, %d MiB charged, %d MiB resident", quiet.Read.IOPS, maxQueues, memoryBudget>>20, (memoryBudget+namespace+beyond)>>20)
	s.settle(reading{"go_goroutines": 1e9, "process_open_fds": 1e9, "fabrid_budget_memory_used_bytes": 1e18}, 10*time.Second)
	forecast(t, quiet)
	return s, quiet, s.mustRead()
}

// Storms of a thousand hosts cannot have more than the budget, are refused with
// a word, leave nothing behind, and leave the host that behaves its I/O.
func TestSoakStorm(t *testing.T) {
	s, quiet, before := calm(t)
	d := seconds(t)
	storms := make(map[string]weather)
	for _, c := range []struct{ name, rate string }{
		{"full rate", "0"},
		{"1,000 queues/s", "200"}, // of 1+4 each
		{"1,000 hosts/s", "1000"},
	} {
		w := s.blow(c.name, d, quiet, append(slices.Clone(thousand), "--rate", c.rate)...)
		s.settle(before, 10*time.Second)
		if w.storm.Connected == 0 || w.storm.Failed != 0 {
			t.Errorf("%s: %d connected, %d failed: %s", c.name, w.storm.Connected, w.storm.Failed, w.storm.FirstFailure)
		}
		storms[c.name] = w
	}
	rated := storms["1,000 queues/s"].good.Read
	if got := rated.IOPS / quiet.Read.IOPS; got < 0.7 {
		t.Errorf("at 1,000 queues/s the good host had %.2f of its quiet throughput, want 0.7", got)
	}
	if got := rated.Latency.P99 / quiet.Read.Latency.P99; got > 3 {
		t.Errorf("at 1,000 queues/s the good host's p99 was %.1f times the quiet one, want 3", got)
	}
}

// The same of hosts that vanish, at each stage on their way in. What vanishes is
// found by the longest of the target's deadlines.
func TestSoakAborts(t *testing.T) {
	s, quiet, before := calm(t)
	const deadlines = 75 * time.Second
	for _, stage := range []string{"req", "rep", "rtu", "connect", "set-features", "between-queues", "live", "random"} {
		s.blow("abort at "+stage, seconds(t)/6, quiet, append(slices.Clone(thousand), "--rate", "500", "--abort-at", stage, "--vanish", "1")...)
		s.settle(before, deadlines)
	}
}

// Cycles per second of many hosts, and the time of a lone one.
func TestSoakCycles(t *testing.T) {
	s := build(t).serve("--max-queues", strconv.Itoa(maxQueues), "--use-srq")
	before := s.mustRead()
	var many, lone result
	s.storm(seconds(t)/4, "--hosts", "256", "--queues", "1").end(t, &many)
	s.settle(before, 10*time.Second)
	s.storm(seconds(t)/4, "--hosts", "1", "--queues", "1").end(t, &lone)
	s.settle(before, 10*time.Second)
	t.Logf("256 hosts: %.0f cycles/s; a lone host: p50 %.0f us", many.CyclesSec, lone.Cycle.P50)
	if many.CyclesSec < 5000 || lone.Cycle.P50 > 1000 {
		t.Error("want 5000 cycles/s and 1000 us")
	}
	if many.Failed+lone.Failed != 0 {
		t.Errorf("failed: %s%s", many.FirstFailure, lone.FirstFailure)
	}
}

// A million cycles leave the memory where it was after the first thousand.
func TestSoakMillion(t *testing.T) {
	s := build(t).serve("--max-queues", strconv.Itoa(maxQueues), "--use-srq")
	var r result
	var first float64
	for done, step := 0, 1000; done < 1_000_000; {
		s.storm(time.Hour, "--hosts", "64", "--queues", "1", "--cycles", strconv.Itoa(step)).end(t, &r)
		if r.Failed != 0 {
			t.Fatalf("failed: %s", r.FirstFailure)
		}
		rss := s.mustRead()["process_resident_memory_bytes"] / (1 << 20)
		done += step
		t.Logf("%7d cycles: %.1f MiB resident", done, rss)
		if first == 0 {
			first, step = rss, 111_000
		} else if rss > first+8 {
			t.Errorf("%.1f MiB after %d cycles, %.1f after the first thousand", rss, done, first)
		}
	}
}
