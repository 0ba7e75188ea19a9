package fakeverbs

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
)

// Private data has no length on the wire: it comes padded.
const (
	requestData = 56
	replyData   = 196
	rejectData  = 148
)

func pad(b []byte, n int) []byte {
	return append(append(make([]byte, 0, n), b...), make([]byte, n-len(b))...)
}

// A Provider is the connection management of a device.
type Provider struct{ dev *Device }

var _ rdmacm.Provider = (*Provider)(nil)

// Provider returns the device's connection management.
func (d *Device) Provider() *Provider { return &Provider{d} }

// Device implements [rdmacm.Provider].
func (p *Provider) Device() verbs.Device { return p.dev }

type listenerMu struct{}

// A listener calls request with mu held, so that close ends it.
type listener struct {
	dev *Device

	mu      lockdep.Mutex[listenerMu]
	request func(rdmacm.Conn, rdmacm.ConnParam) // guarded by mu; nil: closed
}

func (l *listener) call(c *conn, p rdmacm.ConnParam) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.request == nil {
		return false
	}
	l.request(c, p)
	return true
}

// Listen implements [rdmacm.Provider]. The IP of addr is the device's.
func (p *Provider) Listen(addr netip.AddrPort, request func(rdmacm.Conn, rdmacm.ConnParam)) (func() error, error) {
	if addr.Addr().IsUnspecified() {
		addr = netip.AddrPortFrom(p.dev.addr, addr.Port())
	}
	if addr.Addr() != p.dev.addr {
		return nil, fmt.Errorf("fakeverbs: listen at %v: not an address of %s", addr, p.dev.attr.Name)
	}
	n := p.dev.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[addr] != nil {
		return nil, fmt.Errorf("fakeverbs: listen at %v: in use", addr)
	}
	l := &listener{dev: p.dev, request: request}
	n.listeners[addr] = l
	return func() error {
		n.mu.Lock()
		delete(n.listeners, addr)
		n.mu.Unlock()
		l.mu.Lock()
		l.request = nil
		l.mu.Unlock()
		return nil
	}, nil
}

// Open implements [rdmacm.Provider].
func (p *Provider) Open(local netip.Addr, remote netip.AddrPort) (rdmacm.Conn, error) {
	if local.IsValid() && local != p.dev.addr {
		return nil, fmt.Errorf("fakeverbs: %v is not an address of %s", local, p.dev.attr.Name)
	}
	n := p.dev.net
	n.mu.Lock()
	n.lastPort++
	port := 32768 + n.lastPort%16384
	n.mu.Unlock()
	return p.dev.newConn(netip.AddrPortFrom(p.dev.addr, port), remote), nil
}

// Stages of a conn.
const (
	idle = iota
	connecting
	requested
	accepting
	established
	over
)

// A conn is one end of a connection. All but its addresses belongs to its
// loop: methods post, and so do the ends to each other.
type conn struct {
	dev           *Device
	vector        int
	local, remote netip.AddrPort

	sink    func(rdmacm.Event)
	stage   int
	qp      verbs.QP
	peer    *conn
	peerQPN uint32
	param   rdmacm.ConnParam
}

func (d *Device) newConn(local, remote netip.AddrPort) *conn {
	d.Conns.Add(1)
	return &conn{dev: d, vector: int(d.vector.Add(1)-1) % len(d.shards), local: local, remote: remote}
}

func (c *conn) do(fn func()) { c.dev.shards[c.vector].Post(&shard.Task{Fn: fn}) }

func (c *conn) Vector() int                      { return c.vector }
func (c *conn) LocalAddr() netip.AddrPort        { return c.local }
func (c *conn) RemoteAddr() netip.AddrPort       { return c.remote }
func (c *conn) Notify(sink func(rdmacm.Event))   { c.sink = sink }
func (c *conn) emit(ev rdmacm.Event)             { c.sink(ev) }
func (c *conn) fail(t rdmacm.EventType, e error) { c.emit(rdmacm.Event{Type: t, Err: e}) }

func (c *conn) Connect(q verbs.QP, p rdmacm.ConnParam) {
	c.do(func() {
		if c.stage != idle {
			return // disconnected before
		}
		c.stage, c.qp, c.param = connecting, q, p
		n := c.dev.net
		n.mu.Lock()
		l := n.listeners[c.remote]
		n.mu.Unlock()
		if l == nil {
			c.refused(rdmacm.RejInvalidServiceID, nil)
			return
		}
		s := l.dev.newConn(c.remote, c.local)
		s.peer, c.peer = c, s
		s.peerQPN = q.Num()
		s.stage = requested
		p.PrivateData = pad(p.PrivateData, requestData)
		p.NodeGUID = c.dev.attr.NodeGUID
		s.param = p
		s.do(func() {
			if !l.call(s, p) {
				s.stage = over // nobody listens: the peer's leave may be on its way
				s.dev.Conns.Add(-1)
				c.do(func() { c.refused(rdmacm.RejInvalidServiceID, nil) })
			}
		})
	})
}

// refused ends the attempt to connect.
func (c *conn) refused(reason int, private []byte) {
	if c.stage == connecting {
		c.stage = over
		c.emit(rdmacm.Event{Type: rdmacm.Rejected, Status: reason, Param: rdmacm.ConnParam{PrivateData: pad(private, rejectData)}})
	}
}

func (c *conn) connectQP(peerQPN uint32, mine, theirs rdmacm.ConnParam) error {
	return c.qp.Connect(verbs.QPAttr{
		Path:         verbs.Path{Local: c.local.Addr(), Remote: c.remote.Addr(), MTU: 1024, HopLimit: 64},
		DestQPN:      peerQPN,
		MaxRdAtomic:  int(min(mine.InitiatorDepth, theirs.ResponderResources)),
		MaxDestRd:    int(mine.ResponderResources),
		RetryCnt:     7,
		RNRRetry:     7,
		RemoteAccess: verbs.AccessRemoteRead | verbs.AccessRemoteWrite,
	})
}

func (c *conn) Accept(q verbs.QP, p rdmacm.ConnParam) {
	c.do(func() {
		if c.stage != requested {
			return // the peer gave up: it was told
		}
		c.qp = q
		if err := c.connectQP(c.peerQPN, p, c.param); err != nil {
			c.stage = over
			c.fail(rdmacm.ConnectError, err)
			c.peer.do(func() { c.peer.refused(rdmacm.RejNoQP, nil) })
			return
		}
		c.stage = accepting
		p.PrivateData = pad(p.PrivateData, replyData)
		p.NodeGUID = c.dev.attr.NodeGUID
		c.peer.do(func() { c.peer.reply(q.Num(), p) })
	})
}

// reply is the REP at the active end.
func (c *conn) reply(peerQPN uint32, p rdmacm.ConnParam) {
	if c.stage != connecting {
		return
	}
	if err := c.connectQP(peerQPN, c.param, p); err != nil {
		c.stage = over
		c.fail(rdmacm.ConnectError, err)
		c.peer.do(c.peer.left)
		return
	}
	c.stage = established
	c.emit(rdmacm.Event{Type: rdmacm.Established, Param: p})
	c.dev.net.rtu(func() {
		c.peer.do(func() {
			if s := c.peer; s.stage == accepting {
				s.stage = established
				s.emit(rdmacm.Event{Type: rdmacm.Established})
			}
		})
	})
}

func (c *conn) Reject(reason int, private []byte) {
	c.do(func() { c.reject(reason, private) })
}

func (c *conn) reject(reason int, private []byte) {
	if c.stage == requested {
		c.stage = over
		c.peer.do(func() { c.peer.refused(reason, private) })
	}
}

func (c *conn) Disconnect() { c.do(c.leave) }

// leave takes leave of the peer, as far as there is one.
func (c *conn) leave() {
	was := c.stage
	switch was {
	case idle, over:
		c.stage = over
		return
	case requested:
		c.reject(rdmacm.RejConsumerDefined, nil)
		return
	}
	c.stage = over
	_ = c.qp.Modify(verbs.Err) // it may be gone, or be there
	if was == established {
		c.emit(rdmacm.Event{Type: rdmacm.Disconnected})
	}
	if c.peer != nil {
		c.peer.do(c.peer.left)
	}
}

var errPeerLeft = errors.New("fakeverbs: the peer has left")

// left is the peer's leave at this end.
func (c *conn) left() {
	was := c.stage
	if was == over {
		return
	}
	c.stage = over
	if was == accepting || was == established {
		_ = c.qp.Modify(verbs.Err)
	}
	switch was {
	case established:
		c.emit(rdmacm.Event{Type: rdmacm.Disconnected})
	case requested:
		c.emit(rdmacm.Event{Type: rdmacm.Rejected, Status: rdmacm.RejTimeout})
	case connecting:
		c.stage = connecting
		c.refused(rdmacm.RejConsumerDefined, nil)
	default:
		c.fail(rdmacm.ConnectError, errPeerLeft)
	}
}

func (c *conn) Close(detached func()) {
	c.do(func() {
		c.leave()
		c.dev.Conns.Add(-1)
		detached()
	})
}
