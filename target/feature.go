package target

import (
	"math/bits"
	"time"

	"github.com/fabrid/fabrid/nvme"
)

// A feature is what there is to know about a Feature Identifier. None can be
// saved: what a host sets is forgotten when its controller is disabled.
type feature struct {
	discovery, io bool // which controllers have it

	// perNamespace features have a value for each namespace.
	perNamespace bool

	// get returns the value, and set takes one and returns the result. A nil set
	// is a feature that takes the value that it has, and no other.
	get func(*controller, nvme.FeaturesCommand) (uint32, error)
	set func(*controller, nvme.FeaturesCommand) (uint32, error)
	// def returns the value that it has at first, and saved; nil: as get.
	def func(*controller) uint32

	// size is how many bytes of data a Get returns, and page makes them; nil:
	// none. A Set of such a feature takes as many.
	size func(nvme.FeaturesCommand) (uint64, error)
	page func(*controller) []byte
}

// featureTable is what Set and Get Features know, by FID. Arbitration, Power
// Management, Temperature Threshold and Error Recovery are mandatory, and here
// without effect: their values cannot be changed. Write Atomicity Normal can, and
// has none either: a write is atomic by the block, power failure or not.
var featureTable = [256]feature{
	nvme.FeatureArbitration:          {io: true, get: constant(arbitrationNoLimit)},
	nvme.FeaturePowerManagement:      {io: true, get: constant(0)},
	nvme.FeatureTemperatureThreshold: {io: true, get: temperatureThreshold},
	nvme.FeatureErrorRecovery:        {io: true, perNamespace: true, get: constant(0)},
	nvme.FeatureVolatileWriteCache:   {io: true, get: (*controller).writeCache},
	nvme.FeatureNumberOfQueues:       {io: true, get: (*controller).numberOfQueues, set: (*controller).setNumberOfQueues, def: (*controller).mostQueues},
	nvme.FeatureWriteAtomicity:       {io: true, get: (*controller).writeAtomicity, set: (*controller).setWriteAtomicity, def: zero},
	nvme.FeatureAsyncEventConfig:     {io: true, discovery: true, get: (*controller).asyncEventConfig, set: (*controller).setAsyncEventConfig, def: zero},
	nvme.FeatureKeepAliveTimer:       {io: true, discovery: true, get: (*controller).keepAliveTimer, set: (*controller).setKeepAliveTimer, def: (*controller).defaultKATO},
	nvme.FeatureHostIdentifier: {
		io: true, get: constant(hostIDExtended),
		size: hostIdentifierSize, page: func(c *controller) []byte { return c.hostID[:] },
	},
}

// features is what a controller remembers of its features.
type features struct {
	queues        nvme.NumberOfQueues
	disableNormal bool // Write Atomicity Normal
}

func (c *controller) initFeatures() {
	c.features = features{queues: nvme.NumberOfQueues(c.mostQueues())}
}

func zero(*controller) uint32 { return 0 }

// capabilities is what Get Features says of the feature with SEL 11b.
func (row *feature) capabilities() nvme.FeatureCapabilities {
	var c nvme.FeatureCapabilities
	if row.perNamespace {
		c |= nvme.FeatureNamespace
	}
	if row.set != nil {
		c |= nvme.FeatureChangeable
	}
	return c
}

// effects is what the Feature Identifiers Supported and Effects log says of it.
func (row *feature) effects() nvme.FeatureEffects {
	if row.perNamespace {
		return nvme.FeatureSupported | nvme.FeatureScopeNamespace
	}
	return nvme.FeatureSupported | nvme.FeatureScopeController
}

// feature returns the row of a command.
func (c *controller) feature(fid nvme.Feature) (*feature, error) {
	row := &featureTable[fid]
	if !row.of(c) {
		return nil, invalidField("FID", nvme.OffFID)
	}
	return row, nil
}

// of reports whether a controller has the feature.
func (row *feature) of(c *controller) bool {
	if c.isDiscovery() {
		return row.discovery
	}
	return row.io
}

// checkNSID checks the NSID of a Set or Get of the feature.
func (row *feature) checkNSID(c *controller, nsid uint32, set bool) error {
	switch {
	case nsid == nvme.NSIDBroadcast && (set || !row.perNamespace):
		return nil // of all namespaces; or of the controller
	case row.perNamespace:
		_, err := c.activeNamespace(nsid)
		return err
	case nsid == 0:
		return nil
	case c.isDiscovery():
		return errInvalidNamespace // it has none
	}
	if _, err := c.namespace(nsid); err != nil {
		return err
	}
	if set {
		return &nvme.FieldError{Status: nvme.FeatureNotNamespaceSpecific.WithDNR(), Field: "NSID", Offset: offNSID}
	}
	return nil
}

// setFeaturesSize checks a Set Features.
func (rq *request) setFeaturesSize() (uint64, error) {
	f, c := rq.r.Command.Features(), rq.q.ctrl
	row, err := c.feature(f.FID)
	switch {
	case err != nil:
		return 0, err
	case f.SV:
		return 0, &nvme.FieldError{Status: nvme.FeatureNotSaveable.WithDNR(), Field: "SV", Offset: nvme.OffFeatureSV, Bit: 7}
	case f.FID == nvme.FeatureHostIdentifier: // in Fabrics it is that of Connect
		return 0, nvme.CommandSequenceError.WithDNR()
	}
	return 0, row.checkNSID(c, f.NSID, true)
}

// setFeatures is Set Features.
func (rq *request) setFeatures() error {
	f, c := rq.r.Command.Features(), rq.q.ctrl
	row, err := c.feature(f.FID)
	if err != nil {
		return err
	}
	set := row.set
	if set == nil {
		set = row.keep
	}
	v, err := set(c, f)
	if err == nil {
		rq.result = uint64(v)
	}
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

// getFeaturesSize checks a Get Features. What a feature can do is said without
// data, but a host may bring memory for it.
func (rq *request) getFeaturesSize() (uint64, error) {
	f, c := rq.r.Command.Features(), rq.q.ctrl
	row, err := c.feature(f.FID)
	if err != nil {
		return 0, err
	}
	if f.SEL > nvme.SELCapabilities {
		return 0, invalidField("SEL", nvme.OffFeatureSEL)
	}
	if err := row.checkNSID(c, f.NSID, false); err != nil {
		return 0, err
	}
	if _, err := row.get(c, f); err != nil { // which may be of a part that is not there
		return 0, err
	}
	if row.size == nil || f.SEL == nvme.SELCapabilities && rq.r.Length == 0 {
		return 0, nil
	}
	return row.size(f)
}

// getFeatures is Get Features.
func (rq *request) getFeatures() error {
	f, c := rq.r.Command.Features(), rq.q.ctrl
	row, err := c.feature(f.FID)
	if err != nil {
		return err
	}
	var v uint32
	switch {
	case f.SEL == nvme.SELCapabilities:
		v = uint32(row.capabilities())
	case f.SEL != nvme.SELCurrent && row.def != nil:
		v = row.def(c)
	default:
		v, err = row.get(c, f)
	}
	if err != nil {
		return err
	}
	rq.result = uint64(v)
	switch {
	case row.page == nil:
	case f.SEL == nvme.SELCapabilities:
		rq.reply(nil)
	default:
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
	if f.CDW11&(3<<20) > 1<<20 {
		return 0, invalidBit("THSEL", nvme.OffFeatureCDW11+2, 4)
	}
	return 0, invalidField("TMPSEL", nvme.OffFeatureCDW11+2)
}

// writeCache is whether the volatile write cache, if there is one, is on: it
// always is.
func (c *controller) writeCache(nvme.FeaturesCommand) (uint32, error) {
	if !c.subsystem.table.Load().volatile() {
		return 0, invalidField("FID", nvme.OffFID)
	}
	return 1, nil
}

// mostQueues is what Number of Queues is before a host has asked for fewer.
func (c *controller) mostQueues() uint32 {
	return uint32(nvme.MakeNumberOfQueues(uint16(max(c.subsystem.cfg.MaxQueues, 1) - 1)))
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
	if n.SQ() == 0xFFFF {
		return 0, invalidField("NSQR", nvme.OffFeatureCDW11)
	}
	if n.CQ() == 0xFFFF {
		return 0, invalidField("NCQR", nvme.OffFeatureCDW11+2)
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
	if wrong := config &^ c.supportedEvents(); wrong != 0 {
		bit := bits.TrailingZeros32(uint32(wrong))
		return 0, invalidBit("CDW11", nvme.OffFeatureCDW11+bit/8, uint8(bit%8))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events.config = config
	return f.CDW11, nil
}

// writeAtomicityDN is DN, Disable Normal.
const writeAtomicityDN = 1

func (c *controller) writeAtomicity(nvme.FeaturesCommand) (uint32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.features.disableNormal {
		return writeAtomicityDN, nil
	}
	return 0, nil
}

func (c *controller) setWriteAtomicity(f nvme.FeaturesCommand) (uint32, error) {
	if f.CDW11&^writeAtomicityDN != 0 {
		return 0, invalidField("CDW11", nvme.OffFeatureCDW11)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.features.disableNormal = f.CDW11 != 0
	return 0, nil
}

// defaultKATO is what a Connect without one means.
func (c *controller) defaultKATO() uint32 {
	if c.isDiscovery() {
		return uint32(DefaultDiscoveryKATO / time.Millisecond)
	}
	return 0
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
