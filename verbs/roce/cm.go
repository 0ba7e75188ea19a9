package roce

import (
	"errors"
	"math/rand/v2"
	"net/netip"

	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/shard"
)

// A cmLink is what a cm needs of the engine that it is a part of. All but
// routeTo are called on the shard.
type cmLink interface {
	// sendMAD sends a MAD to QP1 of remote. mad is read during the call only.
	// It may be lost.
	sendMAD(local, remote netip.Addr, mad []byte)
	// holdPath says that MADs will go that way until dropPath, which follows if
	// it returns true.
	holdPath(local, remote netip.Addr) bool
	dropPath(local, remote netip.Addr)
	// pathMTU is the path MTU from an address of ours in bytes, 0 if it is none.
	pathMTU(local netip.Addr) int
	// isLocal reports whether packets to addr are for this device.
	isLocal(addr netip.Addr) bool
	// hasAddr reports whether the machine has addr, now.
	hasAddr(addr netip.Addr) bool
	// hearErrors says whether cm.undelivered wants to be called.
	hearErrors(on bool)
	// routeTo returns our address for connections to remote. Any goroutine.
	routeTo(remote netip.Addr) (netip.Addr, error)
}

// cmConfig describes a cm to be.
type cmConfig struct {
	shard *shard.Shard
	link  cmLink
	guid  uint64 // of the node: not 0, not another's
	times cmTimes
	caps  cmCaps

	maxRdAtom, maxInitRd uint8 // of the device
}

// cmCaps bound what peers can make a cm keep. Zeros are defaults.
type cmCaps struct {
	halfOpen  int // connections that a peer asked for and that are not established
	lingering int // connections that their owner has closed and a peer not yet
	timewait  int
}

func (c *cmCaps) setDefaults() {
	for _, v := range []*int{&c.halfOpen, &c.lingering, &c.timewait} {
		if *v == 0 {
			*v = 4096
		}
	}
}

// A cm speaks the connection manager's wire protocol for a device ([IBTA] 12):
// MADs, time and calls come in, MADs and events go out. It belongs to the
// shard; calls of a [cmConn] that come from elsewhere are posted to it.
//
// What it keeps is bounded: a connection by its owner, or by a cap; nothing is
// kept of messages that fit no connection.
type cm struct {
	cfg    cmConfig
	closed bool
	why    error  // it was closed
	agent  uint32 // upper half of our transaction IDs

	listeners map[netip.AddrPort]*cmListener // by address, which is invalid for all
	prober    shard.Timer                    // see probe
	watchers  map[*cmWatcher]struct{}

	// Every connection that the wire knows is in conns, by our comm ID; and, from
	// when the peer's IDs are known, in peers and peerQPs. A peer is its address
	// too, so that nobody can speak for another's GUID.
	conns   map[uint32]*cmConn
	peers   map[cmPeer]*cmConn
	peerQPs map[cmPeerQP]*cmConn
	qpns    map[uint32]*cmConn // by our queue pair, once it is connected

	stray     uint64 // messages about no connection of their sender's
	requests  int    // in flight: connections in REQ-SENT
	halfOpen  int
	lingering int
	timewait  cmTimewait

	// scratch is for one message at a time, from when it is written to when it
	// is in bytes.
	scratch struct {
		req  cmREQ
		rep  cmREP
		rtu  cmRTU
		rej  cmREJ
		mra  cmMRA
		dreq cmDREQ
		drep cmDREP
		buf  [madLen]byte
	}
}

// A cmPeer is a connection as its peer names it.
type cmPeer struct {
	addr   netip.Addr
	guid   uint64
	commID uint32
}

// A cmPeerQP is the peer's queue pair of a connection.
type cmPeerQP struct {
	addr netip.Addr
	guid uint64
	qpn  uint32
}

// A cmListener is who is asked about connections at an address.
type cmListener struct {
	request func(rdmacm.Conn, rdmacm.ConnParam)
	gone    bool // its address is, and that was told
}

var errCMClosed = errors.New("roce: cm: device closed")

func newCM(cfg cmConfig) *cm {
	cfg.times.setDefaults()
	cfg.caps.setDefaults()
	m := &cm{
		cfg:       cfg,
		watchers:  make(map[*cmWatcher]struct{}),
		agent:     rand.Uint32(),
		listeners: make(map[netip.AddrPort]*cmListener),
		conns:     make(map[uint32]*cmConn),
		peers:     make(map[cmPeer]*cmConn),
		peerQPs:   make(map[cmPeerQP]*cmConn),
		qpns:      make(map[uint32]*cmConn),
		timewait:  cmTimewait{max: cfg.caps.timewait},
	}
	m.prober.Fn = m.probe
	return m
}

// close ends the protocol: owners are told that the device is gone, peers that
// the connections are, once each.
func (m *cm) close() { m.remove(errCMClosed) }

func (m *cm) remove(why error) {
	if m.closed {
		return
	}
	m.closed, m.why = true, why
	m.cfg.shard.Disarm(&m.prober)
	clear(m.listeners)
	for _, c := range m.conns {
		c.leave()
		if c.state == cmDREQSent {
			c.done()
		}
		c.emit(rdmacm.Event{Type: rdmacm.DeviceRemoval, Err: why})
	}
	m.tell(rdmacm.DeviceEvent{Type: rdmacm.DeviceRemoval, Err: why})
	clear(m.watchers)
}

// commEst is told that the peer of one of our queue pairs has sent its first
// packet: the connection is established, whatever became of the RTU.
func (m *cm) commEst(qpn uint32) {
	if c := m.qpns[qpn]; c != nil && c.state == cmREPSent {
		c.established(nil)
	}
}

// receiveMAD takes in a MAD that came to QP1 of local. What it cannot mean
// anything by is dropped. The addresses are those of the packet.
func (m *cm) receiveMAD(local, remote netip.Addr, srcQPN uint32, mad []byte) {
	h, b, err := parseMAD(mad)
	if err != nil || h.checkCM() != nil || srcQPN != 1 || m.closed && h.attrID != cmAttrDREQ {
		return
	}
	switch h.attrID {
	case cmAttrREQ:
		var msg cmREQ
		if msg.parse(b) == nil {
			m.receiveREQ(local, remote, h.tid, &msg)
		}
	case cmAttrREP:
		var msg cmREP
		if msg.parse(b) == nil {
			m.receiveREP(local, remote, h.tid, &msg)
		}
	case cmAttrRTU:
		var msg cmRTU
		if msg.parse(b) == nil {
			m.receiveRTU(remote, &msg)
		}
	case cmAttrREJ:
		var msg cmREJ
		if msg.parse(b) == nil {
			m.receiveREJ(remote, &msg)
		}
	case cmAttrMRA:
		var msg cmMRA
		if msg.parse(b) == nil {
			m.receiveMRA(remote, &msg)
		}
	case cmAttrDREQ:
		var msg cmDREQ
		if msg.parse(b) == nil {
			m.receiveDREQ(local, remote, h.tid, &msg)
		}
	case cmAttrDREP:
		var msg cmDREP
		if msg.parse(b) == nil {
			m.receiveDREP(remote, &msg)
		}
	}
}

// byOurs returns the connection that a message is for by our comm ID alone, if
// the message has come from its peer; byBoth also by the peer's comm ID.
func (m *cm) byOurs(remote netip.Addr, ours uint32) *cmConn {
	c := m.conns[ours]
	if c == nil || c.remote.Addr().Unmap() != remote.Unmap() {
		m.stray++
		return nil
	}
	return c
}

func (m *cm) byBoth(remote netip.Addr, ours, theirs uint32) *cmConn {
	c := m.byOurs(remote, ours)
	if c == nil {
		return nil
	}
	if !c.known || c.peerID != theirs {
		m.stray++
		return nil
	}
	return c
}

// send sends a message once.
func (m *cm) send(local, remote netip.Addr, tid uint64, msg cmMessage) {
	m.cfg.link.sendMAD(local, remote, appendCM(m.scratch.buf[:0], tid, msg))
}

// tid is the transaction ID of what we begin on behalf of a comm ID.
func (m *cm) tid(commID uint32) uint64 { return uint64(m.agent)<<32 | uint64(commID) }

// add gives a connection its comm ID, by chance, so that a process does not
// take up those of its predecessor, and nobody guesses them.
func (m *cm) add(c *cmConn) {
	for {
		id := rand.Uint32()
		if id != 0 && m.conns[id] == nil {
			c.commID = id
			m.conns[id] = c
			c.holdsPath = m.cfg.link.holdPath(c.local.Addr(), c.remote.Addr())
			return
		}
	}
}

// know enters the peer's IDs for a connection.
func (m *cm) know(c *cmConn, guid uint64, commID, qpn uint32) {
	c.known, c.peerGUID, c.peerID, c.peerQPN = true, guid, commID, qpn
	m.peers[c.peer()] = c
	m.peerQPs[c.peerQP()] = c
}

// forget removes a connection from the wire's view.
func (m *cm) forget(c *cmConn) {
	delete(m.conns, c.commID)
	if c.holdsPath {
		c.holdsPath = false
		m.cfg.link.dropPath(c.local.Addr(), c.remote.Addr())
	}
	if c.known {
		if m.peers[c.peer()] == c {
			delete(m.peers, c.peer())
		}
		if m.peerQPs[c.peerQP()] == c {
			delete(m.peerQPs, c.peerQP())
		}
	}
}
