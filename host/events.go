package host

import (
	"context"
	"fmt"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
)

// events calls the user's callbacks, one at a time and in order, on a goroutine
// of the controller's life: what a callback waits for never waits for it.
type events struct {
	mu      lockdep.Mutex[eventsMu]
	pending []func()      // guarded by mu
	ended   bool          // guarded by mu
	wake    chan struct{} // one element
}

type eventsMu struct{} // innermost

// tell has a callback called. It does not wait.
func (e *events) tell(fn func()) {
	e.mu.Lock()
	e.pending = append(e.pending, fn)
	e.mu.Unlock()
	e.signal()
}

// told waits until all that tell has been given before has been told, or for
// the end of ctx.
func (e *events) told(ctx context.Context) {
	told := make(chan struct{})
	e.tell(func() { close(told) })
	select {
	case <-told:
	case <-ctx.Done():
	}
}

// end lets run return when all has been told.
func (e *events) end() {
	e.mu.Lock()
	e.ended = true
	e.mu.Unlock()
	e.signal()
}

func (e *events) signal() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

func (e *events) run() {
	for {
		e.mu.Lock()
		todo, ended := e.pending, e.ended
		e.pending = nil
		e.mu.Unlock()
		for _, fn := range todo {
			fn()
		}
		if ended && len(todo) == 0 {
			return
		}
		if len(todo) == 0 {
			<-e.wake
		}
	}
}

// warn tells of a failure that the controller lives with.
func (c *Controller) warn(err error) {
	if fn := c.cfg.Events.Warning; fn != nil {
		c.events.tell(func() { fn(err) })
	}
}

// aer is the Asynchronous Event Request of a session. There is one: the next is
// sent when its event has been dealt with.
type aer struct {
	cmd    command
	events chan nvme.AsyncEvent // one element
}

// configureEvents asks the controller for the events that we deal with.
func (s *session) configureEvents(ctx context.Context) error {
	want := nvme.AsyncConfigNamespace
	if s.info.Identify.CMIC&nvme.CMICANA != 0 {
		want |= nvme.AsyncConfigANA
	}
	if s.ctrl.cfg.discovery() {
		want = nvme.AsyncConfigDiscoveryLogPage
	}
	want &= s.info.Identify.OAES
	s.aer.events = make(chan nvme.AsyncEvent, 1)
	if want == 0 {
		return nil
	}
	f := nvme.FeaturesCommand{FID: nvme.FeatureAsyncEventConfig, CDW11: uint32(want)}
	_, err := s.admin(ctx, "Set Features, Asynchronous Event Configuration", func(c nvme.Command) { c.PutSetFeatures(f) }, nil)
	if err != nil {
		if !isCommandError(err) {
			return err
		}
		s.ctrl.warn(err)
	}
	s.aer.cmd.prepare(func(*command) { s.aer.answered() })
	return s.sendAER()
}

func (s *session) sendAER() error {
	return s.adminQueue.shard.Run(func() {
		nvme.MakeCommand(s.aer.cmd.req.Command[:]).PutAsyncEventRequest()
		if err := s.adminQueue.submitNow(&s.aer.cmd); err != nil {
			s.fail(fmt.Errorf("%w: Asynchronous Event Request: %w", ErrLost, err))
		}
	})
}

func (a *aer) answered() {
	// An error: the queue is down, which others tell, or the controller, which
	// is shutting down or out of requests, wants none.
	if a.cmd.err == nil {
		a.events <- nvme.AsyncEvent(a.cmd.req.Completion.DW0())
	}
}

// watchEvents deals with the controller's events until the session ends. The
// next is asked for when the user has been told of the one before: what waits to
// be told is then bounded, however many a controller has.
func (s *session) watchEvents() {
	for {
		select {
		case e := <-s.aer.events:
			s.event(e)
			s.ctrl.events.told(s.ctx)
			if err := s.sendAER(); err != nil {
				s.fail(err)
			}
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *session) event(e nvme.AsyncEvent) {
	ev := &s.ctrl.cfg.Events
	switch {
	case e.Type() == nvme.AsyncError && e.Info() == nvme.AsyncErrorPersistentInternal:
		s.fail(fmt.Errorf("%w: the controller reports a persistent internal error", ErrLost))
		return
	case e.Type() == nvme.AsyncNotice && e.Info() == nvme.AsyncNoticeNamespaceChanged:
		if err := s.rescan(); err != nil {
			s.ctrl.warn(err)
		}
		return
	case e.Type() == nvme.AsyncNotice && e.Info() == nvme.AsyncNoticeANAChange:
		if err := s.anaChanged(); err != nil {
			s.ctrl.warn(err)
		}
		return
	case e.Type() == nvme.AsyncNotice && e.Info() == nvme.AsyncNoticeDiscoveryChange && ev.DiscoveryChanged != nil:
		s.ctrl.events.tell(ev.DiscoveryChanged)
		return
	}
	if fn := ev.AsyncEvent; fn != nil {
		s.ctrl.events.tell(func() { fn(e) })
	}
}

// rescan brings the namespaces up to date. Reading the list of those that
// changed is what arms the event again.
func (s *session) rescan() error {
	g := nvme.GetLogPageCommand{NSID: nvme.NSIDBroadcast, LID: nvme.LogChangedNamespaces}
	if err := s.logPage(s.ctx, g, make([]byte, nvme.NamespaceListSize)); err != nil {
		return err
	}
	if err := s.scan(s.ctx); err != nil {
		return err
	}
	s.ctrl.setNamespaces(s)
	return nil
}
