package host

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
)

// A Queue is one of a controller's queues. An I/O queue outlives its connection:
// what waits in it is sent when it is connected again, on the same shard.
type Queue struct {
	qid   uint16
	shard *shard.Shard
	cfg   *Config

	usable atomic.Bool // connected, or to be connected again
	// checks counts the checks of the keep alive; seen says that a command has
	// been sent and answered since the last one.
	checks *atomic.Uint32
	seen   atomic.Bool

	// Owned by the shard.
	conn        transport.HostQueue // nil while not connected
	running     bool                // takes more than submitNow's
	stuck       func(error)         // is told of a command past its timeout
	crdt        [4]time.Duration    // of the controller, by CRD of a status
	limit       int                 // commands that may be outstanding
	outstanding int
	waiting     commandList
	delayed     commandList
	fenced      commandList
	inFlight    commandList // by deadline
	fence       shard.Timer // armed: no command that writes is sent
	doubt       bool        // a connection was lost with a command that writes
	closed      error       // why nothing is taken any more
	failing     error       // why nothing may wait for a connection
	watch       shard.Timer // for the oldest in flight, or earlier
	idle        func()      // is told, once, that nothing is outstanding
}

func newQueue(qid uint16, s *shard.Shard, cfg *Config, checks *atomic.Uint32) *Queue {
	q := &Queue{qid: qid, shard: s, cfg: cfg, checks: checks}
	q.watch.Fn = q.checkDeadlines
	q.fence.Fn = q.unfence
	return q
}

// ID returns the queue's identifier; I/O queues count from 1.
func (q *Queue) ID() int { return int(q.qid) }

// Shard returns the loop that the queue lives on.
func (q *Queue) Shard() *shard.Shard { return q.shard }

// Depth returns how many commands may be outstanding at once. On the shard.
func (q *Queue) Depth() int { return q.limit }

// attach gives the queue a connection, for at most limit commands outstanding.
// What waits stays so until start.
func (q *Queue) attach(conn transport.HostQueue, limit int, stuck func(error)) {
	q.conn, q.limit, q.stuck = conn, limit, stuck
}

// start sends what waits, but for that long nothing that writes.
func (q *Queue) start(fence time.Duration) {
	q.running, q.failing = true, nil
	if fence > 0 {
		q.shard.Arm(&q.fence, q.shard.Now()+fence)
	}
	q.usable.Store(q.closed == nil)
	q.pump()
}

// stop sends nothing any more, so that all that the connection still brings
// home stays. It reports whether the controller may have a command that writes.
func (q *Queue) stop() (writing bool) {
	q.running = false
	q.unfence()
	for c := q.inFlight.first; c != nil; c = c.next {
		writing = writing || c.writes
	}
	return writing || q.doubt
}

// detach takes the connection away, after nothing is outstanding any more.
func (q *Queue) detach() {
	q.conn, q.doubt = nil, false
	q.shard.Disarm(&q.watch)
}

// close ends the queue: what waits ends with err, and nothing is taken any more.
func (q *Queue) close(err error) {
	q.usable.Store(false)
	if q.closed == nil {
		q.closed = err
	}
	q.failWaiting(err)
}

// fail ends what waits with err, and what would wait from now on, until start.
func (q *Queue) fail(err error) {
	if q.closed == nil {
		q.failing = err
		q.failWaiting(err)
	}
}

func (q *Queue) failWaiting(err error) {
	for _, l := range []*commandList{&q.delayed, &q.fenced, &q.waiting} {
		for n := l.n; n > 0; n-- { // not what done adds
			c := l.first
			l.remove(c)
			q.shard.Disarm(&c.delay)
			q.finish(c, err)
		}
	}
}

// submit takes c, or says why not. done follows, after submit has returned.
func (q *Queue) submit(c *command) error {
	switch {
	case c.place != nowhere:
		return fmt.Errorf("host: submit to queue %d: the command is outstanding", q.qid)
	case q.closed != nil:
		return q.closed
	case q.failing != nil:
		return q.failing
	}
	c.queue, c.err, c.tries, c.doubt, c.canceled, c.pathless = q, nil, 0, false, nil, false
	if c.writes && q.fence.Armed() {
		q.fenced.push(c, fenced)
		return nil
	}
	if q.waiting.first == nil && q.room() {
		err := q.conn.Submit(&c.req)
		if err == nil {
			q.sent(c)
			return nil
		}
		if !waits(err) {
			return fmt.Errorf("host: submit to queue %d: %w", q.qid, err)
		}
	}
	q.waiting.push(c, waiting)
	return nil
}

// submitNow sends c without regard to the others, or says why not. It has no
// timeout.
func (q *Queue) submitNow(c *command) error {
	if q.conn == nil {
		return ErrLost
	}
	c.queue, c.err = q, nil
	if err := q.conn.Submit(&c.req); err != nil {
		return err
	}
	c.place = unwatched
	return nil
}

// room reports whether another command may be outstanding.
func (q *Queue) room() bool { return q.running && q.outstanding < q.limit }

// waits tells whether a command that the fabric refused so is to wait: for
// something to come home, or for the loss of the queue to be told.
func waits(err error) bool {
	return errors.Is(err, transport.ErrQueueFull) || errors.Is(err, transport.ErrQueueDown)
}

// sent notes that the fabric has c.
func (q *Queue) sent(c *command) {
	c.tries++
	c.check = q.checks.Load()
	q.outstanding++
	c.deadline = q.shard.Now() + c.timeout
	q.inFlight.push(c, inFlight)
	if !q.watch.Armed() {
		q.shard.Arm(&q.watch, c.deadline)
	}
}

// pump sends what waits, as far as there is room.
func (q *Queue) pump() {
	for q.waiting.first != nil && q.room() {
		c := q.waiting.first
		if c.gone != nil && c.gone.Load() {
			q.waiting.remove(c)
			q.finish(c, ErrNamespaceGone)
			continue
		}
		if c.writes && q.fence.Armed() {
			q.waiting.remove(c)
			q.fenced.push(c, fenced)
			continue
		}
		err := q.conn.Submit(&c.req)
		if err != nil && waits(err) {
			return
		}
		q.waiting.remove(c)
		if err != nil {
			q.finish(c, fmt.Errorf("host: submit to queue %d: %w", q.qid, err))
			continue
		}
		q.sent(c)
	}
}

// completed is told by the fabric that c has come home.
func (q *Queue) completed(c *command) {
	watched := c.place == inFlight
	if watched {
		q.inFlight.remove(c)
		q.outstanding--
	} else {
		c.place = nowhere
	}
	// An old command proves nothing: the controller may have been done with it
	// long ago. A load costs less than a store that another shard reads.
	if c.req.Err == nil && c.check == q.checks.Load() && !q.seen.Load() {
		q.seen.Store(true)
	}
	switch err := c.req.Err; {
	case err != nil:
		q.interrupted(c, err)
	case !c.req.Completion.Status.OK() && watched && !q.running:
		// The session is being torn down, and the controller perhaps disabled: what
		// it says now is of that, not of the command. What submitNow has sent, such as
		// a Connect, is part of the setting up or tearing down.
		q.interrupted(c, fmt.Errorf("%w: %v", transport.ErrQueueDown, c.req.Completion.Status))
	case !c.req.Completion.Status.OK():
		q.refused(c, c.req.Completion.Status)
	default:
		c.done(c)
	}
	q.pump()
	if q.idle != nil {
		q.tellIdle()
	}
}

// unfence ends the time in which nothing is sent that writes.
func (q *Queue) unfence() {
	q.shard.Disarm(&q.fence)
	for c := q.fenced.last; c != nil; c = q.fenced.last {
		q.fenced.remove(c)
		q.waiting.pushFront(c, waiting)
	}
	q.pump()
}

// tellIdle tells, once, if nothing is outstanding.
func (q *Queue) tellIdle() {
	if q.outstanding == 0 {
		idle := q.idle
		q.idle = nil
		idle()
	}
}

// checkDeadlines runs when the deadline of what was the oldest command has
// passed.
func (q *Queue) checkDeadlines() {
	c := q.inFlight.first
	switch {
	case c == nil:
	case c.deadline > q.shard.Now():
		q.shard.Arm(&q.watch, c.deadline)
	default:
		q.stuck(fmt.Errorf("host: queue %d: no answer to command %#02x within %v", q.qid, c.sqe().Opcode(), c.timeout))
	}
}

// cancel ends c with err unless the fabric has it; then it is not tried again,
// and what to have aborted is returned.
func (q *Queue) cancel(c *command, err error) *abort {
	switch c.place {
	case waiting:
		q.waiting.remove(c)
	case fenced:
		q.fenced.remove(c)
	case delayed:
		q.delayed.remove(c)
		q.shard.Disarm(&c.delay)
	case inFlight:
		c.canceled = err
		return &abort{conn: q.conn, qid: q.qid, cid: c.sqe().CID()}
	default:
		return nil
	}
	q.finish(c, err)
	return nil
}

func (q *Queue) finish(c *command, err error) {
	c.err = err
	c.done(c)
}
