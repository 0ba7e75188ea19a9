package host

import (
	"errors"
	"fmt"
	"time"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
)

// Bounds of the time between two tries.
const (
	// MaxRetryDelay is the longest that a controller's Command Retry Delay is
	// followed: a controller may name two hours.
	MaxRetryDelay = time.Minute

	// firstBackoff is the delay after the first status that says busy and names
	// no delay of its own. It doubles with each try: Linux, which does without,
	// has used up its tries within microseconds.
	firstBackoff = 100 * time.Millisecond

	// pathDelay is the time between two tries of a command for which the
	// controller has no path.
	pathDelay = time.Second
)

// busy reports whether a status speaks of a state that takes time to pass.
func busy(s nvme.Status) bool {
	switch s.Base() {
	case nvme.NamespaceNotReady, nvme.CommandInterrupted, nvme.TransientTransportError, nvme.AdminCommandMediaNotReady,
		nvme.FormatInProgress, nvme.SanitizeInProgress, nvme.ControllerPathingError,
		nvme.AbortedSQDeletion, nvme.AbortedPowerLoss, nvme.AbortedPreempt:
		return true
	}
	return false
}

// noPath reports whether a status says that another path, or this one later,
// leads to the namespace [Base, Path Related Status Definition].
func noPath(s nvme.Status) bool {
	return errors.Is(s, nvme.ANAInaccessible) || errors.Is(s, nvme.ANATransition)
}

// retryDelay is how long the controller wants to be left alone.
func (q *Queue) retryDelay(c *command, s nvme.Status) time.Duration {
	if d := q.crdt[s.CRD()]; d > 0 {
		return min(d, MaxRetryDelay)
	}
	if busy(s) {
		return min(firstBackoff<<min(c.tries-1, 16), MaxRetryDelay)
	}
	return 0
}

// pathTimeout is how long a command waits for a path, negative if for ever.
func (c *Config) pathTimeout() time.Duration {
	switch {
	case c.FastIOFailTMO != Off:
		return c.FastIOFailTMO
	case c.CtrlLossTMO == Off:
		return 0
	case c.CtrlLossTMO == Forever:
		return -1
	}
	return c.CtrlLossTMO
}

// refused decides about a command that ended with status s.
func (q *Queue) refused(c *command, s nvme.Status) {
	// Where nobody asked for that, an Abort came too late for its own command and
	// has hit this one (see aborts): it is to be sent again, whatever DNR says.
	aborted := errors.Is(s, nvme.AbortRequested)
	switch {
	case c.canceled != nil && (aborted || !s.DNR()):
		q.finish(c, c.canceled)
	case !c.idempotent || s.DNR() && !aborted || q.closed != nil,
		errors.Is(s, nvme.CompareFailure), errors.Is(s, nvme.ANAPersistentLoss):
		q.finish(c, s)
	case noPath(s):
		q.awaitPath(c, s)
	case c.tries > q.cfg.maxRetries():
		q.finish(c, s)
	default:
		c.pathless = false
		q.later(c, q.retryDelay(c, s))
	}
}

// awaitPath tries a command again and again that the controller has no path for.
// That is no fault of the command, so that time, not tries, bounds it: as a loss
// of the connection would.
func (q *Queue) awaitPath(c *command, s nvme.Status) {
	c.tries--
	now := q.shard.Now()
	if !c.pathless {
		c.pathless, c.since = true, now
	}
	d := max(pathDelay, min(q.crdt[s.CRD()], MaxRetryDelay))
	if tmo := q.cfg.pathTimeout(); tmo >= 0 {
		left := c.since + tmo - now
		if left <= 0 {
			q.finish(c, s)
			return
		}
		d = min(d, left)
	}
	q.later(c, d)
}

// later sends c again, after d.
func (q *Queue) later(c *command, d time.Duration) {
	if d <= 0 {
		q.waiting.push(c, waiting)
		return
	}
	q.delayed.push(c, delayed)
	q.shard.Arm(&c.delay, q.shard.Now()+d)
}

// retry is the end of a delay of c.
func (q *Queue) retry(c *command) {
	q.delayed.remove(c)
	q.waiting.push(c, waiting)
	q.pump()
}

// pathChanged has those tried again at once that wait for a path.
func (q *Queue) pathChanged() {
	for c := q.delayed.first; c != nil; {
		next := c.next
		if c.pathless {
			q.shard.Disarm(&c.delay)
			q.delayed.remove(c)
			q.waiting.push(c, waiting)
		}
		c = next
	}
	q.pump()
}

// interrupted decides about a command that the fabric could not carry to its
// end: whether the controller has executed it, or will, is not known.
func (q *Queue) interrupted(c *command, err error) {
	down := errors.Is(err, transport.ErrQueueDown)
	if down {
		c.doubt = true
		q.doubt = q.doubt || c.writes
	}
	switch {
	case c.canceled != nil:
		q.finish(c, c.canceled)
	case q.closed != nil:
		q.finish(c, q.closed)
	case q.failing != nil:
		q.finish(c, q.failing)
	case !down:
		q.finish(c, fmt.Errorf("host: queue %d: %w", q.qid, err))
	case c.idempotent && c.tries <= q.cfg.maxRetries() && (!c.writes || q.cfg.KATO != Off):
		q.waiting.push(c, waiting)
	default:
		q.finish(c, fmt.Errorf("host: queue %d: %w: %w", q.qid, ErrLost, err))
	}
}
