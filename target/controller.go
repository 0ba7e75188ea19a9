package target

import (
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
)

type controllerMu struct{} // inside targetMu; innermost but for a device's own

func (controllerMu) String() string { return "controller" }

// A controller is the association of one host with a subsystem: an admin
// queue and the I/O queues. It comes with the admin queue's Connect, ceases to
// serve when the admin queue goes down, and keeps its identifier until the
// last of its queues is gone.
type controller struct {
	subsystem *Subsystem
	port      *Port
	cntlid    uint16
	hostNQN   string
	hostID    nvme.UUID
	admin     *queue
	capValue  nvme.CAP
	maxData   uint64 // bytes: what MDTS says

	// ready is whether CSTS.RDY is set and commands are carried out. The I/O
	// path looks at it; it changes with mu held.
	ready atomic.Bool
	// cacheHidden: Identify Controller has said that there is no volatile write
	// cache. To such a host every write is durable when done, also those to a
	// namespace that came later and has one.
	cacheHidden atomic.Bool

	// Owned by the admin queue's shard.
	kato      time.Duration // zero: no keep alive
	keepAlive shard.Timer
	reserved  shard.Timer // ends what is reserved for I/O queues
	aers      []*request  // Asynchronous Event Requests that wait for an event
	aborts    int         // Abort commands that wait for another shard

	mu       lockdep.Mutex[controllerMu]
	cc       nvme.CC       // guarded by mu
	cfs      bool          // guarded by mu: CSTS.CFS
	shutdown bool          // guarded by mu: CC.SHN was written
	dead     bool          // guarded by mu: serves nobody any more
	cause    error         // guarded by mu: why it is dead
	queues   []*queue      // guarded by mu: by QID, as far as there were any; those that have not been detached
	members  int           // guarded by mu: queues that are not gone
	events   events        // guarded by mu
	errors   errorLog      // guarded by mu
	features features      // guarded by mu
	katoInfo time.Duration // guarded by mu: kato, for info
}

func newController(s *Subsystem, q *queue, cntlid uint16) *controller {
	c := &controller{
		subsystem: s,
		port:      q.port,
		cntlid:    cntlid,
		admin:     q,
		capValue:  s.capabilities(q.param.Limits),
		maxData:   minMaxData << mdts(q.param.Limits),
		aers:      make([]*request, 0, maxAER),
		queues:    make([]*queue, 1, 4),
	}
	c.keepAlive.Fn = c.keepAliveExpired
	c.reserved.Fn = c.unreserve
	c.initFeatures()
	return c
}

// minMaxData is the least that a command of any queue may transfer: the unit
// of MDTS, a page of CAP.MPSMIN, and the size of an Identify.
const minMaxData = 4096

// mdts returns MDTS for what the fabric can do.
func mdts(l transport.Limits) uint8 { return uint8(bits.Len(uint(l.MaxData/minMaxData)) - 1) }

// queueEntries returns the most entries of an I/O queue.
func (s *Subsystem) queueEntries(l transport.Limits) int {
	return max(2, min(l.MaxQueueDepth, s.cfg.MaxQueueDepth, 1<<16))
}

// isDiscovery reports whether it is a discovery controller.
func (c *controller) isDiscovery() bool { return c.subsystem.isDiscovery() }

// attach makes q the controller's queue qid, after the checks that concern
// both; errors are for the host. It is called on q's shard, with Target.mu held.
func (c *controller) attach(q *queue, qid uint16) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.dead:
		return nvme.ConnectDataError("CNTLID", nvme.OffDataCNTLID)
	case qid != 0 && !c.ready.Load():
		return nvme.CommandSequenceError.WithDNR()
	case int(qid) < len(c.queues) && c.queues[qid] != nil:
		return nvme.CommandSequenceError.WithDNR()
	}
	for len(c.queues) <= int(qid) { // which is not above MaxQueues
		c.queues = append(c.queues, nil)
	}
	c.queues[qid] = q
	c.members++
	q.qid = qid
	q.ctrl = c
	q.tally = c.subsystem.tallyLocked(q.shard())
	return nil
}

// notReady is what a command ends with that comes when the controller is not
// ready.
func (c *controller) notReady() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return errLeaving
	}
	return nvme.CommandSequenceError.WithDNR()
}

// detach takes q from the list of queues: it is down and holds no request any
// more, or it is gone. More than once is once.
func (c *controller) detach(q *queue) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.queues[q.qid] == q {
		c.queues[q.qid] = nil
	}
}

// queueGone tells that q, which was attached, exists no more. When it was the
// last one, the identifier is free again.
func (c *controller) queueGone(q *queue) {
	c.detach(q)
	t := c.subsystem.target
	t.mu.Lock()
	c.mu.Lock()
	c.members--
	last, cause := c.members == 0, c.cause
	c.mu.Unlock()
	if last {
		delete(c.subsystem.controllers, c.cntlid)
	}
	t.mu.Unlock()
	if removed := t.cfg.Events.ControllerRemoved; last && removed != nil {
		removed(c.info(), cause)
	}
}

// die ends the controller: it serves nothing any more, and its queues leave.
// The first cause counts.
func (c *controller) die(cause error) { c.leave(cause, atOnce) }

// leave ends the controller, in order or at once.
func (c *controller) leave(cause error, how manner) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return
	}
	c.dead, c.cause = true, cause
	c.ready.Store(false)
	c.leaveQueuesLocked(cause, how, 0)
}

// leaveQueuesLocked tells the queues from qid on to leave.
func (c *controller) leaveQueuesLocked(cause error, how manner, qid int) {
	for _, q := range c.queues[qid:] {
		if q != nil {
			q.leave(cause, how)
		}
	}
}

// hasIOQueuesLocked reports whether there are I/O queues, if only such as still
// have commands with a device.
func (c *controller) hasIOQueuesLocked() bool {
	return slices.ContainsFunc(c.queues[1:], func(q *queue) bool { return q != nil })
}

// queueDown tells that q is down: without its admin queue there is no
// controller. It is called on q's shard.
func (c *controller) queueDown(q *queue, cause error) {
	if q.qid != 0 {
		return
	}
	q.shard().Disarm(&c.keepAlive)
	c.unreserve() // its release may wait for a device
	c.failAERs(nvme.AbortedSQDeletion)
	c.die(fmt.Errorf("target: %w: %w", ErrAssociated, cause))
}

// fatal is a Controller Fatal Status: everything is disconnected at once.
func (c *controller) fatal(cause error) {
	c.mu.Lock()
	c.cfs = true
	c.mu.Unlock()
	c.die(cause)
}

// ControllerInfo describes a controller to an operator.
type ControllerInfo struct {
	SubsystemNQN  string         `json:"subsystem"`
	CNTLID        uint16         `json:"cntlid"`
	HostNQN       string         `json:"host"`
	HostID        nvme.UUID      `json:"host_id"`
	PortID        uint16         `json:"port"`
	Local, Remote netip.AddrPort // of the admin queue
	KATO          time.Duration  `json:"kato"`
	Queues        int            `json:"queues"` // connected, with the admin queue
	Ready         bool           `json:"ready"`
}

func (c *controller) info() ControllerInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := ControllerInfo{
		SubsystemNQN: c.subsystem.cfg.NQN,
		CNTLID:       c.cntlid,
		HostNQN:      c.hostNQN,
		HostID:       c.hostID,
		PortID:       c.port.cfg.ID,
		Local:        c.admin.param.Local,
		Remote:       c.admin.param.Remote,
		KATO:         c.katoInfo,
		Ready:        c.ready.Load(),
	}
	for _, q := range c.queues {
		if q != nil {
			i.Queues++
		}
	}
	return i
}
