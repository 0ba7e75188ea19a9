package rdma

import (
	"bytes"
	"slices"
	"time"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
)

type coreMu struct{}

// A testCore is a target core whose only namespace is a slice of bytes, with
// blocks of one byte and lengths taken from the SGL.
type testCore struct {
	openErr error
	removed bool
	lend    int  // segments that reads lend; 0: reads reserve
	size    int  // bytes of the namespace, one for each queue
	forget  bool // keeps no list of queues

	// hold says which commands stay with the core, on the shard.
	hold func(c nvme.Command) bool

	mu     lockdep.Mutex[coreMu]
	queues []*testQueue // guarded by mu
	opened chan *testQueue
}

func newTestCore() *testCore { return &testCore{size: 16 << 20, opened: make(chan *testQueue, 4096)} }

func (c *testCore) Removed() bool { return c.removed }

func (c *testCore) Open(f transport.Fabric, p transport.QueueParam) (transport.Queue, error) {
	if c.openErr != nil {
		return nil, c.openErr
	}
	q := &testQueue{core: c, f: f, p: p, state: make([]uint8, p.Depth), store: make([]byte, c.size), quiet: make(chan struct{}), downed: make(chan struct{})}
	if c.forget {
		return q, nil
	}
	c.mu.Lock()
	c.queues = append(c.queues, q)
	c.mu.Unlock()
	c.opened <- q
	return q, nil
}

func (c *testCore) all() []*testQueue {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.queues)
}

// What a request of the test core is at.
const (
	atFabric uint8 = iota // free, as far as the core knows
	atCore
	atPull
	atReserve
	atComplete
)

// A testQueue checks the contract of the seam as it serves.
type testQueue struct {
	core *testCore
	f    transport.Fabric
	p    transport.QueueParam

	// On the shard.
	state    []uint8
	store    []byte
	held     []*transport.Request
	received int
	sent     int
	downs    int
	cause    error
	problems []string
	lastErr  error

	downed    chan struct{}
	quiet     chan struct{} // closed when down and nothing is left
	isQuiet   bool
	quiesced  bool
	destroyed bool
	orphans   int
}

func (q *testQueue) problem(s string) { q.problems = append(q.problems, s) }

func (q *testQueue) Receive(batch []*transport.Request) {
	if len(batch) == 0 {
		q.problem("empty batch")
	}
	if q.downs > 0 {
		q.problem("Receive after Down")
	}
	for _, r := range batch {
		if q.state[r.Index] != atFabric {
			q.problem("request received that was not free")
		}
		q.state[r.Index] = atCore
		q.received++
		if q.core.hold != nil && q.core.hold(r.Command) {
			q.held = append(q.held, r)
			continue
		}
		q.serve(r)
	}
}

func (q *testQueue) serve(r *transport.Request) {
	switch {
	case !r.SGLStatus.OK():
		q.complete(r, r.SGLStatus)
	case r.Command.Direction() == nvme.HostToController && r.Length > 0:
		q.state[r.Index] = atPull
		q.f.Pull(r)
	case r.Command.Direction() == nvme.ControllerToHost && r.Length > 0:
		if r.Command.CDW(12) == 1 { // asked to fail
			q.complete(r, nvme.InternalError)
			return
		}
		if q.core.lend > 0 {
			q.lendData(r)
			q.complete(r, nvme.Success)
			return
		}
		q.state[r.Index] = atReserve
		if q.f.Reserve(r, r.Length) {
			q.read(r)
		}
	default:
		q.complete(r, nvme.Success)
	}
}

func (q *testQueue) lendData(r *transport.Request) {
	off := int(r.Command.CDW(10))
	part := (r.Length + q.core.lend - 1) / q.core.lend
	r.Data = nil
	for n := 0; n < r.Length; n += part {
		r.Data = append(r.Data, q.store[off+n:off+min(n+part, r.Length)])
	}
}

func (q *testQueue) read(r *transport.Request) {
	q.state[r.Index] = atCore
	off := int(r.Command.CDW(10))
	for _, b := range r.Data {
		off += copy(b, q.store[off:])
	}
	q.complete(r, nvme.Success)
}

func (q *testQueue) DataReady(r *transport.Request, err error) {
	was := q.state[r.Index]
	if was != atPull && was != atReserve {
		q.problem("DataReady for a request that waits for nothing")
	}
	q.state[r.Index] = atCore
	if err != nil {
		q.lastErr = err
		q.complete(r, nvme.DataTransferError)
		return
	}
	if was == atReserve {
		q.read(r)
		return
	}
	if total(r.Data) != r.Length {
		q.problem("DataReady with another length")
	}
	if !r.Command.IsFabrics() {
		off := int(r.Command.CDW(10))
		for _, b := range r.Data {
			off += copy(q.store[off:], b)
		}
	}
	q.complete(r, nvme.Success)
}

func (q *testQueue) complete(r *transport.Request, s nvme.Status) {
	q.state[r.Index] = atComplete
	r.Completion = nvme.Completion{CID: r.Command.CID(), Status: s, Result: uint64(r.Command.CDW(13))}
	q.f.Complete(r)
}

// release completes what is held, on the shard.
func (q *testQueue) release() {
	held := q.held
	q.held = nil
	for _, r := range held {
		q.serve(r)
	}
}

func (q *testQueue) Sent(r *transport.Request) {
	if q.state[r.Index] != atComplete {
		q.problem("Sent for a request that was not completed")
	}
	q.state[r.Index] = atFabric
	q.sent++
	q.checkQuiet()
}

func (q *testQueue) Down(cause error) {
	if q.downs++; q.downs > 1 {
		q.problem("Down twice")
	}
	q.cause = cause
	close(q.downed)
	q.checkQuiet()
}

func (q *testQueue) checkQuiet() {
	if q.downs == 0 || q.isQuiet {
		return
	}
	for _, s := range q.state {
		if s != atFabric {
			return
		}
	}
	q.isQuiet = true
	close(q.quiet)
	q.p.Life.Settled()
}

func (q *testQueue) Quiesce(deadline time.Time) int {
	q.quiesced = true
	select {
	case <-q.quiet:
		return 0
	case <-time.After(time.Until(deadline)):
	}
	_ = q.p.Shard.Run(func() {
		for _, s := range q.state {
			if s != atFabric {
				q.orphans++
			}
		}
	})
	return q.orphans
}

func (q *testQueue) Destroy() { q.destroyed = true }

// pattern is n bytes that depend on seed.
func pattern(n, seed int) []byte {
	b := make([]byte, n)
	x := uint32(seed)*2654435761 + 1
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}

func same(a, b []byte) bool { return bytes.Equal(a, b) }
