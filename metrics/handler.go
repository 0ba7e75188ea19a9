package metrics

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/workqueue"
)

const index = `/metrics                                  for Prometheus
/debug/queues                             a line for each queue
/debug/workqueues                         what workqueues are doing
/debug/workqueues/NAME                    one of them; POST or PUT ?max_active=N sets how many works may run at once
`

// maxScrapes is how many are answered at once: each waits for what it asks.
const maxScrapes = 4

// NewHandler returns what serves GET /metrics, /debug/queues and
// /debug/workqueues, and POST and PUT /debug/workqueues/NAME?max_active=N. It
// shows and changes what only an operator may: who serves it decides who that
// is. It is an error if two of s's collectors have a metric of one name.
func NewHandler(s Sources) (http.Handler, error) {
	reg := prometheus.NewRegistry()
	for _, c := range append([]prometheus.Collector{
		NewCollector(s), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewBuildInfoCollector(),
	}, s.More...) {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	h := &handler{s}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { write(w, index) })
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes}))
	mux.HandleFunc("GET /debug/queues", h.queues)
	mux.HandleFunc("GET /debug/workqueues", h.workqueues)
	mux.HandleFunc("GET /debug/workqueues/{name}", h.named(func(w http.ResponseWriter, _ *http.Request, q *workqueue.Queue) {
		write(w, q.Stats().String())
	}))
	mux.HandleFunc("POST /debug/workqueues/{name}", h.named(setWorkqueue))
	mux.HandleFunc("PUT /debug/workqueues/{name}", h.named(setWorkqueue))
	return mux, nil
}

type handler struct{ s Sources }

// write writes text. Who has gone does not read an error.
func write(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, text)
}

func (h *handler) workqueues(w http.ResponseWriter, _ *http.Request) {
	var b strings.Builder
	for _, q := range h.s.Workqueues {
		b.WriteString(q.Stats().String())
	}
	write(w, b.String())
}

// named finds the workqueue that the path names.
func (h *handler) named(f func(http.ResponseWriter, *http.Request, *workqueue.Queue)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var names []string
		for _, q := range h.s.Workqueues {
			if q.Name() == r.PathValue("name") {
				f(w, r, q)
				return
			}
			names = append(names, strconv.Quote(q.Name()))
		}
		http.Error(w, fmt.Sprintf("no workqueue %q: there are %s", r.PathValue("name"), strings.Join(names, ", ")), http.StatusNotFound)
	}
}

// setWorkqueue sets what the sysfs of Linux's workqueues lets an operator set.
func setWorkqueue(w http.ResponseWriter, r *http.Request, q *workqueue.Queue) {
	r.Body = http.MaxBytesReader(w, r.Body, 4096)
	text := r.FormValue("max_active")
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > workqueue.MaxActiveLimit {
		http.Error(w, fmt.Sprintf("max_active %q: want a number from 1 to %d, as ?max_active=8", text, workqueue.MaxActiveLimit), http.StatusBadRequest)
		return
	}
	if err := q.SetMaxActive(n); err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	write(w, q.Stats().String())
}

// queues writes a line for each queue: by stage, in each those that have been in
// it for longest first.
func (h *handler) queues(w http.ResponseWriter, _ *http.Request) {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "STATE\tAGE\tSTEP\tQID\tCNTLID\tHOST\tGUID\tBYTES\tCAUSE")
	if h.s.Queues != nil {
		for _, l := range h.s.Queues.All() {
			writeQueue(t, l.Info())
		}
	}
	_ = t.Flush() // to memory
	write(w, b.String())
}

func writeQueue(w io.Writer, i transport.Info) {
	step, cntlid, guid, cause := "-", "-", "-", "-"
	if i.Step != "" {
		step = i.Step
	}
	if i.CNTLID != 0 {
		cntlid = strconv.Itoa(int(i.CNTLID))
	}
	if i.Host.GUID != 0 {
		guid = fmt.Sprintf("%016x", i.Host.GUID)
	}
	if i.Cause != nil {
		cause = transport.Reason(i.Cause) + ": " + line(i.Cause.Error())
	}
	fmt.Fprintf(w, "%v\t%v\t%s\t%d\t%s\t%v\t%s\t%d\t%s\n",
		i.State, i.Age.Round(time.Millisecond), step, i.QID, cntlid, i.Host.Addr, guid, i.Bytes, cause)
}

// line makes one line of what somebody else has written.
func line(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
}
