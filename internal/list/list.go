// Package list is doubly linked lists of things that carry their own links:
// adding, removing and walking need no memory.
package list

// Links are a thing's place in a list. A thing is in one list by them at most;
// which one, if any, is a state of the thing that its owner keeps.
type Links[T any] struct{ prev, next *T }

// A Place says where in a thing its links for a list are. It is a type without
// content, so that a thing can have several, and needs no method of its own.
type Place[T any] interface {
	Links(*T) *Links[T]
}

// A List is things in the order in which they came. The zero value is empty.
type List[T any, P Place[T]] struct {
	first, last *T
	length      int
}

// Len returns how many things are in the list.
func (l *List[T, P]) Len() int { return l.length }

// First returns the thing that came first, nil if there is none.
func (l *List[T, P]) First() *T { return l.first }

// Next returns the thing that came after x, which must be in the list; nil after
// the last.
func (l *List[T, P]) Next(x *T) *T {
	var p P
	return p.Links(x).next
}

// Push adds x, which must be in no list by these links.
func (l *List[T, P]) Push(x *T) {
	var p P
	*p.Links(x) = Links[T]{prev: l.last}
	if l.last == nil {
		l.first = x
	} else {
		p.Links(l.last).next = x
	}
	l.last = x
	l.length++
}

// Remove takes out x, which must be in the list.
func (l *List[T, P]) Remove(x *T) {
	var p P
	at := *p.Links(x)
	if at.prev == nil {
		l.first = at.next
	} else {
		p.Links(at.prev).next = at.next
	}
	if at.next == nil {
		l.last = at.prev
	} else {
		p.Links(at.next).prev = at.prev
	}
	*p.Links(x) = Links[T]{}
	l.length--
}
