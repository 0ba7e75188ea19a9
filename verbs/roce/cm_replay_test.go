package roce

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/shard"
)

// A capturedMAD is a MAD of a capture.
type capturedMAD struct {
	src, dst netip.Addr
	mad      []byte
	m        cmMessage
}

func capturedMADs(t *testing.T, file string) (mads []capturedMAD) {
	t.Helper()
	eachRoCE(t, file, func(_ []byte, d datagram) {
		var p packet
		if err := parsePacket(d.payload, &p); err != nil || p.destQP != 1 {
			return
		}
		mad := bytes.Clone(p.payload)
		mads = append(mads, capturedMAD{d.src.Addr(), d.dst.Addr(), mad, checkCM(t, 0, mad)})
	})
	return mads
}

// A replay is a cm in the place of one end of a capture.
type replay struct {
	*testing.T
	s    *shard.Shard
	m    *cm
	addr netip.Addr
	mtu  int
	sent [][]byte
	told []rdmacm.EventType

	hears bool

	// What the capture calls by another name than we do.
	ours map[uint32]uint32 // comm IDs
}

func (r *replay) sendMAD(local, _ netip.Addr, mad []byte) {
	if local != r.addr {
		r.Errorf("sent from %v", local)
	}
	r.sent = append(r.sent, bytes.Clone(mad))
}
func (r *replay) pathMTU(netip.Addr) int                 { return r.mtu }
func (r *replay) isLocal(a netip.Addr) bool              { return a == r.addr }
func (r *replay) holdPath(_, _ netip.Addr) bool          { return true }
func (r *replay) dropPath(_, _ netip.Addr)               {}
func (r *replay) hearErrors(on bool)                     { r.hears = on }
func (r *replay) hasAddr(netip.Addr) bool                { return true }
func (r *replay) routeTo(netip.Addr) (netip.Addr, error) { return r.addr, nil }
func (r *replay) Notify(c rdmacm.Conn) {
	c.Notify(func(ev rdmacm.Event) { r.told = append(r.told, ev.Type) })
}
func (r *replay) run(f func()) { _ = r.s.Run(f); synctest.Wait() }

// next takes the MAD that was sent next.
func (r *replay) next() []byte {
	r.Helper()
	synctest.Wait()
	if len(r.sent) == 0 {
		r.Fatal("nothing was sent")
	}
	b := r.sent[0]
	r.sent = r.sent[1:]
	return b
}

// receive gives the cm a captured MAD, with our comm ID where the capture has
// that of the end whose place we take.
func (r *replay) receive(c capturedMAD) {
	mad := bytes.Clone(c.mad)
	remote := mad[madHeaderLen+4:]
	if id, ok := r.ours[binary.BigEndian.Uint32(remote)]; ok && c.m.attr() != cmAttrREQ {
		binary.BigEndian.PutUint32(remote, id)
	}
	if m, ok := c.m.(*cmDREQ); ok { // and our queue pair
		put24(mad[madHeaderLen+8:], r.qpnOf(m))
	}
	r.run(func() { r.m.receiveMAD(c.dst, c.src, 1, mad) })
}

func (r *replay) qpnOf(m *cmDREQ) uint32 {
	if c := r.m.conns[r.ours[m.remoteCommID]]; c != nil {
		return c.qpn
	}
	return m.remoteQPN
}

// same compares what we send with what was captured, but for the fields that
// ours takes by chance or by its own choice, at offsets from the message on.
func (r *replay) same(got []byte, want capturedMAD, but ...[2]int) {
	r.Helper()
	masked := bytes.Clone(want.mad)
	for _, f := range but {
		copy(masked[madHeaderLen+f[0]:madHeaderLen+f[1]], got[madHeaderLen+f[0]:])
	}
	if !bytes.Equal(got, masked) {
		r.Errorf("%v: sent\n% x, want\n% x", want.m.attr(), got, masked)
	}
}

func newReplay(t *testing.T, addr netip.Addr, mtu int, guid uint64) *replay {
	r := &replay{T: t, s: shard.NewSim(shard.Config{}), addr: addr, mtu: mtu, ours: map[uint32]uint32{}}
	r.m = newCM(cmConfig{shard: r.s, link: r, guid: guid, maxRdAtom: 128, maxInitRd: 128})
	return r
}

func commIDOf(mad []byte) uint32 { return binary.BigEndian.Uint32(mad[madHeaderLen:]) }

var replayMTU = map[string]int{
	"rxe-mtu1500.pcap": 1024, "rxe-mtu4200.pcap": 4096, "rxe-mtu9000.pcap": 4096, "rxe-v6-mtu1500.pcap": 1024,
}

// The passive side's part of a capture is played by us: Linux's REQs are taken,
// and answered with Linux's own REPs and DREPs, but for what is chance.
func TestCMReplayPassive(t *testing.T) {
	for file, mtu := range replayMTU {
		t.Run(file, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mads := capturedMADs(t, file)
				target := mads[0].dst
				r := newReplay(t, target, mtu, mads[1].m.(*cmREP).localCAGUID)
				defer r.s.Close()
				conns := map[uint32]rdmacm.Conn{} // by the host's comm ID
				psns := map[uint32]PSN{}
				qps := map[uint32]*cmFakeQP{}
				var asked rdmacm.ConnParam
				var conn rdmacm.Conn
				r.run(func() {
					if _, err := r.m.listen(netip.AddrPortFrom(netip.IPv6Unspecified(), 4420), func(c rdmacm.Conn, p rdmacm.ConnParam) {
						conn, asked = c, p
						r.Notify(c)
					}); err != nil {
						t.Error(err)
					}
				})
				qpn := uint32(0x200)
				for _, c := range mads {
					switch m := c.m.(type) {
					case *cmREQ:
						conn = nil
						r.receive(c)
						if conn == nil {
							t.Fatalf("REQ % x: nobody was asked", c.mad)
						}
						var h cmaHeader
						if err := h.parse(m.privateData[:]); err != nil {
							t.Fatal(err)
						}
						if !bytes.Equal(asked.PrivateData, m.privateData[36:]) || conn.RemoteAddr() != netip.AddrPortFrom(h.src, h.srcPort) {
							t.Errorf("asked by %v with % x", conn.RemoteAddr(), asked.PrivateData)
						}
						conns[m.localCommID], psns[m.localCommID] = conn, m.startingPSN
					case *cmREP:
						qpn++
						qp := &cmFakeQP{num: qpn, state: 1}
						qps[m.remoteCommID] = qp
						conns[m.remoteCommID].Accept(qp, rdmacm.ConnParam{
							PrivateData: m.privateData[:], ResponderResources: m.responderResources, InitiatorDepth: m.initiatorDepth,
							FlowControl: m.flowControl, RNRRetryCount: m.rnrRetryCount, SRQ: m.srq,
						})
						got := r.next()
						r.ours[m.localCommID] = commIDOf(got)
						// Comm ID, QPN, PSN, and the ACK delay.
						r.same(got, c, [2]int{0, 4}, [2]int{12, 15}, [2]int{20, 23}, [2]int{26, 27})
						if d := got[madHeaderLen+26] >> 3; d != 20 {
							t.Errorf("TargetACKDelay %d", d)
						}
						if qp.attr.SQPSN != uint32(psns[m.remoteCommID]) || qp.attr.Path.MTU != mtu || qp.attr.Timeout != 17 ||
							qp.attr.MaxRdAtomic != int(m.initiatorDepth) || qp.attr.RetryCnt != 7 || qp.attr.RNRRetry != 7 {
							t.Errorf("the queue pair was given %+v", qp.attr)
						}
					case *cmRTU:
						r.told = nil
						r.receive(c)
						if len(r.told) != 1 || r.told[0] != rdmacm.Established {
							t.Errorf("RTU: told %v", r.told)
						}
					case *cmDREQ:
						r.told = nil
						r.receive(c)
						if len(r.told) != 1 || r.told[0] != rdmacm.Disconnected {
							t.Errorf("DREQ: told %v", r.told)
						}
					case *cmDREP:
						r.same(r.next(), c, [2]int{0, 4})
					}
				}
				if len(r.sent) != 0 || len(r.m.conns) != 0 {
					t.Errorf("%d MADs too many, %d connections left", len(r.sent), len(r.m.conns))
				}
			})
		})
	}
}

// The active side's part is played by us.
func TestCMReplayActive(t *testing.T) {
	for file, mtu := range replayMTU {
		t.Run(file, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mads := capturedMADs(t, file)
				first := mads[0].m.(*cmREQ)
				host := mads[0].src
				r := newReplay(t, host, mtu, first.localCAGUID)
				r.m.agent = uint32(binary.BigEndian.Uint64(mads[0].mad[8:]) >> 32)
				defer r.s.Close()
				conns := map[uint32]*cmConn{} // by the captured comm ID
				tids := map[uint32]uint64{}
				for _, c := range mads {
					switch m := c.m.(type) {
					case *cmREQ:
						var h cmaHeader
						if err := h.parse(m.privateData[:]); err != nil {
							t.Fatal(err)
						}
						conn := r.m.newConn(netip.AddrPortFrom(host, h.srcPort), netip.AddrPortFrom(c.dst, 4420), true)
						r.Notify(conn)
						conn.Connect(&cmFakeQP{num: m.localQPN, state: 1}, rdmacm.ConnParam{
							PrivateData: m.privateData[36:], ResponderResources: m.responderResources, InitiatorDepth: m.initiatorDepth,
							FlowControl: m.flowControl, RetryCount: m.retryCount, RNRRetryCount: m.rnrRetryCount, SRQ: m.srq,
						})
						got := r.next()
						conns[m.localCommID], r.ours[m.localCommID] = conn, commIDOf(got)
						tids[m.localCommID] = binary.BigEndian.Uint64(got[8:])
						if uint32(tids[m.localCommID]) != commIDOf(got) || tids[m.localCommID]>>32 != uint64(r.m.agent) {
							t.Errorf("TransactionID %#x of comm ID %#x", tids[m.localCommID], commIDOf(got))
						}
						binary.BigEndian.PutUint64(got[8:], binary.BigEndian.Uint64(c.mad[8:]))
						// Comm ID, PSN, and the local ACK timeout, for our ACK delay.
						r.same(got, c, [2]int{0, 4}, [2]int{44, 47}, [2]int{95, 96})
						if d := got[madHeaderLen+95] >> 3; d != cmAckTimeout(20, 16) {
							t.Errorf("local ACK timeout %d", d)
						}
					case *cmREP:
						r.told = nil
						r.receive(c)
						if len(r.told) != 1 || r.told[0] != rdmacm.Established {
							t.Errorf("REP: told %v", r.told)
						}
						attr := conns[m.remoteCommID].attr
						if attr.SQPSN != uint32(m.startingPSN) || attr.DestQPN != m.localQPN || attr.Timeout != 17 || attr.RNRRetry != 7 ||
							attr.MaxDestRd != 128 || attr.MaxRdAtomic != 0 {
							t.Errorf("the queue pair was given %+v", attr)
						}
					case *cmRTU:
						got := r.next()
						if tid := binary.BigEndian.Uint64(got[8:]); tid != tids[m.localCommID] {
							t.Errorf("RTU: TransactionID %#x, want %#x", tid, tids[m.localCommID])
						}
						copy(got[8:16], c.mad[8:16])
						r.same(got, c, [2]int{0, 4})
					case *cmDREQ:
						conns[m.localCommID].Disconnect()
						got := r.next()
						copy(got[8:16], c.mad[8:16])
						r.same(got, c, [2]int{0, 4})
					case *cmDREP:
						r.told = nil
						r.receive(c)
						if len(r.told) != 1 || r.told[0] != rdmacm.Disconnected {
							t.Errorf("DREP: told %v", r.told)
						}
					}
				}
				if len(r.sent) != 0 || len(r.m.conns) != 0 {
					t.Errorf("%d MADs too many, %d connections left", len(r.sent), len(r.m.conns))
				}
			})
		})
	}
}

// Linux's refusals: ours are the same bytes, and theirs are understood.
func TestCMReplayRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mads := capturedMADs(t, "rxe-refused.pcap")
		var req capturedMAD
		checked := 0
		for _, c := range mads {
			switch m := c.m.(type) {
			case *cmREQ:
				req = c
			case *cmREJ:
				if m.reason != rejInvalidServiceID {
					t.Fatalf("REJ %d in the capture", m.reason)
				}
				r := newReplay(t, c.src, 4096, 1)
				r.receive(req)
				r.same(r.next(), c)

				a := newReplay(t, c.dst, 4096, 2)
				conn := a.m.newConn(netip.AddrPortFrom(c.dst, 1), netip.AddrPortFrom(c.src, 4420), true)
				var ev rdmacm.Event
				conn.Notify(func(e rdmacm.Event) { ev = e })
				conn.Connect(&cmFakeQP{num: 0x300, state: 1}, rdmacm.ConnParam{})
				a.ours[m.remoteCommID] = commIDOf(a.next())
				a.receive(c)
				if ev.Type != rdmacm.Rejected || ev.Status != rdmacm.RejInvalidServiceID {
					t.Errorf("told %+v", ev)
				}
				for _, s := range []*shard.Shard{r.s, a.s} {
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				}
				checked++
			}
		}
		if checked != 4 {
			t.Errorf("%d refusals, want 4", checked)
		}
		time.Sleep(time.Second)
	})
}
