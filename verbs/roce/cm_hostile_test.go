package roce

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/verbs"
)

// hostileREQ is a REQ to r that nothing is wrong with.
func hostileREQ(r *replay, from netip.Addr, n uint32) *cmREQ {
	m := &cmREQ{
		localCommID: 0x1000 + n, serviceID: cmServiceID(cmPortB), localCAGUID: 7, localQPN: 0x100 + n,
		responderResources: 16, remoteCMResponseTimeout: 20, localCMResponseTimeout: 20, flowControl: true,
		startingPSN: 5, retryCount: 7, pkey: defaultPKey, pathMTU: 3, rnrRetryCount: 7, maxCMRetries: 15,
		primary: cmPath{localGID: from, remoteGID: r.addr, hopLimit: 64, localAckTimeout: 17},
	}
	h := cmaHeader{srcPort: 1, src: from, dst: r.addr}
	h.put(m.privateData[:])
	return m
}

// withSolo runs f with a cm that has a listener, but no peer.
func withSolo(t *testing.T, caps cmCaps, f func(r *replay, asked *[]*cmConn)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newReplay(t, cmAddrB, 1024, 9)
		r.m.cfg.caps = caps
		r.m.cfg.caps.setDefaults()
		r.m.timewait.max = r.m.cfg.caps.timewait
		var asked []*cmConn
		r.run(func() {
			if _, err := r.m.listen(netip.AddrPortFrom(r.addr, cmPortB), func(c rdmacm.Conn, _ rdmacm.ConnParam) {
				asked = append(asked, c.(*cmConn))
				r.Notify(c)
			}); err != nil {
				t.Error(err)
			}
		})
		f(r, &asked)
		r.run(r.m.close)
		if err := r.s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// give gives r a message from an address.
func (r *replay) give(from netip.Addr, m cmMessage) {
	r.run(func() { r.m.receiveMAD(r.addr, from, 1, appendCM(nil, 0x55, m)) })
}

// takeREJ returns the REJ that was sent, and nothing else.
func (r *replay) takeREJ() *cmREJ {
	r.Helper()
	b := r.next()
	var m cmREJ
	h, msg, err := parseMAD(b)
	if err != nil || h.attrID != cmAttrREJ || m.parse(msg) != nil || h.tid != 0x55 || len(r.sent) != 0 {
		r.Fatalf("sent %v, TransactionID %#x, and %d more; want one REJ", h.attrID, h.tid, len(r.sent))
	}
	return &m
}

// Every field of a REQ that can be wrong, and the answer to it.
func TestCMChecksREQ(t *testing.T) {
	other := netip.MustParseAddr("192.0.2.77")
	for _, c := range []struct {
		name string
		spec func(m *cmREQ)
		want rejReason // 0: taken
	}{
		{"good", func(*cmREQ) {}, 0},
		{"port", func(m *cmREQ) { m.serviceID++ }, rejInvalidServiceID},
		{"port space", func(m *cmREQ) { m.serviceID += 1 << 16 }, rejInvalidServiceID},
		{"service ID of no port", func(m *cmREQ) { m.serviceID |= 1 << 63 }, rejInvalidServiceID},
		{"UC", func(m *cmREQ) { m.transportType = cmTransportUC }, rejInvalidTransportType},
		{"XRC", func(m *cmREQ) { m.extTransportType = 1 }, rejInvalidTransportType},
		{"remote GID", func(m *cmREQ) { m.primary.remoteGID = other }, rejInvalidGID},
		{"local GID", func(m *cmREQ) { m.primary.localGID = other }, rejInvalidGID},
		{"no GID", func(m *cmREQ) { m.primary.localGID = netip.IPv6Unspecified() }, rejInvalidGID},
		{"MTU 0", func(m *cmREQ) { m.pathMTU = 0 }, rejInvalidMTU},
		{"MTU 6", func(m *cmREQ) { m.pathMTU = 6 }, rejInvalidMTU},
		{"MTU above ours", func(m *cmREQ) { m.pathMTU = 4 }, rejInvalidMTU},
		{"MTU below ours", func(m *cmREQ) { m.pathMTU = 1 }, 0},
		{"P_Key", func(m *cmREQ) { m.pkey = 0x8001 }, rejUnsupported},
		{"QP 0", func(m *cmREQ) { m.localQPN = 0 }, rejUnsupported},
		{"QP 1", func(m *cmREQ) { m.localQPN = 1 }, rejUnsupported},
		{"RDC", func(m *cmREQ) { m.rdcExists = true }, rejUnsupported},
		{"CMA version", func(m *cmREQ) { m.privateData[0] = 1 }, rejConsumerDefined},
		{"CMA IP version", func(m *cmREQ) { m.privateData[1] = 0x50 }, rejConsumerDefined},
		{"CMA source", func(m *cmREQ) { m.privateData[19]++ }, rejConsumerDefined},
		{"CMA destination", func(m *cmREQ) { m.privateData[35]++ }, rejConsumerDefined},
		{"longest times", func(m *cmREQ) {
			m.localCMResponseTimeout, m.remoteCMResponseTimeout, m.primary.localAckTimeout = 31, 31, 31
		}, 0},
		{"no times", func(m *cmREQ) {
			m.localCMResponseTimeout, m.remoteCMResponseTimeout, m.primary.localAckTimeout, m.maxCMRetries = 0, 0, 0, 0
		}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			withSolo(t, cmCaps{}, func(r *replay, asked *[]*cmConn) {
				m := hostileREQ(r, cmAddrA, 0)
				c.spec(m)
				r.give(cmAddrA, m)
				if c.want != 0 {
					rej := r.takeREJ()
					if rej.reason != c.want || rej.remoteCommID != m.localCommID || rej.localCommID != 0 || rej.messageRejected != cmAboutREQ ||
						rej.privateData != [rejPrivateLen]byte{} {
						t.Errorf("refused with %d %v of %#x, want %d", rej.reason, rej.messageRejected, rej.remoteCommID, c.want)
					}
					if len(*asked) != 0 || len(r.m.conns) != 0 {
						t.Error("and taken")
					}
					return
				}
				if len(*asked) != 1 || len(r.sent) != 0 {
					t.Fatalf("asked %d times, %d MADs", len(*asked), len(r.sent))
				}
				qp := &cmFakeQP{num: 9, state: verbs.Init}
				(*asked)[0].Accept(qp, rdmacm.ConnParam{InitiatorDepth: 255})
				r.next()
				if qp.attr.MaxRdAtomic != 16 || qp.attr.Timeout == 0 || qp.attr.Timeout > 21 {
					t.Errorf("the queue pair was given %+v", qp.attr)
				}
				r.run(func() { r.told = nil })
				time.Sleep(30 * time.Second) // whatever times the peer asks for
				synctest.Wait()
				if len(r.told) != 1 || r.told[0] != rdmacm.ConnectError || r.m.halfOpen != 0 {
					t.Errorf("told %v, %d half open", r.told, r.m.halfOpen)
				}
			})
		})
	}
}

// What is no message of the connection manager for us is dropped.
func TestCMDropsWhatIsNotForIt(t *testing.T) {
	withSolo(t, cmCaps{}, func(r *replay, asked *[]*cmConn) {
		good := appendCM(nil, 1, hostileREQ(r, cmAddrA, 0))
		for name, spoil := range map[string]func(b []byte) []byte{
			"short":         func(b []byte) []byte { return b[:255] },
			"base version":  func(b []byte) []byte { b[0] = 2; return b },
			"class":         func(b []byte) []byte { b[1] = 3; return b },
			"class version": func(b []byte) []byte { b[2] = 1; return b },
			"method":        func(b []byte) []byte { b[3] = 1; return b },
			"attribute":     func(b []byte) []byte { b[17] = 0x19; return b },
			"comm ID 0":     func(b []byte) []byte { clear(b[24:28]); return b },
		} {
			r.run(func() { r.m.receiveMAD(r.addr, cmAddrA, 1, spoil(bytes.Clone(good))) })
			if len(r.sent) != 0 || len(*asked) != 0 {
				t.Errorf("%s: answered", name)
			}
		}
		r.run(func() { r.m.receiveMAD(r.addr, cmAddrA, 2, good) })
		if len(r.sent) != 0 || len(*asked) != 0 {
			t.Error("source QP 2: answered")
		}
	})
}

func TestCMHalfOpenCap(t *testing.T) {
	withSolo(t, cmCaps{halfOpen: 3}, func(r *replay, asked *[]*cmConn) {
		for n := range uint32(3) {
			r.give(cmAddrA, hostileREQ(r, cmAddrA, n))
		}
		(*asked)[0].Accept(&cmFakeQP{num: 9, state: verbs.Init}, rdmacm.ConnParam{})
		r.next()
		r.give(cmAddrA, hostileREQ(r, cmAddrA, 3)) // an accepted one counts until RTU
		if rej := r.takeREJ(); rej.reason != rejNoResources {
			t.Errorf("refused with %d", rej.reason)
		}
		c := (*asked)[0]
		r.give(cmAddrA, &cmRTU{localCommID: c.peerID, remoteCommID: c.commID})
		r.give(cmAddrA, hostileREQ(r, cmAddrA, 4))
		if len(*asked) != 4 || len(r.sent) != 0 {
			t.Errorf("asked %d times, %d MADs", len(*asked), len(r.sent))
		}
	})
}

// A REQ of a connection that is just over is no new one.
func TestCMTimewait(t *testing.T) {
	withSolo(t, cmCaps{timewait: 2}, func(r *replay, asked *[]*cmConn) {
		end := func(n uint32) {
			r.give(cmAddrA, hostileREQ(r, cmAddrA, n))
			c := (*asked)[len(*asked)-1]
			c.Accept(&cmFakeQP{num: 9 + n, state: verbs.Init}, rdmacm.ConnParam{})
			r.next()
			r.give(cmAddrA, &cmRTU{localCommID: c.peerID, remoteCommID: c.commID})
			r.give(cmAddrA, &cmDREQ{localCommID: c.peerID, remoteCommID: c.commID, remoteQPN: 9 + n})
			r.next()
			// Its answer may have been lost.
			r.give(cmAddrA, &cmDREQ{localCommID: c.peerID, remoteCommID: c.commID, remoteQPN: 9 + n})
			if h, _, _ := parseMAD(r.next()); h.attrID != cmAttrDREP || h.tid != 0x55 {
				t.Errorf("DREQ again: %v", h.attrID)
			}
		}
		end(0)
		r.give(cmAddrA, hostileREQ(r, cmAddrA, 0))
		if rej := r.takeREJ(); rej.reason != rejStaleConn {
			t.Errorf("refused with %d", rej.reason)
		}
		time.Sleep(512 * time.Millisecond)
		end(0) // 512 ms for an ACK timeout of 17
		for n := range uint32(10) {
			end(n + 1)
			if r.m.timewait.len() > 2 || len(r.m.timewait.until) > 2 {
				t.Fatalf("%d in TIMEWAIT", r.m.timewait.len())
			}
		}
		r.give(cmAddrA, hostileREQ(r, cmAddrA, 10))
		r.takeREJ()
		r.give(cmAddrA, hostileREQ(r, cmAddrA, 5)) // made room
		if len(r.sent) != 0 {
			t.Error("refused")
		}
	})
}

// Only the peer's own address speaks for a connection, and only with both IDs.
func TestCMForeignMessages(t *testing.T) {
	foreign := netip.MustParseAddr("192.0.2.66")
	withSolo(t, cmCaps{}, func(r *replay, asked *[]*cmConn) {
		r.give(cmAddrA, hostileREQ(r, cmAddrA, 0))
		c := (*asked)[0]
		qp := &cmFakeQP{num: 9, state: verbs.Init}
		c.Accept(qp, rdmacm.ConnParam{})
		r.next()
		tell := func(from netip.Addr, theirs, ours uint32) {
			timeout := &cmREJ{localCommID: theirs, remoteCommID: ours, messageRejected: cmAboutOther, reason: rejTimeout, infoLen: 8}
			binary.BigEndian.PutUint64(timeout.info[:], 7)
			for _, m := range []cmMessage{
				&cmRTU{localCommID: theirs, remoteCommID: ours},
				&cmREP{localCommID: theirs, remoteCommID: ours, localQPN: 0x100, localCAGUID: 7},
				&cmREJ{localCommID: theirs, remoteCommID: ours, messageRejected: cmAboutREP, reason: 28},
				timeout,
				&cmDREP{localCommID: theirs, remoteCommID: ours},
				&cmMRA{localCommID: theirs, remoteCommID: ours, messageMRAed: cmAboutREP, serviceTimeout: 31},
				&cmDREQ{localCommID: theirs, remoteCommID: ours, remoteQPN: 9},
			} {
				r.give(from, m)
			}
		}
		before := c.timer.Deadline()
		check := func(what string, state cmState) {
			t.Helper()
			// DREQ is answered, whoever it is from, and nothing else.
			if len(r.told) != 0 || c.state != state || qp.state != verbs.RTS || c.timer.Deadline() != before {
				t.Errorf("%s: told %v, %v, %v", what, r.told, c.state, qp.state)
			}
			for ; len(r.sent) > 0; r.sent = r.sent[1:] {
				if h, _, _ := parseMAD(r.sent[0]); h.attrID != cmAttrDREP {
					t.Errorf("%s: sent %v", what, h.attrID)
				}
			}
		}
		for _, state := range []cmState{cmREPSent, cmEstablished} {
			tell(foreign, c.peerID, c.commID)
			check("another address", state)
			tell(cmAddrA, c.peerID+1, c.commID)
			check("another comm ID of theirs", state)
			tell(cmAddrA, c.peerID, c.commID+1)
			if state == cmREPSent { // a REJ for a timeout need not name ours
				if len(r.told) != 1 || r.told[0] != rdmacm.Rejected {
					t.Errorf("told %v", r.told)
				}
				r.sent, r.told = nil, nil
				r.give(cmAddrA, hostileREQ(r, cmAddrA, 1))
				c = (*asked)[1]
				qp = &cmFakeQP{num: 9, state: verbs.Init}
				c.Accept(qp, rdmacm.ConnParam{})
				r.next()
				r.give(cmAddrA, &cmDREQ{localCommID: c.peerID, remoteCommID: c.commID, remoteQPN: 10})
				if len(r.sent) != 0 {
					t.Error("DREQ for another queue pair: answered")
				}
				r.give(cmAddrA, &cmRTU{localCommID: c.peerID, remoteCommID: c.commID})
				r.told = nil
				before = c.timer.Deadline()
			}
		}
		// The same GUID, comm ID and queue pair from another address is another
		// peer: it does no harm to the first.
		m := hostileREQ(r, foreign, 1)
		n := len(*asked)
		r.sent = nil
		r.give(foreign, m)
		if len(*asked) != n+1 || len(r.sent) != 0 {
			t.Errorf("asked %d times, %d MADs", len(*asked)-n, len(r.sent))
		}
	})
}

// An MRA cannot make us wait for ever.
func TestCMPatienceIsBounded(t *testing.T) {
	withSolo(t, cmCaps{}, func(r *replay, asked *[]*cmConn) {
		r.give(cmAddrA, hostileREQ(r, cmAddrA, 0))
		c := (*asked)[0]
		c.Accept(&cmFakeQP{num: 9, state: verbs.Init}, rdmacm.ConnParam{})
		for range 60 {
			r.give(cmAddrA, &cmMRA{localCommID: c.peerID, remoteCommID: c.commID, messageMRAed: cmAboutREP, serviceTimeout: 31})
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if len(r.told) != 1 || r.told[0] != rdmacm.ConnectError {
			t.Errorf("told %v", r.told)
		}
	})
}

// Nor can it if it comes again and again, for a request of ours.
func TestCMPatienceOfTheActiveSide(t *testing.T) {
	withSolo(t, cmCaps{}, func(r *replay, _ *[]*cmConn) {
		c, err := r.m.open(r.addr, netip.AddrPortFrom(cmAddrA, cmPortB))
		if err != nil {
			t.Fatal(err)
		}
		r.Notify(c)
		c.Connect(&cmFakeQP{num: 9, state: verbs.Init}, rdmacm.ConnParam{})
		synctest.Wait()
		for n := 0; len(r.told) == 0; n++ {
			if n == 200 {
				t.Fatal("waits after 200 s")
			}
			r.give(cmAddrA, &cmMRA{localCommID: 7, remoteCommID: c.commID, messageMRAed: cmAboutREQ, serviceTimeout: 31})
			time.Sleep(time.Second)
			synctest.Wait()
			// For so long not even the request is repeated.
			if want := 1; n < 69 && len(r.sent) != want {
				t.Fatalf("sent %d times after %d s", len(r.sent), n)
			}
		}
		if r.told[0] != rdmacm.Unreachable {
			t.Errorf("told %v", r.told)
		}
	})
}
