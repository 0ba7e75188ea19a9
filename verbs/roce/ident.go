package roce

import "time"

// An identTrack follows the IPv4 Identifications of what a peer sends on a path.
// The ICRC covers them, and a socket does not show them: one that is solved for
// would explain any damage, if all 65,536 were as good (see icrc.go). A peer
// counts its packets, so that the next is near the last; Linux adds a random
// number up to the jiffies since, and may count other packets to us.
//
// One that is not near is no proof of damage: the packet is dropped, and comes
// again. If the next of that queue pair is near it, the peer has jumped, or
// counts for each queue pair, and has to be followed. A peer that does not count
// at all is found out soon, and taken as it is.
type identTrack struct {
	last  uint16
	at    time.Duration // of last
	known bool

	far  int // goes up for each that is not near, and down for others
	free bool
}

const (
	// identNear is how far from the last the next may be, in either direction:
	// more than the packets on their way that are lost, or overtaken.
	identNear = 1024
	// identPerMs is how much farther for each millisecond that there was none. A
	// jiffy is no less, and others may send as well.
	identPerMs = 8

	identFar  = 64
	identFree = 8 * identFar // so many jumps within a few hundred packets
)

type identVerdict uint8

const (
	identGood   identVerdict = iota
	identJumped              // not near, but good
	identBad
)

// accept judges ident, which makes the ICRC right, of a packet to a queue pair
// the last to which, good or not, had was.
func (t *identTrack) accept(ident, was uint16, now time.Duration) identVerdict {
	v := identGood
	switch {
	case !t.known || identsNear(t.last, ident, int((now-t.at)/time.Millisecond)):
		t.far = max(t.far-1, 0)
	case t.free || identsNear(was, ident, 0):
		v = identJumped
	default:
		if t.far += identFar; t.far < identFree {
			return identBad
		}
		t.free, v = true, identJumped
	}
	t.is(ident, now)
	return v
}

// is notes the Identification of a packet that is good.
func (t *identTrack) is(ident uint16, now time.Duration) {
	t.last, t.at, t.known = ident, now, true
}

// identsNear reports whether b may follow a after ms.
func identsNear(a, b uint16, ms int) bool {
	d := int(int16(b - a))
	return max(d, -d) <= identNear+min(ms, 1<<15)*identPerMs
}
