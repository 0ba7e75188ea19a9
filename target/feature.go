package target

import "github.com/fabrid/fabrid/nvme"

// A feature is what there is to know about a Feature Identifier.
type feature struct {
	discovery, io bool // which controllers have it

	// get returns the value, and set takes one and returns the result. A nil set
	// is a feature that takes the value that it has, and no other.
	get func(*controller, nvme.FeaturesCommand) (uint32, error)
	set func(*controller, nvme.FeaturesCommand) (uint32, error)

	// size is how many bytes of data a Get returns, and page makes them; nil:
	// none.
	size func(nvme.FeaturesCommand) (uint64, error)
	page func(*controller) []byte
}

// featureTable is what Set and Get Features know, by FID. Arbitration, Power
// Management, Temperature Threshold, Error Recovery and Write Atomicity are
// mandatory, and here without effect: their values cannot be changed.
var featureTable = [256]feature{
	nvme.FeatureArbitration:          {io: true, get: constant(arbitrationNoLimit)},
	nvme.FeaturePowerManagement:      {io: true, get: constant(0)},
	nvme.FeatureTemperatureThreshold: {io: true, get: temperatureThreshold},
	nvme.FeatureErrorRecovery:        {io: true, get: constant(0)},
	nvme.FeatureVolatileWriteCache:   {io: true, get: (*controller).writeCache},
	nvme.FeatureNumberOfQueues:       {io: true, get: (*controller).numberOfQueues, set: (*controller).setNumberOfQueues},
	nvme.FeatureWriteAtomicity:       {io: true, get: constant(0)},
	nvme.FeatureAsyncEventConfig:     {io: true, discovery: true, get: (*controller).asyncEventConfig, set: (*controller).setAsyncEventConfig},
	nvme.FeatureKeepAliveTimer:       {io: true, discovery: true, get: (*controller).keepAliveTimer, set: (*controller).setKeepAliveTimer},
	nvme.FeatureHostIdentifier: {
		io: true, get: constant(hostIDExtended), set: refuseHostIdentifier,
		size: hostIdentifierSize, page: func(c *controller) []byte { return c.hostID[:] },
	},
}

// features is what a controller remembers of its features.
type features struct {
	queues nvme.NumberOfQueues
}

func (c *controller) initFeatures() {
	c.features.queues = nvme.MakeNumberOfQueues(uint16(max(c.subsystem.cfg.MaxQueues, 1) - 1))
}

// feature returns the row of a command.
func (rq *request) feature(f nvme.FeaturesCommand) (*feature, error) {
	row := &featureTable[f.FID]
	if discovery := rq.q.ctrl.isDiscovery(); discovery && !row.discovery || !discovery && !row.io {
		return nil, invalidField("FID", nvme.OffFID)
	}
	return row, nil
}

// setFeaturesSize checks a Set Features. None takes data but one that is
// refused.
func (rq *request) setFeaturesSize() (uint64, error) {
	f := rq.r.Command.Features()
	row, err := rq.feature(f)
	switch {
	case err != nil:
		return 0, err
	case f.SV:
		return 0, &nvme.FieldError{Status: nvme.FeatureNotSaveable.WithDNR(), Field: "SV", Offset: nvme.OffFeatureSV}
	case row.page != nil:
		_, err = row.set(rq.q.ctrl, f)
	}
	return 0, err
}

// setFeatures is Set Features.
func (rq *request) setFeatures() error {
	f, c := rq.r.Command.Features(), rq.q.ctrl
	row, err := rq.feature(f)
	if err != nil {
		return err
	}
	set := row.set
	if set == nil {
		set = row.keep
	}
	v, err := set(c, f)
	rq.result = uint64(v)
	return err
}

// keep is the set of a feature whose value cannot be changed.
func (row *feature) keep(c *controller, f nvme.FeaturesCommand) (uint32, error) {
	v, err := row.get(c, f)
	if err == nil && f.CDW11 != v {
		err = &nvme.FieldError{Status: nvme.FeatureNotChangeable.WithDNR(), Field: "CDW11", Offset: nvme.OffFeatureCDW11}
	}
	return 0, err
}

// getFeaturesSize checks a Get Features. That SEL is supported ONCS does not
// say.
func (rq *request) getFeaturesSize() (uint64, error) {
	f := rq.r.Command.Features()
	row, err := rq.feature(f)
	switch {
	case err != nil:
		return 0, err
	case f.SEL != nvme.SELCurrent:
		return 0, invalidField("SEL", nvme.OffFeatureSEL)
	case row.size == nil:
		return 0, nil
	}
	return row.size(f)
}

// getFeatures is Get Features.
func (rq *request) getFeatures() error {
	f, c := rq.r.Command.Features(), rq.q.ctrl
	row, err := rq.feature(f)
	if err != nil {
		return err
	}
	v, err := row.get(c, f)
	if err != nil {
		return err
	}
	rq.result = uint64(v)
	if row.page != nil {
		rq.reply(row.page(c))
	}
	return nil
}

func constant(v uint32) func(*controller, nvme.FeaturesCommand) (uint32, error) {
	return func(*controller, nvme.FeaturesCommand) (uint32, error) { return v, nil }
}

// arbitrationNoLimit is an Arbitration Burst of 111b.
const arbitrationNoLimit = 7

// temperatureThreshold: the over temperature threshold has its default, the
// under temperature threshold too, and there are no sensors.
func temperatureThreshold(_ *controller, f nvme.FeaturesCommand) (uint32, error) {
	const selection = 0x3F << 16 // THSEL, TMPSEL
	switch f.CDW11 & selection {
	case 0:
		return 0xFFFF, nil
	case 1 << 20: // under temperature
		return 1 << 20, nil
	}
	return 0, invalidField("TMPSEL", nvme.OffFeatureCDW11)
}

// writeCache is whether the volatile write cache, if there is one, is on: it
// always is.
func (c *controller) writeCache(nvme.FeaturesCommand) (uint32, error) {
	if !c.subsystem.table.Load().volatile() {
		return 0, invalidField("FID", nvme.OffFID)
	}
	return 1, nil
}

func (c *controller) numberOfQueues(nvme.FeaturesCommand) (uint32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return uint32(c.features.queues), nil
}

// grantedQueues is how many I/O queues the controller may have.
func (c *controller) grantedQueues() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.features.queues.Pairs()
}

func (c *controller) setNumberOfQueues(f nvme.FeaturesCommand) (uint32, error) {
	n := nvme.NumberOfQueues(f.CDW11)
	if n.SQ() == 0xFFFF || n.CQ() == 0xFFFF {
		return 0, invalidField("NSQR", nvme.OffFeatureCDW11)
	}
	c.mu.Lock()
	late := c.hasIOQueuesLocked()
	c.mu.Unlock()
	if late {
		return 0, nvme.CommandSequenceError.WithDNR()
	}
	granted := c.reserve(min(n.Pairs(), c.subsystem.cfg.MaxQueues))
	if granted == 0 {
		return 0, nvme.InternalError // without DNR: there may be room later
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.features.queues = nvme.MakeNumberOfQueues(uint16(granted - 1))
	return uint32(c.features.queues), nil
}

// reserve reserves room for so many I/O queues, for ReserveTimeout, and returns
// for how many there is. On the admin queue's shard.
func (c *controller) reserve(n int) int {
	s := c.admin.shard()
	s.Arm(&c.reserved, s.Now()+c.admin.config().ReserveTimeout)
	return c.admin.param.Life.Reserve(c.cntlid, n)
}

// unreserve gives back what has been reserved for I/O queues that have not come.
// On the admin queue's shard.
func (c *controller) unreserve() {
	c.admin.shard().Disarm(&c.reserved)
	c.admin.param.Life.Unreserve()
}

func (c *controller) asyncEventConfig(nvme.FeaturesCommand) (uint32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return uint32(c.events.config), nil
}

func (c *controller) setAsyncEventConfig(f nvme.FeaturesCommand) (uint32, error) {
	config := nvme.AsyncEventConfig(f.CDW11)
	if config&^c.supportedEvents() != 0 {
		return 0, invalidField("CDW11", nvme.OffFeatureCDW11)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events.config = config
	return f.CDW11, nil
}

func (c *controller) keepAliveTimer(nvme.FeaturesCommand) (uint32, error) {
	return uint32(c.kato.Milliseconds()), nil
}

func (c *controller) setKeepAliveTimer(f nvme.FeaturesCommand) (uint32, error) {
	c.setKATO(f.CDW11)
	return uint32(c.kato.Milliseconds()), nil
}

// hostIDExtended is EXHID: the host identifier has 128 bits, the only size
// that Fabrics has.
const hostIDExtended = 1

func hostIdentifierSize(f nvme.FeaturesCommand) (uint64, error) {
	if f.CDW11&hostIDExtended == 0 {
		return 0, invalidField("EXHID", nvme.OffFeatureCDW11)
	}
	return uint64(len(nvme.UUID{})), nil
}

// refuseHostIdentifier: in Fabrics the host identifier is that of Connect.
func refuseHostIdentifier(*controller, nvme.FeaturesCommand) (uint32, error) {
	return 0, nvme.CommandSequenceError.WithDNR()
}
