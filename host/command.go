package host

import (
	"sync/atomic"
	"time"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
)

// A place is where a command is.
type place uint8

const (
	nowhere   place = iota // its owner's
	waiting                // for room in the queue, or for a connection
	fenced                 // for the end of what an old connection may still execute
	delayed                // for the time of its next try
	inFlight               // with the fabric, watched for the timeout
	unwatched              // with the fabric, without a timeout
)

// A command is one command of a queue's, in all of its tries. It belongs to the
// queue's shard from when it is submitted until done is called.
type command struct {
	req   transport.HostRequest
	queue *Queue
	done  func(*command) // with err set; may submit the command again
	err   error

	timeout    time.Duration // 0: none, and it does not wait for room either
	idempotent bool          // may be executed twice
	writes     bool          // changes what others read
	gone       *atomic.Bool  // the namespace is not there any more; nil for none
	check      uint32        // Queue.checks when it was sent
	tries      int           // that count against MaxRetries
	doubt      bool          // a connection was lost with it: whether it was executed is not known
	canceled   error         // why its owner wants no more of it; nil: does
	pathless   bool          // the controller had no path for it,
	since      time.Duration // since then, on the shard's clock
	delay      shard.Timer   // until the next try

	place    place
	prev     *command // in the list of its place
	next     *command
	deadline time.Duration
}

func (c *command) sqe() nvme.Command { return nvme.Command(c.req.Command[:]) }

// prepare makes c ready for its first submission.
func (c *command) prepare(done func(*command)) {
	c.done = done
	c.req.Context = c
	c.req.Done = commandDone
	c.delay.Fn = func() { c.queue.retry(c) }
}

// commandDone is the Done of every request.
func commandDone(r *transport.HostRequest) {
	c := r.Context.(*command)
	c.queue.completed(c)
}

// A commandList is a first-in-first-out list of commands.
type commandList struct {
	first, last *command
	n           int
}

func (l *commandList) push(c *command, p place) {
	c.place, c.prev, c.next = p, l.last, nil
	if l.last == nil {
		l.first = c
	} else {
		l.last.next = c
	}
	l.last = c
	l.n++
}

// pushFront is push before all others.
func (l *commandList) pushFront(c *command, p place) {
	c.place, c.prev, c.next = p, nil, l.first
	if l.first == nil {
		l.last = c
	} else {
		l.first.prev = c
	}
	l.first = c
	l.n++
}

func (l *commandList) remove(c *command) {
	if c.prev == nil {
		l.first = c.next
	} else {
		c.prev.next = c.next
	}
	if c.next == nil {
		l.last = c.prev
	} else {
		c.next.prev = c.prev
	}
	c.place, c.prev, c.next = nowhere, nil, nil
	l.n--
}
