package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fabrid/fabrid/load"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/verbs/roce"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("os/signal.loop")) }

// output collects what a command prints while others look.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
	more chan struct{}
}

func newOutput() *output { return &output{more: make(chan struct{}, 1)} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.more <- struct{}{}:
	default:
	}
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// wait returns the text once it has what is wanted.
func (o *output) wait(t *testing.T, want string) string {
	t.Helper()
	limit := time.After(20 * time.Second)
	for !strings.Contains(o.String(), want) {
		select {
		case <-o.more:
		case <-limit:
			t.Fatalf("no %q in\n%s", want, o)
		}
	}
	return o.String()
}

// A served is a running serve.
type served struct {
	addr           string
	stdout, stderr *output
	stop           func() int // returns the exit code
}

// serve runs serve at a loopback address of its own, with more flags.
func serve(t *testing.T, flags ...string) *served {
	t.Helper()
	return serveSize(t, append([]string{"--size", "16MiB"}, flags...)...)
}

// ownAddr is a loopback address that nobody else takes by himself.
func ownAddr() string {
	r := rand.Uint32()
	return netip.AddrFrom4([4]byte{127, 1 + byte(r>>16)%63, byte(r >> 8), 1 + byte(r)%253}).String()
}

// serveSize is serve without a size.
func serveSize(t *testing.T, flags ...string) *served {
	t.Helper()
	s := &served{addr: ownAddr(), stdout: newOutput(), stderr: newOutput()}
	ctx, cancel := context.WithCancel(context.Background())
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, append([]string{"serve", "--addr", s.addr}, flags...), s.stdout, s.stderr)
	}()
	s.stop = sync.OnceValue(func() int {
		cancel()
		select {
		case c := <-code:
			return c
		case <-time.After(10 * time.Second):
			t.Error("serve did not end")
			return -1
		}
	})
	t.Cleanup(func() {
		if c := s.stop(); c != 0 {
			t.Errorf("serve: exit code %d\n%s", c, s.stderr)
		}
	})
	s.stdout.wait(t, "ready")
	return s
}

// fabrid runs a command and returns what it printed.
func fabrid(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, err bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // a serve that should have been refused
	defer cancel()
	code = run(ctx, args, &out, &err)
	return out.String(), err.String(), code
}

func TestServeDiscoverBench(t *testing.T) {
	const nqn = "nqn.2014-08.org.example:test"
	s := serve(t, "--nqn", nqn)
	if text := s.stdout.String(); !strings.Contains(text, "16 MiB in memory") || !strings.Contains(text, "fabrid bench -t rdma -a "+s.addr+" -s 4420 -n "+nqn) {
		t.Errorf("serve printed\n%s", text)
	}

	if text := s.stdout.String(); strings.Contains(text, "nvme connect") || !strings.Contains(text, "# on this machine") {
		t.Errorf("serve at a loopback address printed\n%s", text)
	}

	out, errs, code := fabrid(t, "discover", "-a", s.addr)
	if code != 0 || !strings.Contains(out, "subnqn:      "+nqn) || !strings.Contains(out, "Number of Records 2") {
		t.Errorf("discover: code %d\n%s%s", code, out, errs)
	}
	out, errs, code = fabrid(t, "discover", "-t", "rdma", "-a", s.addr, "-s", "4420", "--json")
	var log discoveryLog
	if err := json.Unmarshal([]byte(out), &log); err != nil || code != 0 {
		t.Fatalf("discover --json: code %d, %v\n%s%s", code, err, out, errs)
	}
	if !slices.ContainsFunc(log.Records, func(e discoveryEntry) bool {
		return e.SUBNQN == nqn && e.TRADDR == s.addr && e.TRSVCID == "4420" && e.TRTYPE == "rdma" && e.SUBTYPE == "nvme subsystem"
	}) {
		t.Errorf("discover --json: no %s in %s", nqn, out)
	}

	out, errs, code = fabrid(t, "bench", "-a", s.addr, "-n", nqn, "-i", "2", "--rw", "randrw", "--bs", "4k", "--iodepth", "8",
		"--number-ios", "2000", "--verify", "--json")
	var r load.Result
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 {
		t.Fatalf("bench: code %d, %v\n%s%s", code, err, out, errs)
	}
	if r.Commands != 2000 || r.IOPS <= 0 || r.Errors != 0 || r.VerifyErrors != 0 || r.Verified == 0 || r.Latency.P999 <= 0 || r.Queues != 2 {
		t.Errorf("bench: %s", out)
	}

	// Without a name, the only subsystem that there is; as text.
	out, errs, code = fabrid(t, "bench", "-a", s.addr, "--rw", "write", "--bs", "128k", "--number-ios", "200")
	if code != 0 || !strings.Contains(out, "write of 128 KiB") || !strings.Contains(out, "1 I/O queue, 1 job each, 1 command outstanding") || !strings.Contains(out, "latency below") || !strings.Contains(out, "errors 0, verify errors 0") {
		t.Errorf("bench: code %d\n%s%s", code, out, errs)
	}

	counters := nothingLeft(t, s)
	if counters.Commands.Reads == 0 || counters.Commands.Writes < 200 || counters.RoCE["packets_sent"] == 0 {
		t.Errorf("counters: %+v", counters)
	}
	if c := s.stop(); c != 0 || !strings.Contains(s.stderr.String(), "controller created") {
		t.Errorf("serve: exit code %d\n%s", c, s.stderr)
	}
}

// nothingLeft checks, by the line that SIGUSR1 prints, that what hosts had is
// gone soon, and returns the last line.
func nothingLeft(t *testing.T, s *served) counters {
	t.Helper()
	const tries = 200
	for try := 1; ; try++ {
		before := strings.Count(s.stderr.String(), `{"queues"`)
		if err := syscall.Kill(os.Getpid(), syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		text := s.stderr.String()
		for limit := time.After(10 * time.Second); strings.Count(text, `{"queues"`) == before; text = s.stderr.String() {
			select {
			case <-s.stderr.more:
			case <-limit:
				t.Fatalf("no counters in\n%s", text)
			}
		}
		line := text[strings.LastIndex(text, `{"queues"`):]
		var c counters
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			t.Fatalf("counters: %v in %s", err, line)
		}
		for _, name := range []string{`"waiting":`, `"connecting":`, `"live":`, `"disconnecting":`, `"releasing":`, `"buffers":`, `"mrs":`, `"controllers":`} {
			if !strings.Contains(line, name) {
				t.Fatalf("counters: no %s in %s", name, line)
			}
		}
		if c.Queues.Total() == 0 && c.Buffers == 0 && c.MRs == 0 && c.Controllers == 0 && c.Admitted == 0 && c.AdmittedBytes == 0 && c.QPs == 0 {
			return c
		}
		if try == tries {
			t.Fatalf("counters: something is left: %s", line)
		}
	}
}

func TestServeVariants(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disk")
	for _, c := range []struct {
		flags []string
		says  string
	}{
		{[]string{"--file", file, "--size", "8MiB", "--block-size", "512"}, "8 MiB in " + file + ", blocks of 512"},
		{[]string{"--file", file, "--size", "8MiB", "--block-size", "512", "--buffered-io", "--no-io-uring"}, "through the page cache, by threads\n"},
		{[]string{"--null"}, "forgets"},
		{[]string{"--use-srq", "--inline-data-size", "0", "--max-queue-size", "32"}, "in memory"},
	} {
		s := serve(t, c.flags...)
		if text := s.stdout.String(); !strings.Contains(text, c.says) {
			t.Errorf("serve %v: no %q in\n%s", c.flags, c.says, text)
		}
		verify := c.flags[0] != "--null"
		out, errs, code := fabrid(t, "bench", "-a", s.addr, "--rw", "randrw", "--iodepth", "16", "--number-ios", "500", "--verify="+fmt.Sprint(verify))
		if code != 0 {
			t.Errorf("bench of serve %v: code %d\n%s%s", c.flags, code, out, errs)
		}
		if code := s.stop(); code != 0 {
			t.Errorf("serve %v: exit code %d\n%s", c.flags, code, s.stderr)
		}
	}
	if i, err := os.Stat(file); err != nil || i.Size() != 8<<20 {
		t.Errorf("the file: %v, %v", i, err)
	}
	// A file that exists has a size of its own.
	s := serveSize(t, "--file", file)
	if text := s.stdout.String(); !strings.Contains(text, "8 MiB in "+file) {
		t.Errorf("serve of an existing file printed\n%s", text)
	}
	// And the namespace follows it.
	if err := os.Truncate(file, 12<<20); err != nil {
		t.Fatal(err)
	}
	s.stderr.wait(t, "another size")
	if out, errs, code := fabrid(t, "bench", "-a", s.addr, "--rw", "write", "--bs", "64k", "--number-ios", "192", "--verify"); code != 0 {
		t.Errorf("bench of all of the file: code %d\n%s%s", code, out, errs)
	}
	if data, err := os.ReadFile(file); err != nil || bytes.Count(data[8<<20:], []byte{0}) > 1<<20 {
		t.Errorf("what the file grew by has %d zeros, %v", bytes.Count(data[8<<20:], []byte{0}), err)
	}
}

func TestVerifyErrorsAreAnExitCode(t *testing.T) {
	s := serve(t, "--null") // forgets what is written
	out, errs, code := fabrid(t, "bench", "-a", s.addr, "--rw", "randwrite", "--number-ios", "100", "--verify", "--json")
	var r load.Result
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 1 || r.VerifyErrors == 0 || !strings.Contains(errs, "verify errors") {
		t.Errorf("bench of a null device: code %d, %v\n%s%s", code, err, out, errs)
	}
}

func TestDemo(t *testing.T) {
	out, errs, code := fabrid(t, "demo", "--json", "--runtime", "20ms")
	var r demoResult
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 || r.Compared != demoWrite || len(r.Bench) == 0 || r.Errors != 0 || r.VerifyErrors != 0 {
		t.Errorf("demo: code %d, %v\n%s%s", code, err, out, errs)
	}
}

// An error says what, where, why, and what to do.
func TestErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disk")
	s := serve(t, "--file", file)
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"serve", "--addr", s.addr}, []string{"fabrid serve:", "4791", s.addr, "is taken", "--host-traddr", "--udp-port", "rdma_rxe"}},
		{[]string{"serve", "--addr", "203.0.113.9"}, []string{"203.0.113.9:4791", "cannot assign requested address", "ip -brief address"}},
		{[]string{"serve", "--addr", "nowhere"}, []string{`--addr "nowhere"`, "IP address"}},
		{[]string{"serve", "--addr", "127.3.2.1", "--nqn", "disk"}, []string{"disk", "nqn."}},
		{[]string{"serve", "127.3.2.1"}, []string{`argument "127.3.2.1"`, "fabrid serve --help"}},
		{[]string{"serve", "--port", "0"}, []string{"--port", "1 to 65535"}},
		{[]string{"serve", "--udp-port", "0"}, []string{"--udp-port", "1 to 65535"}},
		{[]string{"serve", "--max-queues", "0"}, []string{"--max-queues", "from 1"}},
		{[]string{"serve", "--spin", "-1s"}, []string{"--spin", `"-1s" is no time`}},
		{[]string{"serve", "--addr", "127.3.2.1", "--block-size", "0"}, []string{"--block-size 0", "512 or 4096"}},
		{[]string{"serve", "--addr", "127.3.2.1", "--file", file}, []string{file, "another process"}},
		{[]string{"serve", "--size", "12q"}, []string{`"12q" is no size`, "256MiB"}},
		{[]string{"serve", "--size", "1000"}, []string{"1000 bytes", "multiple of 4096"}},
		{[]string{"serve", "--file", "x", "--null"}, []string{"file", "null"}},
		{[]string{"serve", "--addr", "127.3.2.1", "--file", os.DevNull}, []string{os.DevNull, "--device"}},
		{[]string{"serve", "--addr", "127.3.2.1", "--device", file}, []string{file, "want a block device"}},
		{[]string{"discover"}, []string{"traddr", "required"}},
		{[]string{"discover", s.addr}, []string{"argument", "-a"}},
		{[]string{"discover", "-a", ""}, []string{`--traddr ""`, "IP address"}},
		{[]string{"discover", "-a", s.addr + ":4420"}, []string{"--traddr", "without a port", "--trsvcid"}},
		{[]string{"discover", "-a", s.addr, "-s", "65536"}, []string{"--trsvcid", "1 to 65535"}},
		{[]string{"discover", "-a", s.addr, "--bogus"}, []string{"--bogus", "fabrid discover --help"}},
		{[]string{"discover", "-t", "tcp", "-a", s.addr}, []string{"--transport tcp", "only rdma"}},
		{[]string{"discover", "-a", s.addr, "-s", "4444"}, []string{"connection refused", "nobody listens at " + s.addr + ":4444", "check address and port"}},
		{[]string{"discover", "-a", "127.254.3.2"}, []string{"connection refused", "nobody listens at 127.254.3.2:4420", "port of its RDMA is closed", "check address and port"}},
		{[]string{"discover", "-a", "[::1]"}, []string{"::1 is this machine's own address", "loopback address of IPv4"}},
		{[]string{"discover", "-a", "fe80::1"}, []string{"fe80::1 is good on one interface alone", "fe80::1%eth0"}},
		{[]string{"discover", "-a", "fe80::1%nowhere"}, []string{"fe80::1%nowhere"}},
		{[]string{"discover", "-a", s.addr, "--host-traddr", s.addr}, []string{"is taken", "--host-traddr"}},
		{[]string{"bench", "-a", s.addr, "-n", "nqn.2014-08.org.example:other"}, []string{"nqn.2014-08.org.example:other", s.addr, "run discovery"}},
		{[]string{"bench", "-a", s.addr, "--rw", "trim"}, []string{`"trim"`, "randrw"}},
		{[]string{"bench", "-a", s.addr, "--bs", "64M"}, []string{"67108864 bytes a command", "at most"}},
		{[]string{"bench", "-a", s.addr, "--bs", "0"}, []string{"--bs 0"}},
		{[]string{"bench", "-a", s.addr, "-i", "0"}, []string{"--nr-io-queues", "from 1"}},
		{[]string{"bench", "-a", s.addr, "-k", "-1"}, []string{"--keep-alive-tmo", "from 0"}},
		{[]string{"bench", "-a", s.addr, "-c", "0"}, []string{"--reconnect-delay", "from 1"}},
		{[]string{"bench", "-a", s.addr, "--iodepth", "0"}, []string{"--iodepth", "from 1"}},
		{[]string{"bench", "-a", s.addr, "--rwmixread", "0"}, []string{"--rwmixread", "1 to 100"}},
		{[]string{"bench", "-a", s.addr, "--runtime", "soon"}, []string{`"soon" is no time`}},
		{[]string{"--log-level", "loud", "demo"}, []string{`--log-level "loud"`, "debug"}},
	} {
		out, errs, code := fabrid(t, c.args...)
		if code != 1 || out != "" {
			t.Errorf("fabrid %v: code %d, printed %q", c.args, code, out)
		}
		for _, w := range c.want {
			if !strings.Contains(errs, w) {
				t.Errorf("fabrid %v: no %q in\n%s", c.args, w, errs)
			}
		}
	}
}

func TestHint(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{&transport.RefusedError{Listening: true, Reason: rdmacm.RejectReason(rdmacm.RejInvalidMTU)}, "the same MTU"},
		{context.DeadlineExceeded, "UDP port 4791"},
		{syscall.EWOULDBLOCK, "another process"},
		{syscall.EHOSTUNREACH, "ip route get"},
	} {
		if h := hint(fmt.Errorf("at the end of a chain: %w", c.err)); !strings.Contains(h, c.want) {
			t.Errorf("hint for %v: no %q in %q", c.err, c.want, h)
		}
	}
	for _, err := range []error{context.Canceled, &transport.RefusedError{Listening: true, Reason: "no memory"}} {
		if h := hint(err); h != "" {
			t.Errorf("hint for %v: %q", err, h)
		}
	}
}

func TestVersion(t *testing.T) {
	out, errs, code := fabrid(t, "--version")
	if !strings.HasPrefix(out, "fabrid ") || !strings.Contains(out, runtime.Version()) || errs != "" || code != 0 {
		t.Errorf("--version: code %d, printed %q, %q", code, out, errs)
	}
}

// full is a file on a disk that is full.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

func TestLostOutputIsAnError(t *testing.T) {
	s := serve(t)
	for _, args := range [][]string{{"--version"}, {"discover", "-a", s.addr}, {"discover", "-a", s.addr, "--json"}} {
		var errs bytes.Buffer
		if code := run(t.Context(), args, full{}, &errs); code != 1 || !strings.Contains(errs.String(), "no space left") {
			t.Errorf("fabrid %v to a full disk: code %d\n%s", args, code, &errs)
		}
	}
}

// What a machine serves has a name of its own, and the same one again.
func TestDefaultNQN(t *testing.T) {
	seen := make(map[string]serveFlags)
	for _, f := range []serveFlags{
		{port: 4420, udpPort: roce.Port},
		{port: 4421, udpPort: roce.Port},
		{port: 4420, udpPort: 4792},
		{port: 4420, udpPort: roce.Port, addrs: []string{"127.0.0.1"}},
		{port: 4420, udpPort: roce.Port, addrs: []string{"127.0.0.2"}},
		{port: 4420, udpPort: roce.Port, addrs: []string{"127.0.0.1", "127.0.0.2"}},
		{port: 4420, udpPort: roce.Port, storage: storageFlags{file: "disk"}},
		{port: 4420, udpPort: roce.Port, storage: storageFlags{file: "other"}},
		{port: 4420, udpPort: roce.Port, storage: storageFlags{device: "/dev/other"}},
	} {
		nqn := f.defaultNQN()
		if other, ok := seen[nqn]; ok {
			t.Errorf("%+v has the name of %+v: %s", f, other, nqn)
		}
		seen[nqn] = f
		f.storage.size, f.addrs = 1<<30, slices.Clone(f.addrs)
		slices.Reverse(f.addrs)
		if f.storage.file != "" {
			f.storage.file = "./" + f.storage.file
		}
		if again := f.defaultNQN(); again != nqn {
			t.Errorf("%+v has the name %s, and then %s", f, nqn, again)
		}
	}
}

// A target ends in order and in time also if a host does not answer any more.
func TestServeEndsWithASilentHost(t *testing.T) {
	s := serve(t)
	p := &program{stderr: newOutput(), logLevel: "error"}
	if err := p.openLog(); err != nil {
		t.Fatal(err)
	}
	f := hostFlags{transport: "rdma", traddr: s.addr, trsvcid: 4420, udpPort: roce.Port, reconnectDelay: 1}
	i, err := p.openInitiator(t.Context(), &f)
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.connect(t.Context(), &f, i)
	if err != nil {
		t.Fatal(err)
	}
	asleep, wake := make(chan struct{}), make(chan struct{})
	i.node.Shard().Post(&shard.Task{Fn: func() { close(asleep); <-wake }})
	<-asleep
	began := time.Now()
	if code := s.stop(); code != 0 || time.Since(began) > 5*time.Second {
		t.Errorf("serve: exit code %d after %v\n%s", code, time.Since(began), s.stderr)
	}
	close(wake)
	<-c.Done() // reconnectDelay and ctrlLoss: at once
	if err := i.close(); err != nil {
		t.Error(err)
	}
}

// What --max-queues-per-port bounds is each address: one that is full refuses,
// and is in nobody's way at another.
func TestServePorts(t *testing.T) {
	const nqn = "nqn.2014-08.org.example:ports"
	second := netip.MustParseAddr(ownAddr()).Next().String()
	socket := filepath.Join(t.TempDir(), "admin.sock")
	s := serve(t, "--nqn", nqn, "--addr", second, "--max-queues-per-port", "2", "--admin-socket", socket)
	p := &program{log: slog.New(slog.DiscardHandler)}
	f := &hostFlags{transport: "rdma", traddr: s.addr, trsvcid: 4420, nqn: nqn, nrIOQueues: 1, queueSize: 32, udpPort: roce.Port}
	i, err := p.openInitiator(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.connect(t.Context(), f, i) // with both queues that there may be
	if err != nil {
		t.Fatal(err)
	}
	storm := func(addr string) (out string) {
		t.Helper()
		out, errs, code := fabrid(t, "storm", "-a", addr, "-n", nqn, "--cycles", "1", "--no-progress")
		if code != 0 {
			t.Errorf("storm: code %d\n%s%s", code, out, errs)
		}
		return out
	}
	if out := storm(second); !strings.Contains(out, "refused            0") {
		t.Errorf("at another address:\n%s", out)
	}
	if out := storm(s.addr); !strings.Contains(out, "REJ reason 28 status 6") {
		t.Errorf("at a full one:\n%s", out)
	}
	if _, text := ask(t, socket, "GET", "/metrics"); !strings.Contains(text, "\nfabrid_refusals_total{reason=\"port_queues\"} 1\n") {
		t.Errorf("no refusal for port_queues in\n%s", text)
	}
	if err := errors.Join(disconnect(c), i.close()); err != nil {
		t.Error(err)
	}
}
