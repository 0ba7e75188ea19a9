package roce

import (
	"fmt"
	"math/rand/v2"
)

// A queue pair number is a slot of the table and a generation that grows each
// time the slot is used, from a random start: a number rests long before it
// comes back, and a restarted process does not begin with the numbers of the
// one before.
const (
	slotBits = 16
	maxSlots = 1 << slotBits
	slotMask = maxSlots - 1
	// The first slots are not used, so that no number is one of the well-known
	// 0 and 1; nor is the last, of the multicast number.
	firstSlot = 2
	lastSlot  = maxSlots - 2
)

// A qpTable finds queue pairs by number.
type qpTable struct {
	slots []*queuePair
	gens  []uint8
	free  []uint32 // slots, the one free for the longest first
	count int
}

func (t *qpTable) init() {
	t.slots = make([]*queuePair, firstSlot, 64)
	t.gens = make([]uint8, firstSlot, 64)
}

func (t *qpTable) get(qpn uint32) *queuePair {
	i := qpn & slotMask
	if int(i) >= len(t.slots) {
		return nil
	}
	if q := t.slots[i]; q != nil && q.num == qpn {
		return q
	}
	return nil
}

// add gives q its number.
func (t *qpTable) add(q *queuePair) error {
	// Slots rest too, as long as there are new ones.
	const rest = 256
	var i uint32
	switch {
	case len(t.free) > rest || len(t.slots) > lastSlot && len(t.free) > 0:
		i = t.free[0]
		t.free = t.free[1:]
	case len(t.slots) <= lastSlot:
		i = uint32(len(t.slots))
		t.slots = append(t.slots, nil)
		t.gens = append(t.gens, uint8(rand.Uint32()))
	default:
		return fmt.Errorf("roce: all %d queue pairs are in use", t.count)
	}
	t.gens[i]++
	q.num = uint32(t.gens[i])<<slotBits | i
	t.slots[i] = q
	t.count++
	return nil
}

func (t *qpTable) remove(q *queuePair) {
	i := q.num & slotMask
	t.slots[i] = nil
	t.free = append(t.free, i)
	t.count--
}

// removeQP forgets q, and gives back its part of what it used.
func (e *engine) removeQP(q *queuePair) {
	e.qps.remove(q)
	q.sendCQ.users--
	q.recvCQ.users--
	if q.srq != nil {
		q.srq.users--
	}
	q.pd.release()
	e.spares.putQP(q)
}
