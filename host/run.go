package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fabrid/fabrid/nvme"
)

// run is the controller's goroutine: it sees a session end, and makes the next.
func (c *Controller) run(s *session) {
	for {
		select {
		case <-s.ctx.Done():
		case <-c.stopping.Done():
			c.leave(s)
			c.end(ErrClosed)
			return
		}
		cause := context.Cause(s.ctx)
		c.mu.Lock()
		c.session, c.cause = nil, cause
		c.setStateLocked(Connecting)
		c.mu.Unlock()
		if fn := c.cfg.Events.Lost; fn != nil {
			c.events.tell(func() { fn(cause) })
		}
		s.tearDown(cause)
		next, attempt, err := c.reconnect(cause)
		if err != nil {
			c.end(err)
			return
		}
		s = next
		c.goLive(s)
		c.mu.Lock()
		c.reconnects++
		c.mu.Unlock()
		if fn := c.cfg.Events.Reconnected; fn != nil {
			c.events.tell(func() { fn(attempt) })
		}
	}
}

// goLive lets commands flow over a session that has been established.
func (c *Controller) goLive(s *session) {
	c.setNamespaces(s)
	id := &s.info.Identify
	var delay [4]time.Duration
	for i, crdt := range [3]uint16{id.CRDT1, id.CRDT2, id.CRDT3} {
		delay[i+1] = time.Duration(crdt) * 100 * time.Millisecond
	}
	for i, q := range c.queues {
		if i < s.info.Queues {
			_ = q.shard.Run(func() {
				q.retryDelay = delay
				q.start()
			})
			continue
		}
		q.usable.Store(false)
		_ = q.shard.Run(func() {
			q.fail(fmt.Errorf("host: queue %d: the controller grants %d: %w", q.qid, s.info.Queues, ErrQueueGone))
		})
	}
	info := s.info
	c.mu.Lock()
	c.session, c.info = s, &info
	c.setStateLocked(Live)
	hurry := c.hurry
	c.mu.Unlock()
	if hurry != nil {
		s.fail(hurry)
	}
	s.wg.Go(s.watchEvents)
}

// reconnect tries to establish another session, after each ReconnectDelay, until
// that succeeds or there is a reason to end. It returns which attempt succeeded.
func (c *Controller) reconnect(cause error) (*session, int, error) {
	if d := c.cfg.FastIOFailTMO; d != Off {
		fired := make(chan struct{})
		t := time.AfterFunc(d, func() {
			defer close(fired)
			c.failWaiting(fmt.Errorf("host: no connection for %v: %w", d, errors.Join(ErrLost, cause)))
		})
		// Before start lets I/O wait again.
		defer func() {
			if !t.Stop() {
				<-fired
			}
		}()
	}
	delay := time.NewTimer(c.cfg.ReconnectDelay)
	defer delay.Stop()
	limit := c.cfg.maxReconnects()
	err := cause
	for attempt := 1; ; attempt++ {
		if limit >= 0 && attempt > limit {
			return nil, attempt, fmt.Errorf("host: %s given up after %d attempts to reconnect: %w: %w", c.cfg.NQN, attempt-1, ErrLost, err)
		}
		select {
		case <-delay.C:
		case <-c.stopping.Done():
			return nil, attempt, ErrClosed
		}
		var s *session
		if s, err = c.establish(c.stopping); err == nil {
			return s, attempt, nil
		}
		if c.stopping.Err() != nil {
			return nil, attempt, ErrClosed
		}
		if fn := c.cfg.Events.ConnectFailed; fn != nil {
			failed := err
			c.events.tell(func() { fn(attempt, failed) })
		}
		if DNR(err) {
			return nil, attempt, fmt.Errorf("host: %s given up: %w: the controller says do not retry: %w", c.cfg.NQN, ErrLost, err)
		}
		delay.Reset(c.cfg.ReconnectDelay)
	}
}

// failWaiting ends the I/O that waits for a connection, and lets none wait.
func (c *Controller) failWaiting(err error) {
	for _, q := range c.queues {
		_ = q.shard.Run(func() { q.fail(err) })
	}
}

// leave ends a live session in order: no new command, those under way come home,
// then CC.SHN.
func (c *Controller) leave(s *session) {
	c.mu.Lock()
	c.cause = ErrClosed
	c.setStateLocked(Deleting)
	c.mu.Unlock()
	var all []chan struct{}
	for _, q := range c.queues {
		idle := make(chan struct{})
		if q.shard.Run(func() {
			q.close(ErrClosed)
			q.idle = func() { close(idle) }
			q.tellIdle()
		}) == nil {
			all = append(all, idle)
		}
	}
	for _, idle := range all { // once all are closed
		select {
		case <-idle:
		case <-s.ctx.Done():
		}
	}
	err := s.shutDown()
	c.mu.Lock()
	c.session = nil
	c.shutdown = err
	c.mu.Unlock()
	s.tearDown(ErrClosed)
}

// end makes the controller dead. Its queues take nothing any more.
func (c *Controller) end(cause error) {
	c.mu.Lock()
	c.cause = cause
	c.setStateLocked(Deleting) // before the queues, so that calls see why
	c.mu.Unlock()
	for _, q := range c.queues {
		_ = q.shard.Run(func() { q.close(cause) })
	}
	c.mu.Lock()
	c.setStateLocked(Dead)
	c.mu.Unlock()
	if fn := c.cfg.Events.Dead; fn != nil && !errors.Is(cause, ErrClosed) {
		c.events.tell(func() { fn(cause) })
	}
	c.stop(cause)
	c.events.end()
}

// DiscoveryLog reads the discovery log page of a discovery controller. When the
// page changes while it is read, it is read again.
func (c *Controller) DiscoveryLog(ctx context.Context) (*nvme.DiscoveryLog, error) {
	s, err := c.liveSession(ctx)
	if err != nil {
		return nil, err
	}
	return s.discoveryLog(ctx)
}
