package simnet

import (
	"bytes"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"time"
)

// A Link is one direction between two addresses. The zero value carries
// everything at once and in order.
type Link struct {
	Delay time.Duration // from sending, or from the end of the queue, to arrival

	// Rate is in bytes of IP packets per second; zero: no limit.
	Rate int64
	// Queue bounds the bytes that wait for the link, the one being sent
	// included; what finds no room is dropped. Zero: no limit. Without a Rate
	// nothing waits.
	Queue int
	// MTU is the largest IP packet, longer ones are dropped; zero: no limit.
	MTU int

	// Drop scripts losses: it is called for every packet, in the order of
	// sending, with its number on the link from 0 on, and drops those for which
	// it returns true. It must not keep or change b, nor call the Net.
	Drop func(n int, b []byte) bool

	// Probabilities of what chance does to a packet that was not dropped.
	Loss      float64
	Duplicate float64
	Corrupt   float64 // one bit of the datagram is turned
	HoldBack  float64 // it arrives HoldBackBy later, and others overtake it

	// HoldBackBy is by how much packets are held back; zero: by Delay, or a
	// microsecond if there is none.
	HoldBackBy time.Duration
}

// An end is how the way of a packet ended.
type end uint8

const (
	passed end = iota
	dropped
	lost
	tooLong
	overflowed
)

var endNames = [...]string{"", "dropped by script", "lost", "longer than the MTU", "no room in the queue"}

// A fate is what is to become of a packet.
type fate struct {
	end                             end
	number                          int // of the packet on its link
	at                              time.Duration
	duplicated, heldBack, corrupted bool
}

type link struct {
	Link
	direction
	rand *rand.Rand
	sent int           // packets
	seq  int           // arrivals
	free time.Duration // when all that was queued has been sent
}

// newLink seeds the random numbers of a link from its name, so that they do
// not depend on which links there were before.
func newLink(d direction, l Link, seed uint64) *link {
	h := fnv.New64a()
	for _, a := range []netip.Addr{d.from, d.to} {
		b := a.As16()
		h.Write(b[:])
	}
	return &link{Link: l, direction: d, rand: rand.New(rand.NewPCG(seed, h.Sum64()))}
}

func (l *link) nextSeq() int {
	l.seq++
	return l.seq
}

// decide draws the fate of the next packet. It draws as often whatever comes
// of it, so that a packet's chances do not depend on the scripted fate of
// others.
func (l *link) decide(now time.Duration, p *packet) (f fate) {
	f.number = l.sent
	l.sent++
	isLost := l.rand.Float64() < l.Loss
	f.duplicated = l.rand.Float64() < l.Duplicate
	f.corrupted = l.rand.Float64() < l.Corrupt
	f.heldBack = l.rand.Float64() < l.HoldBack

	size := ipHeaderLen(p.from.Addr()) + udpHeaderLen + len(p.b)
	switch {
	case l.Drop != nil && l.Drop(f.number, p.b):
		f.end = dropped
		return f
	case l.MTU > 0 && size > l.MTU:
		f.end = tooLong
		return f
	case isLost:
		f.end = lost
		return f
	}
	f.at = now
	if l.Rate > 0 {
		start := max(now, l.free)
		waiting := int64((start - now).Seconds() * float64(l.Rate))
		if l.Queue > 0 && waiting+int64(size) > int64(l.Queue) {
			f.end = overflowed
			return f
		}
		l.free = start + time.Duration(float64(size)/float64(l.Rate)*float64(time.Second))
		f.at = l.free
	}
	f.at += l.Delay
	if f.heldBack {
		f.at += l.holdBackBy()
	}
	return f
}

func (l *link) holdBackBy() time.Duration {
	switch {
	case l.HoldBackBy > 0:
		return l.HoldBackBy
	case l.Delay > 0:
		return l.Delay
	default:
		return time.Microsecond
	}
}

// damage returns a copy of b with one bit turned.
func (l *link) damage(b []byte) []byte {
	if len(b) == 0 {
		return b
	}
	b = bytes.Clone(b)
	bit := l.rand.IntN(8 * len(b))
	b[bit/8] ^= 1 << (bit % 8)
	return b
}
