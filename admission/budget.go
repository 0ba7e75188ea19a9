package admission

import (
	"fmt"

	"github.com/fabrid/fabrid/internal/list"
	"github.com/fabrid/fabrid/lockdep"
)

// Config is the bounds of a budget.
type Config struct {
	Target Limits // for all
	Host   Limits // for each host
}

type budgetMu struct{} // innermost

// A Budget is what may exist. It may be used from any goroutine, and so may its
// ports and grants.
type Budget struct {
	cfg Config

	mu    lockdep.Mutex[budgetMu] // guards below and all that is charged
	total account
	most  Usage // of each resource, what there was at most
	hosts map[Host]*host
	line  line

	orphaned int64 // of total's bytes: see Grant.Orphan
}

// New returns a budget with nothing charged to it.
func New(cfg Config) *Budget {
	return &Budget{cfg: cfg, total: account{limits: cfg.Target}, hosts: make(map[Host]*host)}
}

// A Port is the part of a budget that is behind one port.
type Port struct {
	budget  *Budget
	account account
}

// NewPort returns a port with bounds of its own.
func (b *Budget) NewPort(l Limits) *Port {
	return &Port{budget: b, account: account{scope: OfPort, limits: l}}
}

// Stats is what is charged now, and what was at most.
type Stats struct {
	Limits Limits `json:"-"`
	Used   Usage  `json:"used"`
	Most   Usage  `json:"most"`
	Hosts  int    `json:"hosts"` // that are charged something or wait
	// OrphanedBytes is what of the bytes is of queues that are gone, while storage
	// still has requests of theirs.
	OrphanedBytes int64 `json:"orphaned_bytes"`
}

// Stats returns what is charged to the whole budget.
func (b *Budget) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Stats{Limits: b.cfg.Target, Used: b.total.usage(), Most: b.most, Hosts: len(b.hosts), OrphanedBytes: b.orphaned}
}

// Used returns what is charged to the port.
func (p *Port) Used() Usage {
	p.budget.mu.Lock()
	defer p.budget.mu.Unlock()
	return p.account.usage()
}

// A host is one who is charged something, or waits.
type host struct {
	account
	key     Host
	grants  int              // that it has or waits for: it is forgotten with the last
	admins  grantList        // that it has
	waiting grantList        // whose turn has come or comes
	links   list.Links[host] // in the line
	inLine  bool
}

// hostLocked returns the host that k names, known or new. Who asks counts
// himself in its grants.
func (b *Budget) hostLocked(k Host) *host {
	h := b.hosts[k]
	if h == nil {
		h = &host{key: k, account: account{scope: OfHost, limits: b.cfg.Host}}
		b.hosts[k] = h
	}
	h.grants++
	return h
}

func (b *Budget) leaveLocked(h *host) {
	if h.grants--; h.grants == 0 {
		delete(b.hosts, h.key)
	}
}

// fitsLocked reports whether c passes no bound in any scope, or which. The widest
// comes first: it tells most of what is wrong.
func (p *Port) fitsLocked(h *host, c charge) (Error, bool) {
	for _, a := range [...]*account{&p.budget.total, &p.account, &h.account} {
		if e, ok := a.fits(c); !ok {
			return e, false
		}
	}
	return Error{}, true
}

// canFitLocked reports whether c would pass no bound if nothing else were
// charged, or which.
func (p *Port) canFitLocked(h *host, c charge) (Error, bool) {
	for _, a := range [...]account{p.budget.total, p.account, h.account} {
		a.used = charge{}
		if e, ok := a.fits(c); !ok {
			return e, false
		}
	}
	return Error{}, true
}

// chargeLocked charges c in all scopes. It has been checked to fit.
func (p *Port) chargeLocked(h *host, c charge, reserved int) {
	b := p.budget
	b.total.add(c, reserved)
	p.account.add(c, reserved)
	h.add(c, reserved)
	u := b.total.usage()
	b.most = Usage{
		Queues: max(b.most.Queues, u.Queues), Bytes: max(b.most.Bytes, u.Bytes),
		Connecting: max(b.most.Connecting, u.Connecting), Waiting: max(b.most.Waiting, u.Waiting),
		Reserved: max(b.most.Reserved, u.Reserved),
	}
	if l := b.total.limits; l.Queues > 0 && u.Queues > l.Queues || l.Bytes > 0 && u.Bytes > l.Bytes {
		panic(fmt.Sprintf("admission: %+v charged, limits %+v", u, l))
	}
}

// tell calls those who have been let in, with nothing locked.
func tell(in *Grant) {
	for in != nil {
		g := in
		in, g.told = g.told, nil
		g.admitted()
	}
}
