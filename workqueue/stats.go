package workqueue

import (
	"cmp"
	"slices"
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
		Pending:   q.pending.length,
		Delayed:   q.armed,
		Barriers:  q.barriers.length + q.ready.length,
		Completed: q.completed,
		Draining:  q.draining > 0,
		Destroyed: q.destroyed,
	}
	if w := q.pending.first; w != nil {
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
