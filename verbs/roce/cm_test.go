package roce

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/verbs"
)

const cmTable = `
from to            IDLE    REQ-SENT    REQ-RCVD    REP-SENT ESTABLISHED   DREQ-SENT        DONE
IDLE                  .           x           x           .           .           .           x
REQ-SENT              .           .           .           .           x           .           x
REQ-RCVD              .           .           .           x           .           .           x
REP-SENT              .           .           .           .           x           .           x
ESTABLISHED           .           .           .           .           .           x           x
DREQ-SENT             .           .           .           .           .           .           x
DONE                  .           .           .           .           .           .           .
`

func TestCMStateTable(t *testing.T) {
	var b strings.Builder
	b.WriteString("\nfrom to    ")
	for to := range numCMStates {
		fmt.Fprintf(&b, "%12v", to)
	}
	for from := range numCMStates {
		fmt.Fprintf(&b, "\n%-11v", from)
		for to := range numCMStates {
			c := "."
			if cmNext[from][to] {
				c = "x"
			}
			fmt.Fprintf(&b, "%12s", c)
		}
	}
	b.WriteString("\n")
	if strings.ReplaceAll(b.String(), " ", "") != strings.ReplaceAll(cmTable, " ", "") {
		t.Errorf("the table is%swant%s", b.String(), cmTable)
	}
}

// A whole life, and what the queue pairs were given.
func TestCMConnect(t *testing.T) {
	withCM(t, cmCaps{}, func(n *cmNet) {
		var qpB *cmFakeQP
		n.b.listen()
		n.b.onRequest = func(c *cmConn, _ rdmacm.ConnParam) {
			qpB = n.b.qp()
			c.Accept(qpB, cmAcceptParam)
		}
		c, qpA := n.a.connect()
		time.Sleep(time.Second)
		n.wire("a REQ, b REP, a RTU")
		n.a.told("established")
		if got := n.a.last.Param; string(got.PrivateData[:7]) != "welcome" || len(got.PrivateData) != repPrivateLen ||
			got.InitiatorDepth != 64 || got.RNRRetryCount != 7 || !got.FlowControl || got.NodeGUID != 0xb || got.QPN != qpB.num {
			t.Errorf("established with %+v", got)
		}
		n.b.told("established")
		if got := n.b.requests[0]; string(got.PrivateData[:6]) != "please" || len(got.PrivateData) != reqConsumerLen ||
			got.ResponderResources != 128 || got.RetryCount != 7 || got.NodeGUID != 0xa || got.QPN != qpA.num {
			t.Errorf("requested with %+v", got)
		}
		b := n.b.conns[0]
		if b.RemoteAddr() != c.LocalAddr() || b.LocalAddr() != c.RemoteAddr() || c.RemoteAddr().Port() != cmPortB {
			t.Errorf("a: %v to %v, b: %v to %v", c.LocalAddr(), c.RemoteAddr(), b.LocalAddr(), b.RemoteAddr())
		}
		label := cmaFlowLabel(c.LocalAddr().Port(), cmPortB)
		wantA := verbs.QPAttr{
			Path:    verbs.Path{Local: cmAddrA, Remote: cmAddrB, MTU: 1024, FlowLabel: label, HopLimit: 64},
			DestQPN: qpB.num, SQPSN: qpB.attr.RQPSN, RQPSN: qpB.attr.SQPSN,
			MaxDestRd: 64, RetryCnt: 7, RNRRetry: 7, Timeout: cmAckTimeout(20, 16),
			RemoteAccess: verbs.AccessLocalWrite | verbs.AccessRemoteWrite | verbs.AccessRemoteRead,
		}
		if qpA.attr != wantA || qpA.state != verbs.RTS {
			t.Errorf("a: %v with\n%+v, want\n%+v", qpA.state, qpA.attr, wantA)
		}
		wantB := verbs.QPAttr{
			Path:    verbs.Path{Local: cmAddrB, Remote: cmAddrA, MTU: 1024, FlowLabel: label, HopLimit: 64},
			DestQPN: qpA.num, SQPSN: qpA.attr.RQPSN, RQPSN: qpA.attr.SQPSN,
			MaxRdAtomic: 64, RetryCnt: 7, RNRRetry: 7, Timeout: cmAckTimeout(20, 16),
			RemoteAccess: verbs.AccessLocalWrite | verbs.AccessRemoteWrite,
		}
		if qpB.attr != wantB || qpB.state != verbs.RTS {
			t.Errorf("b: %v with\n%+v, want\n%+v", qpB.state, qpB.attr, wantB)
		}

		c.Disconnect()
		time.Sleep(time.Second)
		n.wire("a DREQ, b DREP")
		n.a.told("disconnected")
		n.b.told("disconnected")
		if qpA.state != verbs.Err || qpB.state != verbs.Err {
			t.Errorf("the queue pairs are in %v and %v", qpA.state, qpB.state)
		}
		n.closeAll()
		n.wire("")
		for _, e := range []*cmEnd{n.a, n.b} {
			e.run(e.checkEmpty)
		}
	})
}

// A message that is lost, or that comes twice, or late, changes nothing but
// the time.
func TestCMEachMessageLostOrDoubled(t *testing.T) {
	const req, rep = 4608 * time.Millisecond, 4096 * time.Millisecond
	for _, c := range []struct {
		attr   cmAttr
		fate   string
		up     time.Duration // when both are established
		down   time.Duration // when both are disconnected, after that
		upWire string
		dnWire string
	}{
		{cmAttrREQ, "lost", req + 3*cmDelay, 2 * cmDelay, "a REQ, a REQ, b REP, a RTU", "a DREQ, b DREP"},
		{cmAttrREP, "lost", rep + 3*cmDelay, 2 * cmDelay, "a REQ, b REP, b REP, a RTU", "a DREQ, b DREP"},
		{cmAttrRTU, "lost", rep + 3*cmDelay, 2 * cmDelay, "a REQ, b REP, a RTU, b REP, a RTU", "a DREQ, b DREP"},
		{cmAttrDREQ, "lost", 3 * cmDelay, req + 2*cmDelay, "a REQ, b REP, a RTU", "a DREQ, a DREQ, b DREP"},
		{cmAttrDREP, "lost", 3 * cmDelay, req + 2*cmDelay, "a REQ, b REP, a RTU", "a DREQ, b DREP, a DREQ, b DREP"},
		{cmAttrREQ, "twice", 3 * cmDelay, 2 * cmDelay, "a REQ, b REP, a RTU", "a DREQ, b DREP"},
		{cmAttrREP, "twice", 3 * cmDelay, 2 * cmDelay, "a REQ, b REP, a RTU, a RTU", "a DREQ, b DREP"},
		{cmAttrRTU, "twice", 3 * cmDelay, 2 * cmDelay, "a REQ, b REP, a RTU", "a DREQ, b DREP"},
		{cmAttrDREQ, "twice", 3 * cmDelay, 2 * cmDelay, "a REQ, b REP, a RTU", "a DREQ, b DREP, b DREP"},
		{cmAttrDREP, "twice", 3 * cmDelay, 2 * cmDelay, "a REQ, b REP, a RTU", "a DREQ, b DREP"},
	} {
		t.Run(fmt.Sprintf("%v %s", c.attr, c.fate), func(t *testing.T) {
			withCM(t, cmCaps{}, func(n *cmNet) {
				n.fate = func(_ *cmEnd, a cmAttr, i int) []time.Duration {
					switch {
					case a != c.attr || i > 0:
						return nil
					case c.fate == "lost":
						return []time.Duration{}
					default:
						return []time.Duration{cmDelay, 2 * cmDelay}
					}
				}
				n.b.accepts()
				conn, _ := n.a.connect()
				time.Sleep(c.up - time.Nanosecond)
				synctest.Wait()
				n.mu.Lock()
				if len(n.b.events) != 0 {
					t.Errorf("b was told %q too early", n.b.events)
				}
				n.mu.Unlock()
				time.Sleep(time.Nanosecond)
				n.b.told("established")
				n.a.told("established")
				time.Sleep(time.Second)
				n.wire(c.upWire)
				conn.Disconnect()
				time.Sleep(c.down)
				n.a.told("disconnected")
				if c.attr == cmAttrDREP && c.fate == "lost" { // long over by then, for b
					n.b.told("disconnected", "timewait exit")
				} else {
					n.b.told("disconnected")
				}
				time.Sleep(time.Second)
				n.wire(c.dnWire)
			})
		})
	}
}

// Whatever the network does, both ends come to an end, and agree on it as far
// as they can.
func TestCMAnyNetwork(t *testing.T) {
	for seed := range uint64(40) {
		withCM(t, cmCaps{}, func(n *cmNet) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			n.fate = func(*cmEnd, cmAttr, int) []time.Duration {
				var at []time.Duration
				for rnd.IntN(3) != 0 && len(at) < 3 {
					at = append(at, time.Duration(rnd.IntN(9000))*time.Millisecond)
				}
				return append([]time.Duration{}, at...)
			}
			n.b.accepts()
			conn, qp := n.a.connect()
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			n.mu.Lock()
			ends := strings.Join(n.a.events, " ")
			if len(n.a.events) != 1 && ends != "established disconnected timewait exit" || len(n.b.requests) > 0 && len(n.b.events) < 1 {
				t.Errorf("seed %d: a was told %q, b %q, %d requests", seed, n.a.events, n.b.events, len(n.b.requests))
			}
			n.mu.Unlock()
			if ends != "established" && qp.state != verbs.Err {
				t.Errorf("seed %d: a was told %q, and the queue pair is in %v", seed, ends, qp.state)
			}
			if seed%2 == 0 {
				conn.Disconnect()
				time.Sleep(2 * time.Minute)
			}
			n.closeAll()
			time.Sleep(2 * time.Minute)
			for _, e := range []*cmEnd{n.a, n.b} {
				e.run(e.checkEmpty)
			}
		})
	}
}

// A peer that is not there: 16 REQs, evenly spaced.
func TestCMUnreachable(t *testing.T) {
	withCM(t, cmCaps{}, func(n *cmNet) {
		var at []time.Duration
		start := time.Now()
		n.fate = func(*cmEnd, cmAttr, int) []time.Duration {
			at = append(at, time.Since(start))
			return []time.Duration{}
		}
		_, qp := n.a.connect()
		time.Sleep(16*4608*time.Millisecond - time.Nanosecond)
		n.a.told()
		time.Sleep(time.Nanosecond)
		n.a.told("unreachable")
		if len(at) != 16 {
			t.Errorf("%d REQs, want 16", len(at))
		}
		for i, d := range at {
			if d != time.Duration(i)*4608*time.Millisecond {
				t.Errorf("REQ %d after %v", i, d)
			}
		}
		if qp.state != verbs.Err {
			t.Errorf("the queue pair is in %v", qp.state)
		}
	})
}

// A host that vanishes between REP and RTU is not waited for as long as it
// asks.
func TestCMNoRTU(t *testing.T) {
	withCM(t, cmCaps{}, func(n *cmNet) {
		n.fate = func(_ *cmEnd, a cmAttr, _ int) []time.Duration {
			if a == cmAttrREQ {
				return nil
			}
			return []time.Duration{}
		}
		n.b.accepts()
		conn, _ := n.a.connect()
		time.Sleep(100 * time.Millisecond)
		conn.Close(func() {})
		time.Sleep(5*4096*time.Millisecond - 200*time.Millisecond)
		n.b.told()
		time.Sleep(time.Second)
		n.b.told("connect error")
		n.wire("a REQ, b REP, a REJ, b REP, b REP, b REP, b REP, b REJ")
		n.closeAll()
	})
}

// The first packet of the peer establishes the connection, RTU or not.
func TestCMCommEst(t *testing.T) {
	withCM(t, cmCaps{}, func(n *cmNet) {
		n.fate = func(_ *cmEnd, a cmAttr, _ int) []time.Duration {
			if a == cmAttrRTU {
				return []time.Duration{}
			}
			return nil
		}
		n.b.accepts()
		n.a.connect()
		time.Sleep(time.Second)
		n.a.told("established")
		n.b.told()
		n.b.run(func() {
			n.b.m.commEst(0x77)
			n.b.m.commEst(0x101)
			n.b.m.commEst(0x101)
		})
		n.b.told("established")
		time.Sleep(time.Minute)
		n.wire("a REQ, b REP, a RTU")
		n.closeAll()
	})
}

func TestCMReject(t *testing.T) {
	withCM(t, cmCaps{}, func(n *cmNet) {
		n.b.listen()
		n.b.onRequest = func(c *cmConn, _ rdmacm.ConnParam) { c.Reject(rdmacm.RejConsumerDefined, []byte{1, 0, 6, 0}) }
		_, qp := n.a.connect()
		time.Sleep(time.Second)
		n.a.told("rejected 28")
		if got := n.a.last; got.Param.PrivateData[2] != 6 || len(got.Param.PrivateData) != rejPrivateLen || got.Err == nil {
			t.Errorf("rejected with %+v", got)
		}
		n.wire("a REQ, b REJ")
		n.b.told()
		if qp.state != verbs.Err {
			t.Errorf("the queue pair is in %v", qp.state)
		}
		n.b.run(n.b.checkEmpty)
	})
}

// A REQ that comes again while its owner thinks it over is answered with MRA,
// and the answer may then take longer than the peer would have waited.
func TestCMPatience(t *testing.T) {
	withCM(t, cmCaps{}, func(n *cmNet) {
		n.b.listen()
		n.a.connect()
		time.Sleep(4608*time.Millisecond + time.Second)
		n.wire("a REQ, a REQ, b MRA")
		// The MRA asks for 8.192 s, and 0.256 s for the way.
		time.Sleep(8192*time.Millisecond + 256*time.Millisecond - time.Second)
		n.wire("")
		time.Sleep(time.Second)
		n.wire("a REQ, b MRA")
		n.b.conns[0].Accept(n.b.qp(), cmAcceptParam)
		time.Sleep(time.Second)
		n.a.told("established")
		n.b.told("established")
		n.closeAll()
	})
}

// A peer that gives up before it has an answer.
func TestCMPeerGivesUp(t *testing.T) {
	withCM(t, cmCaps{}, func(n *cmNet) {
		n.b.listen()
		c, qp := n.a.connect()
		time.Sleep(time.Second)
		c.Disconnect()
		time.Sleep(time.Second)
		n.wire("a REQ, a REJ")
		n.a.told()
		n.b.told("rejected 4")
		if qp.state != verbs.Err {
			t.Errorf("the queue pair is in %v", qp.state)
		}
		qpB := n.b.qp()
		n.b.conns[0].Accept(qpB, cmAcceptParam)
		time.Sleep(time.Second)
		n.b.told()
		n.wire("")
		n.b.run(func() {
			if qpB.state != verbs.Init {
				t.Errorf("b's queue pair is in %v", qpB.state)
			}
		})
	})
}

// A peer that was started anew uses a queue pair number that we think is
// connected: the old connection is over, the next attempt succeeds.
func TestCMStale(t *testing.T) {
	withCM(t, cmCaps{}, func(n *cmNet) {
		n.b.accepts()
		n.a.connect()
		time.Sleep(time.Second)
		n.a.told("established")
		n.b.told("established")
		n.a.run(func() { // the process ends, and another begins
			n.a.m = newCM(cmConfig{shard: n.a.s, link: n.a, guid: 0xa, maxRdAtom: 128, maxInitRd: 128})
			n.a.conns, n.a.paths = nil, 0
			n.a.qpn = 0x100
		})
		n.wire("a REQ, b REP, a RTU")
		n.a.connect()
		time.Sleep(time.Second)
		n.wire("a REQ, b DREQ, b REJ, a DREP")
		n.a.told("rejected 10")
		n.b.told("disconnected")
		n.a.qpn = 0x100
		n.a.connect()
		time.Sleep(time.Second)
		n.a.told("established")
		n.b.told("established")
		n.closeAll()
	})
}

func TestCMOurSideFails(t *testing.T) {
	withCM(t, cmCaps{}, func(n *cmNet) {
		n.b.listen()
		bad := &cmFakeQP{num: 0x55, state: verbs.Init, err: errors.New("no room")}
		n.b.onRequest = func(c *cmConn, _ rdmacm.ConnParam) { c.Accept(bad, cmAcceptParam) }
		n.a.connect()
		time.Sleep(time.Second)
		n.b.told("connect error")
		n.a.told("rejected 1")
		if !errors.Is(n.b.last.Err, bad.err) || bad.state != verbs.Err {
			t.Errorf("b: %v, %v", n.b.last.Err, bad.state)
		}
		n.b.onRequest = func(c *cmConn, _ rdmacm.ConnParam) {
			c.Accept(n.b.qp(), rdmacm.ConnParam{PrivateData: make([]byte, repPrivateLen+1)})
		}
		n.a.connect()
		time.Sleep(time.Second)
		n.b.told("connect error")
		n.a.told("rejected 1")

		n.b.onRequest = func(c *cmConn, _ rdmacm.ConnParam) { c.Accept(n.b.qp(), cmAcceptParam) }
		c, err := n.a.m.open(netip.Addr{}, netip.AddrPortFrom(cmAddrB, cmPortB))
		if err != nil {
			t.Fatal(err)
		}
		n.a.adopt(c)
		c.Connect(bad, cmConnectParam)
		time.Sleep(time.Second)
		n.a.told("connect error")
		n.b.told("rejected 1")

		for _, x := range []struct {
			local netip.Addr
			p     rdmacm.ConnParam
		}{
			{netip.MustParseAddr("192.0.2.99"), cmConnectParam},
			{netip.Addr{}, rdmacm.ConnParam{PrivateData: make([]byte, reqConsumerLen+1)}},
		} {
			if c, err = n.a.m.open(x.local, netip.AddrPortFrom(cmAddrB, cmPortB)); err != nil {
				t.Fatal(err)
			}
			n.a.adopt(c)
			c.Connect(n.a.qp(), x.p)
			n.a.told("connect error")
		}
		for _, s := range []string{"192.0.2.2:0", "0.0.0.0:1", "192.0.2.7:1", "224.0.0.1:1", "[2001:db8::1]:1"} {
			if _, err := n.a.m.open(netip.Addr{}, netip.MustParseAddrPort(s)); err == nil {
				t.Errorf("opened to %s", s)
			}
		}
		if _, err := n.a.m.open(cmAddrA, netip.MustParseAddrPort("[2001:db8::1]:1")); err == nil {
			t.Error("opened from IPv4 to IPv6")
		}
		n.closeAll()
	})
}
