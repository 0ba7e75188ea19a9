package target

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
)

// manner is how a queue leaves.
type manner bool

const (
	atOnce  manner = false
	inOrder manner = true // what it has is finished first, within a bound
)

// A departure is why and how a queue was told to leave.
type departure struct {
	cause error
	how   manner
}

type quiesced struct{}

func (quiesced) String() string { return "queue quiesced" }

// A queue is the core's end of one queue of a host: the [transport.Queue]
// that Open returns.
//
// It leaves in this order: a departure is noted and the task posted (leave);
// on the shard it takes no new command, completes the Asynchronous Event
// Requests, and when it holds no request any more, or too late, tells the
// fabric to disconnect (depart); the fabric says that it is down (Down), from
// when on nothing is submitted to a device; what devices still have is
// completed as it comes back; the last one lets Quiesce go; Destroy forgets it.
type queue struct {
	port     *Port
	fabric   transport.Fabric
	param    transport.QueueParam
	requests []*[requestChunk]request // by transport.Request.Index, nil until one of the chunk is used

	traffic   atomic.Bool               // a command has come; cleared by the keep alive
	isAdmin   atomic.Bool               // Connect said so
	departing atomic.Pointer[departure] // nil: it was not told to leave
	orphans   atomic.Int64              // held, once it is down
	gone      atomic.Bool               // destroyed
	idle      lockdep.Completion[quiesced]
	task      shard.Task

	// Owned by the shard.
	ctrl     *controller // nil before Connect
	tally    *tally      // nil before Connect
	qid      uint16
	commands *[256]command // of a queue of its kind
	entries  uint32        // of the submission queue; 0 before Connect
	sqhd     uint16
	flowOff  bool       // SQ flow control is disabled
	held     int        // requests that are the core's, a device's, or wait for the fabric
	parked   []*request // of held: came when the queue was leaving, and are not carried out
	leaving  bool       // no new command
	parted   bool       // Disconnect was called
	down     bool
	timer    shard.Timer // of Connect, then of leaving
}

var _ transport.Queue = (*queue)(nil)

func newQueue(p *Port, f transport.Fabric, param transport.QueueParam) *queue {
	q := &queue{port: p, fabric: f, param: param, requests: make([]*[requestChunk]request, (param.Depth+requestChunk-1)/requestChunk)}
	q.task.Fn = q.attend
	q.timer.Fn = q.expired
	return q
}

// requestChunk is how many requests are made at once. A queue of a host that
// comes and goes uses a few of its depth.
const requestChunk = 4

// request returns the request with an index.
func (q *queue) request(i int) *request {
	chunk := q.requests[i/requestChunk]
	if chunk == nil {
		chunk = new([requestChunk]request)
		q.requests[i/requestChunk] = chunk
		for i := range chunk {
			rq := &chunk[i]
			rq.q = q
			rq.op.Shard = q.param.Shard
		}
	}
	return &chunk[i%requestChunk]
}

func (q *queue) shard() *shard.Shard { return q.param.Shard }

// config returns the target's configuration.
func (q *queue) config() *Config { return &q.port.target.cfg }

// alive reports whether the queue has not been destroyed.
func (q *queue) alive() bool { return !q.gone.Load() }

// opened starts the time in which the host has to send its Connect.
func (q *queue) opened() {
	q.shard().Arm(&q.timer, q.shard().Now()+q.config().ConnectTimeout)
}

// post has the queue look, on its shard, at what others want of it.
func (q *queue) post() { q.shard().Post(&q.task) }

// leave tells the queue to leave; the first to say so counts, but one in order
// gives way to one at once. From any goroutine.
func (q *queue) leave(cause error, how manner) {
	d := &departure{cause, how}
	if !q.departing.CompareAndSwap(nil, d) {
		old := q.departing.Load()
		if how == inOrder || old.how == atOnce || !q.departing.CompareAndSwap(old, d) {
			return
		}
	}
	q.post()
}

// attend does on the shard what others have asked for.
func (q *queue) attend() {
	if q.down {
		return
	}
	if d := q.departing.Load(); d != nil {
		q.depart(d)
		return
	}
	if q.ctrl != nil && q.ctrl.admin == q {
		q.ctrl.deliver()
	}
}

// depart takes the next step of leaving.
func (q *queue) depart(d *departure) {
	if !q.leaving {
		q.leaving = true
		q.shard().Arm(&q.timer, q.shard().Now()+q.config().LeaveTimeout)
		if q.ctrl != nil && q.ctrl.admin == q {
			q.ctrl.failAERs(nvme.InternalError.WithDNR())
		}
	}
	if q.busy() == 0 || d.how == atOnce {
		q.disconnect(d.cause)
	}
}

func (q *queue) disconnect(cause error) {
	q.shard().Disarm(&q.timer)
	if !q.parted && !q.down {
		q.parted = true
		q.fabric.Disconnect(cause)
	}
}

// expired is the timer: the host has sent no Connect in time, or the queue,
// leaving in order, still has commands.
func (q *queue) expired() {
	switch {
	case q.down || q.gone.Load():
	case q.leaving:
		q.disconnect(q.departing.Load().cause)
	default:
		q.leave(fmt.Errorf("target: %v: %w", q.config().ConnectTimeout, ErrNoConnect), atOnce)
	}
}

// Receive takes the commands of one batch; see [transport.Queue].
func (q *queue) Receive(batch []*transport.Request) {
	if !q.traffic.Load() {
		q.traffic.Store(true)
	}
	for _, r := range batch {
		q.request(r.Index).begin(r)
	}
}

// DataReady goes on with a request; see [transport.Queue].
func (q *queue) DataReady(r *transport.Request, err error) {
	rq := q.request(r.Index)
	if err != nil {
		rq.complete(dataError(err))
		return
	}
	rq.dataReady()
}

// Sent is of no use yet: no memory of the core's is lent; see
// [transport.Queue].
func (q *queue) Sent(*transport.Request) {}

// Down ends the queue; see [transport.Queue].
func (q *queue) Down(cause error) {
	if q.down {
		return
	}
	q.down = true
	q.shard().Disarm(&q.timer)
	if q.ctrl != nil {
		q.ctrl.queueDown(q, cause)
	}
	q.leaveLines()
	for len(q.parked) > 0 {
		last := len(q.parked) - 1
		rq := q.parked[last]
		q.parked = q.parked[:last]
		rq.complete(errAborted)
	}
	q.settle()
}

// busy is how many requests are on the way to an answer.
func (q *queue) busy() int { return q.held - len(q.parked) }

// settle is called on the shard whenever fewer requests are held, or it begins
// to matter.
func (q *queue) settle() {
	if !q.down {
		if q.leaving && !q.parted && q.busy() == 0 {
			q.post() // not from here: a command may be on the way through the fabric above
		}
		return
	}
	q.orphans.Store(int64(q.held))
	if q.held == 0 {
		if q.ctrl != nil {
			q.ctrl.detach(q)
		}
		q.idle.Complete()
		q.param.Life.Settled()
	}
}

// Quiesce waits for the requests that are held; see [transport.Queue].
func (q *queue) Quiesce(deadline time.Time) (orphans int) {
	if wait := time.Until(deadline); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-q.idle.Done():
		case <-timer.C:
		}
	}
	return int(q.orphans.Load())
}

// Destroy forgets the queue; see [transport.Queue].
func (q *queue) Destroy() {
	if q.ctrl != nil {
		q.ctrl.queueGone(q)
	}
	q.port.target.queueGone(q)
}

// connected makes the queue one of its controller. On the shard.
func (q *queue) connected(c nvme.ConnectCommand) {
	q.shard().Disarm(&q.timer)
	q.entries = uint32(c.SQSize) + 1
	q.flowOff = c.CATTR&nvme.CATTRDisableSQFlow != 0
	t := q.port.target
	life := q.param.Life
	switch {
	case c.QID != 0:
		q.commands = t.io
		life.Connected(q.ctrl.admin.param.Life)
	case q.ctrl.isDiscovery():
		q.commands = t.disc
		life.Connected(nil)
		life.Unreserve() // it has no I/O queues
	default:
		life.Connected(nil)
		q.commands = t.admin
	}
}

// nextSQHD returns SQHD for the next completion: one entry further each time
// [Base 3.3.2.5].
func (q *queue) nextSQHD() uint16 {
	switch {
	case q.flowOff:
		return nvme.SQHDDisabled
	case q.entries == 0:
		return 0
	}
	next := uint32(q.sqhd) + 1
	if next == q.entries {
		next = 0
	}
	q.sqhd = uint16(next)
	return q.sqhd
}
