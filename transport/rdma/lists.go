package rdma

import "sync/atomic"

// A countedInt is owned by a shard and read by anybody.
type countedInt = atomic.Int64

// A requestList is a line of requests, linked through themselves. A request is
// in one list at most; its state says in which.
type requestList struct{ head, tail *request }

func (l *requestList) push(r *request) {
	r.next = nil
	if l.tail == nil {
		l.head = r
	} else {
		l.tail.next = r
	}
	l.tail = r
}

func (l *requestList) pushFront(r *request) {
	if r.next = l.head; l.head == nil {
		l.tail = r
	}
	l.head = r
}

func (l *requestList) pop() *request {
	r := l.head
	if r == nil {
		return nil
	}
	if l.head = r.next; l.head == nil {
		l.tail = nil
	}
	r.next = nil
	return r
}

// remove takes r out of the middle. It is for exits, not for the hot path.
func (l *requestList) remove(r *request) {
	var before *request
	for x := l.head; x != nil; before, x = x, x.next {
		if x != r {
			continue
		}
		if before == nil {
			l.head = x.next
		} else {
			before.next = x.next
		}
		if l.tail == x {
			l.tail = before
		}
		x.next = nil
		return
	}
}

// A receiveList is a line of receives, linked as requests are.
type receiveList struct {
	head, tail *receive
	len        int
}

func (l *receiveList) push(rc *receive) {
	rc.next = nil
	if l.tail == nil {
		l.head = rc
	} else {
		l.tail.next = rc
	}
	l.tail = rc
	l.len++
}

func (l *receiveList) pop() *receive {
	rc := l.head
	if rc == nil {
		return nil
	}
	if l.head = rc.next; l.head == nil {
		l.tail = nil
	}
	rc.next = nil
	l.len--
	return rc
}
