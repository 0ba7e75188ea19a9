package target

import (
	"time"

	"github.com/fabrid/fabrid/nvme"
)

// A logPage is what there is to know about a log page.
type logPage struct {
	discovery, io bool // which controllers have it
	build         func(*controller, *request) []byte
}

// logPages is what Get Log Page returns, by LID.
var logPages = [256]logPage{
	nvme.LogError:             {io: true, build: (*controller).errorPage},
	nvme.LogSMART:             {io: true, build: (*controller).smartPage},
	nvme.LogFirmwareSlot:      {io: true, build: (*controller).firmwarePage},
	nvme.LogChangedNamespaces: {io: true, build: (*controller).changedPage},
	nvme.LogEffects:           {io: true, build: (*controller).effectsPage},
	nvme.LogDiscovery:         {discovery: true, build: (*controller).discoveryPage},
}

// logSize checks a Get Log Page.
func (rq *request) logSize() (uint64, error) {
	f, c := rq.r.Command.GetLogPage(), rq.q.ctrl
	p := logPages[f.LID]
	switch {
	case c.isDiscovery() && !p.discovery, !c.isDiscovery() && !p.io:
		return 0, &nvme.FieldError{Status: nvme.InvalidLogPage.WithDNR(), Field: "LID", Offset: nvme.OffLID}
	case f.NSID != 0 && f.NSID != nvme.NSIDBroadcast:
		return 0, invalidField("NSID", offNSID)
	case f.OT:
		return 0, invalidField("OT", nvme.OffLogOT)
	case f.LPO%4 != 0:
		return 0, invalidField("LPO", nvme.OffLPO)
	}
	return f.Length(), nil
}

// getLogPage is Get Log Page. The page is made anew each time, and what it
// says is from one moment; where a host reads it in parts, a generation in it
// tells whether it has changed in between.
func (rq *request) getLogPage() error {
	f, c := rq.r.Command.GetLogPage(), rq.q.ctrl
	if !f.RAE {
		// Before the page is made: what changes after this moment is told.
		c.mu.Lock()
		c.events.logRead(f.LID)
		c.mu.Unlock()
	}
	page := logPages[f.LID].build(c, rq)
	if f.LPO > uint64(len(page)) {
		return invalidField("LPO", nvme.OffLPO)
	}
	rq.reply(page[f.LPO:])
	return nil
}

// Firmware: one slot, which cannot be written.
const (
	firmwareReadOnly = 1
	firmwareSlots    = 1
)

func (c *controller) firmwarePage(*request) []byte {
	l := nvme.FirmwareSlotLog{AFI: 1}
	l.FRS[0] = c.subsystem.target.cfg.Firmware
	return l.AppendTo(nil)
}

// changedPage is the list of the namespaces that have changed since the host
// has last read it.
func (c *controller) changedPage(rq *request) []byte {
	f := rq.r.Command.GetLogPage()
	c.mu.Lock()
	defer c.mu.Unlock()
	page := nvme.AppendChangedNamespaces(nil, c.events.changed)
	if !f.RAE && f.LPO <= uint64(len(page)) {
		c.events.changed = nil
	}
	return page
}

func (c *controller) effectsPage(*request) []byte {
	t := c.subsystem.target
	var l nvme.EffectsLog
	for i := range t.admin {
		l.ACS[i] = t.admin[i].effects
		l.IOCS[i] = t.io[i].effects
	}
	return l.AppendTo(nil)
}

// smartPage says what the subsystem has done since the target was started,
// through all of its controllers.
func (c *controller) smartPage(*request) []byte {
	s := c.subsystem
	sum := s.Stats()
	u := func(n uint64) nvme.Uint128 { return nvme.Uint128{Lo: n} }
	// Data units are thousands of 512 bytes, rounded up.
	units := func(n uint64) nvme.Uint128 { return u((n + 512_000 - 1) / 512_000) }
	l := nvme.SMARTLog{
		AvailableSpare:   100,
		DataUnitsRead:    units(sum.ReadBytes),
		DataUnitsWritten: units(sum.WrittenBytes),
		HostReads:        u(sum.Reads),
		HostWrites:       u(sum.Writes),
		PowerCycles:      u(1),
		PowerOnHours:     u(uint64(time.Since(s.target.started) / time.Hour)),
	}
	c.mu.Lock()
	l.ErrorLogEntries = u(c.errors.count)
	c.mu.Unlock()
	return l.AppendTo(nil)
}
