package target

import (
	"fmt"
	"math"
	"time"
)

// KATO is kept in units of KAS, a second, rounded up, as far as it can be
// reported: in 32 bits of milliseconds.
const (
	kas       = 10 // units of 100 ms
	katoUnits = kas * 100 * time.Millisecond
	katoMost  = math.MaxUint32 * time.Millisecond / katoUnits * katoUnits
)

// setKATO sets the keep alive timeout to so many milliseconds, zero for none,
// and starts the timer anew. On the admin queue's shard.
func (c *controller) setKATO(ms uint32) {
	d := time.Duration(ms) * time.Millisecond
	c.kato = min((d+katoUnits-1)/katoUnits*katoUnits, katoMost)
	c.mu.Lock()
	c.katoInfo = c.kato
	c.mu.Unlock()
	c.restartKeepAlive()
}

// restartKeepAlive gives the host another period, from now. On the admin
// queue's shard.
func (c *controller) restartKeepAlive() {
	s := c.admin.shard()
	if c.kato == 0 || c.admin.down {
		s.Disarm(&c.keepAlive)
		return
	}
	s.Arm(&c.keepAlive, s.Now()+c.kato)
}

// keepAliveExpired runs on the admin queue's shard, a period after the last
// Keep Alive or the last look. Traffic based keep alive: any command on any
// queue since then was as good [Base, Keep Alive: command based, traffic
// based].
func (c *controller) keepAliveExpired() {
	if c.traffic() {
		c.restartKeepAlive()
		return
	}
	c.fatal(fmt.Errorf("target: controller %d: no command in %v: %w", c.cntlid, c.kato, ErrKeepAlive))
}

// traffic reports whether a command has come since it was last asked.
func (c *controller) traffic() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := false
	for _, q := range c.queues {
		if q != nil && q.traffic.Swap(false) {
			seen = true
		}
	}
	return seen
}

// keepAliveCommand is Keep Alive.
func (rq *request) keepAliveCommand() error {
	c := rq.q.ctrl
	if c.kato == 0 {
		return errNoKATO
	}
	c.restartKeepAlive()
	return nil
}
