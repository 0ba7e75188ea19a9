package target

import (
	"slices"

	"github.com/fabrid/fabrid/nvme"
)

// adminQueueEntries is ASQSZ: the entries of an admin queue.
const adminQueueEntries = 32

// discoveryPage is the Discovery log of the port that the host came through:
// the discovery subsystem itself, and for each address of the port the
// subsystems that the host may connect to. Entries that the command does not
// read are left zero: hosts ask for the page in parts, as often as they like.
func (c *controller) discoveryPage(rq *request) []byte {
	q, t, p := rq.q, c.subsystem.target, c.port
	t.mu.Lock()
	defer t.mu.Unlock()
	names := make([]string, 0, len(p.subsystems))
	for nqn, s := range p.subsystems {
		if s.allowsLocked(c.hostNQN) {
			names = append(names, nqn)
		}
	}
	slices.Sort(names)
	here := p.reachedLocked(q)
	addresses := p.addressesLocked(q, here)

	n := 1 + len(addresses)*len(names)
	page := make([]byte, nvme.DiscoveryHeaderSize+n*nvme.DiscoveryEntrySize)
	nvme.DiscoveryHeader{GENCTR: t.genctr.Load(), NUMREC: uint64(n)}.AppendTo(page[:0])
	f := rq.r.Command.GetLogPage()
	put := func(i int, nqn string, kind nvme.SubsystemType, a Address) {
		at := uint64(nvme.DiscoveryHeaderSize + i*nvme.DiscoveryEntrySize)
		if at+nvme.DiscoveryEntrySize <= f.LPO || at >= f.LPO && at-f.LPO >= f.Length() {
			return
		}
		e := nvme.DiscoveryEntry{
			TRTYPE: a.TRTYPE, ADRFAM: a.ADRFAM, SUBTYPE: kind,
			TREQ:    nvme.TREQDisableSQFlowOK,
			PORTID:  p.cfg.ID,
			CNTLID:  nvme.CNTLIDDynamic,
			ASQSZ:   adminQueueEntries,
			TRSVCID: a.TRSVCID, SUBNQN: nqn, TRADDR: a.TRADDR, TSAS: a.TSAS,
		}
		e.AppendTo(page[:at]) // in place: there is room
	}
	put(0, c.subsystem.cfg.NQN, nvme.SubsystemCurrentDiscovery, here)
	for i, a := range addresses {
		for j, nqn := range names {
			put(1+i*len(names)+j, nqn, nvme.SubsystemNVM, a)
		}
	}
	return page
}

// addressesLocked returns the port's addresses as they are told the host of q,
// which has reached here: each once, also if two stand for that one.
func (p *Port) addressesLocked(q *queue, here Address) []Address {
	if len(p.cfg.Addresses) == 0 {
		return []Address{here}
	}
	var all []Address
	for _, a := range p.cfg.Addresses {
		if a = a.reached(q.param.Limits, q.param.Local); !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	return all
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
