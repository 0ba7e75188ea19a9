package target

import "github.com/fabrid/fabrid/lockdep"

// Memory of a namespace, for data that stays within it.
const (
	bounceSize = 128 << 10 // bytes of a buffer: a multiple of every block size
	bounceMost = 2         // buffers
)

type bounceMu struct{} // innermost

func (bounceMu) String() string { return "namespace buffers" }

// A bounce is the memory of a namespace through which Copy and Verify read. Who
// finds none waits in a line, first come first served, and goes back to its end
// after every piece, so that a long command does not keep the others waiting. It
// is the namespace's own, because a device that does not answer keeps it.
type bounce struct {
	mu          lockdep.Mutex[bounceMu] // guards below
	made        int
	free        [][]byte
	first, last *request // by steps.behind and steps.ahead
}

// take gives rq a buffer, or puts it in the line. Its turn follows.
func (b *bounce) take(rq *request) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch n := len(b.free); { // while somebody waits nothing is free
	case n > 0:
		rq.steps.buf = b.free[n-1]
		b.free = b.free[:n-1]
		return true
	case b.made < bounceMost:
		b.made++
		rq.steps.buf = make([]byte, bounceSize)
		return true
	}
	rq.stage = stageLine
	b.pushLocked(rq)
	return false
}

func (b *bounce) pushLocked(rq *request) {
	if b.first == nil {
		b.first = rq
	} else {
		b.last.steps.behind, rq.steps.ahead = rq, b.last
	}
	b.last = rq
}

// removeLocked takes rq out of the line, wherever it stands: a host may have made
// that long, and when its queues go down all of it leaves.
func (b *bounce) removeLocked(rq *request) {
	s := rq.steps
	if s.ahead == nil {
		b.first = s.behind
	} else {
		s.ahead.steps.behind = s.behind
	}
	if s.behind == nil {
		b.last = s.ahead
	} else {
		s.behind.steps.ahead = s.ahead
	}
	s.ahead, s.behind = nil, nil
}

// put takes a buffer back. The first in the line gets it, on its own shard.
func (b *bounce) put(buf []byte) {
	for {
		b.mu.Lock()
		rq := b.first
		if rq == nil {
			b.free = append(b.free, buf)
			b.mu.Unlock()
			return
		}
		b.removeLocked(rq)
		rq.steps.buf = buf
		b.mu.Unlock()
		if rq.q.shard().Post(&rq.steps.turn) {
			return
		}
		// Its shard is closed, and it goes nowhere any more.
	}
}

// exchange puts rq at the end of the line, if there is one, and gives its buffer
// to the first.
func (b *bounce) exchange(rq *request) bool {
	b.mu.Lock()
	if b.first == nil {
		b.mu.Unlock()
		return false
	}
	buf := rq.steps.buf
	rq.steps.buf, rq.stage = nil, stageLine
	b.pushLocked(rq)
	b.mu.Unlock()
	b.put(buf)
	return true
}

// leave takes rq out of the line, unless it has been given a buffer meanwhile:
// then its turn comes.
func (b *bounce) leave(rq *request) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if rq != b.first && rq.steps.ahead == nil {
		return false
	}
	b.removeLocked(rq)
	return true
}

// haveBuffer returns whether the request has a buffer now; otherwise its turn
// follows when it has.
func (rq *request) haveBuffer() bool {
	return rq.steps.buf != nil || rq.ns.state.bounce.take(rq)
}

// bufferData returns the first n bytes of the request's buffer, as an op's data.
func (rq *request) bufferData(n uint64) [][]byte {
	rq.steps.data[0] = rq.steps.buf[:n]
	return rq.steps.data[:]
}

// giveWay goes on with the next step when those have had their turn who wait for
// the buffer, or for the shard.
func (rq *request) giveWay() {
	if !rq.ns.state.bounce.exchange(rq) {
		rq.again()
	}
}

// giveBuffer gives the request's buffer back.
func (rq *request) giveBuffer() {
	buf := rq.steps.buf
	rq.steps.buf, rq.steps.data[0] = nil, nil
	rq.ns.state.bounce.put(buf)
}

// leaveLines ends the requests of a queue that is down that wait for a buffer.
// On its shard.
func (q *queue) leaveLines() {
	for _, chunk := range q.requests {
		if chunk == nil {
			continue
		}
		for i := range chunk {
			if rq := &chunk[i]; rq.stage == stageLine && rq.ns.state.bounce.leave(rq) {
				rq.complete(errAborted)
			}
		}
	}
}
