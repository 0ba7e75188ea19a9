package roce

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/verbs"
)

// TestCMScripts plays scenarios with one connection manager, whose peers are
// the script. Connections have numbers, which are the script's. A line is a
// command:
//
//	< REQ n [qp QPN] [guid GUID] [tid TID]     a message comes; so with REP, RTU,
//	        [from ADDR]                        REJ n REASON, MRA, DREQ, DREP
//	connect n, accept n, reject n, leave n, close n      what the owner does
//	first n                                    a first packet on the queue pair
//	lose, find                                 the address goes, and is back
//	remove                                     the device goes
//	time d                                     time passes
//
// The indented lines after it are what comes of it: messages with the time code
// or the reason, what the owner is told, and what has become of its queue pair.
func TestCMScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/cm/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("scripts: %d, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) {
				p := newCMPlayer(t)
				playLines(t, file, string(text), p.line, p.end)
			})
		})
	}
}

// A cmPlayer carries out a script of TestCMScripts.
type cmPlayer struct {
	*replay
	conns map[int]*cmConn
	names map[*cmConn]int
	ids   map[int]uint32 // ours, of all connections there have been
	qps   map[int]*cmFakeQP
	lost  bool
	out   []string
}

// playPeerID is the peer's comm ID of connection 0.
const playPeerID = 0x1000

func newCMPlayer(t *testing.T) *cmPlayer {
	p := &cmPlayer{
		replay: newReplay(t, cmAddrB, 1024, 9),
		conns:  map[int]*cmConn{}, names: map[*cmConn]int{}, ids: map[int]uint32{}, qps: map[int]*cmFakeQP{},
	}
	p.m.cfg.link = p
	p.run(func() {
		p.m.watch(&cmWatcher{func(ev rdmacm.DeviceEvent) { p.note("device: %v %v", ev.Type, ev.Addr) }})
		for _, port := range []uint16{cmPortB, cmPortB + 1} {
			if _, err := p.m.listen(netip.AddrPortFrom(cmAddrB, port), func(c rdmacm.Conn, _ rdmacm.ConnParam) {
				conn := c.(*cmConn)
				p.adopt(int(conn.peerID)-playPeerID, conn)
				p.note("%d: connect request", p.names[conn])
			}); err != nil {
				t.Error(err)
			}
		}
	})
	return p
}

func (p *cmPlayer) hasAddr(netip.Addr) bool { return !p.lost }

func (p *cmPlayer) note(format string, args ...any) {
	p.out = append(p.out, strings.TrimSuffix(fmt.Sprintf(format, args...), " invalid IP"))
}

func (p *cmPlayer) adopt(n int, c *cmConn) {
	p.conns[n], p.names[c] = c, n
	if c.commID != 0 {
		p.ids[n] = c.commID
	}
	c.Notify(func(ev rdmacm.Event) {
		s := fmt.Sprintf("%d: %v", n, ev.Type)
		if ev.Status != 0 {
			s += fmt.Sprintf(" %d", ev.Status)
		}
		p.note("%s", s)
	})
}

func (p *cmPlayer) end() {
	p.run(p.m.close)
	time.Sleep(time.Minute)
	synctest.Wait()
	if err := p.s.Close(); err != nil {
		p.Error(err)
	}
	if n := len(p.m.conns) + len(p.m.peers) + len(p.m.peerQPs) + len(p.m.qpns) + p.m.halfOpen; n != 0 {
		p.Errorf("%d things left", n)
	}
}

func (p *cmPlayer) line(line string) []string {
	p.Helper()
	f := strings.Fields(line)
	states := map[int]verbs.QPState{}
	p.run(func() {
		p.sent, p.out = nil, nil
		for n, qp := range p.qps {
			states[n] = qp.state
		}
	})
	switch f[0] {
	case "time":
		d, err := time.ParseDuration(f[1])
		if err != nil {
			p.Fatal(err)
		}
		time.Sleep(d)
	case "<":
		p.message(f[1:])
	case "lose", "find":
		p.run(func() { p.lost = f[0] == "lose" })
	case "remove":
		p.run(func() { p.m.remove(errCMClosed) })
	default:
		p.call(f[0], p.num(f[1]))
	}
	p.run(func() {}) // and what is due
	p.run(func() { p.result(states) })
	if f[0] == "remove" { // of all connections, in any order
		slices.Sort(p.out)
	}
	return p.out
}

// result adds to what was noted what was sent, and what has become of queue
// pairs. It runs on the shard.
func (p *cmPlayer) result(states map[int]verbs.QPState) {
	for _, mad := range p.sent {
		p.out = append(p.out, "> "+p.describe(mad))
	}
	for n := range 100 {
		if qp := p.qps[n]; qp != nil && qp.state != states[n] {
			p.note("%d: QP %v", n, qp.state)
		}
	}
}

func (p *cmPlayer) num(s string) int {
	n, err := strconv.ParseInt(s, 0, 64)
	if err != nil {
		p.Fatal(err)
	}
	return int(n)
}

// call is what the owner of a connection does.
func (p *cmPlayer) call(what string, n int) {
	qp := &cmFakeQP{num: 0x200 + uint32(n), state: verbs.Init}
	c := p.conns[n]
	if c == nil && what != "connect" {
		p.Fatalf("%s %d: there is no such connection", what, n)
	}
	switch what {
	case "connect":
		c, err := p.m.open(cmAddrB, netip.AddrPortFrom(cmAddrA, cmPortB))
		if err != nil {
			p.Fatal(err)
		}
		p.adopt(n, c)
		p.qps[n] = qp
		c.Connect(qp, cmConnectParam)
		p.run(func() { p.ids[n] = c.commID })
	case "accept":
		p.qps[n] = qp
		c.Accept(qp, cmAcceptParam)
	case "reject":
		c.Reject(rdmacm.RejConsumerDefined, nil)
	case "leave":
		c.Disconnect()
	case "close":
		c.Close(func() { p.note("%d: detached", n) })
	case "first":
		p.run(func() { p.m.commEst(p.qps[n].num) })
	default:
		p.Fatalf("%s?", what)
	}
}

// message has a message come.
func (p *cmPlayer) message(f []string) {
	n := p.num(f[1])
	word := func(name, otherwise string) string {
		for i := 2; i+1 < len(f); i++ {
			if f[i] == name {
				return f[i+1]
			}
		}
		return otherwise
	}
	from := netip.MustParseAddr(word("from", cmAddrA.String()))
	theirs, ours := uint32(playPeerID+n), p.ids[n]
	qpn := uint32(p.num(word("qp", strconv.Itoa(0x100+n))))
	guid := uint64(p.num(word("guid", "7")))
	var m cmMessage
	switch f[0] {
	case "REQ":
		req := hostileREQ(p.replay, from, uint32(n))
		req.localQPN, req.localCAGUID = qpn, guid
		m = req
	case "REP":
		m = &cmREP{localCommID: theirs, remoteCommID: ours, localQPN: qpn, localCAGUID: guid, startingPSN: 1}
	case "RTU":
		m = &cmRTU{localCommID: theirs, remoteCommID: ours}
	case "REJ":
		m = &cmREJ{localCommID: theirs, remoteCommID: ours, messageRejected: cmAboutOther, reason: rejReason(p.num(f[2]))}
	case "MRA":
		about := cmAboutREQ
		if c := p.conns[n]; c != nil && !c.active {
			about = cmAboutREP
		}
		m = &cmMRA{localCommID: theirs, remoteCommID: ours, messageMRAed: about, serviceTimeout: 21}
	case "DREQ":
		var mine uint32
		if qp := p.qps[n]; qp != nil {
			mine = qp.num
		}
		m = &cmDREQ{localCommID: theirs, remoteCommID: ours, remoteQPN: mine}
	case "DREP":
		m = &cmDREP{localCommID: theirs, remoteCommID: ours}
	default:
		p.Fatalf("%s?", f[0])
	}
	tid := uint64(p.num(word("tid", "0x55")))
	p.run(func() { p.m.receiveMAD(p.addr, from, 1, appendCM(nil, tid, m)) })
}

// describe writes a message that was sent as a script has it.
func (p *cmPlayer) describe(mad []byte) string {
	m := checkCM(p.T, 0, mad)
	name := func(ours, theirs uint32) string {
		if theirs != 0 {
			return strconv.Itoa(int(theirs) - playPeerID)
		}
		for n, id := range p.ids {
			if id == ours {
				return strconv.Itoa(n)
			}
		}
		return "?"
	}
	about := [...]string{"REQ", "REP", "it"}
	switch m := m.(type) {
	case *cmREQ:
		return "REQ " + name(m.localCommID, 0)
	case *cmREP:
		return "REP " + name(m.localCommID, m.remoteCommID)
	case *cmRTU:
		return "RTU " + name(m.localCommID, m.remoteCommID)
	case *cmREJ:
		return fmt.Sprintf("REJ %s %d of %s", name(m.localCommID, m.remoteCommID), m.reason, about[min(m.messageRejected, 2)])
	case *cmMRA:
		return fmt.Sprintf("MRA %s of %s, %v", name(m.localCommID, m.remoteCommID), about[min(m.messageMRAed, 2)], cmTimeout(m.serviceTimeout))
	case *cmDREQ:
		return "DREQ " + name(m.localCommID, m.remoteCommID)
	case *cmDREP:
		return "DREP " + name(m.localCommID, m.remoteCommID)
	}
	return m.attr().String()
}
