package loop

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
)

// adminQueueSize is the depth of every known host's admin queue (NVME_AQ_DEPTH).
const adminQueueSize = 32

type networkMu struct{} // innermost

// A Network is where listeners are found. Its methods may be called from any
// goroutine.
type Network struct {
	mu        lockdep.Mutex[networkMu]
	listeners map[netip.AddrPort]*Listener // guarded by mu
}

// NewNetwork returns a network that nobody listens in.
func NewNetwork() *Network { return &Network{listeners: make(map[netip.AddrPort]*Listener)} }

// Listen makes a listener, which takes connections at once.
func (n *Network) Listen(cfg Config) (*Listener, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	l := &Listener{network: n, cfg: cfg, conns: make(map[*conn]struct{})}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	for _, s := range cfg.Shards {
		l.pools = append(l.pools, newPool(s, cfg.PoolSize))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[cfg.Addr] != nil {
		l.cancel()
		return nil, fmt.Errorf("loop: listen at %v: somebody listens there already", cfg.Addr)
	}
	n.listeners[cfg.Addr] = l
	return l, nil
}

func (n *Network) remove(l *Listener) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[l.cfg.Addr] == l {
		delete(n.listeners, l.cfg.Addr)
	}
}

func (n *Network) find(a netip.AddrPort) *Listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.listeners[a]
}

// A Dialer connects a host's queues. It implements [transport.Dialer]; Dial may
// be called from any goroutine but a shard's.
type Dialer struct {
	network *Network
	shards  []*shard.Shard
	next    atomic.Uint32
}

var _ transport.Dialer = (*Dialer)(nil)

// NewDialer makes a dialer that puts queues on the given shards, one after the
// other. It holds nothing and need not be closed; the shards are closed after
// the last queue has been disconnected.
func (n *Network) NewDialer(shards ...*shard.Shard) (*Dialer, error) {
	if len(shards) == 0 {
		return nil, errors.New("loop: new dialer: no shard")
	}
	return &Dialer{network: n, shards: shards}, nil
}

// Dial implements [transport.Dialer].
func (d *Dialer) Dial(ctx context.Context, p transport.HostQueueParam) (transport.HostQueue, error) {
	c, err := d.dial(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("loop: connect queue %d: %w", p.QID, err)
	}
	// From the other end's answer on, before anything can have been submitted.
	h := c.host
	var lost error
	err = h.shard.Run(func() {
		if h.dialed = true; h.down {
			lost = h.downCause
		}
	})
	if err = errors.Join(err, lost); err != nil {
		h.Disconnect()
		return nil, fmt.Errorf("loop: connect queue %d: %w", p.QID, err)
	}
	return h, nil
}

func (d *Dialer) dial(ctx context.Context, p transport.HostQueueParam) (*conn, error) {
	l := d.network.find(p.Remote)
	if l == nil {
		return nil, &transport.RefusedError{Remote: p.Remote, Reason: "loop"}
	}
	if p.Depth < 2 || p.Depth > 1<<16-1 || p.MaxData < 0 || p.InCapsule < 0 {
		return nil, fmt.Errorf("depth %d, maximum data %d, in-capsule data %d", p.Depth, p.MaxData, p.InCapsule)
	}
	limit := l.cfg.MaxQueueSize
	if p.QID == 0 {
		limit = max(limit, adminQueueSize)
	}
	if p.Depth > limit {
		return nil, &transport.RefusedError{Remote: p.Remote, Listening: true, Reason: fmt.Sprintf("depth %d, the limit is %d", p.Depth, limit)}
	}
	if p.Shard == nil {
		p.Shard = d.shards[int(d.next.Add(1)-1)%len(d.shards)]
	}
	c, err := l.connect(ctx, p)
	if err != nil {
		if fn := l.cfg.Events.Refused; fn != nil {
			fn(netip.AddrPortFrom(p.Local, 0), err)
		}
		return nil, err
	}
	select {
	case <-c.opened.Done():
	case <-ctx.Done():
		c.host.Disconnect()
		return nil, context.Cause(ctx)
	}
	if c.refusal != nil {
		c.host.Disconnect()
		return nil, &transport.RefusedError{Remote: p.Remote, Listening: true, Reason: c.refusal.Error()}
	}
	return c, nil
}

// connect admits a connection and has its ends made.
func (l *Listener) connect(ctx context.Context, p transport.HostQueueParam) (*conn, error) {
	if err := l.begin(); err != nil {
		return nil, err
	}
	defer l.end()
	i := int(l.next.Add(1)-1) % len(l.cfg.Shards)
	c := &conn{l: l, shard: l.cfg.Shards[i], pool: l.pools[i], qid: p.QID, remote: netip.AddrPortFrom(p.Local, 0)}
	inline := 0
	if p.QID != 0 {
		inline = l.cfg.InlineDataSize
	}
	if err := l.admit(ctx, c, p.Depth, inline); err != nil {
		return nil, err
	}
	c.allocate(p.Depth, inline)
	c.host = newHostQueue(c, p.Shard, p)
	l.enter(c)
	if !c.shard.Post(&c.open) {
		c.life.BeginRelease(transport.WithReason("shard_closed", shard.ErrClosed))
		return nil, shard.ErrClosed
	}
	return c, nil
}
