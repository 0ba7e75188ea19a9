package metrics_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/fabrid/fabrid/admission"
	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/fabric"
	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/metrics"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport/loop"
	"github.com/fabrid/fabrid/workqueue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const nqn = "nqn.2014-08.org.example:metrics"

// A world is a target on the fabric within a process, of which there are metrics.
type world struct {
	*testing.T
	node    *fabric.Node
	target  *target.Target
	addr    netip.AddrPort
	sources metrics.Sources
	handler http.Handler
}

// inWorld runs a test in a bubble, where time stands still while anything runs.
func inWorld(t *testing.T, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{T: t, addr: netip.MustParseAddrPort("192.0.2.1:4420"), target: target.New(target.Config{})}
		var err error
		if w.node, err = fabric.NewNode(fabric.Config{Sim: true, Limits: admission.Config{Target: admission.Limits{Queues: 3, Bytes: 1 << 24}}}); err != nil {
			t.Fatal(err)
		}
		disk, err := bdev.NewMemory(bdev.MemoryConfig{Size: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		sub, err := w.target.AddSubsystem(target.SubsystemConfig{NQN: nqn, AllowAnyHost: true})
		if err != nil {
			t.Fatal(err)
		}
		port, err := w.target.AddPort(target.PortConfig{ID: 1})
		if err != nil {
			t.Fatal(err)
		}
		_, err = sub.AddNamespace(target.NamespaceConfig{Device: disk})
		if err = errors.Join(err, port.Link(sub)); err != nil {
			t.Fatal(err)
		}
		if _, err := w.node.Loop().Listen(loop.Config{Core: port, Addr: w.addr}); err != nil {
			t.Fatal(err)
		}
		del, connect := w.node.Workqueues()
		w.sources = metrics.Sources{
			Queues: w.node.Queues(), Budget: w.node.Budget(), Workqueues: []*workqueue.Queue{del, connect}, Target: w.target,
		}
		if w.handler, err = metrics.NewHandler(w.sources); err != nil {
			t.Fatal(err)
		}
		f(w)
		if err := errors.Join(w.target.Close(), w.node.Close(context.Background()), disk.Close()); err != nil {
			t.Error(err)
		}
	})
}

func (w *world) connect() (*host.Controller, error) {
	return host.Connect(context.Background(), host.Config{Dialer: w.node.Loop().Dialer(), Remote: w.addr, NQN: nqn})
}

// ask returns the answer to a request.
func (w *world) ask(method, url string, status int) string {
	w.Helper()
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, httptest.NewRequest(method, url, nil))
	body, err := io.ReadAll(rec.Result().Body)
	if err != nil {
		w.Fatal(err)
	}
	if rec.Code != status {
		w.Errorf("%s %s: status %d, want %d: %s", method, url, rec.Code, status, body)
	}
	return string(body)
}

// has checks that /metrics has each line, and nothing else of its name and
// labels.
func (w *world) has(lines ...string) {
	w.Helper()
	text := w.ask("GET", "/metrics", 200)
	for _, line := range lines {
		if !strings.Contains(text, "\n"+line+"\n") {
			name, _, _ := strings.Cut(line, " ")
			got := "nothing"
			for l := range strings.Lines(text) {
				if strings.HasPrefix(l, name+" ") {
					got = strings.TrimSpace(l)
				}
			}
			w.Errorf("no %q, but %s", line, got)
		}
	}
}

func TestMetrics(t *testing.T) {
	inWorld(t, func(w *world) {
		c, err := w.connect()
		if err != nil {
			t.Fatal(err)
		}
		ns, err := c.Namespace(1)
		if err != nil {
			t.Fatal(err)
		}
		block := make([]byte, 4096)
		for range 3 {
			if _, err := ns.WriteAt(block, 0); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := ns.ReadAt(block, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := w.connect(); err == nil {
			t.Fatal("four queues in a budget of three")
		}
		sub := `subsystem="` + nqn + `"`
		w.has(
			`fabrid_queues{state="live"} 2`,
			`fabrid_queues{state="releasing"} 0`,
			`fabrid_refusals_total{reason="target_queues"} 1`,
			`fabrid_budget_queues_used 2`,
			`fabrid_budget_queues_limit 3`,
			`fabrid_budget_connecting_limit +Inf`,
			`fabrid_budget_memory_limit_bytes 1.6777216e+07`,
			`fabrid_budget_hosts 1`,
			`fabrid_budget_reserved_used 0`,
			`fabrid_controllers 1`,
			`fabrid_commands_total{kind="write",`+sub+`} 3`,
			`fabrid_written_bytes_total{`+sub+`} 12288`,
			`fabrid_read_bytes_total{`+sub+`} 4096`,
			`fabrid_command_errors_total{`+sub+`} 0`,
			`fabrid_workqueue_max_active{workqueue="fabrid delete"} 8`,
		)

		// A backend that does not answer, with the time that has passed.
		del, _ := w.node.Workqueues()
		stuck := make(chan struct{})
		var work workqueue.Work
		work.Init("stuck", func() { <-stuck })
		if err := del.SetMaxActive(1); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the workers that are too many have gone
		del.Queue(&work)
		synctest.Wait()
		if err := c.Disconnect(context.Background()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		since := time.Now()
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		age := fmt.Sprint(time.Since(since).Seconds())
		w.has(
			`fabrid_queues{state="releasing"} 2`,
			`fabrid_releases_total{cause="host_left"} 2`,
			`fabrid_release_oldest_seconds{step="drain"} 0`,
			`fabrid_workqueue_running{workqueue="fabrid delete"} 1`,
			`fabrid_workqueue_pending{workqueue="fabrid delete"} 2`,
			`fabrid_budget_queues_used 2`,
		)
		for _, name := range []string{`fabrid_release_oldest_seconds{step="pending"}`, `fabrid_queue_oldest_seconds{state="releasing"}`} {
			w.has(name + " " + age)
		}
		if text := w.ask("GET", "/debug/queues", 200); strings.Count(text, "\nreleasing") != 2 || !strings.Contains(text, "host_left: loop: the host has disconnected") {
			t.Errorf("/debug/queues:\n%s", text)
		}
		close(stuck)
		synctest.Wait()
		w.has(`fabrid_queues{state="releasing"} 0`, `fabrid_queue_oldest_seconds{state="releasing"} 0`, `fabrid_budget_queues_most 2`, `fabrid_budget_hosts 0`)
	})
}

func TestLint(t *testing.T) {
	inWorld(t, func(w *world) {
		w.sources.Queues.Refused(errors.New("no reason"))
		reg := prometheus.NewPedanticRegistry()
		reg.MustRegister(metrics.NewCollector(w.sources))
		problems, err := testutil.GatherAndLint(reg)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	})
}

func TestWorkqueues(t *testing.T) {
	inWorld(t, func(w *world) {
		if text := w.ask("GET", "/debug/workqueues", 200); strings.Count(text, "workqueue \"fabrid ") != 2 {
			t.Errorf("all:\n%s", text)
		}
		if text := w.ask("GET", "/debug/workqueues/fabrid%20connect", 200); !strings.HasPrefix(text, `workqueue "fabrid connect": max_active 2`) {
			t.Errorf("one:\n%s", text)
		}
		del, connect := w.node.Workqueues()
		for _, c := range []struct {
			method, url string
			status      int
			want        string
		}{
			{"POST", "/debug/workqueues/fabrid%20delete?max_active=3", 200, `workqueue "fabrid delete": max_active 3,`},
			{"PUT", "/debug/workqueues/fabrid%20delete?max_active=4", 200, `max_active 4,`},
			{"POST", "/debug/workqueues/fabrid%20delete", 400, `max_active "": want a number from 1 to 2048`},
			{"POST", "/debug/workqueues/fabrid%20delete?max_active=0", 400, "want a number"},
			{"POST", "/debug/workqueues/fabrid%20delete?max_active=2049", 400, "want a number"},
			{"POST", "/debug/workqueues/fabrid%20delete?max_active=many", 400, "want a number"},
			{"POST", "/debug/workqueues/nobody?max_active=4", 404, `no workqueue "nobody": there are "fabrid delete", "fabrid connect"`},
			{"GET", "/debug/workqueues/nobody", 404, "no workqueue"},
			{"POST", "/debug/workqueues?max_active=4", 405, ""},
			{"DELETE", "/debug/queues", 405, ""},
			{"GET", "/debug", 404, ""},
			{"GET", "/", 200, "/metrics"},
		} {
			if got := w.ask(c.method, c.url, c.status); !strings.Contains(got, c.want) {
				t.Errorf("%s %s: %s, want %s", c.method, c.url, got, c.want)
			}
		}
		if d, c := del.Stats().MaxActive, connect.Stats().MaxActive; d != 4 || c != 2 {
			t.Errorf("max_active are %d and %d, want 4 and 2", d, c)
		}
		ordered := workqueue.New(workqueue.Config{Name: "ordered", Ordered: true})
		w.sources.Workqueues = append(w.sources.Workqueues, ordered)
		var err error
		if w.handler, err = metrics.NewHandler(w.sources); err != nil {
			t.Fatal(err)
		}
		w.ask("POST", "/debug/workqueues/ordered?max_active=2", 409)
		ordered.Destroy()
		w.ask("POST", "/debug/workqueues/ordered?max_active=1", 409)
	})
}

// Collectors of one name are a mistake that is told.
func TestTwice(t *testing.T) {
	s := metrics.Sources{}
	s.More = append(s.More, metrics.NewCollector(s))
	if _, err := metrics.NewHandler(s); err == nil {
		t.Error("two collectors of the same metrics")
	}
}
