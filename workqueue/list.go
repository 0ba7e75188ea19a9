package workqueue

// links are a thing's place in a list. A thing is in one list at most; which
// one, if any, is a state of the thing that its owner keeps.
type links[T any] struct{ prev, next *T }

// A node is a thing that carries its own links, so that lists allocate nothing.
type node[T any] interface {
	*T
	place() *links[T]
}

// A list is a first-in-first-out list of nodes. The zero value is empty.
type list[T any, P node[T]] struct {
	first, last P
	length      int
}

func (l *list[T, P]) push(x P) {
	*x.place() = links[T]{prev: l.last}
	if l.last == nil {
		l.first = x
	} else {
		l.last.place().next = x
	}
	l.last = x
	l.length++
}

// remove takes out x, which must be in l.
func (l *list[T, P]) remove(x P) {
	at := *x.place()
	if at.prev == nil {
		l.first = at.next
	} else {
		P(at.prev).place().next = at.next
	}
	if at.next == nil {
		l.last = at.prev
	} else {
		P(at.next).place().prev = at.prev
	}
	*x.place() = links[T]{}
	l.length--
}
