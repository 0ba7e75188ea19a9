package simnet

import (
	"bytes"
	"container/heap"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/fabrid/fabrid/shard"
)

// Config describes a network to be. The zero value is one without delay or
// loss.
type Config struct {
	// Seed decides all that is random.
	Seed uint64
	// Link is every link that SetLink does not set.
	Link Link
}

// A Net carries datagrams between the addresses that are attached to it. All
// methods may be called from any goroutine, but not from a Drop function.
type Net struct {
	cfg   Config
	shard *shard.Shard
	begin time.Time // of the shard's time

	// Owned by the shard.
	endpoints map[netip.AddrPort]*endpoint
	links     map[direction]*link
	inFlight  arrivals
	timer     shard.Timer
	last      time.Duration // of the last delivery
	stats     Stats
	capture   *capture // nil: not asked for
}

// A direction is from one address to another, the name of a link.
type direction struct{ from, to netip.Addr }

// compare orders directions.
func (d direction) compare(e direction) int {
	if c := d.from.Compare(e.from); c != 0 {
		return c
	}
	return d.to.Compare(e.to)
}

type endpoint struct {
	receive func(from, to netip.AddrPort, ident uint16, b []byte)
}

// Stats counts packets. What was sent and was not lost was delivered, is on
// its way, or found nobody at its address.
type Stats struct {
	Sent        int // by endpoints
	Delivered   int // to endpoints, with duplicates
	Dropped     int // by a Drop function
	Lost        int // by chance
	TooLong     int // for the link's MTU
	Overflowed  int // found no room in the link's queue
	Unreachable int // arrived where nobody is
	Duplicated  int
	HeldBack    int
	Corrupted   int
}

// New makes a network. It must be closed.
func New(cfg Config) *Net {
	n := &Net{
		cfg:       cfg,
		shard:     shard.NewSim(shard.Config{Name: "simnet", Role: "simnet"}),
		begin:     time.Now(),
		endpoints: make(map[netip.AddrPort]*endpoint),
		links:     make(map[direction]*link),
		last:      -1,
	}
	n.timer.Fn = n.deliver
	return n
}

// Close stops the network. Packets on their way arrive no more.
func (n *Net) Close() error { return n.shard.Close() }

// Attach has receive called for every datagram that arrives at addr, one at a
// time. receive must neither block nor keep b. When detach has returned, it is
// called no more; it must not be called by receive.
func (n *Net) Attach(addr netip.AddrPort, receive func(from, to netip.AddrPort, ident uint16, b []byte)) (detach func(), err error) {
	if !addr.IsValid() || addr.Addr().IsUnspecified() || addr.Port() == 0 {
		return nil, fmt.Errorf("simnet: attach %v: not an address of a datagram", addr)
	}
	ep := &endpoint{receive}
	inUse := false
	if err := n.shard.Run(func() {
		if inUse = n.endpoints[addr] != nil; !inUse {
			n.endpoints[addr] = ep
		}
	}); err != nil {
		return nil, fmt.Errorf("simnet: attach %v: %w", addr, err)
	}
	if inUse {
		return nil, fmt.Errorf("simnet: attach %v: address in use", addr)
	}
	return func() {
		err := n.shard.Run(func() {
			if n.endpoints[addr] == ep {
				delete(n.endpoints, addr)
			}
		})
		if errors.Is(err, shard.ErrClosed) {
			// Closing runs no deliveries but those under way: wait for them.
			n.shard.Close()
		}
	}, nil
}

// Send sends a datagram. b is the caller's again when Send returns; ident is
// the Identification of its IPv4 header. It never blocks.
func (n *Net) Send(from, to netip.AddrPort, ident uint16, b []byte) {
	p := &packet{from: from, to: to, ident: ident, b: bytes.Clone(b)}
	p.task.Fn = func() { n.forward(p) }
	n.shard.Post(&p.task)
}

// SetLink sets the link from one address to another, for what is sent from
// then on.
func (n *Net) SetLink(from, to netip.Addr, l Link) error {
	return n.shard.Run(func() { n.link(direction{from, to}).Link = l })
}

// Stats returns what was counted so far.
func (n *Net) Stats() Stats {
	var s Stats
	n.onShard(func() { s = n.stats })
	return s
}

// onShard runs fn on the shard, or in its place when it has ended.
func (n *Net) onShard(fn func()) {
	if err := n.shard.Run(fn); err != nil {
		n.shard.Close()
		fn()
	}
}

// A packet is a datagram on its way.
type packet struct {
	task     shard.Task
	from, to netip.AddrPort
	ident    uint16
	b        []byte

	link *link
}

// An arrival is a packet that will arrive, once.
type arrival struct {
	*packet
	at  time.Duration
	seq int // tells those of a link apart
}

func (n *Net) link(d direction) *link {
	l := n.links[d]
	if l == nil {
		l = newLink(d, n.cfg.Link, n.cfg.Seed)
		n.links[d] = l
	}
	return l
}

// forward decides what becomes of a packet that was sent.
func (n *Net) forward(p *packet) {
	now := n.shard.Now()
	p.link = n.link(direction{p.from.Addr(), p.to.Addr()})
	n.stats.Sent++
	rec := n.capture.add(now, p)
	fate := p.link.decide(now, p)
	switch fate.end {
	case dropped:
		n.stats.Dropped++
	case lost:
		n.stats.Lost++
	case tooLong:
		n.stats.TooLong++
	case overflowed:
		n.stats.Overflowed++
	}
	rec.note(fate)
	if fate.end != passed {
		return
	}
	if fate.heldBack {
		n.stats.HeldBack++
	}
	copies := 1
	if fate.duplicated {
		n.stats.Duplicated++
		copies++
	}
	if fate.corrupted {
		n.stats.Corrupted++
		p.b = p.link.damage(p.b)
		rec.replace(p.b)
	}
	for range copies {
		heap.Push(&n.inFlight, arrival{p, fate.at, p.link.nextSeq()})
	}
	n.arm()
}

// deliver gives the next packet to its endpoint.
func (n *Net) deliver() {
	p := heap.Pop(&n.inFlight).(arrival)
	n.last = n.shard.Now()
	if ep := n.endpoints[p.to]; ep != nil {
		n.stats.Delivered++
		ep.receive(p.from, p.to, p.ident, p.b)
	} else {
		n.stats.Unreachable++
	}
	n.arm()
}

func (n *Net) arm() {
	if len(n.inFlight) > 0 {
		n.shard.Arm(&n.timer, max(n.inFlight[0].at, n.last+1))
	}
}

// arrivals is a heap by time of arrival. What arrives at once is ordered by
// link, then as it was sent, and never by which goroutine came first.
type arrivals []arrival

func (a arrivals) Len() int      { return len(a) }
func (a arrivals) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *arrivals) Push(x any)   { *a = append(*a, x.(arrival)) }

func (a arrivals) Less(i, j int) bool {
	p, q := a[i], a[j]
	if p.at != q.at {
		return p.at < q.at
	}
	if c := p.link.compare(q.link.direction); c != 0 {
		return c < 0
	}
	return p.seq < q.seq
}

func (a *arrivals) Pop() any {
	last := len(*a) - 1
	p := (*a)[last]
	(*a)[last] = arrival{}
	*a = (*a)[:last]
	return p
}
