package roce

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/verbs"
)

// reqConsumerLen is what of a REQ's private data is the consumer's.
const reqConsumerLen = reqPrivateLen - cmaHeaderLen

// defaultHopLimit is for paths of which nobody says it.
const defaultHopLimit = 64

// open makes the active end of a connection. Any goroutine.
func (m *cm) open(local netip.Addr, remote netip.AddrPort) (*cmConn, error) {
	remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	if !remote.IsValid() || remote.Addr().IsUnspecified() || remote.Addr().IsMulticast() || remote.Port() == 0 {
		return nil, fmt.Errorf("roce: cm: open: no address to connect to: %v", remote)
	}
	if local = local.Unmap(); !local.IsValid() {
		var err error
		if local, err = m.cfg.link.routeTo(remote.Addr()); err != nil {
			return nil, err
		}
	}
	if local.Is4() != remote.Addr().Is4() {
		return nil, fmt.Errorf("roce: cm: open: %v cannot reach %v", local, remote)
	}
	// Our port exists in the REQ only, where the peer may show it, and the flow
	// label is made of it.
	const first, last = 32768, 60999
	port := uint16(first + rand.IntN(last-first+1))
	return m.newConn(netip.AddrPortFrom(local, port), remote, true), nil
}

// connect is Connect on the shard: it sends the REQ.
func (c *cmConn) connect(qp verbs.QP, p rdmacm.ConnParam) {
	m := c.cm
	if c.state != cmIdle {
		return // left before it began
	}
	code := mtuCode(m.cfg.link.pathMTU(c.local.Addr()))
	switch {
	case m.closed:
		c.fail(rdmacm.Event{Type: rdmacm.ConnectError, Err: m.why})
		return
	case code == 0:
		c.failed("connect: %v is not an address of this device", c.local.Addr())
		return
	case len(p.PrivateData) > reqConsumerLen:
		c.failed("connect: %d bytes of private data, at most %d", len(p.PrivateData), reqConsumerLen)
		return
	}
	m.add(c)
	c.param = p
	c.tid = m.tid(c.commID)
	c.psn = PSN(rand.Uint32() & psnMask)
	c.takeQP(qp)
	t := &m.cfg.times
	c.period = t.requestPeriod
	c.attr = verbs.QPAttr{
		Path: verbs.Path{
			Local: c.local.Addr(), Remote: c.remote.Addr(), MTU: mtuBytes(code),
			FlowLabel: cmaFlowLabel(c.local.Port(), c.remote.Port()), HopLimit: defaultHopLimit,
		},
		RetryCnt: int(p.RetryCount & 7),
		// Linux asks for 655 ms, the longest there is, by saying nothing.
		MinRNRTimer: 0,
	}
	c.move(cmREQSent)
	c.sendUntilAnswered(c.tid, c.req(qp.Num(), code), t.requestPeriod, int(t.maxRetries))
}

// req returns the REQ of the connection.
func (c *cmConn) req(qpn uint32, mtu uint8) *cmREQ {
	m, t := c.cm, &c.cm.cfg.times
	msg := &m.scratch.req
	*msg = cmREQ{
		localCommID:             c.commID,
		serviceID:               cmServiceID(c.remote.Port()),
		localCAGUID:             m.cfg.guid,
		localQPN:                qpn,
		responderResources:      min(c.param.ResponderResources, m.cfg.maxRdAtom),
		initiatorDepth:          min(c.param.InitiatorDepth, m.cfg.maxInitRd),
		remoteCMResponseTimeout: t.responseCode,
		localCMResponseTimeout:  t.responseCode,
		transportType:           cmTransportRC,
		flowControl:             c.param.FlowControl,
		startingPSN:             c.psn,
		retryCount:              c.param.RetryCount & 7,
		pkey:                    defaultPKey,
		pathMTU:                 mtu,
		rnrRetryCount:           c.param.RNRRetryCount & 7,
		maxCMRetries:            t.maxRetries,
		srq:                     c.param.SRQ,
		primary: cmPath{
			localLID:        permissiveLID,
			remoteLID:       permissiveLID,
			localGID:        plainAddr(c.local.Addr()),
			remoteGID:       plainAddr(c.remote.Addr()),
			flowLabel:       c.attr.Path.FlowLabel,
			hopLimit:        defaultHopLimit,
			localAckTimeout: cmAckTimeout(t.ackDelayCode, t.lifetimeCode),
		},
		alternate: cmPath{localGID: netip.IPv6Unspecified(), remoteGID: netip.IPv6Unspecified()},
	}
	h := cmaHeader{srcPort: c.local.Port(), src: plainAddr(c.local.Addr()), dst: plainAddr(c.remote.Addr())}
	h.put(msg.privateData[:])
	copy(msg.privateData[cmaHeaderLen:], c.param.PrivateData)
	return msg
}

// receiveREP takes in the answer to a REQ of ours. Of one that we know nothing
// of, or no more, because we gave up and the peer has not heard it, the peer is
// told: it has a queue pair for it, and would wait for an RTU.
func (m *cm) receiveREP(local, remote netip.Addr, tid uint64, msg *cmREP) {
	c := m.byOurs(remote, msg.remoteCommID)
	if m.conns[msg.remoteCommID] == nil && msg.localCommID != 0 {
		rej := &m.scratch.rej
		*rej = cmREJ{
			localCommID: msg.remoteCommID, remoteCommID: msg.localCommID,
			messageRejected: cmAboutREP, reason: rejInvalidCommID,
		}
		m.send(local, remote, tid, rej)
		return
	}
	if c == nil || !c.active {
		return
	}
	if c.state == cmEstablished && c.peerID == msg.localCommID {
		c.sendRTU() // a duplicate: the RTU was lost
		return
	}
	if c.state != cmREQSent || msg.localCommID == 0 {
		return
	}
	remote = remote.Unmap()
	peer := cmPeer{remote, msg.localCAGUID, msg.localCommID}
	if m.peers[peer] != nil {
		return // that ID is another connection's: [IBTA] has no answer
	}
	if old := m.peerQPs[cmPeerQP{remote, msg.localCAGUID, msg.localQPN}]; old != nil {
		// We think that queue pair is connected to another of ours: it is not, as
		// the peer has a new use for it. Unless we know as much, both are over.
		if !old.stale() {
			c.refuseREP(msg, rejStaleConn)
			c.fail(rdmacm.Event{Type: rdmacm.Rejected, Status: rdmacm.RejStaleConnection, Err: errStale})
			return
		}
	}
	if msg.localQPN <= 1 {
		c.refuseREP(msg, rejNoQP)
		c.failed("connect: REP from %v with QP %d", remote, msg.localQPN)
		return
	}
	m.know(c, msg.localCAGUID, msg.localCommID, msg.localQPN)
	c.attr.MaxRdAtomic = int(min(msg.responderResources, c.param.InitiatorDepth, m.cfg.maxInitRd))
	c.attr.MaxDestRd = int(min(msg.initiatorDepth, c.param.ResponderResources, m.cfg.maxRdAtom))
	c.attr.RNRRetry = int(msg.rnrRetryCount)
	c.attr.Timeout = m.cfg.times.ackCode(cmAckTimeout(msg.targetAckDelay, m.cfg.times.lifetimeCode))
	if err := c.connectQP(msg.startingPSN); err != nil {
		c.refuseREP(msg, rejNoQP)
		c.failed("connect: %w", err)
		return
	}
	c.established(msg)
	c.sendRTU()
}

// undelivered is told that a MAD of ours to remote has not arrived, and why: of
// a REQ that ends the wait for an answer. quote is the first part of that MAD, as
// an ICMP error has it, and anybody can have made it up. So it must have what is
// known to those alone whom the REQ has passed, and once the peer has been heard
// of, nothing of this kind is believed.
func (m *cm) undelivered(remote netip.Addr, quote []byte, why error) {
	const commID = madHeaderLen
	if len(quote) < commID+4 {
		return
	}
	c := m.byOurs(remote, binary.BigEndian.Uint32(quote[commID:]))
	if c == nil || c.state != cmREQSent || c.heard || !bytes.HasPrefix(c.out, quote[:min(len(quote), madLen)]) {
		return
	}
	c.fail(rdmacm.Event{
		Type: rdmacm.Unreachable,
		Err:  fmt.Errorf("roce: cm: connect to %v: nobody takes RoCEv2 packets there: %w", c.remote, why),
	})
}

func (c *cmConn) sendRTU() {
	msg := &c.cm.scratch.rtu
	*msg = cmRTU{localCommID: c.commID, remoteCommID: c.peerID}
	c.send(c.tid, msg)
}

// refuseREP refuses to go on with a connection that the peer has accepted.
func (c *cmConn) refuseREP(msg *cmREP, reason rejReason) {
	c.send(c.tid, &cmREJ{
		localCommID: c.commID, remoteCommID: msg.localCommID, messageRejected: cmAboutREP, reason: reason,
	})
}
