package roce

import (
	"net/netip"
	"testing"
	"time"

	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
)

// A cmNode is a device on a loopback address, with a connection manager.
type cmNode struct {
	t   *testing.T
	s   *shard.Shard
	dev *Device
	cm  *rdmacm.CM
	pd  verbs.PD
	cq  verbs.CQ
	wcs chan verbs.WC
}

// cmTestPort is a UDP port that no other test's device has.
const cmTestPort = 14791

func newCMNode(t *testing.T, addr string) *cmNode {
	t.Helper()
	return newCMNodeOn(t, newShard(t, addr), addr)
}

func newCMNodeOn(t *testing.T, s *shard.Shard, addr string) *cmNode {
	t.Helper()
	n := &cmNode{t: t, s: s, cm: rdmacm.New(rdmacm.Config{}), wcs: make(chan verbs.WC, 16)}
	var err error
	if n.dev, err = Open(Config{Shard: n.s, Addr: netip.MustParseAddr(addr), UDPPort: cmTestPort}); err != nil {
		t.Fatal(err)
	}
	n.pd, _ = n.dev.AllocPD()
	n.run(func() error {
		n.cq, err = n.pd.CreateCQ(verbs.CQAttr{Size: 16, Handler: func(wcs []verbs.WC) {
			for _, wc := range wcs {
				n.wcs <- wc
			}
		}})
		return err
	})
	return n
}

func (n *cmNode) run(f func() error) {
	n.t.Helper()
	var err error
	if runErr := n.s.Run(func() { err = f() }); runErr != nil {
		err = runErr
	}
	if err != nil {
		n.t.Error(err)
	}
}

// qp returns a queue pair in Init with one receive posted.
func (n *cmNode) qp(buf []byte) (qp verbs.QP) {
	n.t.Helper()
	lkey, _ := n.pd.LocalDMALKey()
	n.run(func() (err error) {
		qp, err = n.pd.CreateQP(verbs.QPInitAttr{SendCQ: n.cq, RecvCQ: n.cq, MaxSendWR: 4, MaxRecvWR: 4, MaxSendSGE: 1, MaxRecvSGE: 1, SQSigAll: true})
		if err == nil {
			err = qp.Modify(verbs.Init)
		}
		if err == nil {
			err = qp.PostRecv([]verbs.RecvWR{{WRID: 1, SG: []verbs.SGE{{Buf: buf, LKey: lkey}}}})
		}
		return err
	})
	return qp
}

func (n *cmNode) close(qps ...verbs.QP) {
	n.t.Helper()
	if err := n.cm.Close(); err != nil {
		n.t.Error(err)
	}
	n.run(func() error {
		for _, qp := range qps {
			if err := qp.Destroy(); err != nil {
				return err
			}
		}
		return n.cq.Destroy()
	})
	if err := n.pd.Dealloc(); err != nil {
		n.t.Error(err)
	}
	if err := n.dev.Close(); err != nil {
		n.t.Error(err)
	}
	if err := n.s.Close(); err != nil {
		n.t.Error(err)
	}
}

func await[T any](t *testing.T, c chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(10 * time.Second):
		t.Fatalf("no %s", what)
	}
	return v
}

// A connection from end to end: rdmacm, the wire, queue pairs, on sockets.
func TestCMOnSockets(t *testing.T) {
	const v6a, v6b, linkA, linkB = "fd00:77::1", "fd00:77::2", "fe80::77:1%lo", "fe80::77:2%1"
	for _, c := range []struct{ name, from, at, to string }{
		{"IPv4", "127.77.0.1", "127.77.0.2", "127.77.0.2"},
		{"IPv4, all addresses", "127.77.0.1", "0.0.0.0", "127.77.0.2"},
		{"IPv6", v6a, v6b, v6b},
		{"IPv6, all addresses", v6a, "::", v6b},
		{"link-local", linkA, linkB, linkB},
		{"link-local, all addresses", linkA, "::", linkB},
		{"link-local, the interface is the device's", linkA, linkB, "fe80::77:2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			sa, sb := newShard(t, c.from), newShard(t, c.at)
			if c.from[0] == 'f' {
				enterNamespace(t, sa, sb, plain(v6a), plain(v6b), plain(linkA), plain(linkB))
			}
			a, b := newCMNodeOn(t, sa, c.from), newCMNodeOn(t, sb, c.at)
			var qpB verbs.QP
			events := make(chan rdmacm.EventType, 16) // b's
			inbox := make([]byte, 64)
			qpB = b.qp(inbox)
			l, err := b.cm.NewID(func(_ *rdmacm.ID, ev *rdmacm.Event) error {
				if ev.Type == rdmacm.ConnectRequest {
					if err := ev.Conn.Accept(qpB, rdmacm.ConnParam{InitiatorDepth: 16, RNRRetryCount: 7}); err != nil {
						t.Error(err)
					}
				}
				events <- ev.Type
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			to := netip.AddrPortFrom(netip.MustParseAddr(c.to), 4420)
			if err := l.Listen(b.dev, netip.AddrPortFrom(b.dev.Addr().Addr(), to.Port())); err != nil {
				t.Fatal(err)
			}
			if err := must(b.cm.NewID(nil)).Listen(b.dev, netip.AddrPortFrom(b.dev.Addr().Addr(), to.Port())); err == nil {
				t.Error("two listen at one address")
			}

			qpA := a.qp(make([]byte, 64))
			told := make(chan rdmacm.EventType, 16) // a's
			id := must(a.cm.NewID(func(_ *rdmacm.ID, ev *rdmacm.Event) error { told <- ev.Type; return nil }))
			if err := id.Resolve(a.dev, netip.Addr{}, to); err != nil {
				t.Fatal(err)
			}
			if id.Device() != a.dev || id.Vector() != 0 {
				t.Errorf("device %v, vector %d", id.Device(), id.Vector())
			}
			if err := id.Connect(qpA, rdmacm.ConnParam{ResponderResources: 16, RetryCount: 7, RNRRetryCount: 7}); err != nil {
				t.Fatal(err)
			}
			if ev := await(t, told, "event"); ev != rdmacm.Established {
				t.Fatalf("a was told %v", ev)
			}
			for _, want := range []rdmacm.EventType{rdmacm.ConnectRequest, rdmacm.Established} {
				if ev := await(t, events, "event"); ev != want {
					t.Fatalf("b was told %v, want %v", ev, want)
				}
			}
			lkey, _ := a.pd.LocalDMALKey()
			a.run(func() error {
				return qpA.PostSend([]verbs.SendWR{{WRID: 2, Opcode: verbs.WRSend, SG: []verbs.SGE{{Buf: []byte("capsule"), LKey: lkey}}}})
			})
			if wc := await(t, b.wcs, "completion"); wc.Status != verbs.WCSuccess || wc.ByteLen != 7 || string(inbox[:7]) != "capsule" {
				t.Errorf("received %+v, %q", wc, inbox[:7])
			}
			if wc := await(t, a.wcs, "completion"); wc.Status != verbs.WCSuccess || wc.WRID != 2 {
				t.Errorf("sent %+v", wc)
			}
			if err := id.Disconnect(); err != nil {
				t.Error(err)
			}
			if ev := await(t, told, "event"); ev != rdmacm.Disconnected {
				t.Errorf("a was told %v", ev)
			}
			if ev := await(t, events, "event"); ev != rdmacm.Disconnected {
				t.Errorf("b was told %v", ev)
			}
			if wc := await(t, a.wcs, "completion"); wc.Status != verbs.WCWRFlushErr {
				t.Errorf("a's receive completed with %+v", wc)
			}

			// Nobody listens any more.
			if err := l.Destroy(); err != nil {
				t.Error(err)
			}
			qp2 := a.qp(make([]byte, 64))
			told2 := make(chan int, 16)
			id2 := must(a.cm.NewID(func(_ *rdmacm.ID, ev *rdmacm.Event) error { told2 <- ev.Status; return nil }))
			if err := id2.Resolve(a.dev, netip.Addr{}, to); err != nil {
				t.Fatal(err)
			}
			if err := id2.Connect(qp2, rdmacm.ConnParam{}); err != nil {
				t.Fatal(err)
			}
			if s := await(t, told2, "event"); s != rdmacm.RejInvalidServiceID {
				t.Errorf("rejected with %d", s)
			}
			a.close(qpA, qp2)
			b.close(qpB)
		})
	}
}

// plain is an address without its zone.
func plain(addr string) netip.Addr { return plainAddr(netip.MustParseAddr(addr)) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
