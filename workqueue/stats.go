package workqueue

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Stats is what a queue is doing, for operators.
type Stats struct {
	Name      string
	Ordered   bool
	MaxActive int
	Workers   int // goroutines; more than MaxActive while surplus ones still run

	Pending       int           // works that wait for a worker
	OldestPending time.Duration // how long the first of them has waited
	Delayed       int           // works whose delay has not ended
	Barriers      int           // barriers that wait
	Completed     uint64        // runs that have ended

	// Running is what the workers are doing, the longest-running first.
	Running []Running

	Draining  bool // Drain or Destroy waits
	Destroyed bool
}

// Running is a work, or a barrier's function, that a worker is running.
type Running struct {
	Name string
	Age  time.Duration // since it began
}

// String returns s as text for people: a line about the queue, and one about
// each thing that runs, the longest-running first.
//
//	workqueue "delete": max_active 4, workers 4, running 1, pending 2 (oldest 1.5s), delayed 0, barriers 1, completed 1234; draining
//	    3.2s  queue.release
func (s Stats) String() string {
	b := new(strings.Builder)
	fmt.Fprintf(b, "workqueue %q: max_active %d, workers %d, running %d, pending %d", s.Name, s.MaxActive, s.Workers, len(s.Running), s.Pending)
	if s.Pending > 0 {
		fmt.Fprintf(b, " (oldest %v)", rounded(s.OldestPending))
	}
	fmt.Fprintf(b, ", delayed %d, barriers %d, completed %d", s.Delayed, s.Barriers, s.Completed)
	for _, is := range []struct {
		so   bool
		what string
	}{{s.Ordered, "ordered"}, {s.Draining, "draining"}, {s.Destroyed, "destroyed"}} {
		if is.so {
			b.WriteString("; " + is.what)
		}
	}
	b.WriteByte('\n')
	for _, r := range s.Running {
		fmt.Fprintf(b, "    %v  %s\n", rounded(r.Age), r.Name)
	}
	return b.String()
}

// rounded cuts off what is noise to a reader.
func rounded(d time.Duration) time.Duration {
	if d < 10*time.Millisecond {
		return d.Round(time.Microsecond)
	}
	return d.Round(time.Millisecond)
}

// Stats returns what the queue is doing at this moment.
func (q *Queue) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	s := Stats{
		Name:      q.name,
		Ordered:   q.ordered,
		MaxActive: q.maxActive,
		Workers:   len(q.workers),
		Pending:   q.pending.Len(),
		Delayed:   q.armed,
		Barriers:  q.barriers.Len() + q.ready.Len(),
		Completed: q.completed,
		Draining:  q.draining > 0,
		Destroyed: q.destroyed,
	}
	if w := q.pending.First(); w != nil {
		s.OldestPending = now.Sub(w.queued)
	}
	for _, k := range q.workers {
		if k.name != "" {
			s.Running = append(s.Running, Running{k.name, now.Sub(k.since)})
		}
	}
	slices.SortStableFunc(s.Running, func(a, b Running) int { return cmp.Compare(b.Age, a.Age) })
	return s
}
