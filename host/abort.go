package host

import (
	"slices"
	"sync/atomic"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
)

// An abort is an Abort for a command whose owner does not want it any more. What
// it achieves is up to the controller: the command is waited for all the same,
// because its memory is the fabric's until it has ended.
type abort struct {
	conn transport.HostQueue // where the command is outstanding
	qid  uint16
	cid  uint16
	over atomic.Bool // the command has ended
	cmd  command
	post shard.Task
}

// aborts sends a session's Aborts, one at a time: no controller allows less
// (ACL), and one that takes its time is not asked for more. The admin queue's
// shard owns it.
//
// A command can end while its Abort is under way, and another get its identifier
// and be hit. So an abort whose command has ended is not sent, and a command that
// is aborted without its owner's wish is sent again.
type aborts struct {
	running *abort
	waiting []*abort // at most one for each command that is outstanding
}

// abort has a sent, if the connection that it is about still is.
func (c *Controller) abort(a *abort) {
	c.mu.Lock()
	s := c.session
	c.mu.Unlock()
	if s == nil {
		return // the connection is lost, and the command on its way home
	}
	a.cmd.prepare(func(*command) {
		s.aborts.running = nil
		s.nextAbort()
	})
	a.cmd.timeout = c.cfg.AdminTimeout
	a.post.Fn = func() {
		s.aborts.waiting = append(s.aborts.waiting, a)
		s.nextAbort()
	}
	s.adminQueue.shard.Post(&a.post)
}

// nextAbort sends the next Abort [Base, Abort command]. What it ends with says
// nothing that the command itself does not.
func (s *session) nextAbort() {
	all := &s.aborts
	for all.running == nil && len(all.waiting) > 0 {
		a := all.waiting[0]
		all.waiting = all.waiting[1:]
		if a.over.Load() || !slices.ContainsFunc(s.conns, func(c conn) bool { return c.hq == a.conn }) {
			continue
		}
		nvme.MakeCommand(a.cmd.req.Command[:]).PutAbort(a.qid, a.cid)
		if s.adminQueue.submit(&a.cmd) == nil { // else the session is over
			all.running = a
		}
	}
}
