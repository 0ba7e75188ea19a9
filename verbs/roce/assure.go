package roce

import (
	"time"

	"github.com/fabrid/fabrid/internal/list"
	"github.com/fabrid/fabrid/shard"
)

// An assurer sends the last ACK of a queue pair again when nothing has followed
// it for a while, on paths that lose packets. The next ACK makes good for one that
// is lost, but after the last there is none, and one ACK may stand for all that
// the peer waits for. The peer would wait until its own timer ran out, for
// seconds, and then send all of that again, which costs a Linux rxe that has
// registered memory in between its connection. It belongs to its engine's shard.
type assurer struct {
	eng   *engine
	qps   list.List[queuePair, assuredPlace] // that were heard of less than assureAfter[last] ago
	timer shard.Timer
}

// assureAfter says when an ACK goes out again, after the request that it is for.
// Twice: one packet in a hundred lost is then one ACK in a million.
var assureAfter = [...]time.Duration{8 * time.Millisecond, 32 * time.Millisecond}

// assured is a queue pair's part of it.
type assured struct {
	links list.Links[queuePair]
	at    time.Duration // when a request that is to be acknowledged last came
	again int           // how often its ACK has gone out again
	on    bool          // in the list
}

type assuredPlace struct{}

func (assuredPlace) Links(q *queuePair) *list.Links[queuePair] { return &q.assured.links }

// heard says that q has got a request that is to be acknowledged.
func (a *assurer) heard(q *queuePair) {
	now := q.now()
	if !q.path.lossy(now) && !q.assured.on {
		return
	}
	q.assured.at, q.assured.again = now, 0
	if q.assured.on {
		return
	}
	q.assured.on = true
	a.qps.Push(q)
	if !a.timer.Armed() {
		a.eng.shard.Arm(&a.timer, q.assured.at+assureAfter[0])
	}
}

// leave forgets q.
func (a *assurer) leave(q *queuePair) {
	if q.assured.on {
		q.assured.on = false
		a.qps.Remove(q)
	}
}

// expired sends what is due, and comes again for what is not. It goes through
// all: a queue pair in use is not due, and stays.
func (a *assurer) expired() {
	now, next := a.eng.shard.Now(), time.Duration(-1)
	for q := a.qps.First(); q != nil; {
		after := a.qps.Next(q)
		due := q.assured.at + assureAfter[q.assured.again]
		if due <= now {
			q.resp.repeatACK()
			if q.assured.again++; q.assured.again == len(assureAfter) {
				a.leave(q)
				q = after
				continue
			}
			due = q.assured.at + assureAfter[q.assured.again]
		}
		if next < 0 || due < next {
			next = due
		}
		q = after
	}
	if next >= 0 {
		a.eng.shard.Arm(&a.timer, max(next, now+assureAfter[0]/2))
	}
}

// close forgets all.
func (a *assurer) close() { a.eng.shard.Disarm(&a.timer) }
