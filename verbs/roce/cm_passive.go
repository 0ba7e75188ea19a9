package roce

import (
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/verbs"
)

// listen has request asked about connections to addr, whose IP may be
// unspecified for all of the device's.
func (m *cm) listen(addr netip.AddrPort, request func(rdmacm.Conn, rdmacm.ConnParam)) (netip.AddrPort, error) {
	key := listenKey(addr.Addr(), addr.Port())
	switch {
	case m.closed:
		return key, m.why
	case addr.Port() == 0:
		return key, fmt.Errorf("roce: cm: listen at %v: no port", addr)
	case key.Addr().IsValid() && !m.cfg.link.isLocal(addr.Addr().Unmap()):
		return key, fmt.Errorf("roce: cm: listen at %v: not an address of this device", addr)
	case m.listeners[key] != nil:
		return key, fmt.Errorf("roce: cm: listen at %v: in use", addr)
	case key.Addr().IsValid() && !m.cfg.link.hasAddr(key.Addr()):
		return key, fmt.Errorf("roce: cm: listen at %v: no interface has that address", addr)
	}
	m.listeners[key] = &cmListener{request: request}
	if key.Addr().IsValid() && !m.prober.Armed() {
		m.probeLater()
	}
	return key, nil
}

func (m *cm) unlisten(key netip.AddrPort) { delete(m.listeners, key) }

func listenKey(addr netip.Addr, port uint16) netip.AddrPort {
	if addr.IsUnspecified() {
		addr = netip.Addr{}
	}
	return netip.AddrPortFrom(plainAddr(addr), port)
}

// listener returns who listens at an address, the one for just that first.
func (m *cm) listener(addr netip.Addr, port uint16) *cmListener {
	if l := m.listeners[netip.AddrPortFrom(addr, port)]; l != nil {
		return l
	}
	return m.listeners[netip.AddrPortFrom(netip.Addr{}, port)]
}

// receiveREQ takes in a request for a connection.
func (m *cm) receiveREQ(local, remote netip.Addr, tid uint64, msg *cmREQ) {
	if msg.localCommID == 0 {
		return // nothing that an answer could name
	}
	peer := cmPeer{remote.Unmap(), msg.localCAGUID, msg.localCommID}
	if c := m.peers[peer]; c != nil && !c.active && c.reqTID == tid {
		// A duplicate. Beyond REQ-RCVD our own retransmissions answer it.
		if c.state == cmREQRcvd {
			mra := &m.scratch.mra
			*mra = cmMRA{
				localCommID: c.commID, remoteCommID: c.peerID,
				messageMRAed: cmAboutREQ, serviceTimeout: m.cfg.times.serviceCode,
			}
			c.send(c.tid, mra)
		}
		return
	}
	if old := m.peers[peer]; old != nil {
		// Another request with a comm ID that is in use: the peer has begun anew.
		old.stale()
		m.refuseREQ(local, remote, tid, msg, rejStaleConn)
		return
	}
	if m.timewait.has(peer, m.cfg.shard.Now()) {
		m.refuseREQ(local, remote, tid, msg, rejStaleConn)
		return
	}
	if old := m.peerQPs[cmPeerQP{peer.addr, msg.localCAGUID, msg.localQPN}]; old != nil && !old.stale() {
		m.refuseREQ(local, remote, tid, msg, rejStaleConn)
		return
	}
	l, h, reason := m.checkREQ(local, remote, msg)
	if reason != 0 {
		m.refuseREQ(local, remote, tid, msg, reason)
		return
	}
	port, _ := cmServicePort(msg.serviceID)
	c := m.newConn(netip.AddrPortFrom(local, port), netip.AddrPortFrom(remote, h.srcPort), false)
	m.add(c)
	m.know(c, msg.localCAGUID, msg.localCommID, msg.localQPN)
	c.tid, c.reqTID = tid, tid
	c.period = m.cfg.times.interval(msg.localCMResponseTimeout)
	c.cmRetries = int(msg.maxCMRetries)
	c.psn = msg.startingPSN // until Accept: what we send first
	c.attr = verbs.QPAttr{
		Path: verbs.Path{
			Local: local, Remote: remote, MTU: mtuBytes(msg.pathMTU),
			FlowLabel: msg.primary.flowLabel, TrafficClass: msg.primary.trafficClass, HopLimit: msg.primary.hopLimit,
		},
		RetryCnt:    int(msg.retryCount),
		RNRRetry:    int(msg.rnrRetryCount),
		Timeout:     m.cfg.times.ackCode(msg.primary.localAckTimeout),
		MaxRdAtomic: int(min(msg.responderResources, m.cfg.maxInitRd)),
	}
	if c.attr.Path.HopLimit == 0 {
		c.attr.Path.HopLimit = defaultHopLimit
	}
	c.move(cmREQRcvd)
	l.request(c, rdmacm.ConnParam{
		PrivateData:        append([]byte(nil), msg.privateData[cmaHeaderLen:]...),
		ResponderResources: msg.responderResources,
		InitiatorDepth:     msg.initiatorDepth,
		FlowControl:        msg.flowControl,
		RetryCount:         msg.retryCount,
		RNRRetryCount:      msg.rnrRetryCount,
		SRQ:                msg.srq,
		QPN:                msg.localQPN,
		NodeGUID:           msg.localCAGUID,
	})
}

// checkREQ looks at what a REQ asks for, and returns who is to be asked, or the
// reason to refuse it.
func (m *cm) checkREQ(local, remote netip.Addr, msg *cmREQ) (l *cmListener, h cmaHeader, reason rejReason) {
	local, remote = plainAddr(local), plainAddr(remote)
	port, ok := cmServicePort(msg.serviceID)
	if !ok {
		return nil, h, rejInvalidServiceID
	}
	if l = m.listener(local, port); l == nil {
		return nil, h, rejInvalidServiceID
	}
	switch {
	case msg.transportType != cmTransportRC || msg.extTransportType != 0:
		return nil, h, rejInvalidTransportType
	case msg.primary.remoteGID != local || msg.primary.localGID != remote || !m.cfg.link.isLocal(local):
		// Answers and data go where the REQ came from, and nowhere else.
		return nil, h, rejInvalidGID
	case mtuBytes(msg.pathMTU) == 0 || mtuBytes(msg.pathMTU) > m.cfg.link.pathMTU(local):
		// A REP cannot ask for less.
		return nil, h, rejInvalidMTU
	case !pkeyMatch(msg.pkey, defaultPKey) || msg.localQPN <= 1 || msg.rdcExists:
		return nil, h, rejUnsupported
	case h.parse(msg.privateData[:]) != nil || h.src.Unmap() != remote || h.dst.Unmap() != local:
		return nil, h, rejConsumerDefined // as Linux's RDMA CM, without private data
	case m.halfOpen >= m.cfg.caps.halfOpen:
		return nil, h, rejNoResources
	}
	return l, h, 0
}

// refuseREQ refuses a REQ of which nothing is kept.
func (m *cm) refuseREQ(local, remote netip.Addr, tid uint64, msg *cmREQ, reason rejReason) {
	rej := &m.scratch.rej
	*rej = cmREJ{remoteCommID: msg.localCommID, messageRejected: cmAboutREQ, reason: reason}
	m.send(local, remote, tid, rej)
}

// accept is Accept on the shard: the queue pair goes to RTS and the REP out.
func (c *cmConn) accept(qp verbs.QP, p rdmacm.ConnParam) {
	m := c.cm
	if c.state != cmREQRcvd {
		return // over already: the owner has been told, or did it
	}
	c.takeQP(qp)
	sqPSN := c.psn
	c.psn = PSN(rand.Uint32() & psnMask)
	c.attr.MaxRdAtomic = min(c.attr.MaxRdAtomic, int(p.InitiatorDepth))
	c.attr.MaxDestRd = int(min(p.ResponderResources, m.cfg.maxRdAtom))
	var err error
	if len(p.PrivateData) > repPrivateLen {
		err = fmt.Errorf("%d bytes of private data, at most %d", len(p.PrivateData), repPrivateLen)
	} else {
		err = c.connectQP(sqPSN)
	}
	if err != nil {
		c.sendREJ(cmAboutREQ, rejNoQP, nil)
		c.failed("accept: %w", err)
		return
	}
	msg := &m.scratch.rep
	*msg = cmREP{
		localCommID:        c.commID,
		remoteCommID:       c.peerID,
		localQPN:           c.qpn,
		startingPSN:        c.psn,
		responderResources: uint8(c.attr.MaxDestRd),
		initiatorDepth:     uint8(c.attr.MaxRdAtomic),
		targetAckDelay:     m.cfg.times.ackDelayCode,
		flowControl:        p.FlowControl,
		rnrRetryCount:      p.RNRRetryCount & 7,
		srq:                p.SRQ,
		localCAGUID:        m.cfg.guid,
	}
	copy(msg.privateData[:], p.PrivateData)
	c.move(cmREPSent)
	// As often as the REQ allows, within the time that is ours.
	retries := min(c.cmRetries, int(m.cfg.times.establishMax/c.period))
	c.sendUntilAnswered(c.tid, msg, c.period, retries)
}

// receiveRTU takes in the word that the active side has taken the REP.
func (m *cm) receiveRTU(remote netip.Addr, msg *cmRTU) {
	if c := m.byBoth(remote, msg.remoteCommID, msg.localCommID); c != nil && c.state == cmREPSent {
		c.established(nil)
	}
}

// rejectRequest is Reject on the shard.
func (c *cmConn) rejectRequest() {
	private := c.asked.private
	c.asked.private = nil
	if c.state == cmREQRcvd {
		c.sendREJ(cmAboutREQ, rejReason(c.asked.reason), private)
		c.done()
	}
}
