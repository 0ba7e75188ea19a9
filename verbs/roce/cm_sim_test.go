package roce

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
)

var (
	cmAddrA = netip.MustParseAddr("192.0.2.1") // active
	cmAddrB = netip.MustParseAddr("192.0.2.2") // listens
	cmPortB = uint16(4420)
)

const cmDelay = time.Millisecond // of a MAD on its way

// A cmNet is two connection managers and what is between them.
type cmNet struct {
	*testing.T
	a, b *cmEnd

	mu lockdep.Mutex[cmNetLock]
	// fate says for the nth MAD of a kind, from 0, when its copies arrive; nil is
	// once, after cmDelay.
	fate func(from *cmEnd, a cmAttr, n int) []time.Duration
	sent map[cmAttr]int
	log  []string
}

type cmNetLock struct{}

// A cmEnd is one of them, on a shard of its own, and its owner.
type cmEnd struct {
	net   *cmNet
	name  string
	addr  netip.Addr
	other *cmEnd
	s     *shard.Shard
	m     *cm
	mtu   int
	qpn   uint32
	gone  bool // the shard is closed
	lost  bool // its address is; belongs to the shard
	paths int  // that are held; belongs to the shard

	// guarded by net.mu
	events   []string
	conns    []*cmConn
	requests []rdmacm.ConnParam
	last     rdmacm.Event
	// onRequest is what the listener does; on the shard.
	onRequest func(c *cmConn, p rdmacm.ConnParam)
}

// withCM runs f with two connection managers in a synctest bubble, and closes
// them.
func withCM(t *testing.T, caps cmCaps, f func(n *cmNet)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := &cmNet{T: t, sent: map[cmAttr]int{}}
		n.a = n.end("a", cmAddrA, 0xa, caps)
		n.b = n.end("b", cmAddrB, 0xb, caps)
		n.a.other, n.b.other = n.b, n.a
		f(n)
		for _, e := range []*cmEnd{n.a, n.b} {
			if !e.gone {
				e.run(e.m.close)
				time.Sleep(time.Minute) // for what is under way
				e.run(e.checkEmpty)
			}
		}
		for _, e := range []*cmEnd{n.a, n.b} {
			if err := e.s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

func (n *cmNet) end(name string, addr netip.Addr, guid uint64, caps cmCaps) *cmEnd {
	e := &cmEnd{net: n, name: name, addr: addr, s: shard.NewSim(shard.Config{Name: name}), mtu: 1024, qpn: 0x100}
	e.m = newCM(cmConfig{shard: e.s, link: e, guid: guid, caps: caps, maxRdAtom: 128, maxInitRd: 100})
	return e
}

func (e *cmEnd) sendMAD(local, remote netip.Addr, mad []byte) {
	n := e.net
	h, _, err := parseMAD(mad)
	if err != nil || h.checkCM() != nil || local != e.addr || remote != e.other.addr {
		n.Errorf("%s sends % x from %v to %v: %v", e.name, mad[:madHeaderLen], local, remote, err)
		return
	}
	n.mu.Lock()
	arrivals := []time.Duration{cmDelay}
	if n.fate != nil {
		if f := n.fate(e, h.attrID, n.sent[h.attrID]); f != nil {
			arrivals = f
		}
	}
	n.sent[h.attrID]++
	n.log = append(n.log, e.name+" "+h.attrID.String())
	n.mu.Unlock()
	for _, d := range arrivals {
		mad := slices.Clone(mad)
		t := &shard.Task{Fn: func() { e.other.m.receiveMAD(remote, local, 1, mad) }}
		time.AfterFunc(d, func() { e.other.s.Post(t) })
	}
}

func (e *cmEnd) pathMTU(local netip.Addr) int {
	if local != e.addr {
		return 0
	}
	return e.mtu
}
func (e *cmEnd) isLocal(addr netip.Addr) bool { return addr == e.addr }
func (e *cmEnd) holdPath(_, _ netip.Addr) bool {
	e.paths++
	return true
}
func (e *cmEnd) dropPath(_, _ netip.Addr)     { e.paths-- }
func (e *cmEnd) hearErrors(bool)              {}
func (e *cmEnd) hasAddr(addr netip.Addr) bool { return !e.lost }
func (e *cmEnd) routeTo(remote netip.Addr) (netip.Addr, error) {
	if remote != e.other.addr {
		return netip.Addr{}, errors.New("no route")
	}
	return e.addr, nil
}

func (e *cmEnd) run(f func()) {
	e.net.Helper()
	if err := e.s.Run(f); err != nil {
		e.net.Fatal(err)
	}
}

// checkEmpty finds out whether anything is left of the connections, on the
// shard.
func (e *cmEnd) checkEmpty() {
	m := e.m
	if e.paths != 0 {
		e.net.Errorf("%s: %d paths held", e.name, e.paths)
	}
	if n := len(m.conns) + len(m.peers) + len(m.peerQPs) + len(m.qpns) + m.halfOpen + m.lingering; n != 0 {
		e.net.Errorf("%s: left: %d connections, %d peers, %d peers' QPs, %d QPs, %d half open, %d lingering",
			e.name, len(m.conns), len(m.peers), len(m.peerQPs), len(m.qpns), m.halfOpen, m.lingering)
	}
}

// adopt makes the end the owner of a connection.
func (e *cmEnd) adopt(c *cmConn) {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	e.conns = append(e.conns, c)
	c.Notify(func(ev rdmacm.Event) {
		e.net.mu.Lock()
		defer e.net.mu.Unlock()
		s := ev.Type.String()
		if ev.Status != 0 {
			s += fmt.Sprintf(" %d", ev.Status)
		}
		e.events = append(e.events, s)
		e.last = ev
	})
}

// listen makes the end a listener.
func (e *cmEnd) listen() {
	e.net.Helper()
	e.run(func() {
		if _, err := e.m.listen(netip.AddrPortFrom(e.addr, cmPortB), func(conn rdmacm.Conn, p rdmacm.ConnParam) {
			c := conn.(*cmConn)
			e.adopt(c)
			e.net.mu.Lock()
			e.requests = append(e.requests, p)
			f := e.onRequest
			e.net.mu.Unlock()
			if f != nil {
				f(c, p)
			}
		}); err != nil {
			e.net.Error(err)
		}
	})
}

// accepts makes the end's listener accept what comes.
func (e *cmEnd) accepts() {
	e.listen()
	e.onRequest = func(c *cmConn, _ rdmacm.ConnParam) { c.Accept(e.qp(), cmAcceptParam) }
}

var (
	cmConnectParam = rdmacm.ConnParam{
		PrivateData: []byte("please"), ResponderResources: 128, FlowControl: true, RetryCount: 7, RNRRetryCount: 7,
	}
	cmAcceptParam = rdmacm.ConnParam{
		PrivateData: []byte("welcome"), InitiatorDepth: 64, FlowControl: true, RNRRetryCount: 7,
	}
)

// connect has the end connect to the other.
func (e *cmEnd) connect() (*cmConn, *cmFakeQP) {
	e.net.Helper()
	c, err := e.m.open(netip.Addr{}, netip.AddrPortFrom(e.other.addr, cmPortB))
	if err != nil {
		e.net.Fatal(err)
	}
	e.adopt(c)
	qp := e.qp()
	c.Connect(qp, cmConnectParam)
	return c, qp
}

// told compares the events since the last time.
func (e *cmEnd) told(want ...string) {
	e.net.Helper()
	synctest.Wait()
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	if !slices.Equal(e.events, want) {
		e.net.Errorf("%s was told %q, want %q", e.name, e.events, want)
	}
	e.events = nil
}

// wire compares the MADs that were sent since the last time.
func (n *cmNet) wire(want string) {
	n.Helper()
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	if got := strings.Join(n.log, ", "); got != want {
		n.Errorf("on the wire %q, want %q", got, want)
	}
	n.log = nil
}

// A cmFakeQP is a queue pair without a wire.
type cmFakeQP struct {
	verbs.QP
	num   uint32
	state verbs.QPState
	attr  verbs.QPAttr
	err   error
}

// qp returns a queue pair in Init, with a number that was not used before.
func (e *cmEnd) qp() *cmFakeQP {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	e.qpn++
	return &cmFakeQP{num: e.qpn, state: verbs.Init}
}

func (q *cmFakeQP) Num() uint32          { return q.num }
func (q *cmFakeQP) State() verbs.QPState { return q.state }
func (q *cmFakeQP) Connect(attr verbs.QPAttr) error {
	if q.err != nil {
		return q.err
	}
	if q.state != verbs.Init {
		return &verbs.StateError{Op: "connect", From: q.state, To: verbs.RTR}
	}
	q.state, q.attr = verbs.RTS, attr
	return nil
}
func (q *cmFakeQP) Modify(to verbs.QPState) error {
	if err := verbs.CheckMove(q.state, to); err != nil {
		return err
	}
	q.state = to
	return nil
}

// closeAll closes every connection of both ends and waits for the queue pairs.
func (n *cmNet) closeAll() {
	for _, e := range []*cmEnd{n.a, n.b} {
		n.mu.Lock()
		conns := slices.Clone(e.conns)
		e.conns = nil
		n.mu.Unlock()
		for _, c := range conns {
			done := make(chan struct{})
			c.Close(func() { close(done) })
			<-done
		}
	}
}
