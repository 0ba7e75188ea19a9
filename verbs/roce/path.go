package roce

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

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

	// inflight is the packets on their way, SENDs and WRITEs that are not
	// acknowledged and READ responses that were asked for; window bounds it.
	inflight, window int
	threshold        int           // what the window was halved to last: it grows slowly beyond
	acked            int           // arrived since the window last grew slowly
	lostBefore       time.Duration // what is lost before is part of the same loss
	lossyUntil       time.Duration // see suspect
	blocked          []*queuePair  // that wait for room

	idents identTrack // of what comes
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
		window: pathWindowStart, threshold: pathWindowMax,
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

// lost shrinks the window, once in a round trip: what is lost at once is lost by
// many queue pairs.
func (p *path) lost(now, rtt time.Duration) {
	p.suspect(now)
	if now < p.lostBefore {
		return
	}
	p.lostBefore = now + rtt
	p.window = max(windowMin, p.window/2)
	p.threshold, p.acked = p.window, 0
}

// grow widens the window for n packets that have arrived: by as many, until it
// is as wide as when something was lost last, then by one for each window.
func (p *path) grow(n int) {
	switch {
	case p.window < p.threshold:
		p.window = min(p.threshold, p.window+n)
	case p.window < pathWindowMax:
		if p.acked += n; p.acked >= p.window {
			p.acked = 0
			p.window++
		}
	}
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

// lossMemory is how long a path that has lost a packet is known for it.
const lossMemory = time.Minute

// suspect takes in that a packet was lost, of either side.
func (p *path) suspect(now time.Duration) { p.lossyUntil = now + lossMemory }

// lossy reports whether packets are lost now and then.
func (p *path) lossy(now time.Duration) bool { return now < p.lossyUntil }
