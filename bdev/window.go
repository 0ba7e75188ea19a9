package bdev

import (
	"math/bits"

	"golang.org/x/sys/unix"
)

// windowSize is how many ops of a file device are looked at together: under
// way, or waiting for one that is. The others wait in a line before it.
const windowSize = 256

// A window decides which ops may be under way together. Two that overlap, one
// of which changes the bytes, may not: no file system keeps a reader from
// seeing half of a logical block that is being written. They are done in the
// order of their submission, each as a whole; all others in any order.
type window struct {
	slots [windowSize]slot
	used  slotSet
	free  []uint8 // last freed first: their memory is warm

	first, last *Op // the line before the window, by Op.Next and Op.prev
}

// A slotSet is a set of indices of slots.
type slotSet [windowSize / 64]uint64

func (s *slotSet) add(i uint8)    { s[i/64] |= 1 << (i % 64) }
func (s *slotSet) remove(i uint8) { s[i/64] &^= 1 << (i % 64) }

// A slot is what a file device keeps for an op in the window. The window's
// fields are guarded by the device's lock; the others belong to whoever
// carries the op out.
type slot struct {
	op    *Op
	index uint8
	next  *slot // of a list of slots that may start, or of those that workers are to do

	waitsFor int     // slots that must be left first
	blocks   slotSet // slots that wait for this

	moved   uint64       // bytes of op.Data that are done
	iov     []unix.Iovec // what is being moved, of op.Data; in room if it is little
	room    [4]unix.Iovec
	bounced bool // iov is the slot's bounce buffer instead
}

func (w *window) init() {
	w.free = make([]uint8, windowSize)
	for i := range w.slots {
		w.slots[i].index = uint8(i)
		w.free[windowSize-1-i] = uint8(i)
	}
}

// enter takes op in. It returns its slot if it may start, or nil: leave will
// return it.
func (w *window) enter(op *Op) *slot {
	if len(w.free) == 0 {
		op.Next, op.prev = nil, w.last
		if w.last == nil {
			w.first = op
		} else {
			w.last.Next = op
		}
		w.last = op
		return nil
	}
	i := w.free[len(w.free)-1]
	w.free = w.free[:len(w.free)-1]
	s := &w.slots[i]
	s.op, op.slot = op, s
	s.moved, s.next = 0, nil
	if op.Kind != Flush {
		for word, set := range w.used {
			for ; set != 0; set &= set - 1 {
				o := &w.slots[word*64+bits.TrailingZeros64(set)]
				if conflict(o.op, op) {
					o.blocks.add(i)
					s.waitsFor++
				}
			}
		}
	}
	w.used.add(i)
	if s.waitsFor > 0 {
		return nil
	}
	return s
}

// leave takes s's op out. It returns the slots that may start now, by slot.next.
func (w *window) leave(s *slot) (ready *slot) {
	end := &ready
	w.used.remove(s.index)
	for word, set := range s.blocks {
		for ; set != 0; set &= set - 1 {
			o := &w.slots[word*64+bits.TrailingZeros64(set)]
			if o.waitsFor--; o.waitsFor == 0 {
				*end, end = o, &o.next
			}
		}
	}
	s.blocks = slotSet{}
	s.op.slot, s.op = nil, nil
	w.free = append(w.free, s.index)
	if op := w.first; op != nil {
		w.leaveLine(op)
		if s := w.enter(op); s != nil {
			*end = s
		}
	}
	return ready
}

// leaveLine takes op out of the line before the window, and reports whether it
// was there. It does not look for it: the line may be as long as all hosts make it.
func (w *window) leaveLine(op *Op) bool {
	if op != w.first && op.prev == nil {
		return false
	}
	if op.prev == nil {
		w.first = op.Next
	} else {
		op.prev.Next = op.Next
	}
	if op.Next == nil {
		w.last = op.prev
	} else {
		op.Next.prev = op.prev
	}
	op.Next, op.prev = nil, nil
	return true
}

// waitNoMore has s, which waits for others, wait for none.
func (w *window) waitNoMore(s *slot) {
	s.waitsFor = 0
	for i := range w.slots {
		w.slots[i].blocks.remove(s.index)
	}
}

func (k Kind) changes() bool { return k == Write || k == WriteZeroes || k == Deallocate }

func conflict(a, b *Op) bool {
	return (a.Kind.changes() || b.Kind.changes()) && a.Offset < b.Offset+b.Length && b.Offset < a.Offset+a.Length && a.Kind != Flush
}
