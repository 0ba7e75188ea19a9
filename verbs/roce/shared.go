package roce

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/fabrid/fabrid/shard"
)

// Shared is what devices of one shard need in turns only, and so can share: a
// program that opens a thousand of them would pay for it a thousand times. What
// they send goes out together at the end of a round, from one of their sockets
// of each family: peers do not look at the port that it comes from. The zero
// value is ready. It belongs to the shard.
type Shared struct {
	rx      rxRing
	tx      txRing
	mtus    mtuCache
	sockets []*socket
	staging *staging // nil: each sends for itself
	spares  spares
}

// sharedBatch is how many packets a device gathers that shares with others.
const sharedBatch = 32

// join makes the rings for their first user.
func (s *Shared) join(user *socket) error {
	if len(s.sockets) == 0 {
		mem, err := unix.Mmap(-1, 0, rxMessages*rxStride, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return fmt.Errorf("map receive buffers: %w", err)
		}
		s.rx.init(mem)
		s.tx.iovs = make([]unix.Iovec, 0, 6*batchPackets) // a packet has maxSGE+2 at most
	}
	s.sockets = append(s.sockets, user)
	return nil
}

// leave gives the rings back after their last user.
func (s *Shared) leave(user *socket) error {
	if s.staging != nil {
		s.staging.flush()
	}
	if s.sockets = slices.DeleteFunc(s.sockets, func(o *socket) bool { return o == user }); len(s.sockets) > 0 {
		return nil
	}
	mem := s.rx.mem
	s.rx.mem = nil
	return unix.Munmap(mem)
}

// A staging has the packets of many devices, sealed, until the end of a round.
type staging struct {
	shared  *Shared
	shard   *shard.Shard
	flusher shard.Flusher
	again   shard.Task
	trains  []stagedTrain
	bytes   []byte
}

// A stagedTrain is one datagram for the kernel: a packet, or a train of them.
type stagedTrain struct {
	path   *path
	eng    *engine
	lo, hi int // in staging.bytes
	size   int // of a packet
	n      int // packets
}

// mostStaged bounds what is kept for a kernel that takes no more.
const mostStaged = 4 << 20

// gather has those who share send together from now on.
func (s *Shared) gather(sh *shard.Shard) {
	if s.staging == nil {
		g := &staging{shared: s, shard: sh}
		g.flusher.Fn, g.again.Fn = g.flush, g.flush
		s.staging = g
	}
}

// add takes the packets of b, which s would have sent.
func (g *staging) add(s *socket, b *txBatch) {
	for !b.empty() {
		first := &b.pkts[b.sent]
		n := b.train(b.sent, s.gso && !first.path.noTrains, maxIovecs)
		if len(g.bytes) > mostStaged {
			s.eng.stats.DropsSend += uint64(n)
			b.sent += n
			continue
		}
		t := stagedTrain{path: first.path, eng: s.eng, lo: len(g.bytes), size: first.size, n: n}
		for k := range n {
			b.seal(b.sent, k)
			g.bytes = b.bytes(b.sent, g.bytes)
			b.sent++
		}
		t.hi = len(g.bytes)
		g.trains = append(g.trains, t)
	}
	g.shard.Flush(&g.flusher)
}

// flush sends what there is.
func (g *staging) flush() {
	for done := 0; done < len(g.trains); {
		from, n := g.fill(g.trains[done:])
		if n == 0 { // nobody of the family is left
			done++
			continue
		}
		sent, errno := from.sendmmsg(n)
		clear(g.shared.tx.iovs)
		done += sent
		switch {
		case sent == n || errno == 0 || errno == unix.EINTR:
		case errno == unix.EAGAIN || errno == unix.ENOBUFS:
			g.trains = slices.Delete(g.trains, 0, done)
			g.shard.Post(&g.again)
			return
		default: // it never will go: as if it were lost on the way
			t := &g.trains[done]
			t.eng.stats.DropsSend += uint64(t.n)
			if t.n > 1 && refusesTrain(errno) {
				t.path.noTrains = true
			}
			done++
		}
	}
	clear(g.trains)
	g.trains, g.bytes = g.trains[:0], g.bytes[:0]
}

// fill makes messages of the first of trains, which are of one family, and
// returns how many, and a socket to send them from.
func (g *staging) fill(trains []stagedTrain) (from *socket, n int) {
	v6 := trains[0].path.remote.Addr().Is6()
	i := slices.IndexFunc(g.shared.sockets, func(s *socket) bool { return s.v6 == v6 })
	if i < 0 {
		return nil, 0
	}
	t := &g.shared.tx
	t.iovs = t.iovs[:0]
	for ; n < min(len(trains), txMessages) && trains[n].path.remote.Addr().Is6() == v6; n++ {
		p := &trains[n]
		t.iovs = append(t.iovs, unix.Iovec{Base: &g.bytes[p.lo]})
		t.iovs[n].SetLen(p.hi - p.lo)
		t.message(n, &p.path.raw, &t.iovs[n], 1, p.n, p.size)
		if p.n > 1 {
			p.eng.stats.Trains++
		}
	}
	return g.shared.sockets[i], n
}
