package metrics

import (
	"maps"
	"math"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fabrid/fabrid/admission"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/workqueue"
)

// Sources is what there is to show. What is nil is not shown.
type Sources struct {
	Queues     *transport.Queues
	Budget     *admission.Budget
	Workqueues []*workqueue.Queue // of different names
	Target     *target.Target

	// More is of what this package does not know, such as devices.
	More []prometheus.Collector
}

// NewCollector returns a collector of all that s has, but for More. Its methods
// may be called from any goroutine but a shard.
func NewCollector(s Sources) prometheus.Collector { return &collector{s} }

type collector struct{ s Sources }

// A family is the metrics of one name.
type family struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func gauge(name, help string, labels ...string) family {
	return family{prometheus.NewDesc("fabrid_"+name, help, labels, nil), prometheus.GaugeValue}
}

func counter(name, help string, labels ...string) family {
	return family{prometheus.NewDesc("fabrid_"+name+"_total", help, labels, nil), prometheus.CounterValue}
}

// send sends one metric. A label that is not UTF-8 is an error of the scrape.
func (f family) send(ch chan<- prometheus.Metric, v float64, labels ...string) {
	m, err := prometheus.NewConstMetric(f.desc, f.kind, v, labels...)
	if err != nil {
		m = prometheus.NewInvalidMetric(f.desc, err)
	}
	ch <- m
}

var (
	queues        = gauge("queues", "Queues of hosts, by the stage of their life.", "state")
	queueOldest   = gauge("queue_oldest_seconds", "For how long the oldest queue in a stage of its life has been in it, 0 if there is none.", "state")
	releaseOldest = gauge("release_oldest_seconds", "For how long the oldest release has been running, at the step that it is at, 0 at the others.", "step")
	refusals      = counter("refusals", "Queues that were refused, by reason.", "reason")
	releases      = counter("releases", "Queues that were released, or are being released, by the cause of their end.", "cause")
)

// The steps of a release. Before the first it waits for a worker.
var steps = [...]string{"pending", "drain", "quiesce", "free"}

// shown is the stages of a queue that is not over.
var shown = [...]transport.State{transport.Waiting, transport.Connecting, transport.Live, transport.Disconnecting, transport.Releasing}

func (c *collector) collectQueues(ch chan<- prometheus.Metric) {
	q := c.s.Queues
	n := q.Counts()
	for i, v := range [...]int{n.Waiting, n.Connecting, n.Live, n.Disconnecting, n.Releasing} {
		state := shown[i]
		queues.send(ch, float64(v), state.String())
		var info transport.Info
		if l := q.Oldest(state); l != nil {
			if info = l.Info(); info.State != state {
				info = transport.Info{} // it has gone on meanwhile
			}
		}
		queueOldest.send(ch, info.Age.Seconds(), state.String())
		if state != transport.Releasing {
			continue
		}
		if info.Step == "" {
			info.Step = steps[0]
		}
		for _, step := range steps {
			var age time.Duration
			if step == info.Step {
				age = info.Age
			}
			releaseOldest.send(ch, age.Seconds(), step)
		}
	}
	tally := q.Tally()
	sendTally(ch, refusals, tally.Refused)
	sendTally(ch, releases, tally.Released)
}

func sendTally(ch chan<- prometheus.Metric, f family, tally map[string]uint64) {
	for _, word := range slices.Sorted(maps.Keys(tally)) {
		f.send(ch, float64(tally[word]), word)
	}
}

// A budgeted is a resource of the budget: what is used of it now, what was at
// most, and what may be.
type budgeted struct{ used, most, limit family }

func budget(name, unit, help string) budgeted {
	return budgeted{
		gauge("budget_"+name+"_used"+unit, help+": charged now."),
		gauge("budget_"+name+"_most"+unit, help+": charged at most so far."),
		gauge("budget_"+name+"_limit"+unit, help+": may be charged, +Inf if there is no bound."),
	}
}

func (b budgeted) send(ch chan<- prometheus.Metric, used, most, limit float64) {
	if limit == 0 {
		limit = math.Inf(1)
	}
	b.used.send(ch, used)
	b.most.send(ch, most)
	b.limit.send(ch, limit)
}

var (
	budgetQueues     = budget("queues", "", "Queues that are connecting, live, reserved or being released")
	budgetMemory     = budget("memory", "_bytes", "Memory of those queues")
	budgetConnecting = budget("connecting", "", "Queues without a successful Connect command")
	budgetWaiting    = budget("waiting", "", "Admin queues that wait for room, and are charged nothing")
	budgetReserved   = gauge("budget_reserved_used", "Queues that are reserved and do not exist yet: charged now.")
	budgetMostRes    = gauge("budget_reserved_most", "Queues that are reserved and do not exist yet: charged at most so far.")
	budgetOrphaned   = gauge("budget_orphaned_bytes", "Memory of queues that are gone, which storage still has: charged now.")
	budgetHosts      = gauge("budget_hosts", "Hosts that are charged something, or wait.")
)

func (c *collector) collectBudget(ch chan<- prometheus.Metric) {
	s := c.s.Budget.Stats()
	u, m, l := s.Used, s.Most, s.Limits
	budgetQueues.send(ch, float64(u.Queues), float64(m.Queues), float64(l.Queues))
	budgetMemory.send(ch, float64(u.Bytes), float64(m.Bytes), float64(l.Bytes))
	budgetConnecting.send(ch, float64(u.Connecting), float64(m.Connecting), float64(l.Connecting))
	budgetWaiting.send(ch, float64(u.Waiting), float64(m.Waiting), float64(l.Waiting))
	budgetReserved.send(ch, float64(u.Reserved))
	budgetMostRes.send(ch, float64(m.Reserved))
	budgetOrphaned.send(ch, float64(s.OrphanedBytes))
	budgetHosts.send(ch, float64(s.Hosts))
}

var (
	wqPending       = gauge("workqueue_pending", "Works that wait for a worker.", "workqueue")
	wqRunning       = gauge("workqueue_running", "Works that run.", "workqueue")
	wqDelayed       = gauge("workqueue_delayed", "Works whose delay has not ended.", "workqueue")
	wqBarriers      = gauge("workqueue_barriers", "Flush barriers that wait.", "workqueue")
	wqMaxActive     = gauge("workqueue_max_active", "Works that may run at once.", "workqueue")
	wqCompleted     = counter("workqueue_completed", "Works that have run.", "workqueue")
	wqOldestPending = gauge("workqueue_oldest_pending_seconds", "For how long the oldest of the works that wait has waited, 0 if none does.", "workqueue")
	wqOldestRunning = gauge("workqueue_oldest_running_seconds", "For how long the oldest of the works that run has run, 0 if none does.", "workqueue")
)

func (c *collector) collectWorkqueues(ch chan<- prometheus.Metric) {
	for _, q := range c.s.Workqueues {
		s := q.Stats()
		wqPending.send(ch, float64(s.Pending), s.Name)
		wqRunning.send(ch, float64(len(s.Running)), s.Name)
		wqDelayed.send(ch, float64(s.Delayed), s.Name)
		wqBarriers.send(ch, float64(s.Barriers), s.Name)
		wqMaxActive.send(ch, float64(s.MaxActive), s.Name)
		wqCompleted.send(ch, float64(s.Completed), s.Name)
		wqOldestPending.send(ch, s.OldestPending.Seconds(), s.Name)
		var oldest time.Duration
		if len(s.Running) > 0 {
			oldest = s.Running[0].Age
		}
		wqOldestRunning.send(ch, oldest.Seconds(), s.Name)
	}
}

var (
	ports       = gauge("ports", "Ports.")
	subsystems  = gauge("subsystems", "Subsystems, without that for discovery.")
	namespaces  = gauge("namespaces", "Namespaces.")
	controllers = gauge("controllers", "Controllers, with those of which queues are still being released.")
	commands    = counter("commands", "Commands that were completed: read and write those that succeeded, other all else.", "subsystem", "kind")
	cmdErrors   = counter("command_errors", "Commands that failed.", "subsystem")
	readBytes   = counter("read_bytes", "Bytes that hosts have read.", "subsystem")
	wroteBytes  = counter("written_bytes", "Bytes that hosts have written.", "subsystem")
)

func (c *collector) collectTarget(ch chan<- prometheus.Metric) {
	t := c.s.Target
	n := t.Counts()
	ports.send(ch, float64(n.Ports))
	subsystems.send(ch, float64(n.Subsystems))
	namespaces.send(ch, float64(n.Namespaces))
	controllers.send(ch, float64(n.Controllers))
	for _, sub := range append(t.Subsystems(), t.Discovery()) {
		s, nqn := sub.Stats(), sub.NQN()
		commands.send(ch, float64(s.Reads), nqn, "read")
		commands.send(ch, float64(s.Writes), nqn, "write")
		commands.send(ch, float64(s.Others), nqn, "other")
		cmdErrors.send(ch, float64(s.Errors), nqn)
		readBytes.send(ch, float64(s.ReadBytes), nqn)
		wroteBytes.send(ch, float64(s.WrittenBytes), nqn)
	}
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range []family{
		queues, queueOldest, releaseOldest, refusals, releases,
		budgetQueues.used, budgetQueues.most, budgetQueues.limit,
		budgetMemory.used, budgetMemory.most, budgetMemory.limit,
		budgetConnecting.used, budgetConnecting.most, budgetConnecting.limit,
		budgetWaiting.used, budgetWaiting.most, budgetWaiting.limit,
		budgetReserved, budgetMostRes, budgetOrphaned, budgetHosts,
		wqPending, wqRunning, wqDelayed, wqBarriers, wqMaxActive, wqCompleted, wqOldestPending, wqOldestRunning,
		ports, subsystems, namespaces, controllers, commands, cmdErrors, readBytes, wroteBytes,
	} {
		ch <- f.desc
	}
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	if c.s.Queues != nil {
		c.collectQueues(ch)
	}
	if c.s.Budget != nil {
		c.collectBudget(ch)
	}
	c.collectWorkqueues(ch)
	if c.s.Target != nil {
		c.collectTarget(ch)
	}
}
