package admission

// A grantList is grants of a host, in the order in which they came. A grant is in
// one at most.
type grantList struct{ first, last *Grant }

func (l *grantList) push(g *Grant) {
	g.prev, g.next = l.last, nil
	if l.last != nil {
		l.last.next = g
	} else {
		l.first = g
	}
	l.last = g
}

func (l *grantList) remove(g *Grant) {
	if g.prev != nil {
		g.prev.next = g.next
	} else {
		l.first = g.next
	}
	if g.next != nil {
		g.next.prev = g.prev
	} else {
		l.last = g.prev
	}
	g.next, g.prev = nil, nil
}

// A line is the hosts that wait, the next to be served first. A host is at most
// once in it, however many queues it waits for, and goes to the end when it has
// got one.
type line struct{ first, last *host }

func (l *line) join(h *host) {
	if h.inLine {
		return
	}
	h.inLine = true
	h.prev, h.next = l.last, nil
	if l.last != nil {
		l.last.next = h
	} else {
		l.first = h
	}
	l.last = h
}

func (l *line) leave(h *host) {
	if !h.inLine {
		return
	}
	h.inLine = false
	if h.prev != nil {
		h.prev.next = h.next
	} else {
		l.first = h.next
	}
	if h.next != nil {
		h.next.prev = h.prev
	} else {
		l.last = h.prev
	}
	h.next, h.prev = nil, nil
}

// serveLocked gives what room there is to those who wait and returns them, in a
// list, to be told. Whom the target has no room for stays first,
// and nobody overtakes him: little queues would keep large ones out for ever.
// Whom only his own bound or his port's stops is passed over.
func (b *Budget) serveLocked() *Grant {
	var first, last *Grant
	for h := b.line.first; h != nil; {
		after := h.next
		g := h.waiting.first
		if g == nil || g.state != ready {
			// Its first is early: who came before it has not gone yet.
			b.line.leave(h)
			h = after
			continue
		}
		if e, ok := g.port.fitsLocked(h, g.whole()); !ok {
			if e.Scope == OfTarget {
				break
			}
			h = after
			continue
		}
		h.waiting.remove(g)
		b.line.leave(h)
		if next := h.waiting.first; next != nil && next.state == ready {
			b.line.join(h)
			if after == nil {
				after = h
			}
		}
		g.port.chargeLocked(h, charge{Waiting: -1}, 0)
		g.holdLocked()
		if last == nil {
			first = g
		} else {
			last.told = g
		}
		last = g
		h = after
	}
	return first
}
