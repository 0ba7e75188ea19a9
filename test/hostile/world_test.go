package hostile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/fabric"
	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/internal/simnet"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport/rdma"
	"github.com/fabrid/fabrid/verbs/roce"
)

const (
	subNQN    = "nqn.2014-08.org.example:anybodys"
	goodNQN   = "nqn.2014-08.org.example:good"
	goodHost  = "nqn.2014-08.org.example:host"
	blockSize = 512
	blocks    = 1 << 14
)

// A world is a target, a good host that uses it all the time, and the network.
type world struct {
	testing.TB
	net             *simnet.Net
	target, good    netip.Addr
	evil            netip.Addr
	node, goodNode  *fabric.Node
	device, goodDev *fabric.RoCE
	tgt             *target.Target
	disks           [2]bdev.Device // the good host's, and anybody's
	ctrl            *host.Controller
	rounds          atomic.Int64 // of the good host's I/O
	stopIO          chan struct{}
	io              sync.WaitGroup

	mu    sync.Mutex
	lines []string // that were told who runs the target; guarded by mu
	seen  [][]byte // packets between target and good host, if wanted; guarded by mu
	sniff bool     // guarded by mu
}

// families runs a test over both; over IPv6 alone if there is little time.
func families(t *testing.T, fn func(w *world)) {
	for _, c := range []struct{ name, prefix string }{{"IPv4", "192.0.2."}, {"IPv6", "2001:db8::"}} {
		if testing.Short() && c.name == "IPv4" {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, c.prefix)
				fn(w)
				w.close()
			})
		})
	}
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) line(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, fmt.Sprintf(format, args...))
}

// told returns the lines since it was asked the last time, of those that
// cmd/fabrid does not keep for who looks for mistakes.
func (w *world) told() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	lines := w.lines
	w.lines = nil
	return lines
}

// watch is the Drop function of the links between target and good host.
func (w *world) watch(_ int, b []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sniff {
		w.seen = append(w.seen, bytes.Clone(b))
	}
	return false
}

func newWorld(t testing.TB, prefix string) *world {
	t.Helper()
	addr := func(n string) netip.Addr { return netip.MustParseAddr(prefix + n) }
	link := simnet.Link{Delay: 10 * time.Microsecond}
	w := &world{
		TB: t, net: simnet.New(simnet.Config{Link: link}), stopIO: make(chan struct{}),
		target: addr("1"), good: addr("2"), evil: addr("66"),
	}
	link.Drop = w.watch
	w.must(w.net.SetLink(w.target, w.good, link))
	w.must(w.net.SetLink(w.good, w.target, link))
	w.sniff = true
	w.tgt = target.New(target.Config{Events: target.Events{
		ControllerRemoved: func(_ target.ControllerInfo, cause error) { w.line("controller removed: %v", cause) },
		ConnectRefused: func(_ target.ControllerInfo, qid uint16, err error) {
			w.line("connect of queue %d refused: %v", qid, err)
		},
	}})
	port, err := w.tgt.AddPort(target.PortConfig{ID: 1})
	w.must(err)
	for i, cfg := range []target.SubsystemConfig{{NQN: goodNQN, Hosts: []string{goodHost}}, {NQN: subNQN, AllowAnyHost: true}} {
		w.disks[i], err = bdev.NewMemory(bdev.MemoryConfig{Size: blocks * blockSize, BlockSize: blockSize})
		w.must(err)
		sub, err := w.tgt.AddSubsystem(cfg)
		w.must(err)
		_, err = sub.AddNamespace(target.NamespaceConfig{Device: w.disks[i]})
		w.must(err)
		w.must(port.Link(sub))
	}
	w.node, err = fabric.NewNode(fabric.Config{Name: "target", Sim: true})
	w.must(err)
	w.device, err = w.node.OpenRoCE(roce.Config{Addr: w.target, Network: w.net, NodeGUID: 1})
	w.must(err)
	_, err = w.device.Listen(rdma.Config{Core: port, PoolSize: 8 << 20, Events: rdma.Events{
		Refused: func(_ netip.AddrPort, cause error) { w.line("queue refused: %v", cause) },
	}})
	w.must(err)

	w.goodNode, err = fabric.NewNode(fabric.Config{Name: "good", Sim: true})
	w.must(err)
	w.goodDev, err = w.goodNode.OpenRoCE(roce.Config{Addr: w.good, Network: w.net, NodeGUID: 2})
	w.must(err)
	dialer, err := w.goodDev.Dialer()
	w.must(err)
	w.ctrl, err = host.Connect(t.Context(), host.Config{
		Dialer: dialer, Remote: netip.AddrPortFrom(w.target, 4420), NQN: goodNQN, HostNQN: goodHost, NrIOQueues: 2,
		Events: host.Events{
			Lost:    func(cause error) { t.Errorf("the good host lost its connection: %v", cause) },
			Warning: func(err error) { t.Errorf("the good host was warned: %v", err) },
		},
	})
	w.must(err)
	w.mu.Lock()
	w.sniff = false
	w.mu.Unlock()
	w.io.Go(w.useDisk)
	return w
}

// useDisk is the good host's use of its disk: each block that it reads is what it
// has written.
func (w *world) useDisk() {
	ns, err := w.ctrl.Namespace(1)
	if err != nil {
		w.Error(err)
		return
	}
	data, back := make([]byte, 4<<10), make([]byte, 4<<10)
	for n := int64(0); ; n++ {
		select {
		case <-w.stopIO:
			return
		case <-time.After(500 * time.Microsecond):
		}
		for i := range data {
			data[i] = byte(i*7) ^ byte(i>>8) ^ byte(n)
		}
		off := n % (blocks * blockSize / int64(len(data))) * int64(len(data))
		if _, err := ns.WriteAt(data, off); err != nil {
			w.Errorf("the good host's write %d: %v", n, err)
			return
		}
		if _, err := ns.ReadAt(back, off); err != nil {
			w.Errorf("the good host's read %d: %v", n, err)
			return
		}
		if !bytes.Equal(data, back) {
			w.Errorf("the good host read other than it wrote, round %d", n)
			return
		}
		w.rounds.Add(1)
	}
}

// unharmed has the good host go on for a while, and finds out whether it did,
// whether it lost any time, and what the target still has of others.
func (w *world) unharmed(what string) {
	w.Helper()
	before := w.rounds.Load()
	time.Sleep(3 * time.Millisecond)
	if n := w.rounds.Load() - before; n < 4 {
		w.Errorf("%s: %d rounds of the good host in 3 ms", what, n)
	}
	if s := w.goodDev.Device.Stats(); s.Timeouts != 0 {
		w.Errorf("%s: the good host waited for %d timers", what, s.Timeouts)
	}
	if n := w.ctrl.Reconnects(); n != 0 {
		w.Errorf("%s: the good host reconnected %d times", what, n)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		c := w.node.Counts()
		if c.Queues.Total() == 3 && c.QPs == 3 && c.CMIDs == 4 {
			return
		}
		if time.Now().After(end) {
			w.Fatalf("%s: left are %+v", what, c)
		}
	}
}

func (w *world) close() {
	w.Helper()
	close(w.stopIO)
	w.io.Wait()
	ctx := context.Background()
	w.must(errors.Join(w.ctrl.Disconnect(ctx), w.goodNode.Close(ctx), w.tgt.Close(), w.node.Close(ctx), w.disks[0].Close(), w.disks[1].Close()))
	if c := w.node.Counts(); c != (fabric.Counts{}) {
		w.Errorf("after its end the target has %+v", c)
	}
	w.must(w.net.Close())
}

// An enemy is an address with a mouth and ears, and no RDMA.
type enemy struct {
	*world
	addr   netip.AddrPort
	detach func()
	next   uint32 // comm ID, queue pair and PSN of its next connection

	mu    sync.Mutex
	heard []reply // guarded by mu
}

func (w *world) enemy() *enemy {
	e := &enemy{world: w, addr: netip.AddrPortFrom(w.evil, udpPort), next: 0x1000}
	var err error
	e.detach, err = w.net.Attach(e.addr, func(_, _ netip.AddrPort, _ uint16, b []byte) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.heard = append(e.heard, parseReply(b))
	})
	w.must(err)
	return e
}

// send sends a packet as if it were from somebody.
func (e *enemy) send(from, to netip.Addr, packet []byte) {
	f, t := netip.AddrPortFrom(from, udpPort), netip.AddrPortFrom(to, udpPort)
	e.net.Send(f, t, 0, seal(f, t, packet))
}

// say sends a packet to the target, and returns what comes of it.
func (e *enemy) say(packet []byte) []reply {
	e.send(e.evil, e.target, packet)
	time.Sleep(time.Millisecond)
	synctest.Wait()
	return e.replies()
}

// await waits for an answer of the connection manager.
func (e *enemy) await(most time.Duration) (all []reply) {
	for end := time.Now().Add(most); len(all) == 0 && time.Now().Before(end); {
		time.Sleep(most / 50)
		synctest.Wait()
		all = e.replies()
	}
	return all
}

func (e *enemy) replies() []reply {
	e.mu.Lock()
	defer e.mu.Unlock()
	heard := e.heard
	e.heard = nil
	return heard
}

// A link is a connection of an enemy to the target.
type link struct {
	e            *enemy
	ours, theirs uint32 // comm IDs
	qpn, psn     uint32 // the target's queue pair, and what it expects next
	ourPSN       uint32 // what it sends first
}

// connect makes a connection in the right way.
func (e *enemy) connect(qid uint16) *link {
	e.Helper()
	e.next++
	l := &link{e: e, ours: e.next, ourPSN: 77}
	e.replies()
	e.send(e.evil, e.target, request{
		commID: l.ours, qpn: e.next, psn: l.ourPSN, guid: 66, local: e.evil, remote: e.target, qid: qid,
	}.packet())
	all := e.await(50 * time.Millisecond)
	if len(all) != 1 || all[0].attr != cmREP || be.Uint32(all[0].msg[4:]) != l.ours {
		e.Fatalf("connect: answered with %+v", all)
	}
	m := all[0].msg
	l.theirs, l.qpn, l.psn = be.Uint32(m), be.Uint32(m[12:])>>8, be.Uint32(m[20:])>>8
	e.say(mad(cmRTU, uint64(l.ours), l.ours, l.theirs))
	return l
}

// leave takes leave.
func (l *link) leave() []reply {
	return l.e.say(mad(cmDREQ, 9, l.ours, l.theirs, l.qpn<<8))
}
