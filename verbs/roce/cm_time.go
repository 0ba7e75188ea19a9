package roce

import (
	"net/netip"
	"time"

	"github.com/fabrid/fabrid/rdmacm"
)

// cmTimes are the connection manager's times and counts. Zeros are defaults:
// those that Linux sends, and bounds on those that a peer asks for, whose
// codes go up to hours.
type cmTimes struct {
	responseCode  uint8 // CM response timeout, both ways, in our REQs
	lifetimeCode  uint8 // packet lifetime
	maxRetries    uint8 // of a message that gets no answer
	serviceCode   uint8 // MRA: how long the owner may take to decide
	ackDelayCode  uint8 // REP: how long we may take to acknowledge
	ackCodeMax    uint8 // ACK timeout that a peer can make us wait for
	intervalMin   time.Duration
	intervalMax   time.Duration // between retransmissions that a peer sets
	establishMax  time.Duration // from REP to RTU
	patienceMax   time.Duration // that an MRA can ask for
	timewaitMax   time.Duration
	requestPeriod time.Duration // between REQs, and our DREQs; by the codes above
}

func (t *cmTimes) setDefaults() {
	for _, d := range []struct {
		v   *uint8
		def uint8
	}{
		{&t.responseCode, 20},
		{&t.lifetimeCode, pathLifetimeCode},
		{&t.maxRetries, 15},
		// 8.2 s: more than the owner is given, and no more than need be, because
		// a peer waits so long if we are gone.
		{&t.serviceCode, 21},
		// 4.3 s, of which a Linux host makes its ACK timer: an ACK that comes
		// later than that timer costs it the connection.
		{&t.ackDelayCode, 20},
		{&t.ackCodeMax, 21},
	} {
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&t.intervalMin, 50 * time.Millisecond},
		{&t.intervalMax, 8 * time.Second},
		{&t.establishMax, 20 * time.Second},
		{&t.patienceMax, 70 * time.Second},
		{&t.timewaitMax, 10 * time.Second},
		{&t.requestPeriod, 2*cmTimeout(t.lifetimeCode) + cmTimeout(t.responseCode)},
	} {
		if *d.v == 0 {
			*d.v = d.def
		}
	}
}

// interval is the time between retransmissions for a peer's code.
func (t *cmTimes) interval(code uint8) time.Duration {
	return min(max(cmTimeout(code), t.intervalMin), t.intervalMax)
}

// ackCode is the ACK timeout of our queue pair for one that a peer asked for. A
// queue pair without a timeout would wait for ever for what was lost.
func (t *cmTimes) ackCode(code uint8) uint8 {
	if code == 0 {
		code = cmAckTimeout(0, t.lifetimeCode)
	}
	return min(code, t.ackCodeMax)
}

// A cmTimewait remembers connections that are over, for as long as packets of
// theirs may be under way ([IBTA] 12.9.8.4): a queue of a few bytes each. The
// oldest make room where there are too many.
type cmTimewait struct {
	max   int
	queue []cmPast // in the order in which they ended
	first int      // in queue: those before are forgotten
	until map[cmPeer]time.Duration
}

type cmPast struct {
	peer  cmPeer
	until time.Duration
}

func (w *cmTimewait) add(peer cmPeer, now, until time.Duration) {
	w.expire(now, w.max-1)
	if w.until == nil {
		w.until = make(map[cmPeer]time.Duration)
	}
	w.queue = append(w.queue, cmPast{peer, until})
	w.until[peer] = until
}

// has reports whether a connection is in TIMEWAIT.
func (w *cmTimewait) has(peer cmPeer, now time.Duration) bool {
	until, ok := w.until[peer]
	return ok && now < until
}

// expire drops from the front what has expired, and what is more than limit.
// Behind one with a long time others may stay longer than they need.
func (w *cmTimewait) expire(now time.Duration, limit int) {
	for w.first < len(w.queue) {
		p := w.queue[w.first]
		if w.len() <= limit && now < p.until {
			break
		}
		if w.until[p.peer] == p.until { // else it has come again
			delete(w.until, p.peer)
		}
		w.first++
	}
	if w.first > len(w.queue)/2 { // so that each is moved once at most, on the average
		w.queue = w.queue[:copy(w.queue, w.queue[w.first:])]
		w.first = 0
	}
}

func (w *cmTimewait) len() int { return len(w.queue) - w.first }

// sendUntilAnswered sends a message of a connection now, and again, the same
// bytes, every interval, retries times. What comes then is unanswered's.
func (c *cmConn) sendUntilAnswered(tid uint64, msg cmMessage, interval time.Duration, retries int) {
	if c.out == nil {
		c.out = make([]byte, 0, madLen)
	}
	c.out = appendCM(c.out[:0], tid, msg)
	c.interval, c.retries = interval, retries
	c.transmit()
}

func (c *cmConn) transmit() {
	c.cm.cfg.link.sendMAD(c.local.Addr(), c.remote.Addr(), c.out)
	c.rearm(c.interval)
}

func (c *cmConn) rearm(d time.Duration) {
	s := c.cm.cfg.shard
	s.Arm(&c.timer, s.Now()+d)
}

// answered stops the retransmission.
func (c *cmConn) answered() {
	c.cm.cfg.shard.Disarm(&c.timer)
}

// expired runs when no answer has come for an interval, and at the end of
// TIMEWAIT.
func (c *cmConn) expired() {
	if c.state == cmDone {
		c.emit(rdmacm.Event{Type: rdmacm.TimewaitExit})
		return
	}
	if c.retries == 0 {
		c.unanswered()
		return
	}
	c.retries--
	c.transmit()
}

// receiveMRA takes in a peer's request for patience.
func (m *cm) receiveMRA(remote netip.Addr, msg *cmMRA) {
	c := m.byOurs(remote, msg.remoteCommID)
	if c == nil {
		return
	}
	wait := cmTimeout(msg.serviceTimeout) + cmTimeout(m.cfg.times.lifetimeCode)
	switch {
	case c.state == cmREQSent && msg.messageMRAed == cmAboutREQ:
		now := m.cfg.shard.Now()
		if !c.heard {
			c.heard, c.until = true, now+m.cfg.times.patienceMax
		}
		if now < c.until { // however many of them there are
			c.rearm(min(wait, c.until-now))
		}
	case c.state == cmREPSent && msg.messageMRAed == cmAboutREP && msg.localCommID == c.peerID && !c.patient:
		// Once, and no longer than an RTU may take: the connection is half open.
		c.patient = true
		c.rearm(min(wait, m.cfg.times.establishMax))
	}
}
