package hostile

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func addrPort(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, udpPort) }

// A victim is a connection of the good host, as somebody knows it who has seen
// it being made.
type victim struct {
	host, target       uint32 // comm IDs
	hostQPN, targetQPN uint32
	guid               uint64
	tid                uint64
}

// victims are all of them.
func (w *world) victims() (all []victim) {
	w.mu.Lock()
	defer w.mu.Unlock()
	reqs := map[uint32]victim{}
	for _, b := range w.seen {
		if b[0] != opUDSendOnly {
			continue
		}
		m := b[bthLen+dethL:]
		tid, attr := be.Uint64(m[8:]), be.Uint16(m[16:])
		switch m = m[madHeader:]; attr {
		case cmREQ:
			reqs[be.Uint32(m)] = victim{host: be.Uint32(m), hostQPN: be.Uint32(m[32:]) >> 8, guid: be.Uint64(m[16:]), tid: tid}
		case cmREP:
			v := reqs[be.Uint32(m[4:])]
			v.target, v.targetQPN = be.Uint32(m), be.Uint32(m[12:])>>8
			all = append(all, v)
		}
	}
	return all
}

func (w *world) qpnsOfTarget() (qpns []uint32) {
	for _, v := range w.victims() {
		qpns = append(qpns, v.targetQPN)
	}
	return qpns
}

// messages are all that can be said about a connection with one's own and the
// other's comm ID.
func messages(tid uint64, own, other, qpn uint32, guid uint64) map[string][]byte {
	rep := mad(cmREP, tid, own, other, 0, qpn<<8, 0, 1<<8)
	be.PutUint64(rep[bthLen+dethL+madHeader+28:], guid)
	timeout := mad(cmREJ, tid, own, other, 2<<30|8<<17|4)
	be.PutUint64(timeout[bthLen+dethL+madHeader+12:], guid)
	return map[string][]byte{
		"REP":                      rep,
		"RTU":                      mad(cmRTU, tid, own, other),
		"MRA":                      mad(cmMRA, tid, own, other, 1<<30|31<<19),
		"REJ":                      mad(cmREJ, tid, own, other, 2<<30|28),
		"REJ of the REP":           mad(cmREJ, tid, own, other, 1<<30|10),
		"REJ for a timeout":        timeout,
		"DREQ":                     mad(cmDREQ, tid, own, other, qpn<<8),
		"DREP":                     mad(cmDREP, tid, own, other),
		"an attribute of nobody's": mad(0x19, tid, own, other),
	}
}

// Nobody can speak about a connection from another address than its peer's, if
// he knows all that there is to know about it; nor from its peer's address, if he
// does not know its comm IDs. Of all that only a DREQ is answered, with a DREP to
// where it came from, and a REP that nobody waits for is refused.
func TestForgedMessages(t *testing.T) {
	families(t, func(w *world) {
		e := w.enemy()
		defer e.detach()
		w.told()
		before := w.device.Device.Stats().MADsStray
		victims := w.victims()
		if len(victims) != 3 {
			w.Fatalf("connections of the good host: %+v", victims)
		}
		for i, v := range victims {
			// Everything is known but the address is another: to the target as the
			// host, and to the host as the target.
			for name, m := range messages(v.tid, v.host, v.target, v.targetQPN, v.guid) {
				e.answers(fmt.Sprintf("connection %d, %s to the target", i, name), e.target, m)
			}
			for name, m := range messages(v.tid, v.target, v.host, v.hostQPN, 1) {
				e.answers(fmt.Sprintf("connection %d, %s to the host", i, name), e.good, m)
			}
			// The address is right, and one of the IDs is not.
			for _, bad := range []victim{{host: v.host + 1, target: v.target}, {host: v.host, target: v.target + 1}, {}} {
				for name, m := range messages(v.tid, bad.host, bad.target, v.targetQPN, v.guid+1) {
					if name != "REP" || bad.target == v.target {
						e.send(e.good, e.target, m)
					}
				}
				for name, m := range messages(v.tid, bad.target, bad.host, v.hostQPN, 2) {
					if name != "REP" || bad.host == v.host {
						e.send(e.target, e.good, m)
					}
				}
			}
			// All is right, but the DREQ is about another queue pair.
			e.send(e.good, e.target, mad(cmDREQ, 7, v.host, v.target, (v.targetQPN+1)<<8))
			e.send(e.target, e.good, mad(cmDREQ, 7, v.target, v.host, (v.hostQPN+1)<<8))
			// Out of turn.
			for _, name := range []string{"RTU", "MRA", "DREP", "REP"} {
				e.send(e.good, e.target, messages(v.tid, v.host, v.target, v.targetQPN, v.guid)[name])
			}
			for _, name := range []string{"RTU", "MRA", "DREP"} {
				e.send(e.target, e.good, messages(v.tid, v.target, v.host, v.hostQPN, 1)[name])
			}
			w.unharmed(fmt.Sprintf("messages about connection %d", i))
		}
		if lines := w.told(); len(lines) != 0 {
			w.Errorf("told\n%s", strings.Join(lines, "\n"))
		}
		if n := w.device.Device.Stats().MADsStray - before; n < 3*20 {
			w.Errorf("%d messages were counted", n)
		}

		// Its GUID, queue pair and comm ID from another address are another peer's,
		// who may come, and go.
		v := victims[0]
		e.send(e.evil, e.target, request{commID: v.host, qpn: v.hostQPN, psn: 1, guid: v.guid, local: e.evil, remote: e.target}.packet())
		all := e.await(50 * time.Millisecond)
		if len(all) != 1 || all[0].attr != cmREP {
			w.Fatalf("a peer with a GUID that another has too: %+v", all)
		}
		m := all[0].msg
		(&link{e: e, ours: v.host, theirs: be.Uint32(m), qpn: be.Uint32(m[12:]) >> 8}).leave()
		w.unharmed("a double")
	})
}

// answers says m to a machine, and looks at what comes of it.
func (e *enemy) answers(what string, to netip.Addr, m []byte) {
	e.Helper()
	e.replies()
	e.send(e.evil, to, m)
	time.Sleep(time.Millisecond)
	synctest.Wait()
	got := e.replies()
	if be.Uint16(m[bthLen+dethL+16:]) == cmDREQ {
		if len(got) != 1 || got[0].attr != cmDREP {
			e.Errorf("%s: answered with %+v, want a DREP", what, got)
		}
		return
	}
	if len(got) != 0 {
		e.Errorf("%s: answered with message %#x", what, got[0].attr)
	}
}

// Every field of a REQ that is wrong in turn, and the reason of the REJ
// (wire: [IBTA] 12.6.7.2); 0 is silence.
func TestRequestsForConnections(t *testing.T) {
	const at = bthLen + dethL + madHeader
	families(t, func(w *world) {
		e := w.enemy()
		defer e.detach()
		for i, c := range []struct {
			name   string
			off    int // in the message
			b      []byte
			reason uint16
			status byte // of NVMe, for reason 28
		}{
			{"comm ID 0", 0, make([]byte, 4), 0, 0},
			{"a port where nobody listens", 14, []byte{0x11, 0x45}, 8, 0},
			{"a port space that there is not", 13, []byte{7}, 8, 0},
			{"a service ID of IB", 8, []byte{0x80}, 8, 0},
			{"QP 0", 32, []byte{0, 0, 0}, 5, 0},
			{"QP 1", 32, []byte{0, 0, 1}, 5, 0},
			{"no RDMA READs", 35, []byte{0}, 28, 7},
			{"unreliable", 43, []byte{20<<3 | 1<<1}, 9, 0},
			{"another partition", 48, []byte{0x80, 1}, 5, 0},
			{"MTU 0", 50, []byte{0x07}, 26, 0},
			{"MTU 6", 50, []byte{0x67}, 26, 0},
			{"RDC", 50, []byte{0x3f}, 5, 0},
			{"XRC", 51, []byte{0xf1}, 9, 0},
			{"a path from elsewhere", 71, []byte{0xee}, 12, 0},
			{"a path to elsewhere", 87, []byte{0xee}, 12, 0},
			{"a version of the RDMA CM", 140, []byte{1}, 28, 0},
			{"a version of IP", 141, []byte{0x50}, 28, 0},
			{"an address that is not the path's", 175, []byte{0xee}, 28, 0},
			{"RECFMT", 176, []byte{1, 0}, 28, 2},
			{"HRQSIZE", 180, []byte{0, 0}, 28, 5},
			{"HSQSIZE", 182, []byte{0xff, 0xff}, 28, 4},
		} {
			w.told()
			p := request{commID: uint32(0x5000 + i), qpn: uint32(0x5000 + i), psn: 1, guid: 66, local: e.evil, remote: e.target}.packet()
			copy(p[at+c.off:], c.b)
			e.replies()
			e.send(e.evil, e.target, p)
			got := e.await(20 * time.Millisecond)
			switch {
			case c.reason == 0:
				if len(got) != 0 {
					w.Errorf("%s: answered with message %#x", c.name, got[0].attr)
				}
			case len(got) != 1 || got[0].attr != cmREJ:
				w.Errorf("%s: answered with %+v, want a REJ", c.name, got)
			default:
				m := got[0].msg
				if r := be.Uint16(m[10:]); r != c.reason || c.reason == 28 && m[86] != c.status || be.Uint32(m[4:]) != uint32(0x5000+i) {
					w.Errorf("%s: REJ with reason %d, status %d; want %d, %d", c.name, r, m[86], c.reason, c.status)
				}
			}
			w.unharmed(c.name)
			if lines := w.told(); len(lines) > 1 {
				w.Errorf("%s: told\n%s", c.name, strings.Join(lines, "\n"))
			}
		}
	})
}
