package loop

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"

	"github.com/fabrid/fabrid/admission"
	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
)

// Defaults of a [Config].
const (
	DefaultInlineDataSize = 4096
	DefaultMaxQueueSize   = 128
	DefaultMaxData        = 1 << 20
	DefaultPoolSize       = 64 << 20
)

// Config describes a listener to be. Fields that are zero have a default where
// one is named; the others must be set.
type Config struct {
	// Addr is the listener's name: a host that dials it comes here. It need not
	// be an address of anything.
	Addr netip.AddrPort

	// Shards are the loops that queues are put on, one after the other. They are
	// closed after the listener has been shut down.
	Shards []*shard.Shard

	Core transport.Core
	Gate *transport.Gate

	// InlineDataSize is how many bytes of data a command capsule of an I/O
	// queue may carry. Zero: DefaultInlineDataSize; negative: none.
	InlineDataSize int
	// MaxQueueSize bounds the entries of an I/O queue.
	MaxQueueSize int
	// MaxData bounds the data of a command in bytes, for MDTS.
	MaxData int
	// PoolSize bounds the data buffers of a shard in bytes; what finds no room
	// waits. At least MaxData.
	PoolSize int64

	Events Events
}

// Events is who wants to know. Functions may be nil; they are called from any
// goroutine and do not block.
type Events struct {
	// Refused tells of a queue that was not admitted.
	Refused func(remote netip.AddrPort, cause error)
	// Down tells of a queue that was open and has gone down.
	Down func(remote netip.AddrPort, qid uint16, cause error)
}

func (c *Config) complete() error {
	if c.InlineDataSize == 0 {
		c.InlineDataSize = DefaultInlineDataSize
	}
	c.InlineDataSize = max(c.InlineDataSize, 0)
	if c.MaxQueueSize == 0 {
		c.MaxQueueSize = DefaultMaxQueueSize
	}
	if c.MaxData == 0 {
		c.MaxData = DefaultMaxData
	}
	if c.PoolSize == 0 {
		c.PoolSize = max(DefaultPoolSize, int64(c.MaxData))
	}
	bad := func(format string, args ...any) error {
		return fmt.Errorf("loop: listen at %v: "+format, append([]any{c.Addr}, args...)...)
	}
	switch {
	case !c.Addr.IsValid():
		return bad("no address")
	case len(c.Shards) == 0 || c.Core == nil || !c.Gate.Complete():
		return bad("Shards, Core and all of Gate are needed")
	case c.MaxQueueSize < 2 || c.MaxQueueSize > 1<<16-1:
		return bad("maximum queue size %d, need 2 to %d", c.MaxQueueSize, 1<<16-1)
	case c.MaxData < 4096 || c.MaxData > 1<<30:
		return bad("maximum data %d, need 4096 to %d", c.MaxData, 1<<30)
	case c.InlineDataSize%16 != 0 || c.InlineDataSize > c.MaxData:
		return bad("inline data size %d, need a multiple of 16 up to %d", c.InlineDataSize, c.MaxData)
	case c.PoolSize/pageSize < int64(pagesFor(c.MaxData)):
		return bad("pool of %d bytes, need %d", c.PoolSize, pagesFor(c.MaxData)*pageSize)
	}
	return nil
}

type (
	listenerMu    struct{} // innermost
	listenerDials struct{} // dials that are being admitted
	listenerEmpty struct{} // the last queue has been released
	gateAnswered  struct{} // an answer of the gate
)

// A Listener takes the connections to one address and owns the queues that come
// of them. Its methods may be called from any goroutine, but those that wait
// not from a shard.
type Listener struct {
	network *Network
	cfg     Config
	pools   []*pool // by shard
	next    atomic.Uint32

	ctx    context.Context // done when the listener is closed
	cancel context.CancelFunc
	dials  lockdep.WaitGroup[listenerDials]

	mu      lockdep.Mutex[listenerMu]
	closed  bool                               // guarded by mu
	waiting int                                // guarded by mu
	conns   map[*conn]struct{}                 // guarded by mu: admitted, not released
	empty   *lockdep.Completion[listenerEmpty] // guarded by mu: somebody waits for the last
}

// Addr returns the listener's name.
func (l *Listener) Addr() netip.AddrPort { return l.cfg.Addr }

func (l *Listener) limits() transport.Limits {
	return transport.Limits{
		Type:           nvme.TransportLoop,
		AdrFam:         nvme.AddressLoop,
		MaxQueueDepth:  l.cfg.MaxQueueSize,
		MaxData:        l.cfg.MaxData,
		InCapsule:      l.cfg.InlineDataSize,
		OffsetInCap:    l.cfg.InlineDataSize > 0,
		MaxDescriptors: 1,
	}
}

// Close stops taking connections and waits for those that are being admitted,
// which are refused. Queues live on. Further calls do nothing.
func (l *Listener) Close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.cancel()
	l.network.remove(l)
	l.dials.Wait()
}

// DisconnectAll takes leave of all hosts: each queue sends what was completed,
// disconnects and is released. It does not wait.
func (l *Listener) DisconnectAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		c.shard.Post(&c.dismiss)
	}
}

// Shutdown closes the listener, disconnects all queues and waits until they have
// been released. If ctx is done before, it returns an error that says what is
// left, and may be called again.
func (l *Listener) Shutdown(ctx context.Context) error {
	l.Close()
	l.DisconnectAll()
	l.mu.Lock()
	if len(l.conns) == 0 {
		l.mu.Unlock()
		return nil
	}
	if l.empty == nil {
		l.empty = new(lockdep.Completion[listenerEmpty])
	}
	empty := l.empty
	l.mu.Unlock()
	select {
	case <-empty.Done():
		return nil
	case <-ctx.Done():
		l.mu.Lock() // not Stats, which waits for the shards
		left := len(l.conns)
		l.mu.Unlock()
		return fmt.Errorf("loop: shutdown of %v: %d queues left: %w", l.cfg.Addr, left, context.Cause(ctx))
	}
}

// Stats is what a listener has; after Shutdown all of it is zero, but for
// orphaned requests, which keep their pages.
type Stats struct {
	Queues  int `json:"queues"`  // admitted and not released
	Waiting int `json:"waiting"` // to be admitted
	Pages   int `json:"pages"`   // data buffers in use
}

// Stats returns what the listener has. It waits for its shards.
func (l *Listener) Stats() Stats {
	l.mu.Lock()
	s := Stats{Queues: len(l.conns), Waiting: l.waiting}
	l.mu.Unlock()
	for _, p := range l.pools {
		_ = p.shard.Run(func() { s.Pages += p.used() }) // an error: closed
	}
	return s
}

// begin notes that a dial wants to be admitted.
func (l *Listener) begin() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return &transport.RefusedError{Remote: l.cfg.Addr, Reason: errClosed.Error()}
	}
	l.waiting++
	l.dials.Add(1)
	return nil
}

func (l *Listener) end() {
	l.mu.Lock()
	l.waiting--
	l.mu.Unlock()
	l.dials.Done()
}

// footprint is what a queue is charged, in bytes.
func (l *Listener) footprint(depth, inline int) int64 {
	return int64(depth) * (slotFootprint(l.cfg.MaxData) + int64(inline))
}

// admit passes the gate with a connection that has begun, and waits for it.
func (l *Listener) admit(ctx context.Context, c *conn, depth, inline int) error {
	claim := transport.Claim{
		QID: c.qid, Host: admission.Host{Addr: c.remote.Addr()},
		Bytes: l.footprint(depth, inline), IOBytes: l.footprint(l.cfg.MaxQueueSize, l.cfg.InlineDataSize),
	}
	c.life.Init(transport.LifeConfig{Gate: l.cfg.Gate, Queue: c}, claim)
	var err error
	if l.cfg.Core.Removed() {
		err = errPortGone
		c.life.Refuse(err)
	} else if err = c.life.Enter(); err == nil {
		err = c.await(ctx)
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return &transport.RefusedError{Remote: l.cfg.Addr, Listening: true, Busy: true, Reason: err.Error()}
}

// await waits for the answer of the gate, which comes soon if the dial is given
// up or the listener closes.
func (c *conn) await(ctx context.Context) error {
	select {
	case <-c.answered.Done():
	case <-ctx.Done():
		c.life.Withdraw(errHostLeft)
	case <-c.l.ctx.Done():
		c.life.Withdraw(errClosed)
	}
	c.answered.Wait()
	return c.refusal
}

// Admitted implements [transport.Entrant]: the dial makes the queue.
func (c *conn) Admitted() { c.answered.Complete() }

// Refused implements [transport.Entrant].
func (c *conn) Refused(cause error) {
	c.refusal = cause
	c.answered.Complete()
}

// enter puts a connection that is complete in the list: from then on others may
// take leave of it.
func (l *Listener) enter(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[c] = struct{}{}
}

// remove forgets a queue that has been released.
func (l *Listener) remove(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	if l.empty != nil && len(l.conns) == 0 {
		l.empty.Complete()
		l.empty = nil
	}
}
