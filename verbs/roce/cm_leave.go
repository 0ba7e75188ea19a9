package roce

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/fabrid/fabrid/rdmacm"
)

// leave is Disconnect on the shard: whatever state the connection is in, the
// peer is told that it is over, and the queue pair is in Err before it is.
func (c *cmConn) leave() {
	switch c.state {
	case cmIdle:
		c.move(cmDone)
	case cmREQSent:
		c.sendTimeout()
		c.done()
	case cmREQRcvd:
		c.sendREJ(cmAboutREQ, rejConsumerDefined, nil)
		c.done()
	case cmREPSent:
		c.dropQP()
		c.sendREJ(cmAboutOther, rejConsumerDefined, nil)
		c.enterTimewait()
	case cmEstablished:
		c.dropQP()
		c.sendDREQ()
	}
}

func (c *cmConn) sendDREQ() {
	c.move(cmDREQSent)
	c.tid = c.cm.tid(c.commID)
	msg := &c.cm.scratch.dreq
	*msg = cmDREQ{localCommID: c.commID, remoteCommID: c.peerID, remoteQPN: c.peerQPN}
	c.sendUntilAnswered(c.tid, msg, c.period, int(c.cm.cfg.times.maxRetries))
}

// stale ends a connection of which the peer has shown that it does not know it,
// by using its queue pair for another. It returns true if that is no wonder, as
// we had taken leave, or not answered yet; otherwise the new one is refused,
// once ([IBTA] 12.9.8.3.1).
func (c *cmConn) stale() bool {
	switch c.state {
	case cmDREQSent:
		c.ended()
		return true
	case cmEstablished:
		// The DREQ is in case it does know; and Disconnected follows in any case.
		c.leave()
	case cmREQRcvd, cmREPSent:
		answered := c.state == cmREPSent
		c.enterTimewait()
		c.emit(rdmacm.Event{Type: rdmacm.ConnectError, Err: errStale})
		return !answered // else the peer could think the old one is connected
	}
	return false
}

var errStale = errors.New("roce: cm: the peer has begun anew")

// unanswered runs when the last retransmission went without an answer.
func (c *cmConn) unanswered() {
	switch c.state {
	case cmREQSent:
		c.fail(rdmacm.Event{Type: rdmacm.Unreachable, Err: fmt.Errorf("roce: cm: connect to %v: no answer", c.remote)})
	case cmREPSent:
		c.dropQP()
		c.sendTimeout()
		c.enterTimewait()
		c.emit(rdmacm.Event{Type: rdmacm.ConnectError, Err: fmt.Errorf("roce: cm: accept: no answer from %v", c.remote)})
	case cmDREQSent:
		c.ended()
	}
}

// ended ends an established connection for good. An owner that keeps it is told
// when it is out of TIMEWAIT too.
func (c *cmConn) ended() {
	wait := c.enterTimewait()
	c.emit(rdmacm.Event{Type: rdmacm.Disconnected})
	if !c.closed {
		c.rearm(wait)
	}
}

// sendREJ refuses what the peer has sent.
func (c *cmConn) sendREJ(about uint8, reason rejReason, private []byte) {
	msg := &c.cm.scratch.rej
	*msg = cmREJ{localCommID: c.commID, remoteCommID: c.peerID, messageRejected: about, reason: reason}
	copy(msg.privateData[:], private)
	c.send(c.tid, msg)
}

// sendTimeout tells the peer that we do not wait for its answer any more. It
// finds the connection by our GUID, as it may not have told us its comm ID.
func (c *cmConn) sendTimeout() {
	msg := &c.cm.scratch.rej
	*msg = cmREJ{localCommID: c.commID, remoteCommID: c.peerID, messageRejected: cmAboutOther, reason: rejTimeout, infoLen: 8}
	binary.BigEndian.PutUint64(msg.info[:], c.cm.cfg.guid)
	c.send(c.tid, msg)
}

// receiveREJ takes in a refusal: of a REQ of ours, or of a connection that is
// known to both, in any state.
func (m *cm) receiveREJ(remote netip.Addr, msg *cmREJ) {
	c := m.byOurs(remote, msg.remoteCommID)
	if info := msg.rejectInfo(); msg.reason == rejTimeout && len(info) >= 8 {
		// The peer may not have heard our comm ID when it gave up.
		if p := m.peers[cmPeer{remote.Unmap(), binary.BigEndian.Uint64(info), msg.localCommID}]; p != nil {
			c = p
		}
	}
	if c == nil || c.state != cmREQSent && (msg.localCommID != c.peerID ||
		msg.messageRejected == cmAboutREQ && msg.reason != rejTimeout) {
		return // of a duplicate of our REQ, or of nothing we know
	}
	switch c.state {
	case cmREQSent, cmREQRcvd, cmREPSent:
		c.rejected(msg)
	case cmEstablished, cmDREQSent:
		c.ended()
	}
}

func (c *cmConn) rejected(msg *cmREJ) {
	c.enterTimewait()
	c.emit(rdmacm.Event{
		Type: rdmacm.Rejected, Status: int(msg.reason),
		Err:   fmt.Errorf("roce: cm: rejected by %v: %v", c.remote, msg.reason),
		Param: rdmacm.ConnParam{PrivateData: append([]byte(nil), msg.privateData[:]...)},
	})
}

// receiveDREQ takes in a peer's leave. It is answered even if we know nothing
// of the connection: we may have forgotten it.
func (m *cm) receiveDREQ(local, remote netip.Addr, tid uint64, msg *cmDREQ) {
	c := m.byBoth(remote, msg.remoteCommID, msg.localCommID)
	if c != nil && (c.state == cmEstablished || c.state == cmREPSent || c.state == cmDREQSent) {
		if msg.remoteQPN != c.qpn {
			return
		}
		before := c.state
		c.dropQP() // before the peer hears that it is so
		m.sendDREP(local, remote, tid, msg)
		if before != cmREPSent {
			c.ended()
			return
		}
		c.enterTimewait()
		c.emit(rdmacm.Event{Type: rdmacm.ConnectError, Err: fmt.Errorf("roce: cm: accept: %v left", c.remote)})
		return
	}
	m.sendDREP(local, remote, tid, msg)
}

func (m *cm) sendDREP(local, remote netip.Addr, tid uint64, msg *cmDREQ) {
	drep := &m.scratch.drep
	*drep = cmDREP{localCommID: msg.remoteCommID, remoteCommID: msg.localCommID}
	m.send(local, remote, tid, drep)
}

// receiveDREP takes in the answer to a DREQ of ours.
func (m *cm) receiveDREP(remote netip.Addr, msg *cmDREP) {
	if c := m.byBoth(remote, msg.remoteCommID, msg.localCommID); c != nil && c.state == cmDREQSent {
		c.ended()
	}
}
