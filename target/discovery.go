package target

import (
	"slices"

	"github.com/fabrid/fabrid/nvme"
)

// adminQueueEntries is ASQSZ: the entries of an admin queue.
const adminQueueEntries = 32

// discoveryPage is the Discovery log of the port that the host came through:
// the discovery subsystem itself, and for each address of the port the
// subsystems that the host may connect to.
func (c *controller) discoveryPage(rq *request) []byte {
	q, t, p := rq.q, c.subsystem.target, c.port
	t.mu.Lock()
	defer t.mu.Unlock()
	log := nvme.DiscoveryLog{GENCTR: t.genctr.Load()}
	add := func(s *Subsystem, kind nvme.SubsystemType, a Address) {
		e := nvme.DiscoveryEntry{
			TRTYPE: a.TRTYPE, ADRFAM: a.ADRFAM, SUBTYPE: kind,
			TREQ:    nvme.TREQDisableSQFlowOK,
			PORTID:  p.cfg.ID,
			CNTLID:  nvme.CNTLIDDynamic,
			ASQSZ:   adminQueueEntries,
			TRSVCID: a.TRSVCID, SUBNQN: s.cfg.NQN, TRADDR: a.TRADDR, TSAS: a.TSAS,
		}
		if !slices.Contains(log.Entries, e) { // two that stand for the one reached
			log.Entries = append(log.Entries, e)
		}
	}
	names := make([]string, 0, len(p.subsystems))
	for nqn, s := range p.subsystems {
		if s.allowsLocked(c.hostNQN) {
			names = append(names, nqn)
		}
	}
	slices.Sort(names)
	add(c.subsystem, nvme.SubsystemCurrentDiscovery, p.reachedLocked(q))
	for _, a := range p.cfg.Addresses {
		for _, nqn := range names {
			add(p.subsystems[nqn], nvme.SubsystemNVM, a.reached(q.param.Limits, q.param.Local))
		}
	}
	if len(p.cfg.Addresses) == 0 {
		for _, nqn := range names {
			add(p.subsystems[nqn], nvme.SubsystemNVM, p.reachedLocked(q))
		}
	}
	return log.AppendTo(nil)
}

// reachedLocked returns the address by which q came: that one of the port's
// which fits, for what only the operator knows of it, with what the fabric
// says in it.
func (p *Port) reachedLocked(q *queue) Address {
	l, local := q.param.Limits, q.param.Local
	here := Address{TRTYPE: l.Type, ADRFAM: l.AdrFam}.reached(l, local)
	for _, a := range p.cfg.Addresses {
		if r := a.reached(l, local); r.TRTYPE == l.Type && (!local.IsValid() || r.TRADDR == here.TRADDR && r.TRSVCID == here.TRSVCID) {
			return r
		}
	}
	return here
}
