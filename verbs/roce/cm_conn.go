package roce

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
)

// A cmConn is one end of a connection. It implements [rdmacm.Conn]: those
// methods are for any goroutine, and post a task each. Everything else belongs
// to the shard.
type cmConn struct {
	cm            *cm
	local, remote netip.AddrPort
	sink          atomic.Pointer[func(rdmacm.Event)] // nil once closed: nobody is told of anything
	asked         cmAsked

	state  cmState
	active bool
	closed bool // by its owner, of whom nothing is kept

	holdsPath bool
	// over is set when the queue pair is its owner's again, for good.
	over atomic.Bool

	commID uint32
	tid    uint64 // of the exchange that makes the connection
	reqTID uint64 // passive: of the REQ
	param  rdmacm.ConnParam
	psn    PSN // the first that we expect

	// The peer's, once known.
	known    bool
	peerGUID uint64
	peerID   uint32
	peerQPN  uint32

	// path and limits as they were agreed, for the queue pair.
	attr verbs.QPAttr
	// qp is ours from Connect or Accept until the connection is over; then its
	// owner may destroy it.
	qp  verbs.QP
	qpn uint32

	// Retransmission: see cm_time.go.
	timer     shard.Timer
	out       []byte
	interval  time.Duration
	period    time.Duration // between DREQs
	retries   int
	cmRetries int // that the REQ allows the passive side
	patient   bool
	heard     bool // active: the peer has our REQ, and is waited for until
	until     time.Duration
	lingers   bool // counts in cm.lingering
}

// cmAsked is what the owner's calls leave for the shard. Each call has its own
// part, and comes once.
type cmAsked struct {
	begin, reject, leave, close shard.Task

	qp       verbs.QP // begin: Connect or Accept
	param    rdmacm.ConnParam
	reason   int
	private  []byte
	detached func()
}

var _ rdmacm.Conn = (*cmConn)(nil)

func (m *cm) newConn(local, remote netip.AddrPort, active bool) *cmConn {
	c := &cmConn{cm: m, local: local, remote: remote, active: active}
	c.asked.begin.Fn = c.begin
	c.asked.reject.Fn = c.rejectRequest
	c.asked.leave.Fn = c.leave
	c.asked.close.Fn = c.close
	c.timer.Fn = c.expired
	return c
}

func (c *cmConn) Vector() int                    { return 0 }
func (c *cmConn) LocalAddr() netip.AddrPort      { return c.local }
func (c *cmConn) RemoteAddr() netip.AddrPort     { return c.remote }
func (c *cmConn) Notify(sink func(rdmacm.Event)) { c.sink.Store(&sink) }

func (c *cmConn) Connect(qp verbs.QP, p rdmacm.ConnParam) { c.ask(qp, p) }
func (c *cmConn) Accept(qp verbs.QP, p rdmacm.ConnParam)  { c.ask(qp, p) }

func (c *cmConn) ask(qp verbs.QP, p rdmacm.ConnParam) {
	c.asked.qp, c.asked.param = qp, p
	if !c.cm.cfg.shard.Post(&c.asked.begin) {
		c.emit(rdmacm.Event{Type: rdmacm.ConnectError, Err: errCMClosed})
	}
}

func (c *cmConn) Reject(reason int, private []byte) {
	c.asked.reason, c.asked.private = reason, private
	c.cm.cfg.shard.Post(&c.asked.reject)
}

func (c *cmConn) Disconnect() { c.cm.cfg.shard.Post(&c.asked.leave) }

func (c *cmConn) Close(detached func()) {
	if c.over.Load() {
		// Nobody need wait for the shard, as mostly, when the peer has left first
		// or has answered.
		c.sink.Store(nil)
		c.cm.cfg.shard.Post(&c.asked.close)
		detached()
		return
	}
	c.asked.detached = detached
	if !c.cm.cfg.shard.Post(&c.asked.close) {
		detached() // the shard is closed, and with it all that could touch the queue pair
	}
}

// begin is Connect or Accept on the shard.
func (c *cmConn) begin() {
	qp, p := c.asked.qp, c.asked.param
	c.asked.qp, c.asked.param = nil, rdmacm.ConnParam{}
	switch {
	case c.closed:
	case c.active:
		c.connect(qp, p)
	default:
		c.accept(qp, p)
	}
}

// close is Close on the shard.
func (c *cmConn) close() {
	if !c.closed {
		c.leave()
		c.closed = true
		c.sink.Store(nil)
		if c.state == cmDone {
			c.cm.cfg.shard.Disarm(&c.timer) // nobody waits for TimewaitExit
		}
		c.linger()
	}
	if detached := c.asked.detached; detached != nil {
		c.asked.detached = nil
		detached()
	}
}

// linger keeps a connection whose peer is still owed the news that it is over.
// A storm of connections to hosts that are gone must not pile up here, though:
// beyond the cap one DREQ has to do.
func (c *cmConn) linger() {
	m := c.cm
	switch {
	case c.state != cmDREQSent:
	case m.lingering < m.cfg.caps.lingering:
		m.lingering++
		c.lingers = true
	default:
		c.enterTimewait()
	}
}

// emit tells the owner of an event.
func (c *cmConn) emit(ev rdmacm.Event) {
	if sink := c.sink.Load(); sink != nil {
		(*sink)(ev)
	}
}

// fail ends a connection that was to be, and tells the owner.
func (c *cmConn) fail(ev rdmacm.Event) {
	if c.state != cmDone {
		c.done()
	}
	c.emit(ev)
}

// failed is fail where our side is at fault.
func (c *cmConn) failed(format string, args ...any) {
	c.fail(rdmacm.Event{Type: rdmacm.ConnectError, Err: fmt.Errorf("roce: cm: "+format, args...)})
}

// done takes a connection out of the wire's view. Its queue pair goes to Err,
// and is its owner's again.
func (c *cmConn) done() {
	c.move(cmDone)
	c.answered()
	c.dropQP()
	c.cm.forget(c)
	c.over.Store(true)
	if c.lingers {
		c.lingers = false
		c.cm.lingering--
	}
}

// enterTimewait is done, and remembers the connection for a while, which it
// returns.
func (c *cmConn) enterTimewait() (wait time.Duration) {
	m := c.cm
	c.done()
	wait = min(cmTimeout(c.attr.Timeout), m.cfg.times.timewaitMax)
	if c.known {
		now := m.cfg.shard.Now()
		m.timewait.add(c.peer(), now, now+wait)
	}
	return wait
}

// dropQP moves the queue pair to Err, and lets go of it. Where its owner has
// destroyed it, there is no such move, and nothing happens.
func (c *cmConn) dropQP() {
	if c.qp == nil {
		return
	}
	qp := c.qp
	c.qp = nil
	if c.cm.qpns[c.qpn] == c {
		delete(c.cm.qpns, c.qpn)
	}
	_ = qp.Modify(verbs.Err)
}

// takeQP makes qp the connection's. Connect and Accept come once.
func (c *cmConn) takeQP(qp verbs.QP) {
	c.qp, c.qpn = qp, qp.Num()
	c.cm.qpns[c.qpn] = c
}

// send sends a message of the connection once.
func (c *cmConn) send(tid uint64, msg cmMessage) {
	c.cm.send(c.local.Addr(), c.remote.Addr(), tid, msg)
}

func (c *cmConn) peer() cmPeer {
	return cmPeer{c.remote.Addr().Unmap(), c.peerGUID, c.peerID}
}

func (c *cmConn) peerQP() cmPeerQP {
	return cmPeerQP{c.remote.Addr().Unmap(), c.peerGUID, c.peerQPN}
}

// connectQP moves the queue pair to RTS with what the two ends have agreed on
// (wire: [IBTA] 12.9.6).
func (c *cmConn) connectQP(sqPSN PSN) error {
	c.attr.DestQPN = c.peerQPN
	c.attr.SQPSN, c.attr.RQPSN = uint32(sqPSN), uint32(c.psn)
	c.attr.RemoteAccess = verbs.AccessLocalWrite | verbs.AccessRemoteWrite
	if c.attr.MaxDestRd > 0 {
		c.attr.RemoteAccess |= verbs.AccessRemoteRead
	}
	return c.qp.Connect(c.attr)
}

// established tells the owner that there is a connection.
func (c *cmConn) established(rep *cmREP) {
	c.move(cmEstablished)
	c.answered()
	ev := rdmacm.Event{Type: rdmacm.Established, Param: rdmacm.ConnParam{QPN: c.peerQPN, NodeGUID: c.peerGUID}}
	if rep != nil {
		ev.Param.PrivateData = append([]byte(nil), rep.privateData[:]...)
		ev.Param.ResponderResources = rep.responderResources
		ev.Param.InitiatorDepth = rep.initiatorDepth
		ev.Param.FlowControl = rep.flowControl
		ev.Param.RNRRetryCount = rep.rnrRetryCount
		ev.Param.SRQ = rep.srq
	}
	c.emit(ev)
}
