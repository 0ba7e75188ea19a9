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
		lost, cause := time.Now(), context.Cause(s.ctx)
		c.mu.Lock()
		c.session, c.cause = nil, cause
		c.setStateLocked(Connecting)
		c.mu.Unlock()
		if fn := c.cfg.Events.Lost; fn != nil {
			c.events.tell(func() { fn(cause) })
		}
		stopFailing := c.startFailing(cause)
		if s.tearDown(cause) {
			if until := time.Now().Add(s.quiesceTime()); until.After(c.fence) {
				c.fence = until
			}
		}
		next, attempt, err := c.reconnect(lost, cause)
		stopFailing()
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
	fence := time.Until(c.fence)
	for i, q := range c.queues {
		if i < s.info.Queues {
			_ = q.shard.Run(func() {
				q.crdt = delay
				q.start(fence)
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

// startFailing has waiting I/O fail FastIOFailTMO from now on, unless the function
// that it returns is called before; from then on it is not touched any more.
func (c *Controller) startFailing(cause error) (stop func()) {
	d := c.cfg.FastIOFailTMO
	if d == Off {
		return func() {}
	}
	fired := make(chan struct{})
	t := time.AfterFunc(d, func() {
		defer close(fired)
		c.failWaiting(fmt.Errorf("host: no connection for %v: %w: %w", d, ErrLost, cause))
	})
	return func() {
		if !t.Stop() {
			<-fired
		}
	}
}

// errCtrlLoss ends the attempts to connect again.
var errCtrlLoss = errors.New("CtrlLossTMO has passed")

// reconnect tries to establish another session, after each ReconnectDelay, until
// that succeeds or there is a reason to end. It returns which attempt succeeded.
func (c *Controller) reconnect(lost time.Time, cause error) (*session, int, error) {
	ctx := c.stopping
	if tmo := c.cfg.CtrlLossTMO; tmo != Forever {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, lost.Add(max(tmo, 0)), errCtrlLoss)
		defer cancel()
	}
	delay := time.NewTimer(time.Until(lost.Add(c.cfg.ReconnectDelay)))
	defer delay.Stop()
	over := func() bool {
		end, bounded := ctx.Deadline()
		return ctx.Err() != nil || bounded && !time.Now().Before(end)
	}
	err := cause
	for attempt := 1; ; attempt++ {
		select {
		case <-delay.C:
		case <-ctx.Done():
		}
		if !over() {
			var s *session
			if s, err = c.establish(ctx); err == nil {
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
		switch {
		case c.stopping.Err() != nil:
			return nil, attempt, ErrClosed
		case over():
			return nil, attempt, fmt.Errorf("host: %s given up %v after the loss: %w: %w", c.cfg.NQN, time.Since(lost).Round(time.Millisecond), ErrLost, err)
		}
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
