package roce

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/verbs"
)

// Both leave at once.
func TestCMCrossingDREQs(t *testing.T) {
	withCM(t, cmCaps{}, func(n *cmNet) {
		n.b.accepts()
		c, _ := n.a.connect()
		time.Sleep(time.Second)
		c.Disconnect()
		n.b.conns[0].Disconnect()
		time.Sleep(time.Second)
		n.a.told("established", "disconnected")
		n.b.told("established", "disconnected")
		n.closeAll()
		n.a.run(n.a.checkEmpty)
		n.b.run(n.b.checkEmpty)
	})
}

// Close in every state takes leave as is due, lets go of the queue pair in Err,
// and nothing is told after.
func TestCMCloseInEveryState(t *testing.T) {
	for _, c := range []struct {
		state cmState
		wire  string
		peer  []string // what the other end is told
	}{
		{cmIdle, "", nil},
		{cmREQSent, "a REQ, a REJ", []string{"rejected 4"}},
		{cmREQRcvd, "a REQ, b REJ", []string{"rejected 28"}},
		{cmREPSent, "a REQ, b REP, a RTU, b REJ", []string{"established", "disconnected", "timewait exit"}},
		{cmEstablished, "a REQ, b REP, a RTU, a DREQ, b DREP", []string{"established", "disconnected", "timewait exit"}},
		{cmDREQSent, "a REQ, b REP, a RTU, a DREQ, b DREP", []string{"established", "disconnected", "timewait exit"}},
		{cmDone, "a REQ, b REP, a RTU, a DREQ, b DREP", []string{"established", "disconnected", "timewait exit"}},
	} {
		t.Run(c.state.String(), func(t *testing.T) {
			withCM(t, cmCaps{}, func(n *cmNet) {
				n.b.listen()
				n.fate = func(_ *cmEnd, a cmAttr, _ int) []time.Duration {
					if a == cmAttrRTU && c.state == cmREPSent {
						return []time.Duration{}
					}
					return nil
				}
				var qpB *cmFakeQP
				end, other := n.a, n.b
				if c.state >= cmREPSent {
					n.b.onRequest = func(c *cmConn, _ rdmacm.ConnParam) {
						qpB = n.b.qp()
						c.Accept(qpB, cmAcceptParam)
					}
				}
				var conn *cmConn
				var qp *cmFakeQP
				if c.state == cmIdle {
					var err error
					if conn, err = n.a.m.open(netip.Addr{}, netip.AddrPortFrom(cmAddrB, cmPortB)); err != nil {
						t.Fatal(err)
					}
					n.a.adopt(conn)
				} else {
					conn, qp = n.a.connect()
				}
				time.Sleep(100 * time.Millisecond)
				synctest.Wait()
				switch c.state {
				case cmREQRcvd, cmREPSent:
					end, other = n.b, n.a
					conn, qp = n.b.conns[0], qpB
				case cmDREQSent:
					conn.Disconnect()
				case cmDone:
					conn.Disconnect()
					time.Sleep(time.Second)
				}
				synctest.Wait()
				n.a.run(func() {
					if conn.state != c.state {
						t.Errorf("state %v, want %v", conn.state, c.state)
					}
				})
				n.mu.Lock()
				end.events = nil
				n.mu.Unlock()
				detached := make(chan struct{})
				conn.Close(func() {
					if qp != nil && qp.state != verbs.Err {
						t.Errorf("the queue pair is in %v", qp.state)
					}
					close(detached)
				})
				<-detached
				// What comes after Close does nothing.
				conn.Disconnect()
				conn.Reject(28, nil)
				time.Sleep(time.Minute)
				n.wire(c.wire)
				end.told()
				other.told(c.peer...)
				end.run(end.checkEmpty)
			})
		})
	}
}

// Nobody answers the DREQ: the owner is told at last; and whoever has closed
// the connection is not kept.
func TestCMLingering(t *testing.T) {
	withCM(t, cmCaps{lingering: 1}, func(n *cmNet) {
		n.b.accepts()
		var conns []*cmConn
		for range 3 {
			c, _ := n.a.connect()
			conns = append(conns, c)
		}
		time.Sleep(time.Second)
		n.a.told("established", "established", "established")
		n.fate = func(*cmEnd, cmAttr, int) []time.Duration { return []time.Duration{} }
		conns[0].Close(func() {})
		conns[1].Close(func() {})
		conns[2].Disconnect()
		synctest.Wait()
		n.a.run(func() {
			if n.a.m.lingering != 1 || len(n.a.m.conns) != 2 {
				t.Errorf("%d lingering of %d", n.a.m.lingering, len(n.a.m.conns))
			}
			if conns[0].sink.Load() != nil || conns[0].qp != nil || conns[0].asked.qp != nil {
				t.Error("a closed connection keeps its owner")
			}
		})
		time.Sleep(16*4608*time.Millisecond - time.Nanosecond)
		n.a.told()
		time.Sleep(time.Nanosecond)
		n.a.told("disconnected")
		n.a.run(n.a.checkEmpty)
		n.mu.Lock()
		if n.sent[cmAttrDREQ] != 16+1+16 {
			t.Errorf("%d DREQs", n.sent[cmAttrDREQ])
		}
		n.mu.Unlock()
	})
}

func TestCMDeviceRemoval(t *testing.T) {
	withCM(t, cmCaps{}, func(n *cmNet) {
		n.b.accepts()
		_, qp := n.a.connect()
		time.Sleep(time.Second)
		n.a.run(n.a.m.close)
		time.Sleep(time.Second)
		n.a.told("established", "device removal")
		n.b.told("established", "disconnected")
		if qp.state != verbs.Err {
			t.Errorf("the queue pair is in %v", qp.state)
		}
		n.a.connect()
		n.a.told("connect error")
		n.a.run(func() {
			if _, err := n.a.m.listen(netip.AddrPortFrom(cmAddrA, 1), nil); !errors.Is(err, errCMClosed) {
				t.Errorf("listen: %v", err)
			}
		})
		n.closeAll()
		if err := n.a.s.Close(); err != nil {
			t.Error(err)
		}
		// On a closed shard nothing is touched any more.
		c := n.a.m.newConn(netip.AddrPortFrom(cmAddrA, 1), netip.AddrPortFrom(cmAddrB, 1), true)
		n.a.adopt(c)
		c.Connect(n.a.qp(), cmConnectParam)
		n.a.told("connect error")
		closed := false
		c.Close(func() { closed = true })
		if !closed {
			t.Error("not detached")
		}
		n.a.gone = true
	})
}

// Who closes a connection that is over, as those of a storm are by then, does
// not wait for the shard.
func TestCMCloseAfterTheEnd(t *testing.T) {
	withCM(t, cmCaps{}, func(n *cmNet) {
		n.b.accepts()
		c, qp := n.a.connect()
		time.Sleep(time.Second)
		c.Disconnect()
		time.Sleep(time.Second)
		n.a.told("established", "disconnected")
		n.a.run(func() {
			detached := false
			c.Close(func() { detached = true })
			if !detached || qp.state != verbs.Err {
				t.Errorf("detached %v, the queue pair is in %v", detached, qp.state)
			}
		})
		n.a.run(func() {
			if !c.closed || c.timer.Armed() {
				t.Error("the connection is kept")
			}
		})
		time.Sleep(time.Minute)
		n.a.told() // not of the end of TIMEWAIT
	})
}
