package roce

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/fabrid/fabrid/verbs"
)

// Bounds of the packets in flight on a path, over all of its queue pairs: what
// arrives at once must fit the peer's socket buffer, and the queues on the
// way, which hold a thousand packets where nobody has changed them.
const (
	pathWindowStart = 256
	pathWindowMax   = 512
)

// A path is one way from an address of ours to a peer: what all packets on it
// have in common. Queue pairs share it, so that their packets can share a
// train.
type path struct {
	eng           *engine
	local, remote netip.AddrPort
	icrc          icrcPath
	raw           rawPath // the same, as the socket wants it
	noTrains      bool    // the kernel has refused one
	refs          int     // queue pairs

	// inflight is the packets sent and not acknowledged; window bounds it.
	inflight, window int
	blocked          []*queuePair // that wait for room
}

type pathKey struct{ local, remote netip.Addr }

// pathTo returns the path that p describes, to be released.
func (e *engine) pathTo(p verbs.Path) (*path, error) {
	key := pathKey{plainAddr(p.Local), p.Remote.Unmap()}
	if w := e.paths[key]; w != nil {
		w.refs++
		return w, nil
	}
	if !key.local.IsValid() || !key.remote.IsValid() || key.local.Is4() != key.remote.Is4() || key.local.IsUnspecified() || key.remote.IsUnspecified() || key.remote.IsMulticast() {
		return nil, fmt.Errorf("roce: no path from %v to %v", p.Local, p.Remote)
	}
	w := &path{
		eng:    e,
		local:  netip.AddrPortFrom(key.local, e.dev.port),
		remote: netip.AddrPortFrom(key.remote, e.dev.port),
		refs:   1,
		window: pathWindowStart,
	}
	w.icrc = newICRCPath(w.local, w.remote)
	w.raw = newRawPath(w.local.Addr(), w.remote)
	e.paths[key] = w
	return w, nil
}

func (e *engine) releasePath(p *path) {
	if p.refs--; p.refs == 0 {
		delete(e.paths, pathKey{p.local.Addr(), p.remote.Addr()})
	}
}

// room reports whether q may send a packet more; if not, it is woken when it
// may.
func (p *path) room(q *queuePair) bool {
	if p.inflight < p.window {
		return true
	}
	if !q.blocked {
		q.blocked = true
		p.blocked = append(p.blocked, q)
	}
	return false
}

// land takes n packets off those in flight.
func (p *path) land(n int) {
	p.inflight -= n
	if len(p.blocked) == 0 || p.inflight >= p.window {
		return
	}
	for i, q := range p.blocked {
		p.blocked[i] = nil
		q.blocked = false
		p.eng.wantSend(q)
	}
	p.blocked = p.blocked[:0]
}

func (p *path) unblock(q *queuePair) {
	if q.blocked {
		q.blocked = false
		p.blocked = without(p.blocked, q)
	}
}

func without(list []*queuePair, q *queuePair) []*queuePair {
	return slices.DeleteFunc(list, func(x *queuePair) bool { return x == q })
}
