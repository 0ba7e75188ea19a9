package roce

import (
	"net/netip"

	"github.com/fabrid/fabrid/shard"
)

// A Network carries UDP datagrams in place of the kernel. It may be used from
// any goroutine.
type Network interface {
	// Attach has receive called for every datagram to addr, on any goroutine;
	// receive keeps nothing of b. ident is the IPv4 Identification. No call
	// begins after detach has returned.
	Attach(addr netip.AddrPort, receive func(from, to netip.AddrPort, ident uint16, b []byte)) (detach func(), err error)

	// Send sends a datagram. b is the caller's again when it returns.
	Send(from, to netip.AddrPort, ident uint16, b []byte)
}

// A simWire is a wire over a Network.
type simWire struct {
	eng    *engine
	net    Network
	detach func()
	buf    []byte
	closed bool
}

func newSimWire(e *engine, cfg Config) (*simWire, error) {
	w := &simWire{eng: e, net: cfg.Network}
	var err error
	w.detach, err = cfg.Network.Attach(netip.AddrPortFrom(cfg.Addr, cfg.UDPPort), w.receive)
	e.setReadBudget(cfg.SocketBuffer)
	return w, err
}

func (w *simWire) send(b *txBatch) {
	for ; !b.empty(); b.sent++ {
		p := b.pkts[b.sent].path
		b.seal(b.sent, 0)
		w.buf = b.bytes(b.sent, w.buf[:0])
		w.net.Send(p.local, p.remote, 0, w.buf)
	}
}

func (w *simWire) hearErrors(bool) {}

func (w *simWire) receive(from, to netip.AddrPort, ident uint16, b []byte) {
	b = append([]byte(nil), b...)
	w.eng.shard.Post(&shard.Task{Fn: func() {
		if !w.closed {
			w.eng.receive(from.Addr(), to.Addr(), newICRCPath(from, to), b, int(ident))
			w.eng.received()
		}
	}})
}

func (w *simWire) close() error {
	w.closed = true
	w.detach()
	return nil
}
