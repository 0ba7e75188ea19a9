package roce

import "time"

// Bounds of the retransmission timer. It follows the measured round trip, so
// that it does not depend on what the peer's device claims for itself, and
// runs whatever the timeout that was agreed: a peer that wants none would keep
// for ever what is charged for it.
const (
	rtoMin   = 100 * time.Millisecond
	rtoStart = 250 * time.Millisecond
	rtoMax   = 4 * time.Second

	// ptoMin is when one packet is sent again, if nothing is heard, at the earliest.
	ptoMin = 5 * time.Millisecond

	// stallMemory is how long a peer is known to stop at times.
	stallMemory = 30 * time.Second
)

// A roundTrip measures how long answers take, and how long to wait for one. rto:
// the mean and four times the mean deviation (RFC 6298), but no less than a peer
// has stopped for of late. A virtual machine stops for longer than any
// deviation of its round trips lets expect, and always comes back: what was
// sent again meanwhile was noise. pto, which comes before and costs one packet:
// twice that without the bounds, 0 if nothing was measured.
type roundTrip struct {
	rto, pto, srtt, rttvar time.Duration

	timing   bool // a packet that was sent is timed
	timedPSN PSN
	timedAt  time.Duration

	again         time.Duration // when the timer last had it sent again; 0: it has not
	silence       time.Duration // when the peer was last heard before that
	stall         time.Duration // the longest of late
	stalledBefore time.Duration // when it is forgotten
}

// time has the round trip measured of what is sent now, PSN p.
func (t *roundTrip) time(p PSN, now time.Duration) {
	if !t.timing {
		t.timing, t.timedPSN, t.timedAt = true, p, now
	}
}

// answered takes in that everything before una is acknowledged.
func (t *roundTrip) answered(una PSN, now time.Duration) {
	if t.again != 0 {
		// What was sent again is answered as soon as anything is. If it took longer,
		// or not as long, this is the answer to what was sent at first.
		d, usual := now-t.again, t.srtt
		t.again = 0
		switch {
		case usual == 0:
			t.measured(d) // better than nothing, where all is lost at first
		case 2*d < usual || d > 8*usual+stallLeast:
			t.stall, t.stalledBefore = max(t.stall, min(now-t.silence, rtoMax)), now+stallMemory
		}
	} else {
		if !t.timing || una.Sub(t.timedPSN) <= 0 {
			return
		}
		t.timing = false
		t.measured(now - t.timedAt)
	}
	if now >= t.stalledBefore {
		t.stall = 0
	}
	wait := t.srtt + 4*t.rttvar
	t.rto = min(max(rtoMin, wait, t.stall*3/2), rtoMax)
	t.pto = min(max(ptoMin, 2*wait), t.rto/2)
}

func (t *roundTrip) measured(rtt time.Duration) {
	if t.srtt == 0 {
		t.srtt, t.rttvar = rtt, rtt/2
		return
	}
	d := rtt - t.srtt
	t.srtt += d / 8
	t.rttvar += (max(d, -d) - t.rttvar) / 4
}

// stallLeast is what is not told from a round trip.
const stallLeast = 2 * time.Millisecond

// expired takes in that nothing was answered in time; the peer was last heard at
// progress.
func (t *roundTrip) expired(now, progress time.Duration) {
	t.rto = min(2*t.rto, rtoMax)
	if t.again == 0 {
		t.silence = progress
	}
	t.again = now
}
