package roce

import (
	"errors"
	"fmt"
	"slices"

	"github.com/fabrid/fabrid/verbs"
	"github.com/fabrid/fabrid/verbs/internal/soft"
)

var errInUse = errors.New("in use")

// A completionQueue gathers completions until the end of a batch.
type completionQueue struct {
	eng      *engine
	pd       *protectionDomain
	handler  func([]verbs.WC)
	size     int
	pending  []verbs.WC // grows to size as it is needed
	spare    []verbs.WC
	queued   bool // in engine.completed
	overflow bool
	users    int // queue pairs
	gone     bool
}

func (c *completionQueue) push(wc verbs.WC) {
	if len(c.pending) == c.size {
		// The consumer has promised that this cannot be; what is lost cannot be
		// made good.
		c.overflow = true
		return
	}
	if c.pending == nil {
		c.pending = c.eng.spares.takeCQ()
	}
	c.pending = append(c.pending, wc)
	if !c.queued {
		c.queued = true
		c.eng.completed = append(c.eng.completed, c)
		c.eng.wantFlush()
	}
}

// forget removes the completions of a queue pair that nobody has been told.
func (c *completionQueue) forget(qpn uint32) {
	c.pending = slices.DeleteFunc(c.pending, func(wc verbs.WC) bool { return wc.QPN == qpn })
}

func (c *completionQueue) deliver() {
	c.queued = false
	if c.gone || len(c.pending) == 0 {
		return
	}
	wcs := c.pending
	c.pending = c.spare[:0]
	c.handler(wcs)
	c.spare = wcs[:0]
	if c.overflow && !c.gone {
		c.overflow = false
		c.eng.failUsers(c)
	}
}

func (c *completionQueue) Destroy() error {
	if c.users > 0 {
		return fmt.Errorf("roce: destroy completion queue: %d queue pairs: %w", c.users, errInUse)
	}
	if !c.gone {
		c.gone = true
		c.pd.release()
		if !c.eng.delivery { // else the handler may be reading one of them
			c.eng.spares.putCQ(c.pending)
			c.eng.spares.putCQ(c.spare)
			c.pending, c.spare = nil, nil
		}
	}
	return nil
}

// failUsers takes every queue pair of c to Err: completions were lost.
func (e *engine) failUsers(c *completionQueue) {
	for _, q := range e.qps.slots {
		if q != nil && (q.sendCQ == c || q.recvCQ == c) {
			q.fail(fmt.Errorf("roce: QP %#x: completion queue of %d entries overran", q.num, c.size))
		}
	}
}

// A sharedRecvQueue is an SRQ.
type sharedRecvQueue struct {
	pd     *protectionDomain
	queue  *soft.RecvQueue
	maxSGE int
	users  int
	gone   bool
}

func (s *sharedRecvQueue) PostRecv(wrs []verbs.RecvWR) error {
	if err := s.queue.Room(wrs); err != nil {
		return err
	}
	s.queue.Post(wrs)
	return nil
}

func (s *sharedRecvQueue) Posted() int { return s.queue.Len() }

func (s *sharedRecvQueue) Destroy() error {
	if s.users > 0 {
		return fmt.Errorf("roce: destroy shared receive queue: %d queue pairs: %w", s.users, errInUse)
	}
	if !s.gone {
		s.gone = true
		s.pd.release()
	}
	return nil
}
