package transport

import (
	"maps"
	"sync/atomic"

	"github.com/fabrid/fabrid/internal/list"
	"github.com/fabrid/fabrid/lockdep"
)

type queuesMu struct{} // inside lifeMu

// Queues is the list of a target's queues. It may be used from any goroutine;
// the zero value is an empty list.
type Queues struct {
	counts [numStates]atomic.Int64

	mu       lockdep.Mutex[queuesMu] // guards below
	lists    [Freed]lifeList         // by state, in the order in which they came to it
	refusals map[string]uint64       // by [Reason]
	releases map[string]uint64       // by [Reason]
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

// A lifeList is the lives in a state: releasing a queue needs no memory, and
// finding the oldest no walk.
type lifeList = list.List[Life, lifePlace]

type lifePlace struct{}

func (lifePlace) Links(l *Life) *list.Links[Life] { return &l.links }

// All returns the queues there are, by state, in each those that have been in it
// for longest first.
func (q *Queues) All() []*Life {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := make([]*Life, 0, q.Counts().Total())
	for i := range q.lists {
		for l := q.lists[i].First(); l != nil; l = q.lists[i].Next(l) {
			all = append(all, l)
		}
	}
	return all
}

func (q *Queues) add(l *Life) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lists[Waiting].Push(l)
	q.counts[Waiting].Add(1)
}

// moved notes that l has gone to another state, with l.mu held.
func (q *Queues) moved(l *Life, from, to State) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.counts[from].Add(-1)
	q.lists[from].Remove(l)
	if to != Freed {
		q.counts[to].Add(1)
		q.lists[to].Push(l)
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
// in it. It takes the same time however many there are.
func (q *Queues) Oldest(s State) *Life {
	if s >= Freed {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lists[s].First()
}
