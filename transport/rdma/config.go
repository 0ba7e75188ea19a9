package rdma

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
)

// Defaults of a [Config].
const (
	DefaultInlineDataSize   = 4096
	DefaultMaxQueueSize     = 128
	DefaultMaxData          = 1 << 20
	DefaultSRQSize          = 1024
	DefaultPoolSize         = 64 << 20
	DefaultMaxReadSize      = 128 << 10
	DefaultConnectTimeout   = 60 * time.Second
	DefaultEstablishTimeout = 20 * time.Second
	DefaultStallTimeout     = 30 * time.Second
	DefaultFlushTimeout     = time.Second
	DefaultRetryInterval    = 5 * time.Second
)

// adminQueueSize is the depth of an admin queue (NVME_AQ_DEPTH): that of every
// known host, and the most that Linux's target accepts.
const adminQueueSize = 32

// Config describes a listener to be. Fields that are zero have a default where
// one is named; the others must be set.
type Config struct {
	CM       *rdmacm.CM
	Provider rdmacm.Provider
	Addr     netip.AddrPort // the IP may be unspecified, the port not

	// Shards are the loops of the device's completion vectors, by vector. They
	// are closed after the listener has been shut down.
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

	// UseSRQ makes the I/O queues of a shard share their receives, SRQSize of
	// them, which is also how many such queues there may be. It saves memory where
	// many queues are idle.
	UseSRQ  bool
	SRQSize int

	// PoolSize bounds the data buffers of a shard in bytes; what finds no room
	// waits. One queue never holds more than a quarter of it, which is at least
	// MaxData, and the queues of one host never more than half.
	PoolSize int64
	// MaxReadSize bounds one RDMA READ, in bytes. What is under way at once is
	// that times the READs that the host answers at once.
	MaxReadSize int

	// ConnectTimeout is how long an established queue may be without a
	// successful Connect command. Linux hosts establish all I/O queues before
	// they send the first Connect.
	ConnectTimeout time.Duration
	// EstablishTimeout is how long an accepted queue may stay unestablished.
	EstablishTimeout time.Duration
	// StallTimeout is how long work requests may be under way to a host without
	// one completing. A host can withhold its receives for as long as it likes,
	// and the memory of what is sent to it with them. While others wait for that
	// memory it is an eighth.
	StallTimeout time.Duration
	// FlushTimeout bounds the sending of what was completed before a
	// disconnect.
	FlushTimeout time.Duration
	// DrainTimeout and QuiesceTimeout are those of [transport.LifeConfig].
	DrainTimeout, QuiesceTimeout time.Duration
	// RetryInterval is how often a listener whose address went away is tried
	// again.
	RetryInterval time.Duration

	Events Events
}

// Events is who wants to know. Functions may be nil; they are called from any
// goroutine and do not block.
type Events struct {
	// Refused tells of a queue that was not admitted. It may be called in a
	// handler of the connection manager, which Close and Shutdown wait for.
	Refused func(remote netip.AddrPort, cause error)
	// Down tells of a queue that was admitted and has gone down.
	Down func(remote netip.AddrPort, qid uint16, cause error)
	// Listening tells that the listener takes connections again, or with an
	// error why it does not.
	Listening func(addr netip.AddrPort, err error)
}

func orDefault[T int | int64 | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

func (c *Config) setDefaults() {
	orDefault(&c.InlineDataSize, DefaultInlineDataSize)
	orDefault(&c.MaxQueueSize, DefaultMaxQueueSize)
	orDefault(&c.MaxData, DefaultMaxData)
	orDefault(&c.SRQSize, DefaultSRQSize)
	orDefault(&c.PoolSize, max(DefaultPoolSize, 4*int64(c.MaxData)))
	orDefault(&c.MaxReadSize, DefaultMaxReadSize)
	orDefault(&c.ConnectTimeout, DefaultConnectTimeout)
	orDefault(&c.EstablishTimeout, DefaultEstablishTimeout)
	orDefault(&c.StallTimeout, DefaultStallTimeout)
	orDefault(&c.FlushTimeout, DefaultFlushTimeout)
	orDefault(&c.RetryInterval, DefaultRetryInterval)
	c.InlineDataSize = max(c.InlineDataSize, 0)
}

// complete sets defaults and checks what is left.
func (c *Config) complete() error {
	c.setDefaults()
	bad := func(format string, args ...any) error {
		return fmt.Errorf("rdma: listen at %v: "+format, append([]any{c.Addr}, args...)...)
	}
	attr := c.Provider.Device().Attr()
	switch {
	case c.CM == nil || c.Core == nil || !c.Gate.Complete():
		return bad("CM, Core and all of Gate are needed")
	case !c.Addr.IsValid() || c.Addr.Port() == 0:
		return bad("no address or no port")
	case len(c.Shards) != attr.NumCompVectors:
		return bad("%d shards for %d completion vectors", len(c.Shards), attr.NumCompVectors)
	case c.MaxQueueSize < 2 || c.MaxQueueSize > 1<<16-1 || c.MaxQueueSize > attr.MaxQPWR/4:
		return bad("maximum queue size %d, need 2 to %d", c.MaxQueueSize, min(1<<16-1, attr.MaxQPWR/4))
	case c.InlineDataSize%16 != 0 || c.InlineDataSize > c.MaxData:
		return bad("inline data size %d, need a multiple of 16 up to %d", c.InlineDataSize, c.MaxData)
	case c.MaxData < 4096 || c.MaxData > nvme.MaxKeyedLength:
		return bad("maximum data %d, need 4096 to %d", c.MaxData, nvme.MaxKeyedLength)
	case c.PoolSize < 4*int64(c.MaxData) || c.PoolSize < int64(numClasses*slabSize):
		return bad("pool of %d bytes, need %d", c.PoolSize, max(4*c.MaxData, numClasses*slabSize))
	case c.MaxReadSize < 4096 || c.MaxReadSize > 1<<30:
		return bad("RDMA READs of %d bytes, need 4096 or more", c.MaxReadSize)
	case c.UseSRQ && (c.SRQSize < 1 || c.SRQSize > attr.MaxSRQWR):
		return bad("SRQ of %d receives, need 1 to %d", c.SRQSize, attr.MaxSRQWR)
	}
	return nil
}

// limits is what Identify Controller reports of the fabric.
func (c *Config) limits(local netip.Addr) transport.Limits {
	family := nvme.AddressIPv6
	if local.Unmap().Is4() {
		family = nvme.AddressIPv4
	}
	return transport.Limits{
		Type:           nvme.TransportRDMA,
		AdrFam:         family,
		TSAS:           nvme.RDMATSAS{QPTYPE: nvme.RDMAQPTypeRC, PRTYPE: nvme.RDMAProviderNone, CMS: nvme.RDMACMSRDMACM}.TSAS(),
		MaxQueueDepth:  c.MaxQueueSize,
		MaxData:        c.MaxData,
		InCapsule:      c.InlineDataSize,
		KeyedSGL:       true,
		OffsetInCap:    c.InlineDataSize > 0,
		MaxDescriptors: 1,
	}
}
