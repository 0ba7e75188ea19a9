package shard

import "time"

// simPoller waits on a channel and a timer, and has no descriptors.
type simPoller struct{ woken chan struct{} }

func newSimPoller() *simPoller { return &simPoller{make(chan struct{}, 1)} }

func (p *simPoller) wait(timeout time.Duration) bool {
	if timeout == 0 {
		return false
	}
	var expired <-chan time.Time
	if timeout != forever {
		t := time.NewTimer(timeout)
		defer t.Stop()
		expired = t.C
	}
	select {
	case <-p.woken:
	case <-expired:
	}
	return false
}

func (p *simPoller) wake() {
	select {
	case p.woken <- struct{}{}:
	default:
	}
}

func (p *simPoller) close() error { return nil }
