package transport

import (
	"maps"
	"sync/atomic"
	"time"

	"github.com/fabrid/fabrid/lockdep"
)

type queuesMu struct{} // inside lifeMu

// Queues is the list of a target's queues. It may be used from any goroutine;
// the zero value is an empty list.
type Queues struct {
	counts [numStates]atomic.Int64

	mu       lockdep.Mutex[queuesMu] // guards below
	list     map[*Life]struct{}
	refusals map[string]uint64 // by [Reason]
	releases map[string]uint64 // by [Reason]
}

// Counts is the number of queues in each stage.
type Counts struct {
	Waiting       int `json:"waiting"`
	Connecting    int `json:"connecting"`
	Live          int `json:"live"`
	Disconnecting int `json:"disconnecting"`
	Releasing     int `json:"releasing"`
}

// Total is the number of queues in any stage.
func (c Counts) Total() int {
	return c.Waiting + c.Connecting + c.Live + c.Disconnecting + c.Releasing
}

// Counts returns the number of queues in each stage.
func (q *Queues) Counts() Counts {
	n := func(s State) int { return int(q.counts[s].Load()) }
	return Counts{n(Waiting), n(Connecting), n(Live), n(Disconnecting), n(Releasing)}
}

// All returns the queues there are.
func (q *Queues) All() []*Life {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := make([]*Life, 0, len(q.list))
	for l := range q.list {
		all = append(all, l)
	}
	return all
}

func (q *Queues) add(l *Life) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.list == nil {
		q.list = make(map[*Life]struct{})
	}
	q.list[l] = struct{}{}
	q.counts[Waiting].Add(1)
}

func (q *Queues) remove(l *Life) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.list, l)
}

func (q *Queues) count(from, to State) {
	q.counts[from].Add(-1)
	if to != Freed {
		q.counts[to].Add(1)
	}
}

// Tally is what has become of queues so far, by reason in a word: how many were
// refused, and how many were released.
type Tally struct {
	Refused, Released map[string]uint64
}

// Tally returns what has become of queues so far.
func (q *Queues) Tally() Tally {
	q.mu.Lock()
	defer q.mu.Unlock()
	return Tally{maps.Clone(q.refusals), maps.Clone(q.releases)}
}

// Refused counts a queue that a fabric refused before it had a life. The gate
// counts those that it refuses.
func (q *Queues) Refused(cause error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.refusals == nil {
		q.refusals = make(map[string]uint64)
	}
	q.refusals[Reason(cause)]++
}

func (q *Queues) released(cause error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.releases == nil {
		q.releases = make(map[string]uint64)
	}
	q.releases[Reason(cause)]++
}

// Oldest returns the queue that has been in a stage for longest, nil if none is
// in it.
func (q *Queues) Oldest(s State) *Life {
	var oldest *Life
	var most time.Duration
	for _, l := range q.All() {
		if state, age := l.State(); state == s && (oldest == nil || age > most) {
			oldest, most = l, age
		}
	}
	return oldest
}
