package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"

	"github.com/fabrid/fabrid/verbs/roce"
)

// ask asks at an admin socket.
func ask(t *testing.T, socket, method, path string) (status int, body string) {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://fabrid"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

var family = regexp.MustCompile(`(?m)^# TYPE (fabrid_\w+) (\w+)$`)

// What serve shows is what docs/METRICS.md lists, and the other way round.
func TestAdminSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "admin.sock")
	s := serve(t, "--admin-socket", socket, "--max-queues", "8", "--memory-budget", "64MiB", "--use-srq", "--srq-size", "64")
	info, err := os.Lstat(socket)
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("the socket is %v, %v", info, err)
	}
	if _, errs, code := fabrid(t, "bench", "-a", s.addr, "--rw", "randrw", "--runtime", "100ms"); code != 0 {
		t.Fatal(errs)
	}
	if _, errs, code := fabrid(t, "storm", "-a", s.addr, "--hosts", "4", "--runtime", "100ms", "--no-progress"); code != 0 {
		t.Fatal(errs)
	}
	// Another, which refuses everybody: there are counters for what has happened.
	none := serve(t, "--admin-socket", socket+"2", "--max-queues-per-host", "1")
	if _, errs, code := fabrid(t, "storm", "-a", none.addr, "--runtime", "100ms", "--no-progress"); code != 1 {
		t.Fatalf("code %d, %s", code, errs)
	}

	doc, err := os.ReadFile("../../docs/METRICS.md")
	if err != nil {
		t.Fatal(err)
	}
	var listed, shown []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(fabrid_\\w+)` \\| (\\w+) \\|").FindAllStringSubmatch(string(doc), -1) {
		listed = append(listed, m[1]+" "+m[2])
	}
	status, text := ask(t, socket, "GET", "/metrics")
	if status != 200 {
		t.Fatalf("/metrics: %d\n%s", status, text)
	}
	_, more := ask(t, socket+"2", "GET", "/metrics")
	if !regexp.MustCompile(`\nfabrid_refusals_total{reason="host_queues"} [1-9]`).MatchString(more) {
		t.Errorf("no refusals in\n%s", more)
	}
	for _, m := range family.FindAllStringSubmatch(text+more, -1) {
		shown = append(shown, m[1]+" "+m[2])
	}
	for _, f := range shown {
		if !slices.Contains(listed, f) {
			t.Errorf("docs/METRICS.md does not list %s", f)
		}
	}
	for _, f := range listed {
		if !slices.Contains(shown, f) {
			t.Errorf("docs/METRICS.md lists %s, which is not shown", f)
		}
	}
	for _, want := range []string{
		"\nfabrid_memory_budget_bytes 6.7108864e+07\n", "\nfabrid_budget_queues_limit 8\n", "\nfabrid_budget_connecting_limit 2\n",
		"\nfabrid_releases_total{cause=\"disconnected\"} ", "\ngo_goroutines ", "\nprocess_resident_memory_bytes ", "device=\"" + s.addr + ":4791\"",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^fabrid_re(?:fusal|lease)s_total\{\w+="([^"]+)"\}`).FindAllStringSubmatch(text, -1) {
		if m[1] == "other" || !strings.Contains(string(doc), "`"+m[1]+"`") {
			t.Errorf("docs/METRICS.md has no word %q", m[1])
		}
	}
	if status, text := ask(t, socket, "POST", "/debug/workqueues/rdma_cm?max_active=5"); status != 200 || !strings.Contains(text, "max_active 5,") {
		t.Errorf("max_active: %d %s", status, text)
	}
	if status, text := ask(t, socket, "GET", "/debug/queues"); status != 200 || !strings.HasPrefix(text, "STATE") {
		t.Errorf("queues: %d %s", status, text)
	}
	if _, errs, code := fabrid(t, "serve", "--addr", "127.99.99.99", "--size", "1MiB", "--admin-socket", socket); code != 1 || !strings.Contains(errs, "another process answers there") {
		t.Errorf("a second server at the socket: code %d, %s", code, errs)
	}
	s.stop()
	if _, err := os.Lstat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestAdminSocketFile(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	closed := func(a *adminSocket, err error) {
		t.Helper()
		if err == nil {
			err = a.close()
		}
		if err != nil {
			t.Error(err)
		}
	}

	// One that a killed process has left is replaced.
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		err = errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: at("stale")}), unix.Close(fd))
	}
	if err != nil {
		t.Fatal(err)
	}
	closed(listenAdmin(at("stale")))
	if _, err := os.Lstat(at("stale")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is left: %v", err)
	}

	// What somebody else has put there meanwhile stays.
	a, err := listenAdmin(at("moved"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(at("moved")), os.WriteFile(at("moved"), []byte("mine"), 0o600)); err != nil {
		t.Fatal(err)
	}
	closed(a, nil)
	if _, err := os.Lstat(at("moved")); err != nil {
		t.Errorf("a file of another's is removed: %v", err)
	}

	for path, want := range map[string]string{
		at("moved"):                  "a file that is no socket",
		at("none/there"):             "no such file or directory",
		at(strings.Repeat("x", 120)): "more than 107 bytes",
		"@abstract":                  "no mode",
	} {
		a, err := listenAdmin(path)
		if err == nil {
			err = errors.Join(errors.New("it is made"), a.close())
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
}

func fieldNames[T any]() (names []string) {
	for f := range reflect.TypeFor[T]().Fields() {
		names = append(names, f.Name)
	}
	return names
}

// serverForTest is a server that listens.
func serverForTest(t *testing.T) *server {
	t.Helper()
	p := &program{log: slog.New(slog.DiscardHandler)}
	f := serveFlags{
		addrs: []string{"127.98.7.6"}, port: 4420, udpPort: roce.Port, nqn: "nqn.2014-08.org.example:lint", storage: storageFlags{size: 1 << 20, blockSize: 4096},
		maxQueueSize: 128, srqSize: 64, maxQueues: 8,
	}
	s, _, err := p.startServer(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// The names of what is shown here are as Prometheus wants them.
func TestCollectorsLint(t *testing.T) {
	for f := range roceHelp {
		if !slices.Contains(fieldNames[roce.Stats](), f) {
			t.Errorf("roceHelp has %s, which devices do not count", f)
		}
	}
	for _, f := range fieldNames[roce.Stats]() {
		if roceHelp[f] == "" {
			t.Errorf("roceHelp does not say what %s counts", f)
		}
	}
	s := serverForTest(t)
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(s.collectors(serveFlags{})...)
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}
