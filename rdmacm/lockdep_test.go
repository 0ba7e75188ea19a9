//go:build lockdep

package rdmacm_test

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/rdmacm/rdmacmtest"
	"github.com/fabrid/fabrid/workqueue"
)

// A nvmet is the target of Linux's nvmet-rdma in small, as far as its locks go:
// a connect handler that lets earlier releases end, and releases that destroy
// the connection's ID.
type nvmet struct {
	releases *workqueue.Queue
	admit    func(*nvmetQueue) // the mitigation of over-allocation
	admitted chan *nvmetQueue
}

type nvmetQueue struct {
	id      *rdmacm.ID
	barrier workqueue.Barrier
	release workqueue.Work
}

func (n *nvmet) connectHandler(_ *rdmacm.ID, ev *rdmacm.Event) error {
	if ev.Type == rdmacm.ConnectRequest {
		q := &nvmetQueue{id: ev.Conn}
		q.release.Init("nvmet_rdma_release_queue_work", q.releaseQueue)
		n.admit(q)
	}
	return nil
}

// flushReleases waits, in the handler: what Linux did.
func (n *nvmet) flushReleases(q *nvmetQueue) {
	n.releases.Flush()
	n.accept(q)
}

// passBarrier does not: what we do.
func (n *nvmet) passBarrier(q *nvmetQueue) {
	q.barrier.Init("admit", func() { n.accept(q) })
	n.releases.FlushAsync(&q.barrier)
}

func (n *nvmet) accept(q *nvmetQueue) {
	if err := q.id.Accept(stubQP{}, rdmacm.ConnParam{}); err != nil {
		panic(err)
	}
	n.admitted <- q
}

func (q *nvmetQueue) releaseQueue() {
	if err := q.id.Destroy(); err != nil {
		panic(err)
	}
}

// The three cases that the order of locks is about, on the connection manager
// and the workqueue as they are. Nothing in them ever waits for another: each
// connect is over before the release begins. (1) Linux before it had a queue for
// releases: a cycle of four. (2) With one, and the flush where it was: the same
// cycle, by another name. (3) With a barrier instead: none.
//
// Run with -v it prints the reports.
func TestThreeCases(t *testing.T) {
	const (
		handler = "rdmacm.ID handler mutex"
		nested  = "rdmacm.ID handler mutex/1"
		work    = `(work_completion)"nvmet_rdma_release_queue_work"`
	)
	for _, tc := range []struct {
		name  string
		queue string
		admit func(*nvmet) func(*nvmetQueue)
		wq    string // in the cycle, empty if there is none
	}{
		{"flush of the shared workqueue", "events", func(n *nvmet) func(*nvmetQueue) { return n.flushReleases }, `(wq_completion)"events"`},
		{"flush of a private workqueue", "nvmet-rdma-delete-wq", func(n *nvmet) func(*nvmetQueue) { return n.flushReleases }, `(wq_completion)"nvmet-rdma-delete-wq"`},
		{"barrier in a private workqueue", "delete", func(n *nvmet) func(*nvmetQueue) { return n.passBarrier }, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			reports := connectAndRelease(t, tc.queue, tc.admit)
			for _, r := range reports {
				t.Log(r.Error())
			}
			if tc.wq == "" {
				if len(reports) != 0 {
					t.Errorf("%d reports, want none", len(reports))
				}
				return
			}
			if len(reports) != 1 {
				t.Fatalf("%d reports, want 1", len(reports))
			}
			r := reports[0]
			if want := []string{handler, nested, tc.wq, work}; !slices.Equal(r.Classes, want) {
				t.Fatalf("the cycle is %q, want %q", r.Classes, want)
			}
			// What is acquired, what is held, and each edge, newest first, with
			// who made it.
			checkSections(t, r.Error(), []section{
				{"trying to acquire:\n" + handler, []string{"(*ID).Destroy", "(*nvmetQueue).releaseQueue", "workqueue.(*Queue).runLocked"}},
				{"already holding:\n" + work, []string{"workqueue.(*Queue).runLocked"}},
				{"-> #3 " + work, []string{"workqueue.(*Queue).runLocked"}},
				{"-> #2 " + tc.wq, []string{
					"workqueue.(*Queue).Flush", "(*nvmet).flushReleases", "(*nvmet).connectHandler", "rdmacm.(*ID).handleRequest", "workqueue.(*Queue).runLocked",
				}},
				{"-> #1 " + nested, []string{"rdmacm.(*ID).handleRequest", "workqueue.(*Queue).runLocked"}},
				{"-> #0 " + handler, nil},
				{"holds 2:", []string{tc.wq, work}},
			})
		})
	}
}

// connectAndRelease has two connections come and go, one after the other, in a
// validator of its own, and returns what that reports.
func connectAndRelease(t *testing.T, queue string, admit func(*nvmet) func(*nvmetQueue)) (reports []*lockdep.Report) {
	var mu sync.Mutex // guards reports; the validator's Report may use none of lockdep
	v := lockdep.NewValidator(lockdep.Config{Report: func(r *lockdep.Report) {
		mu.Lock()
		defer mu.Unlock()
		reports = append(reports, r)
	}})
	synctest.Test(t, func(t *testing.T) {
		v.Run(func() {
			n := &nvmet{
				releases: workqueue.New(workqueue.Config{Name: queue}),
				admitted: make(chan *nvmetQueue, 1),
			}
			n.admit = admit(n)
			cm := rdmacm.New(rdmacm.Config{})
			p := &rdmacmtest.Provider{}
			l, err := cm.NewID(n.connectHandler)
			if err == nil {
				err = l.Listen(p, local)
			}
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				p.Request(local, remote, rdmacm.ConnParam{})
				q := <-n.admitted
				synctest.Wait() // the handler has returned
				n.releases.Queue(&q.release)
				q.release.Flush()
			}
			if err := cm.Close(); err != nil {
				t.Error(err)
			}
			n.releases.Destroy()
			if got := n.releases.Stats().Completed; got != 2 {
				t.Errorf("%d releases, want 2", got)
			}
		})
	})
	return reports
}

// A section of a report is what follows a head, up to the next one's.
type section struct {
	head  string
	holds []string // in this order
}

func checkSections(t *testing.T, text string, want []section) {
	t.Helper()
	rest := text
	for i, s := range want {
		_, after, ok := strings.Cut(rest, s.head)
		if !ok {
			t.Errorf("no %q, in this order, in:\n%s", s.head, text)
			return
		}
		rest = after
		body := after
		if i+1 < len(want) {
			body, _, _ = strings.Cut(after, want[i+1].head)
		}
		for _, h := range s.holds {
			_, after, ok := strings.Cut(body, h)
			if !ok {
				t.Errorf("%q is without %q in:\n%s", s.head, h, text)
				return
			}
			body = after
		}
	}
}
