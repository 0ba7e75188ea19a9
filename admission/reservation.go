package admission

// Reserve reserves room for up to n I/O queues of the controller cntlid, whose
// admin queue g is for, instead of what it has reserved, and returns for how
// many there is. The room for one came with g; until this call any I/O queue of
// the host's may take it.
func (g *Grant) Reserve(cntlid uint16, n int) int {
	b := g.lock("reserve")
	g.mustLocked(b, "reserve", g.state == holds && g.admin)
	g.giveLocked(g.left)
	g.cntlid = cntlid
	for g.left < n && g.reserveLocked() {
	}
	n = g.left
	in := b.serveLocked() // it may be less than there was
	b.mu.Unlock()
	tell(in)
	return n
}

// Unreserve gives back what g has reserved and nobody has taken: its controller
// has all the queues that it is going to have. It does nothing if g is returned.
func (g *Grant) Unreserve() {
	b := g.lock("unreserve")
	var in *Grant
	if g.state == holds && g.left > 0 {
		g.giveLocked(g.left)
		in = b.serveLocked()
	}
	b.mu.Unlock()
	tell(in)
}

// Reserved returns for how many queues there still is room.
func (g *Grant) Reserved() int {
	b := g.lock("look")
	defer b.mu.Unlock()
	if g.state != holds {
		return 0
	}
	return g.left
}

// reserveLocked reserves one more queue, if there is room.
func (g *Grant) reserveLocked() bool {
	c := charge{Queues: 1, Bytes: g.each}
	if _, ok := g.port.fitsLocked(g.host, c); !ok {
		return false
	}
	g.port.chargeLocked(g.host, c, 1)
	g.left++
	return true
}

// giveLocked gives n of the reserved queues back.
func (g *Grant) giveLocked(n int) {
	g.port.chargeLocked(g.host, charge{Queues: -int64(n), Bytes: -int64(n) * g.each}, -n)
	g.left -= n
}

// TakeReserved charges an I/O queue as Take does, from what the controller
// cntlid of the host has reserved. If the fabric does not say which controller,
// cntlid is zero and any of the host's will do. If nothing is reserved it is
// Take.
func (p *Port) TakeReserved(g *Grant, who Host, cntlid uint16, bytes int64) error {
	b := p.budget
	b.mu.Lock()
	p.beginLocked(g, "take", who, bytes)
	admin := g.host.reservedLocked(p, cntlid)
	if admin != nil {
		admin.giveLocked(1) // and so there is room, unless it is for less
		g.from = admin
	}
	err := p.takeLocked(g)
	if err != nil && admin != nil {
		g.from = nil
		admin.reserveLocked() // nobody has had the room meanwhile
	}
	var in *Grant
	if err == nil && admin != nil {
		in = b.serveLocked() // it may be less than was reserved
	}
	b.mu.Unlock()
	tell(in)
	return err
}

func (h *host) reservedLocked(p *Port, cntlid uint16) *Grant {
	for g := h.admins.First(); g != nil; g = h.admins.Next(g) {
		if g.left > 0 && g.port == p && (cntlid == 0 || g.cntlid == 0 || cntlid == g.cntlid) {
			return g
		}
	}
	return nil
}

// Settle tells whose I/O queue g has become: of the controller with the grant
// admin. If another's reservation was taken for it, because the fabric could not
// know, the two are exchanged; if none was, one of admin's is free now.
func (g *Grant) Settle(admin *Grant) {
	b := g.lock("settle")
	g.mustLocked(b, "settle", g.state == holds)
	var in *Grant
	if from := g.from; from != admin && admin.state == holds && admin.port == g.port && admin.left > 0 {
		admin.giveLocked(1)
		if from != nil && from.state == holds && !from.orphaned {
			from.reserveLocked() // if it is for more than admin's, there may be no room
		}
		g.from = admin
		in = b.serveLocked()
	}
	b.mu.Unlock()
	tell(in)
}
