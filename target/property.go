package target

import (
	"fmt"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
)

const (
	// version is what VS and VER say. 2.0 has made mandatory what is not here:
	// CAP.CRMS with CRTO, and the lists of I/O command sets of Identify.
	version = nvme.Version1_4

	// readyTimeout is CAP.TO, 500 ms each: how long RDY may take to follow EN.
	// It becomes set at once, and clear when the I/O queues have let go of the
	// devices.
	readyTimeout = 15
)

// capabilities returns CAP for what the fabric can do.
func (s *Subsystem) capabilities(l transport.Limits) nvme.CAP {
	return nvme.CAP(0).
		WithMQES(uint16(s.queueEntries(l) - 1)).
		WithCQR(true). // required of controllers that take messages [Base 3.1.4.1]
		WithTO(readyTimeout).
		WithCSS(nvme.CAPCSSNVM)
}

// csts returns CSTS. While I/O queues of before a reset or a shutdown still
// have commands with a device, neither is complete: what the host writes next
// must not be overtaken by what it wrote before.
func (c *controller) csts() nvme.CSTS {
	c.mu.Lock()
	defer c.mu.Unlock()
	busy := c.hasIOQueuesLocked()
	v := nvme.CSTS(0).WithCFS(c.cfs)
	switch {
	case c.shutdown && busy:
		return v.WithSHST(nvme.SHSTInProgress)
	case c.shutdown:
		return v.WithSHST(nvme.SHSTComplete)
	case c.ready.Load():
		return v.WithRDY(true)
	case !c.cc.EN() && busy:
		return v.WithRDY(true)
	}
	return v
}

// setCC carries out a write to CC. On the admin queue's shard.
func (c *controller) setCC(cc nvme.CC) {
	c.mu.Lock()
	old := c.cc
	c.cc = cc
	stopped := false
	if cc.EN() && !old.EN() {
		if c.configurationValid(cc) {
			c.cfs = false
			c.ready.Store(!c.dead)
		} else {
			c.cfs = true
		}
	}
	if !cc.EN() && old.EN() {
		stopped, c.cfs = true, false
		c.leaveQueuesLocked(fmt.Errorf("target: controller %d: %w", c.cntlid, ErrReset), inOrder, 1)
	}
	if cc.SHN() != nvme.SHNNone && old.SHN() == nvme.SHNNone {
		stopped, c.shutdown = true, true
		c.leaveQueuesLocked(fmt.Errorf("target: controller %d: %w", c.cntlid, ErrShutdown), inOrder, 1)
	}
	if cc.SHN() == nvme.SHNNone {
		c.shutdown = false
	}
	if stopped {
		c.ready.Store(false)
		c.events.reset()
		c.initFeatures()
	}
	c.mu.Unlock()

	if stopped {
		c.unreserve()
		c.failAERs(nvme.InternalError.WithDNR())
	}
	if cc.EN() && !old.EN() {
		c.restartKeepAlive()
	}
}

// configurationValid reports whether a controller can be enabled with cc. The
// entry sizes do not concern discovery controllers, which have no I/O queue.
func (c *controller) configurationValid(cc nvme.CC) bool {
	sizes := cc.IOSQES() == nvme.IOSQES64 && cc.IOCQES() == nvme.IOCQES16
	return (sizes || c.isDiscovery()) && cc.MPS() == 0 && cc.AMS() == 0 && cc.CSS() == nvme.CCCSSNVM
}

// propertySize checks ATTRIB and OFST of a Property Get or Set and that there
// is no data.
func (rq *request) propertySize() (uint64, error) {
	p := rq.r.Command.Property()
	switch {
	case p.Offset.Size() == 0:
		return 0, invalidField("OFST", nvme.OffOFST)
	case p.Size() != p.Offset.Size():
		return 0, invalidField("ATTRIB", nvme.OffAttrib)
	}
	return 0, nil
}

// propertyGet is Property Get.
func (rq *request) propertyGet() error {
	c := rq.q.ctrl
	switch rq.r.Command.Property().Offset {
	case nvme.PropertyCAP:
		rq.result = uint64(c.capValue)
	case nvme.PropertyVS:
		rq.result = uint64(version)
	case nvme.PropertyCC:
		c.mu.Lock()
		rq.result = uint64(c.cc)
		c.mu.Unlock()
	case nvme.PropertyCSTS:
		rq.result = uint64(c.csts())
	default:
		return invalidField("OFST", nvme.OffOFST)
	}
	return nil
}

// propertySet is Property Set: CC is the one that can be written.
func (rq *request) propertySet() error {
	p := rq.r.Command.Property()
	if p.Offset != nvme.PropertyCC {
		return invalidField("OFST", nvme.OffOFST)
	}
	rq.q.ctrl.setCC(nvme.CC(p.Value))
	return nil
}
