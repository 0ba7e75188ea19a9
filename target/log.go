package target

import (
	"time"

	"github.com/fabrid/fabrid/nvme"
)

// A logPage is what there is to know about a log page.
type logPage struct {
	discovery, io bool // which controllers have it
	csi           bool // there is one for each I/O command set
	build         func(*controller, *request) []byte
}

// logPages is what Get Log Page returns, by LID. It is reached through the target:
// what it says of itself is one of them.
var logPages = [256]logPage{
	nvme.LogSupportedPages:    {io: true, discovery: true, build: (*controller).supportedPage},
	nvme.LogError:             {io: true, build: (*controller).errorPage},
	nvme.LogSMART:             {io: true, build: (*controller).smartPage},
	nvme.LogFirmwareSlot:      {io: true, build: (*controller).firmwarePage},
	nvme.LogChangedNamespaces: {io: true, build: (*controller).changedPage},
	nvme.LogEffects:           {io: true, csi: true, build: (*controller).effectsPage},
	nvme.LogFeatureEffects:    {io: true, discovery: true, build: (*controller).featureEffectsPage},
	nvme.LogMIEffects:         {io: true, discovery: true, build: (*controller).miEffectsPage},
	nvme.LogDiscovery:         {discovery: true, build: (*controller).discoveryPage},
}

// of reports whether a controller has the log page.
func (p *logPage) of(c *controller) bool {
	if c.isDiscovery() {
		return p.discovery
	}
	return p.io
}

// logSize checks a Get Log Page [Base, Get Log Page command].
func (rq *request) logSize() (uint64, error) {
	f, c := rq.r.Command.GetLogPage(), rq.q.ctrl
	p := &c.subsystem.target.logs[f.LID]
	switch {
	case !p.of(c):
		return 0, &nvme.FieldError{Status: nvme.InvalidLogPage.WithDNR(), Field: "LID", Offset: nvme.OffLID}
	case p.csi && f.CSI != nvme.CSINVM:
		return 0, &nvme.FieldError{Status: nvme.InvalidLogPage.WithDNR(), Field: "CSI", Offset: nvme.OffLogCS}
	case f.NSID != 0 && f.NSID != nvme.NSIDBroadcast: // none is of a namespace
		return 0, invalidField("NSID", offNSID)
	case f.OT: // none has an index
		return 0, invalidBit("OT", nvme.OffLogOT, 7)
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
	page := c.subsystem.target.logs[f.LID].build(c, rq)
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

// supportedPage is which log pages the controller has.
func (c *controller) supportedPage(*request) []byte {
	var l nvme.SupportedLogPages
	for lid := range l.LID {
		if c.subsystem.target.logs[lid].of(c) {
			l.LID[lid] = nvme.LogSupported
		}
	}
	return l.AppendTo(nil)
}

// featureEffectsPage is which features the controller has.
func (c *controller) featureEffectsPage(*request) []byte {
	var l nvme.FeatureEffectsLog
	for fid := range l.FIS {
		row := &featureTable[fid]
		if !row.of(c) || nvme.Feature(fid) == nvme.FeatureVolatileWriteCache && !c.subsystem.table.Load().volatile() {
			continue
		}
		l.FIS[fid] = row.effects()
	}
	return l.AppendTo(nil)
}

// miEffectsPage says that there is no command of the Management Interface.
func (c *controller) miEffectsPage(*request) []byte {
	var l nvme.MIEffectsLog
	return l.AppendTo(nil)
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
// through all of its controllers. Which command counts for what is as the NVM
// Command Set has it [NVM, Definitions].
func (c *controller) smartPage(*request) []byte {
	s := c.subsystem
	sum := s.Stats()
	u := func(n uint64) nvme.Uint128 { return nvme.Uint128{Lo: n} }
	// Data units are thousands of 512 bytes, rounded up.
	units := func(n uint64) nvme.Uint128 { return u(n/dataUnit + min(n%dataUnit, 1)) }
	up := time.Since(s.target.started)
	l := nvme.SMARTLog{
		AvailableSpare:     100,
		DataUnitsRead:      units(sum.ReadBytes + sum.CheckedBytes),
		DataUnitsWritten:   units(sum.WrittenBytes + sum.CopiedBytes),
		HostReads:          u(sum.Reads + sum.Compares + sum.Copies),
		HostWrites:         u(sum.Writes + sum.Copies),
		ControllerBusyTime: u(uint64(min(sum.Busy, up) / time.Minute)),
		PowerCycles:        u(1),
		PowerOnHours:       u(uint64(up / time.Hour)),
		MediaErrors:        u(sum.MediaErrors),
	}
	c.mu.Lock()
	l.ErrorLogEntries = u(c.errors.count)
	c.mu.Unlock()
	return l.AppendTo(nil)
}

const dataUnit = 512_000 // bytes
