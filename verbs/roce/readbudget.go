package roce

import "time"

// A readBudget bounds the RDMA READ responses that are on their way to a device:
// they come unasked-for, and must fit the socket's buffer, beside what else
// comes. It counts what the kernel counts, see readCharge.
type readBudget struct {
	budget  int          // of the buffer's bytes
	out     int          // charged
	waiters []*queuePair // for room in it, first come first served

	// singles is how many of 256 large packets came alone. What comes in trains
	// takes half of the buffer at most, or so it seems until something is lost.
	singles     int
	trainsAfter time.Duration
}

const (
	singlesMax = 256
	// readCare is how long nothing is made of trains after a loss.
	readCare = 10 * time.Second
	// readPartMax bounds what is lost at once, and by how much the window of a path
	// is overrun.
	readPartMax = 64
)

// setReadBudget leaves a quarter of a receive buffer of n bytes to what peers
// send by themselves: capsules, and ACKs. Their WRITEs know a window of theirs.
func (e *engine) setReadBudget(n int) { e.budget = n / 4 * 3 }

// readCharge is what the responses to an RDMA READ of n bytes take of a receive
// buffer at most, if they come in so many packets, each in memory of its own:
// the kernel counts what it has allocated, by powers of two, and its own
// structures.
func readCharge(n, packets int) int { return 2*n + 768*packets }

// readPartOf returns how many packets one RDMA READ request asks for. Two fit
// the budget, so that one is on its way while another is answered.
func readPartOf(budget, mtu int) int {
	return min(max(1, budget/2/readCharge(mtu, 1)), readPartMax)
}

// came takes in that a large packet came, alone or in a train.
func (r *readBudget) came(alone bool) {
	if alone {
		r.singles += (singlesMax - r.singles + 15) / 16
	} else {
		r.singles -= r.singles / 16
	}
}

// limit is what may be charged at time now.
func (r *readBudget) limit(now time.Duration) int {
	if r.singles < singlesMax/4 && now >= r.trainsAfter {
		return 2 * r.budget
	}
	return r.budget
}

// takeReadBudget charges n to q. Without room q waits, behind those that wait
// already; if nothing is on its way any READ may go.
func (e *engine) takeReadBudget(q *queuePair, n int) bool {
	if e.out > 0 && (len(e.waiters) > 0 || n > e.limit(e.shard.Now())-e.out) {
		if !q.waiting {
			q.waiting = true
			e.waiters = append(e.waiters, q)
		}
		return false
	}
	e.out += n
	return true
}

// returnReadBudget takes back n. Those who wait try again in their order, when
// there is room for a part.
func (e *engine) returnReadBudget(n int) {
	e.out -= n
	if len(e.waiters) == 0 || e.out > e.limit(e.shard.Now())-e.budget/2 {
		return
	}
	for i, q := range e.waiters {
		e.waiters[i] = nil
		q.waiting = false
		e.wantSend(q)
	}
	e.waiters = e.waiters[:0]
}

// stopWaiting takes q from those who wait for the budget.
func (e *engine) stopWaiting(q *queuePair) {
	if q.waiting {
		q.waiting = false
		e.waiters = without(e.waiters, q)
	}
}
