package host

import (
	"context"
	"fmt"
	"time"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
)

// A keepAlive sends Keep Alives on the admin queue, whose shard owns it: every
// KATO/2 or, if the controller counts any traffic (TBKAS), every KATO/4 unless a
// command has been sent and answered since the last time.
type keepAlive struct {
	session *session
	period  time.Duration
	tbkas   bool
	cmd     command
	sent    time.Duration
	timer   shard.Timer
}

func (s *session) startKeepAlive(context.Context) error {
	kato := s.ctrl.cfg.KATO
	if kato == Off {
		return nil
	}
	k := &s.keepAlive
	k.session = s
	k.tbkas = s.info.Identify.CTRATT&nvme.CTRATTTBKAS != 0
	k.period = kato / 2
	if k.tbkas {
		k.period = kato / 4
	}
	k.cmd.prepare(func(*command) { k.answered() })
	k.timer.Fn = k.tick
	sh := s.adminQueue.shard
	return sh.Run(func() { sh.Arm(&k.timer, sh.Now()+k.period) })
}

func (k *keepAlive) stop() {
	if k.session != nil {
		k.session.adminQueue.shard.Disarm(&k.timer)
	}
}

func (k *keepAlive) tick() {
	s := k.session
	sh := s.adminQueue.shard
	kato := s.ctrl.cfg.KATO
	switch {
	case k.cmd.place != nowhere:
		s.fail(fmt.Errorf("%w: no answer to Keep Alive within %v", ErrLost, kato))
	case k.tbkas && s.traffic():
		sh.Arm(&k.timer, sh.Now()+k.period)
	default:
		nvme.MakeCommand(k.cmd.req.Command[:]).PutKeepAlive()
		if err := s.adminQueue.submitNow(&k.cmd); err != nil {
			s.fail(fmt.Errorf("%w: Keep Alive: %w", ErrLost, err))
			return
		}
		k.sent = sh.Now()
		sh.Arm(&k.timer, k.sent+kato)
	}
}

func (k *keepAlive) answered() {
	s := k.session
	if err := k.cmd.err; err != nil {
		s.fail(fmt.Errorf("%w: Keep Alive: %w", ErrLost, err))
		return
	}
	alive := &s.ctrl.alive // sessions follow one another: one writer at a time
	alive.answered.Add(1)
	alive.longest.Store(max(alive.longest.Load(), int64(s.adminQueue.shard.Now()-k.sent)))
	s.traffic() // what the Keep Alive itself left
	s.adminQueue.shard.Arm(&k.timer, k.sent+k.period)
}

// traffic reports whether a command has been sent and answered since the last
// call.
func (s *session) traffic() bool {
	s.ctrl.checks.Add(1)
	any := false
	for _, c := range s.conns {
		if c.queue.seen.Load() {
			c.queue.seen.Store(false)
			any = true
		}
	}
	return any
}
