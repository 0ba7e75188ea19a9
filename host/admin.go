package host

import (
	"context"
	"fmt"
	"slices"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
)

// An adminCall is an admin command, or a Connect of any queue, that a goroutine
// waits for. It and its data are made for one use: who stops waiting leaves them
// to the fabric.
type adminCall struct {
	cmd    command
	queue  *Queue
	post   shard.Task
	recall shard.Task
	done   chan struct{}
}

// exec sends the command that put makes on q, by submit, and waits for its end,
// or that of ctx or the session. data is the command's, also after an early
// return.
func (s *session) exec(ctx context.Context, q *Queue, submit func(*command) error, name string, put func(nvme.Command), data []byte) (nvme.Completion, error) {
	return s.execUntil(s.ctx, ctx, q, submit, name, put, data)
}

// execUntil is exec with another end of the session.
func (s *session) execUntil(end, ctx context.Context, q *Queue, submit func(*command) error, name string, put func(nvme.Command), data []byte) (nvme.Completion, error) {
	c := &adminCall{queue: q, done: make(chan struct{})}
	c.cmd.prepare(func(*command) { close(c.done) })
	c.cmd.timeout = s.ctrl.cfg.AdminTimeout
	c.cmd.req.Data = data
	put(nvme.MakeCommand(c.cmd.req.Command[:]))
	c.post.Fn = func() {
		if err := submit(&c.cmd); err != nil {
			c.cmd.err = err
			close(c.done)
		}
	}
	c.recall.Fn = func() { q.cancel(&c.cmd, context.Canceled) }
	if !q.shard.Post(&c.post) {
		return nvme.Completion{}, fmt.Errorf("host: %s: %w", name, shard.ErrClosed)
	}
	select {
	case <-c.done:
	case <-end.Done():
		q.shard.Post(&c.recall)
		return nvme.Completion{}, fmt.Errorf("host: %s: %w", name, context.Cause(end))
	case <-ctx.Done():
		q.shard.Post(&c.recall)
		return nvme.Completion{}, fmt.Errorf("host: %s: %w", name, context.Cause(ctx))
	}
	cqe := c.cmd.req.Completion
	if status, ok := c.cmd.err.(nvme.Status); ok {
		return cqe, &CommandError{Command: name, QID: q.qid, NSID: 0, Status: status, Result: cqe.Result}
	}
	return cqe, c.cmd.err
}

// admin sends an admin command.
func (s *session) admin(ctx context.Context, name string, put func(nvme.Command), data []byte) (nvme.Completion, error) {
	return s.exec(ctx, s.adminQueue, s.adminQueue.submit, name, put, data)
}

func (s *session) propertyGet(ctx context.Context, p nvme.Property) (uint64, error) {
	return s.propertyGetUntil(s.ctx, ctx, p)
}

func (s *session) propertyGetUntil(end, ctx context.Context, p nvme.Property) (uint64, error) {
	get := func(c nvme.Command) { c.PutPropertyGet(p) }
	// Not behind others: a queue that has been stopped lets none pass.
	submit := s.adminQueue.submit
	if end != s.ctx {
		submit = s.adminQueue.submitNow
	}
	cqe, err := s.execUntil(end, ctx, s.adminQueue, submit, "Property Get "+p.String(), get, nil)
	if p.Size() == 4 {
		return uint64(cqe.DW0()), err
	}
	return cqe.Result, err
}

func (s *session) propertySet(ctx context.Context, p nvme.Property, v uint64) error {
	_, err := s.admin(ctx, "Property Set "+p.String(), func(c nvme.Command) { c.PutPropertySet(p, v) }, nil)
	return err
}

// identify returns the data of an Identify.
func (s *session) identify(ctx context.Context, f nvme.IdentifyCommand) ([]byte, error) {
	data := make([]byte, nvme.IdentifySize)
	name := "Identify, " + f.CNS.String()
	if f.NSID != 0 {
		name = fmt.Sprintf("%s of namespace %d", name, f.NSID)
	}
	_, err := s.admin(ctx, name, func(c nvme.Command) { c.PutIdentify(f) }, data)
	return data, err
}

// logPage fills data with a log page, from an offset on, and clears the event
// that goes with it unless rae.
func (s *session) logPage(ctx context.Context, g nvme.GetLogPageCommand, data []byte) error {
	g.SetLength(uint64(len(data)))
	_, err := s.admin(ctx, "Get Log Page, "+g.LID.String(), func(c nvme.Command) { c.PutGetLogPage(g) }, data)
	return err
}

// Admin sends an admin command: put fills in all but CID, PSDT and SGL, and data
// is read or written by the opcode's direction. It waits for the controller to
// be live, is never sent again, and returns early when ctx is done; data is not
// touched after it has returned, and not changed by an error. A status other than
// success is a [*CommandError].
func (c *Controller) Admin(ctx context.Context, put func(nvme.Command), data []byte) (nvme.Completion, error) {
	s, err := c.liveSession(ctx)
	if err != nil {
		return nvme.Completion{}, err
	}
	var sqe nvme.Command
	name := func() string {
		sqe = nvme.NewCommand()
		put(sqe)
		if sqe.IsFabrics() {
			return sqe.FCTYPE().String()
		}
		return nvme.AdminOpcode(sqe.Opcode()).String()
	}()
	// A copy, which the fabric keeps if we return early.
	own := slices.Clone(data)
	cqe, err := s.admin(ctx, name, func(cmd nvme.Command) { copy(cmd, sqe) }, own)
	if err == nil && sqe.Direction() == nvme.ControllerToHost {
		copy(data, own)
	}
	return cqe, err
}

// Identify returns the data of an Identify, as [Controller.Admin] does.
func (c *Controller) Identify(ctx context.Context, f nvme.IdentifyCommand) ([]byte, error) {
	s, err := c.liveSession(ctx)
	if err != nil {
		return nil, err
	}
	return s.identify(ctx, f)
}

// GetLogPage fills data, a multiple of 4 bytes, with a log page or a part of
// it; NUMD of g is set to that. It works as [Controller.Admin] does.
func (c *Controller) GetLogPage(ctx context.Context, g nvme.GetLogPageCommand, data []byte) error {
	s, err := c.liveSession(ctx)
	if err != nil {
		return err
	}
	if len(data) == 0 || len(data)%4 != 0 {
		return fmt.Errorf("host: Get Log Page, %v: %d bytes are not whole dwords", g.LID, len(data))
	}
	own := make([]byte, len(data)) // as in Admin
	err = s.logPage(ctx, g, own)
	if err == nil {
		copy(data, own)
	}
	return err
}
