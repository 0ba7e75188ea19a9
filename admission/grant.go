package admission

import (
	"fmt"

	"github.com/fabrid/fabrid/internal/list"
)

// A Grant is the charge of one queue. Its zero value holds nothing. It is meant
// to be a field of the queue and must not be copied; its owner asks for it with
// Take, TakeReserved or Wait, and returns it once.
type Grant struct {
	port  *Port
	host  *host
	state grantState
	bytes int64

	connecting bool   // counts as such
	orphaned   bool   // its queue is gone, but not all of its memory
	admin      bool   // waited, or waits
	from       *Grant // of an I/O queue: the admin queue that had reserved it, or nil

	// Of an admin queue: what it has reserved; see Reserve.
	cntlid uint16
	left   int
	each   int64

	admitted func()            // to be called when it is granted
	told     *Grant            // who is to be told next
	links    list.Links[Grant] // in one of the host's lists
}

type grantState uint8

const (
	idle  grantState = iota
	early            // waits, and its turn has not come: see Ready
	ready            // waits for room
	holds            // is charged
	spent            // has been returned
)

var stateNames = [...]string{"has been asked for nothing", "waits", "waits", "is held", "has been returned"}

// mustLocked panics, with the budget unlocked, unless ok.
func (g *Grant) mustLocked(b *Budget, op string, ok bool) {
	if !ok {
		state := g.state
		b.mu.Unlock()
		panic(fmt.Sprintf("admission: %s of a grant that %s", op, stateNames[state]))
	}
}

// lock locks the budget of a grant that has asked for something.
func (g *Grant) lock(op string) *Budget {
	if g.port == nil {
		panic(fmt.Sprintf("admission: %s of a grant that %s", op, stateNames[idle]))
	}
	g.port.budget.mu.Lock()
	return g.port.budget
}

// begin makes g one of h's.
func (p *Port) beginLocked(g *Grant, op string, who Host, bytes int64) {
	g.mustLocked(p.budget, op, g.state == idle)
	if bytes < 0 {
		p.budget.mu.Unlock()
		panic(fmt.Sprintf("admission: %s of %d bytes", op, bytes))
	}
	g.port, g.host, g.bytes = p, p.budget.hostLocked(who), bytes
}

// abandonLocked makes g what it was before.
func (g *Grant) abandonLocked(s grantState) {
	g.port.budget.leaveLocked(g.host)
	g.state, g.host, g.admitted = s, nil, nil
}

// whole is what g is charged, or wants to be.
func (g *Grant) whole() charge {
	if g.orphaned {
		return charge{Bytes: g.bytes}
	}
	return charge{Queues: 1 + int64(g.left), Bytes: g.bytes + int64(g.left)*g.each, Connecting: 1}
}

// Take charges a queue of so many bytes to the port and the host, connecting,
// or returns an [*Error] and charges nothing.
func (p *Port) Take(g *Grant, who Host, bytes int64) error {
	p.budget.mu.Lock()
	p.beginLocked(g, "take", who, bytes)
	err := p.takeLocked(g)
	p.budget.mu.Unlock()
	return err
}

func (p *Port) takeLocked(g *Grant) error {
	c := g.whole()
	if g.from != nil {
		c[Connecting] = 0 // its controller is in: the cap is not for it
	}
	if e, ok := p.fitsLocked(g.host, c); !ok {
		g.abandonLocked(idle)
		return &e
	}
	g.holdLocked()
	return nil
}

func (g *Grant) holdLocked() {
	g.state, g.connecting = holds, true
	g.port.chargeLocked(g.host, g.whole(), g.left)
	if g.admin {
		g.host.admins.Push(g)
	}
}

// Wait has an admin queue of so many bytes wait for room for itself and for one
// I/O queue of ioBytes, or returns an [*Error] if too many wait already or if
// there will never be room. [Grant.Ready] opens its turn; admitted is called when it is charged, once, from
// the goroutine whose room it got, which may be the caller of Ready: it must not
// block. [Grant.Cancel] ends the wait.
func (p *Port) Wait(g *Grant, who Host, bytes, ioBytes int64, admitted func()) error {
	p.budget.mu.Lock()
	p.beginLocked(g, "wait", who, bytes)
	err := p.waitLocked(g, ioBytes, admitted)
	p.budget.mu.Unlock()
	return err
}

func (p *Port) waitLocked(g *Grant, ioBytes int64, admitted func()) error {
	g.admin, g.each, g.left = true, ioBytes, 1
	e, ok := p.canFitLocked(g.host, g.whole())
	if ok {
		e, ok = p.fitsLocked(g.host, charge{Waiting: 1})
	}
	if !ok {
		g.admin, g.left = false, 0
		g.abandonLocked(idle)
		return &e
	}
	p.chargeLocked(g.host, charge{Waiting: 1}, 0)
	g.state, g.admitted = early, admitted
	g.host.waiting.Push(g)
	return nil
}

// Ready lets g have room as soon as there is some and it is its turn: nothing
// that was there before it is in its way any more. It does nothing if the wait
// is over.
func (g *Grant) Ready() {
	b := g.lock("ready")
	if g.state != early {
		b.mu.Unlock()
		return
	}
	g.state = ready
	b.line.join(g.host)
	in := b.serveLocked()
	b.mu.Unlock()
	tell(in)
}

// Cancel ends a wait. It returns what is in its way, nil if its turn had not
// come, and whether it did: false means that g is charged, and admitted has been
// or is being called.
func (g *Grant) Cancel() (why error, waited bool) {
	b := g.lock("cancel")
	if g.state != early && g.state != ready {
		b.mu.Unlock()
		return nil, false
	}
	if g.state == ready {
		if e, ok := g.port.fitsLocked(g.host, g.whole()); !ok {
			why = &e
		}
	}
	h := g.host
	h.waiting.Remove(g)
	if next := h.waiting.First(); next == nil {
		b.line.leave(h)
	} else if next.state == ready {
		b.line.join(h)
	}
	g.port.chargeLocked(h, charge{Waiting: -1}, 0)
	g.admin, g.left = false, 0
	g.abandonLocked(idle)
	in := b.serveLocked() // it may have been in somebody's way
	b.mu.Unlock()
	tell(in)
	return why, true
}

// Connected tells that the queue has had a successful Connect command.
func (g *Grant) Connected() {
	b := g.lock("connected")
	g.mustLocked(b, "connected", g.state == holds)
	var in *Grant
	if g.connecting {
		g.connecting = false
		g.port.chargeLocked(g.host, charge{Connecting: -1}, 0)
		in = b.serveLocked()
	}
	b.mu.Unlock()
	tell(in)
}

// Return gives the charge back, and lets in who waits for it. A second call
// panics: somebody else's charge would be given away.
func (g *Grant) Return() {
	b := g.lock("return")
	g.mustLocked(b, "return", g.state == holds)
	c := g.whole()
	if !g.connecting {
		c[Connecting] = 0
	}
	g.port.chargeLocked(g.host, c.negative(), -g.left)
	switch {
	case g.orphaned:
		b.orphaned -= g.bytes
	case g.admin:
		g.host.admins.Remove(g)
	}
	g.abandonLocked(spent)
	in := b.serveLocked()
	b.mu.Unlock()
	tell(in)
}

// Orphan gives back all of the charge but the queue's own bytes: the queue is
// gone, but requests of it that storage has not answered still use its memory.
// Return follows when it has.
func (g *Grant) Orphan() {
	b := g.lock("orphan")
	g.mustLocked(b, "orphan", g.state == holds && !g.orphaned)
	c := g.whole()
	if !g.connecting {
		c[Connecting] = 0
	}
	c[Bytes] -= g.bytes
	g.port.chargeLocked(g.host, c.negative(), -g.left)
	if g.admin {
		g.host.admins.Remove(g)
	}
	g.left, g.connecting, g.orphaned = 0, false, true
	b.orphaned += g.bytes
	in := b.serveLocked()
	b.mu.Unlock()
	tell(in)
}
