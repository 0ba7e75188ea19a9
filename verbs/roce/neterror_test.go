package roce

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/verbs"
)

// Where nobody receives, the machine says so, and a connection fails at once.
func TestNobodyReceives(t *testing.T) {
	for _, c := range []struct{ name, from, to string }{
		{"IPv4", "127.77.2.1", "127.77.2.2"},
		{"IPv6", "fd00:78::1", "fd00:78::2"},
		{"link-local", "fe80::78:1%lo", "fe80::78:2%lo"},
	} {
		t.Run(c.name, func(t *testing.T) {
			// The kernel makes a young interface's routes anew, and has none meanwhile.
			for range 5 {
				if nobodyReceives(t, c.from, c.to) {
					return
				}
			}
			t.Error("the route does not settle")
		})
	}
}

// nobodyReceives reports whether there was a route.
func nobodyReceives(t *testing.T, from, to string) (routed bool) {
	s, other := newShard(t, "A"), newShard(t, "B")
	if from[0] == 'f' {
		enterNamespace(t, s, other, plain(from), plain(to))
	}
	n := newCMNodeOn(t, s, from)
	told := make(chan rdmacm.Event, 16)
	var qps []verbs.QP
	for range 3 {
		qp := n.qp(make([]byte, 64))
		qps = append(qps, qp)
		id := must(n.cm.NewID(func(_ *rdmacm.ID, ev *rdmacm.Event) error { told <- *ev; return nil }))
		if err := id.Resolve(n.dev, netip.Addr{}, netip.AddrPortFrom(netip.MustParseAddr(to), 4420)); err != nil {
			t.Fatal(err)
		}
		if err := id.Connect(qp, rdmacm.ConnParam{}); err != nil {
			t.Fatal(err)
		}
	}
	routed = true
	for range qps {
		ev := await(t, told, "event")
		if errors.Is(ev.Err, unix.ENETUNREACH) && from[0] == 'f' {
			routed = false
		} else if ev.Type != rdmacm.Unreachable || !errors.Is(ev.Err, unix.ECONNREFUSED) {
			t.Errorf("told %v, %v", ev.Type, ev.Err)
		}
	}
	if st := n.dev.Stats(); routed && (st.ICMPErrors != 3 || st.DropsSend != 0) {
		t.Errorf("%d errors, %d packets refused", st.ICMPErrors, st.DropsSend)
	}
	n.run(func() error {
		if w := n.dev.eng.wire.(*socket); w.hears {
			t.Error("asks for errors that are about nothing")
		}
		return nil
	})
	n.close(qps...)
	return routed
}

// What the kernel does not send at all is found out at once, too.
func TestNoWayThere(t *testing.T) {
	s, other := newShard(t, "A"), newShard(t, "B")
	enterNamespace(t, s, other, plain("fd00:79::1"))
	n := newCMNodeOn(t, s, "fd00:79::1")
	told := make(chan rdmacm.Event, 4)
	id := must(n.cm.NewID(func(_ *rdmacm.ID, ev *rdmacm.Event) error { told <- *ev; return nil }))
	if err := id.Resolve(n.dev, netip.Addr{}, netip.MustParseAddrPort("[2001:db8::1]:4420")); err != nil {
		t.Fatal(err)
	}
	qp := n.qp(make([]byte, 64))
	if err := id.Connect(qp, rdmacm.ConnParam{}); err != nil {
		t.Fatal(err)
	}
	if ev := await(t, told, "event"); ev.Type != rdmacm.Unreachable || !errors.Is(ev.Err, unix.ENETUNREACH) {
		t.Errorf("told %v, %v", ev.Type, ev.Err)
	}
	n.close(qp)
}

// An error that the kernel tells at the next call does not cost the packet of
// that call.
func TestErrorsOfOthersCostNoPacket(t *testing.T) {
	t.Run("while they are heard", func(t *testing.T) { errorsOfOthers(t, true) })
	t.Run("when they are heard no more", func(t *testing.T) { errorsOfOthers(t, false) })
}

func errorsOfOthers(t *testing.T, heard bool) {
	a, b := newCMNode(t, "127.77.3.1"), newCMNode(t, "127.77.3.2")
	to := netip.MustParseAddrPort("127.77.3.2:4420")
	inbox, events := make([]byte, 64), make(chan rdmacm.EventType, 16)
	qpB := b.qp(inbox)
	l := must(b.cm.NewID(func(_ *rdmacm.ID, ev *rdmacm.Event) error {
		if ev.Type == rdmacm.ConnectRequest {
			return ev.Conn.Accept(qpB, rdmacm.ConnParam{})
		}
		events <- ev.Type
		return nil
	}))
	if err := l.Listen(b.dev, to); err != nil {
		t.Fatal(err)
	}
	qpA := a.qp(make([]byte, 64))
	id := must(a.cm.NewID(func(*rdmacm.ID, *rdmacm.Event) error { return nil }))
	if err := id.Resolve(a.dev, netip.Addr{}, to); err != nil {
		t.Fatal(err)
	}
	if err := id.Connect(qpA, rdmacm.ConnParam{}); err != nil {
		t.Fatal(err)
	}
	if ev := await(t, events, "event"); ev != rdmacm.Established {
		t.Fatalf("told %v", ev)
	}
	lkey, _ := a.pd.LocalDMALKey()
	a.run(func() error {
		w := a.dev.eng.wire.(*socket)
		w.hearErrors(true)
		// In this turn of the shard nobody looks whether there are errors.
		for range 3 { // the second only tells of the first
			if err := unix.Sendto(w.fd, []byte("nobody takes this"), 0, &unix.SockaddrInet4{Port: cmTestPort, Addr: [4]byte{127, 77, 3, 9}}); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
				return err
			}
		}
		w.hearErrors(heard)
		return qpA.PostSend([]verbs.SendWR{{WRID: 2, Opcode: verbs.WRSend, SG: []verbs.SGE{{Buf: []byte("capsule"), LKey: lkey}}}})
	})
	if wc := await(t, b.wcs, "completion"); wc.Status != verbs.WCSuccess || string(inbox[:7]) != "capsule" {
		t.Errorf("received %+v, %q", wc, inbox[:7])
	}
	if wc := await(t, a.wcs, "completion"); wc.Status != verbs.WCSuccess || wc.WRID != 2 {
		t.Errorf("sent %+v", wc)
	}
	st := a.dev.Stats()
	if (st.ICMPErrors == 0) == heard || st.DropsSend != 0 || st.Retransmits != 0 {
		t.Errorf("%d errors, %d packets refused, %d sent again", st.ICMPErrors, st.DropsSend, st.Retransmits)
	}
	a.close(qpA)
	b.close(qpB)
}

// Nobody can end a connection, or the making of one, by an ICMP error that he
// made up.
func TestCMForgedErrors(t *testing.T) {
	withSolo(t, cmCaps{}, func(r *replay, _ *[]*cmConn) {
		connect := func() (*cmConn, []byte) {
			c, err := r.m.open(r.addr, netip.AddrPortFrom(cmAddrA, cmPortB))
			if err != nil {
				t.Fatal(err)
			}
			r.Notify(c)
			c.Connect(&cmFakeQP{num: 9, state: verbs.Init}, rdmacm.ConnParam{})
			return c, r.next()
		}
		said := func(from netip.Addr, quote []byte) {
			r.run(func() { r.m.undelivered(from, quote, unix.ECONNREFUSED) })
		}
		if r.hears {
			t.Error("asks for errors before there is a request")
		}
		c, req := connect()
		if !r.hears {
			t.Error("does not ask for errors")
		}
		for i := range req {
			bad := bytes.Clone(req)
			bad[i] ^= 1
			said(cmAddrA, bad)
		}
		said(netip.MustParseAddr("192.0.2.9"), req)
		for n := range madHeaderLen + 4 {
			said(cmAddrA, req[:n])
		}
		if len(r.told) != 0 || c.state != cmREQSent {
			t.Fatalf("told %v, %v", r.told, c.state)
		}
		said(cmAddrA, req[:madHeaderLen+4])
		if len(r.told) != 1 || r.told[0] != rdmacm.Unreachable || len(r.m.conns) != 0 || r.hears {
			t.Fatalf("told %v, %d connections, hears %v", r.told, len(r.m.conns), r.hears)
		}
		r.told = nil
		said(cmAddrA, req)

		// The peer has been heard of.
		c, req = connect()
		r.give(cmAddrA, &cmMRA{localCommID: 7, remoteCommID: c.commID, messageMRAed: cmAboutREQ, serviceTimeout: 20})
		said(cmAddrA, req)
		if len(r.told) != 0 || c.state != cmREQSent {
			t.Errorf("after an MRA: told %v, %v", r.told, c.state)
		}
		other, reqOther := connect()
		r.give(cmAddrA, &cmREP{localCommID: 7, remoteCommID: c.commID, localQPN: 0x100, localCAGUID: 7})
		if !r.hears {
			t.Error("does not ask for errors, with a request in flight")
		}
		said(cmAddrA, req)
		if len(r.told) != 1 || r.told[0] != rdmacm.Established || c.state != cmEstablished {
			t.Errorf("established: told %v, %v", r.told, c.state)
		}
		other.Disconnect()
		r.run(func() {})
		said(cmAddrA, reqOther)
		if len(r.told) != 1 || r.hears {
			t.Errorf("left: told %v, hears %v", r.told, r.hears)
		}
		time.Sleep(time.Minute)
	})
}

func TestUnreachable(t *testing.T) {
	icmp := func(level, cmsg uint32, errno unix.Errno, origin, typ, code byte) []byte {
		data := binary.NativeEndian.AppendUint32(nil, uint32(errno))
		return appendControl(nil, level, cmsg, append(data, origin, typ, code, 0, 0, 0, 0, 0, 0, 0, 0, 0)...)
	}
	v4 := func(origin, typ, code byte) []byte {
		return icmp(unix.IPPROTO_IP, unix.IP_RECVERR, unix.ECONNREFUSED, origin, typ, code)
	}
	v6 := func(origin, typ, code byte) []byte {
		return icmp(unix.IPPROTO_IPV6, unix.IPV6_RECVERR, unix.ECONNREFUSED, origin, typ, code)
	}
	info := appendControl(nil, unix.IPPROTO_IP, unix.IP_PKTINFO, pktinfo4("192.0.2.9")...)
	for _, c := range []struct {
		name string
		ctl  []byte
		want unix.Errno
	}{
		{"nothing", nil, 0},
		{"port", v4(unix.SO_EE_ORIGIN_ICMP, 3, 3), unix.ECONNREFUSED},
		{"port, behind something else", append(bytes.Clone(info), v4(unix.SO_EE_ORIGIN_ICMP, 3, 3)...), unix.ECONNREFUSED},
		{"too long", v4(unix.SO_EE_ORIGIN_ICMP, 3, 4), 0},
		{"time exceeded", v4(unix.SO_EE_ORIGIN_ICMP, 11, 0), 0},
		{"of the kernel's own", v4(unix.SO_EE_ORIGIN_LOCAL, 3, 3), 0},
		{"the other family's", v4(unix.SO_EE_ORIGIN_ICMP6, 3, 3), 0},
		{"IPv6 port", v6(unix.SO_EE_ORIGIN_ICMP6, 1, 4), unix.ECONNREFUSED},
		{"IPv6 too long", v6(unix.SO_EE_ORIGIN_ICMP6, 2, 0), 0},
		{"cut off", v4(unix.SO_EE_ORIGIN_ICMP, 3, 3)[:unix.SizeofCmsghdr+6], 0},
		{"short", appendControl(nil, unix.IPPROTO_IP, unix.IP_RECVERR, 1, 0, 0, 0, 2, 3, 3), 0},
	} {
		if got := unreachable(c.ctl); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// Linux's software RDMA sends UDP checksum 0, over IPv6 too, which a socket drops
// that is not told otherwise.
func TestNoUDPChecksum(t *testing.T) {
	for _, c := range []struct{ device, peer string }{
		{"127.77.4.1", "127.77.4.2"},
		{"fd00:7a::1", "fd00:7a::2"},
	} {
		t.Run(c.device, func(t *testing.T) {
			device, peer := netip.MustParseAddr(c.device), netip.MustParseAddr(c.peer)
			s, other := newShard(t, "device"), newShard(t, "peer")
			if device.Is6() {
				enterNamespace(t, s, other, device, peer)
			}
			d := openDevice(t, Config{Shard: s, Addr: device, UDPPort: cmTestPort})
			p := packet{bth: bth{opcode: opUDSendOnly, destQP: 1}, deth: deth{gsiQKey, 1}}
			p.payload = appendCM(nil, 3, &cmDREQ{localCommID: 7, remoteCommID: 8, remoteQPN: 9})
			p.pkey = defaultPKey
			from, to := netip.AddrPortFrom(peer, cmTestPort), netip.AddrPortFrom(device, cmTestPort)
			b := append(p.appendHeaders(nil), p.payload...)
			b = append(b, 0, 0, 0, 0)
			putICRC(b[len(b)-icrcLen:], newICRCPath(from, to).sum(b[:len(b)-icrcLen], 0))
			reply := make([]byte, 2048)
			if err := other.Run(func() { reply = reply[:exchange(t, from, to, b, reply)] }); err != nil {
				t.Fatal(err)
			}
			var got packet
			if err := parsePacket(reply, &got); err != nil || got.opcode != opUDSendOnly {
				t.Fatalf("a reply of %d bytes: %v", len(reply), err)
			}
			if m, ok := checkCM(t, 0, got.payload).(*cmDREP); !ok || m.remoteCommID != 7 {
				t.Errorf("answered with %+v", m)
			}
			if st := d.Stats(); st.MADsReceived == 0 {
				t.Error("no message received")
			}
		})
	}
}

// exchange sends b without a UDP checksum, again and again, until it has taken in
// a reply, in the thread's network namespace.
func exchange(t *testing.T, from, to netip.AddrPort, b, reply []byte) (n int) {
	family, level, option := unix.AF_INET, unix.SOL_SOCKET, unix.SO_NO_CHECK
	var local, remote unix.Sockaddr
	if from.Addr().Is6() {
		family, level, option = unix.AF_INET6, unix.IPPROTO_UDP, unix.UDP_NO_CHECK6_TX
		local = &unix.SockaddrInet6{Port: int(from.Port()), Addr: from.Addr().As16()}
		remote = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	} else {
		local = &unix.SockaddrInet4{Port: int(from.Port()), Addr: from.Addr().As4()}
		remote = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer unix.Close(fd)
	err = errors.Join(
		unix.SetsockoptInt(fd, level, option, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000}),
		unix.Bind(fd, local),
	)
	for tries := 25; err == nil && tries > 0; tries-- {
		if err = unix.Sendto(fd, b, 0, remote); err != nil {
			break
		}
		if n, _, err = unix.Recvfrom(fd, reply, 0); err == nil {
			return n
		}
		if errors.Is(err, unix.EAGAIN) && tries > 1 {
			err = nil
		}
	}
	if err != nil {
		t.Error(err)
		return 0
	}
	return n
}
