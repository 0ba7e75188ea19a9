package loop

import (
	"sync/atomic"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
)

// A slot is the place of one command, and its CID. It has one owner at a time:
// the host's end, or the target's, from when it is handed over until it is
// handed back. next is for the list that its owner has it in.
type slot struct {
	conn *conn
	next *slot

	// Written by the host's end.
	req     *transport.HostRequest
	command [nvme.CommandSize]byte
	inline  []byte // room for in-capsule data
	data    []byte // of req: what the SGL describes

	// Written by the target's end.
	r     transport.Request
	pages [][]byte // of the pool
	lent  [][]byte // r.Data: a list of the core's own, to do with as it likes
	want  int      // bytes that it waits for
	waits bool     // in the list of the pool
	pull  bool     // it waits in order to be filled from the host
}

// lend gives the core the pages of s.
func (s *slot) lend() {
	s.lent = append(s.lent[:0], s.pages...)
	s.r.Data = s.lent
}

// A slotList is a first-in-first-out list.
type slotList struct{ first, last *slot }

func (l *slotList) push(s *slot) {
	s.next = nil
	if l.last == nil {
		l.first = s
	} else {
		l.last.next = s
	}
	l.last = s
}

func (l *slotList) pop() *slot {
	s := l.first
	if s == nil {
		return nil
	}
	l.first, s.next = s.next, nil
	if l.first == nil {
		l.last = nil
	}
	return s
}

// take empties the list and returns its first.
func (l *slotList) take() *slot {
	s := l.first
	*l = slotList{}
	return s
}

// remove takes s out, wherever it is.
func (l *slotList) remove(s *slot) {
	var prev *slot
	for at := l.first; at != nil; prev, at = at, at.next {
		if at != s {
			continue
		}
		if prev == nil {
			l.first = s.next
		} else {
			prev.next = s.next
		}
		if l.last == s {
			l.last = prev
		}
		s.next = nil
		return
	}
}

// A mailbox takes lists of slots from one shard to another. It has one sender
// and one receiver. Newest first: whole batches are pushed and taken.
type mailbox struct{ head atomic.Pointer[slot] }

// put hands over a list, of which it takes the links.
func (m *mailbox) put(first *slot) {
	// Turned around, so that the newest comes first.
	last := first
	var newest *slot
	for s := first; s != nil; {
		next := s.next
		s.next = newest
		newest, s = s, next
	}
	for {
		h := m.head.Load()
		last.next = h
		if m.head.CompareAndSwap(h, newest) {
			return
		}
	}
}

// get returns what has arrived, oldest first.
func (m *mailbox) get() *slot {
	var oldest *slot
	for s := m.head.Swap(nil); s != nil; {
		next := s.next
		s.next = oldest
		oldest, s = s, next
	}
	return oldest
}
