package roce

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
)

// FuzzCM plays a peer that sends what it likes: its input is a program of
// messages, whose IDs are often right. Nothing panics, nothing piles up.
func FuzzCM(f *testing.F) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 8 {
		b := make([]byte, 400)
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		f.Add(b)
	}
	f.Add([]byte{0, 0, 0, 7, 0, 0, 2, 1, 1, 4, 1, 1}) // REQ, accept, RTU, DREQ
	f.Add([]byte{8, 0, 0, 1, 0x81, 1, 6, 0x81, 1})    // connect, REP, DREP
	f.Fuzz(func(t *testing.T, prog []byte) {
		s := shard.NewSim(shard.Config{})
		r := &replay{T: t, s: s, addr: cmAddrB, mtu: 1024}
		const limit = 5
		r.m = newCM(cmConfig{
			shard: s, link: r, guid: 9, maxRdAtom: 16, maxInitRd: 16,
			caps: cmCaps{halfOpen: limit, lingering: limit, timewait: limit},
		})
		var err error
		if runErr := s.Run(func() { err = fuzzCMRun(r, prog, limit) }); runErr != nil {
			t.Fatal(runErr)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
}

// A fuzzOwner is the owner of the connections of FuzzCM, which does as the
// program says.
type fuzzOwner struct {
	r     *replay
	conns []*cmConn
	qps   []*cmFakeQP
	told  map[*cmConn][]rdmacm.EventType
}

func (o *fuzzOwner) adopt(c *cmConn) {
	o.conns = append(o.conns, c)
	c.Notify(func(ev rdmacm.Event) { o.told[c] = append(o.told[c], ev.Type) })
}

func (o *fuzzOwner) qp() *cmFakeQP {
	qp := &cmFakeQP{num: uint32(0x40 + len(o.qps)), state: verbs.Init}
	o.qps = append(o.qps, qp)
	return qp
}

// fuzzCMRun runs a program on the shard. Owners' calls are made as the tasks
// that they post would.
func fuzzCMRun(r *replay, prog []byte, limit int) error {
	m := r.m
	o := &fuzzOwner{r: r, told: map[*cmConn][]rdmacm.EventType{}}
	if _, err := m.listen(netip.AddrPortFrom(r.addr, cmPortB), func(c rdmacm.Conn, _ rdmacm.ConnParam) {
		o.adopt(c.(*cmConn))
	}); err != nil {
		return err
	}
	msgs := []cmMessage{new(cmREQ), new(cmREP), new(cmRTU), new(cmREJ), new(cmDREQ), new(cmMRA), new(cmDREP)}
	for ; len(prog) >= 3; prog = prog[3:] {
		op, x, y := prog[0], prog[1], prog[2]
		var c *cmConn
		if len(o.conns) > 0 {
			c = o.conns[int(x&0x7f)%len(o.conns)]
		}
		switch k := op % 16; {
		case k < 7: // a message, of whose fields the input has some
			mad := fuzzMAD(r, msgs[k], c, op, x, y)
			m.receiveMAD(r.addr, []netip.Addr{cmAddrA, cmAddrA, cmAddrA, cmAddrB}[y>>6], 1, mad)
		case k == 7 && c != nil && c.asked.qp == nil && !c.active:
			c.asked.qp, c.asked.param = o.qp(), rdmacm.ConnParam{InitiatorDepth: y, ResponderResources: y}
			c.begin()
		case k == 8:
			c, err := m.open(r.addr, netip.AddrPortFrom(cmAddrA, cmPortB))
			if err != nil || len(o.conns) > 40 {
				continue
			}
			o.adopt(c)
			c.asked.qp, c.asked.param = o.qp(), rdmacm.ConnParam{InitiatorDepth: y, ResponderResources: y}
			c.begin()
		case k == 9 && c != nil:
			c.rejectRequest()
		case k == 10 && c != nil:
			c.leave()
		case k == 11 && c != nil:
			c.asked.detached = func() {}
			c.close()
		case k == 12 && c != nil && c.timer.Armed():
			m.cfg.shard.Disarm(&c.timer) // as when it fires
			c.expired()
		case k == 13:
			m.commEst(uint32(0x40 + y))
		}
		halfOpen, lingering := 0, 0
		for _, c := range m.conns {
			if c.state.halfOpen() {
				halfOpen++
			}
			if c.lingers {
				lingering++
			}
		}
		if halfOpen != m.halfOpen || halfOpen > limit || lingering != m.lingering || lingering > limit ||
			m.timewait.len() > limit || len(m.timewait.until) > limit || len(m.conns) > len(o.conns) ||
			len(m.peers) > len(m.conns) || len(m.peerQPs) > len(m.conns) || len(m.qpns) > len(m.conns) {
			return fmt.Errorf("%d conns of %d, %d peers, %d QPs, half open %d (%d), lingering %d (%d), timewait %d", len(m.conns), len(o.conns),
				len(m.peers), len(m.qpns), m.halfOpen, halfOpen, m.lingering, lingering, m.timewait.len())
		}
	}
	m.close()
	for _, c := range o.conns {
		c.leave() // those that were opened only
		if err := fuzzStory(c, o.told[c]); err != nil {
			return err
		}
	}
	for _, qp := range o.qps {
		if qp.state == verbs.RTS {
			return fmt.Errorf("QP %#x was left connected", qp.num)
		}
	}
	if n := len(m.conns) + len(m.peers) + len(m.peerQPs) + len(m.qpns) + m.halfOpen + m.lingering; n != 0 {
		return fmt.Errorf("%d things left", n)
	}
	return nil
}

// fuzzStory checks what the owner of a connection was told, from end to end.
func fuzzStory(c *cmConn, told []rdmacm.EventType) error {
	est, over := 0, 0
	for i, ev := range told {
		switch ev {
		case rdmacm.Established:
			est++
			if over > 0 {
				return fmt.Errorf("established after the end: %v", told)
			}
		case rdmacm.Disconnected:
			over++
			if est == 0 {
				return fmt.Errorf("disconnected, but never established: %v", told)
			}
		case rdmacm.Rejected, rdmacm.ConnectError, rdmacm.Unreachable:
			over++
			if est > 0 {
				return fmt.Errorf("failed after it was established: %v", told)
			}
		case rdmacm.DeviceRemoval:
			if i != len(told)-1 {
				return fmt.Errorf("told after the device was gone: %v", told)
			}
		}
	}
	if est > 1 || over > 1 || c.state != cmDone {
		return fmt.Errorf("told %v, and in %v", told, c.state)
	}
	return nil
}

// fuzzMAD makes a message of which most is right for c, and some the input's.
func fuzzMAD(r *replay, m cmMessage, c *cmConn, op, x, y byte) []byte {
	ours, theirs, qpn := uint32(x), uint32(y), uint32(y)
	if c != nil && x&0x80 == 0 {
		ours, theirs, qpn = c.commID, c.peerID, c.qpn
	}
	if theirs == 0 {
		theirs = uint32(y) + 1
	}
	switch m := m.(type) {
	case *cmREQ:
		*m = *hostileREQ(r, cmAddrA, uint32(y&15))
		m.localCommID = uint32(x)
	case *cmREP:
		*m = cmREP{localCommID: theirs, remoteCommID: ours, localQPN: uint32(y & 31), localCAGUID: uint64(op >> 4 & 1), rnrRetryCount: 7}
	case *cmRTU:
		*m = cmRTU{localCommID: theirs, remoteCommID: ours}
	case *cmREJ:
		*m = cmREJ{localCommID: theirs, remoteCommID: ours, messageRejected: y & 3, reason: rejReason(op), infoLen: 8}
		binary.BigEndian.PutUint64(m.info[:], 7)
	case *cmDREQ:
		*m = cmDREQ{localCommID: theirs, remoteCommID: ours, remoteQPN: qpn}
	case *cmMRA:
		*m = cmMRA{localCommID: theirs, remoteCommID: ours, messageMRAed: y & 3, serviceTimeout: x}
	case *cmDREP:
		*m = cmDREP{localCommID: theirs, remoteCommID: ours}
	}
	mad := appendCM(nil, uint64(x), m)
	if op >= 0xe0 { // and some is just wrong
		mad[madHeaderLen+int(x)%cmMessageLen] ^= y
	}
	return mad
}
