package admission

import "github.com/fabrid/fabrid/internal/list"

// A grantList is grants of a host, in the order in which they came. A grant is in
// one at most.
type grantList = list.List[Grant, grantPlace]

type grantPlace struct{}

func (grantPlace) Links(g *Grant) *list.Links[Grant] { return &g.links }

// A line is the hosts that wait, the next to be served first. A host is at most
// once in it, however many queues it waits for, and goes to the end when it has
// got one.
type line struct {
	hosts list.List[host, hostPlace]
}

type hostPlace struct{}

func (hostPlace) Links(h *host) *list.Links[host] { return &h.links }

func (l *line) join(h *host) {
	if !h.inLine {
		h.inLine = true
		l.hosts.Push(h)
	}
}

func (l *line) leave(h *host) {
	if h.inLine {
		h.inLine = false
		l.hosts.Remove(h)
	}
}

// serveLocked gives what room there is to those who wait and returns them, in a
// list, to be told. Whom the target has no room for stays first, and nobody
// overtakes him: little queues would keep large ones out for ever. Whom only his
// own bound or his port's stops is passed over.
func (b *Budget) serveLocked() *Grant {
	var first, last *Grant
	for h := b.line.hosts.First(); h != nil; {
		after := b.line.hosts.Next(h)
		g := h.waiting.First()
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
		h.waiting.Remove(g)
		b.line.leave(h)
		if next := h.waiting.First(); next != nil && next.state == ready {
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
