package transporttest

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
)

// A Core is a fake of the target core. What its queues do with a command is the
// check's to say; by default they carry it out at once.
type Core struct {
	t *testing.T

	// handle, if set, is given each command on the queue's shard.
	handle func(q *Queue, r *transport.Request)
	// open, if set, may refuse a queue.
	open func(p transport.QueueParam) error

	opened  chan *Queue
	removed atomic.Bool
}

var _ transport.Core = (*Core)(nil)

// Open implements [transport.Core].
func (c *Core) Open(f transport.Fabric, p transport.QueueParam) (transport.Queue, error) {
	if c.open != nil {
		if err := c.open(p); err != nil {
			return nil, err
		}
	}
	q := &Queue{core: c, t: c.t, fabric: f, param: p, state: make([]requestState, p.Depth), then: make([]func(*transport.Request, error), p.Depth)}
	q.carryOutData = q.carriedOut
	c.opened <- q
	return q, nil
}

// Removed implements [transport.Core].
func (c *Core) Removed() bool { return c.removed.Load() }

// A requestState is where a request is, as the contract has it.
type requestState uint8

const (
	away    requestState = iota // the fabric's, or unused
	here                        // the core's
	asked                       // DataReady is due
	sending                     // Sent is due
)

func (s requestState) String() string {
	return [...]string{"the fabric's", "the core's", "waiting for its data", "being sent"}[s]
}

// A Queue is the fake's end of a queue. What is below destroyed belongs to the
// shard.
type Queue struct {
	core   *Core
	t      *testing.T
	fabric transport.Fabric
	param  transport.QueueParam

	quiesce   atomic.Int64 // orphans to be reported; negative: wait for all
	destroyed atomic.Bool
	idle      lockdep.Completion[idle]

	state    []requestState
	then     []func(*transport.Request, error) // after DataReady
	held     []*transport.Request              // by checks that complete later
	order    []uint32                          // CDW 10 of what was received, if keepOrder
	received int
	sent     int
	ready    int
	failed   int // DataReady with an error
	refused  int // Reserve without room
	downs    int
	cause    error

	keepOrder bool

	carryOutData func(*transport.Request, error)
}

type idle struct{}

func (q *Queue) errorf(format string, args ...any) {
	q.t.Helper()
	q.t.Errorf("target's end of queue %d: %s", q.param.QID, fmt.Sprintf(format, args...))
}

// Receive implements [transport.Queue].
func (q *Queue) Receive(batch []*transport.Request) {
	for _, r := range batch {
		switch {
		case r.Index < 0 || r.Index >= len(q.state):
			q.errorf("request %d of %d", r.Index, len(q.state))
			continue
		case q.state[r.Index] != away:
			q.errorf("request %d was received while it was %v", r.Index, q.state[r.Index])
		case q.downs > 0:
			q.errorf("request %d was received after Down", r.Index)
		case q.destroyed.Load():
			q.errorf("request %d was received after Destroy", r.Index)
		}
		if len(r.Command) != nvme.CommandSize {
			q.errorf("a command of %d bytes", len(r.Command))
		}
		q.state[r.Index] = here
		q.received++
		if q.keepOrder {
			q.order = append(q.order, r.Command.CDW(10))
		}
	}
	for _, r := range batch {
		if q.core.handle != nil {
			q.core.handle(q, r)
		} else {
			q.carryOut(r)
		}
	}
}

// hold keeps r for later.
func (q *Queue) hold(r *transport.Request) { q.held = append(q.held, r) }

// reserve asks for memory; then follows, possibly at once.
func (q *Queue) reserve(r *transport.Request, n int, then func(*transport.Request, error)) {
	q.state[r.Index], q.then[r.Index] = asked, then
	if !q.fabric.Reserve(r, n) {
		q.refused++
		return
	}
	if q.state[r.Index] != asked {
		q.errorf("Reserve of request %d returned true and told DataReady", r.Index)
		return
	}
	q.state[r.Index] = here
	q.checkData(r, n)
	then(r, nil)
}

func (q *Queue) checkData(r *transport.Request, n int) {
	sum := 0
	for _, b := range r.Data {
		sum += len(b)
	}
	if sum != n {
		q.errorf("request %d has %d bytes of memory, %d were asked for", r.Index, sum, n)
	}
}

// pull asks for the host's data; then follows.
func (q *Queue) pull(r *transport.Request, then func(*transport.Request, error)) {
	q.state[r.Index], q.then[r.Index] = asked, then
	q.fabric.Pull(r)
}

// DataReady implements [transport.Queue].
func (q *Queue) DataReady(r *transport.Request, err error) {
	if q.state[r.Index] != asked {
		q.errorf("DataReady of request %d, which is %v", r.Index, q.state[r.Index])
		return
	}
	q.state[r.Index] = here
	q.ready++
	if err != nil {
		q.failed++
	}
	q.then[r.Index](r, err)
}

// complete completes r.
func (q *Queue) complete(r *transport.Request, s nvme.Status, result uint64) {
	if q.state[r.Index] != here {
		q.errorf("the check completes request %d, which is %v", r.Index, q.state[r.Index])
		return
	}
	r.Completion = nvme.Completion{CID: r.Command.CID(), SQHD: uint16(q.received), Result: result, Status: s}
	q.state[r.Index] = sending
	q.fabric.Complete(r)
}

// completeHeld completes all that was held.
func (q *Queue) completeHeld(s nvme.Status) {
	held := q.held
	q.held = nil
	for _, r := range held {
		q.complete(r, s, 0)
	}
}

// Sent implements [transport.Queue].
func (q *Queue) Sent(r *transport.Request) {
	if q.state[r.Index] != sending {
		q.errorf("Sent of request %d, which is %v", r.Index, q.state[r.Index])
	}
	q.state[r.Index] = away
	q.sent++
	q.checkIdle()
}

func (q *Queue) checkIdle() {
	if q.downs > 0 && q.sent == q.received {
		q.idle.Complete()
		q.param.Life.Settled()
	}
}

// Down implements [transport.Queue]. What was held is completed, unless the
// check has said that Quiesce reports it as orphaned.
func (q *Queue) Down(cause error) {
	q.downs++
	q.cause = cause
	if q.downs > 1 {
		q.errorf("Down for the %d. time: %v", q.downs, cause)
		return
	}
	if cause == nil {
		q.errorf("Down without a cause")
	}
	if q.quiesce.Load() < 0 {
		q.completeHeld(nvme.AbortedSQDeletion)
	}
	q.checkIdle()
}

// Quiesce implements [transport.Queue].
func (q *Queue) Quiesce(deadline time.Time) int {
	if n := q.quiesce.Load(); n >= 0 {
		return int(n)
	}
	select {
	case <-q.idle.Done():
		return 0
	case <-time.After(time.Until(deadline)):
		q.errorf("not quiet by the deadline: a request was not completed, or not told Sent")
		return 1
	}
}

// Destroy implements [transport.Queue].
func (q *Queue) Destroy() {
	if q.destroyed.Swap(true) {
		q.errorf("Destroy twice")
	}
}

// run runs fn on the queue's shard.
func (q *Queue) run(fn func()) {
	q.t.Helper()
	if err := q.param.Shard.Run(fn); err != nil {
		q.t.Fatal(err)
	}
}

// carryOut is what a queue does with a command if the check does not say: CDW 10
// is the seed of a pattern that is data. A read returns it, a write is compared
// with it, and the result is the length.
func (q *Queue) carryOut(r *transport.Request) {
	if !r.SGLStatus.OK() {
		q.errorf("request %d: SGL: %v", r.Index, r.SGLStatus)
		q.complete(r, r.SGLStatus, 0)
		return
	}
	switch {
	case r.Length == 0:
		q.complete(r, nvme.Success, 0)
	case r.Command.Direction() == nvme.HostToController:
		q.pull(r, q.carryOutData)
	default:
		q.reserve(r, r.Length, q.carryOutData)
	}
}

func (q *Queue) carriedOut(r *transport.Request, err error) {
	if err != nil {
		if q.downs == 0 {
			q.errorf("request %d: no data: %v", r.Index, err)
		}
		q.complete(r, nvme.DataTransferError, 0)
		return
	}
	seed := byte(r.Command.CDW(10))
	if r.Command.Direction() == nvme.ControllerToHost {
		for _, b := range r.Data {
			seed = fill(b, seed)
		}
	} else {
		q.checkData(r, r.Length)
		for _, b := range r.Data {
			var at int
			if seed, at = same(b, seed); at >= 0 {
				q.errorf("request %d: %d bytes of data differ at byte %d of a piece", r.Index, r.Length, at)
				break
			}
		}
	}
	q.complete(r, nvme.Success, uint64(r.Length))
}

// fill fills b with the pattern of seed and returns the seed of what follows.
func fill(b []byte, seed byte) byte {
	for i := range b {
		b[i] = seed
		seed += 7 // every value comes before one comes again
	}
	return seed
}

// same compares b with the pattern of seed; at is where they differ, or -1.
func same(b []byte, seed byte) (next byte, at int) {
	for i, v := range b {
		if v != seed {
			return seed, i
		}
		seed += 7
	}
	return seed, -1
}
