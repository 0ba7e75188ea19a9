package host

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
)

// Values of the durations in [Config], for which zero means the default.
const (
	Off     time.Duration = -1
	Forever time.Duration = -2
)

// Defaults of [Config] and bounds that it does not change.
const (
	DefaultQueueSize      = 128
	DefaultKATO           = 5 * time.Second
	DefaultReconnectDelay = 10 * time.Second
	DefaultCtrlLossTMO    = 600 * time.Second
	DefaultIOTimeout      = 30 * time.Second
	DefaultAdminTimeout   = 60 * time.Second
	DefaultMaxData        = 1 << 20

	MinQueueSize   = 16
	MaxQueueSize   = 1024
	AdminQueueSize = 32

	// DefaultMaxRetries is Linux's nvme_max_retries.
	DefaultMaxRetries = 5

	// MaxInCapsule bounds the data that a command carries in its capsule,
	// whatever IOCCSZ allows: memory for it may be held for each command that
	// can be outstanding. Linux's bound is the same.
	MaxInCapsule = 16 << 10
)

// Config describes a controller to connect to. Names and defaults are those of
// nvme-cli and Linux.
type Config struct {
	// Dialer is the fabric to use. Required.
	Dialer transport.Dialer
	// Remote is where the subsystem is (traddr, trsvcid). Required.
	Remote netip.AddrPort
	// Local is the address to connect from (host-traddr); the fabric chooses if
	// it is not valid.
	Local netip.Addr

	// NQN names the subsystem. Required, but by [Discover].
	NQN string
	// HostID and HostNQN say who we are. A host keeps them for ever, because
	// subsystems admit hosts by name; without a HostID a random one is made, and
	// without a HostNQN the one made of HostID.
	HostID  nvme.UUID
	HostNQN string

	// NrIOQueues is how many I/O queues to ask for; 0 is 1. The controller may
	// grant fewer.
	NrIOQueues int
	// QueueSize is the size of each, MinQueueSize to MaxQueueSize; one command
	// less may be outstanding. 0 is DefaultQueueSize.
	QueueSize int
	// MaxData bounds the data of a command in bytes, beside MDTS.
	MaxData int
	// DisableSQFlow asks for no submission queue flow control.
	DisableSQFlow bool

	// KATO is the keep-alive timeout: after that long without a sign of the
	// other, host and controller give the connection up. Off: none, which is
	// the default with discovery controllers.
	KATO time.Duration
	// ReconnectDelay is the time before each attempt to connect again.
	ReconnectDelay time.Duration
	// CtrlLossTMO is how long after a loss the controller is given up, in the
	// middle of an attempt too. Off: at once; Forever: never. Less than
	// ReconnectDelay leaves no time for an attempt.
	CtrlLossTMO time.Duration
	// FastIOFailTMO is after how long without a connection, or with a connection
	// whose controller has no path to the namespace, I/O fails with a
	// [*PathError] instead of waiting on. Attempts to connect go on. Off is the
	// default: I/O waits until the controller is given up.
	FastIOFailTMO time.Duration
	// MaxRetries is how often an I/O command is sent again, after a loss of the
	// connection or a status without DNR. 0 is DefaultMaxRetries; negative:
	// never.
	MaxRetries int
	// NoRequeue makes I/O commands that a loss of the connection interrupted
	// fail with a [*PathError] instead of being sent again, and those that the
	// controller refused with its status.
	NoRequeue bool
	// IOTimeout and AdminTimeout bound how long a command may be outstanding
	// before the connection is given up: also one whose context is done and that
	// the controller does not abort.
	IOTimeout, AdminTimeout time.Duration

	Events Events
}

// Events are told what happens to a controller. They are called one at a time
// on a goroutine of the controller's, may use its methods, and must not call
// Disconnect. Nil ones are not called.
type Events struct {
	// Lost: the connection has been given up; attempts to connect again follow.
	Lost func(cause error)
	// ConnectFailed: the given attempt, counted from 1, to connect again failed.
	ConnectFailed func(attempt int, err error)
	// Reconnected: the given attempt succeeded.
	Reconnected func(attempt int)
	// Dead: the controller has been given up for good.
	Dead func(cause error)
	// NamespacesChanged: [Controller.Namespaces] has been brought up to date
	// after the controller said that something changed, or after a reconnect.
	NamespacesChanged func()
	// DiscoveryChanged: the discovery log page has changed. Reading it
	// ([Controller.DiscoveryLog]) arms the event again.
	DiscoveryChanged func()
	// Warning: something failed that the controller lives with, such as the
	// identification of one namespace.
	Warning func(err error)
	// AsyncEvent: any other asynchronous event of the controller.
	AsyncEvent func(nvme.AsyncEvent)
}

// withDefaults returns c with defaults filled in, or what is wrong with it.
func (c Config) withDefaults() (Config, error) {
	if c.Dialer == nil {
		return c, errors.New("host: config: no Dialer")
	}
	if !c.Remote.IsValid() {
		return c, errors.New("host: config: no Remote address")
	}
	if c.HostID.IsZero() {
		var r [16]byte
		_, _ = rand.Read(r[:]) // never fails
		c.HostID = nvme.MakeUUID(r)
	}
	if c.HostNQN == "" {
		c.HostNQN = nvme.UUIDNQN(c.HostID)
	}
	if err := nvme.CheckNQN(c.NQN); err != nil {
		return c, fmt.Errorf("host: config: NQN: %w", err)
	}
	if err := nvme.CheckNQN(c.HostNQN); err != nil {
		return c, fmt.Errorf("host: config: HostNQN: %w", err)
	}
	c.NrIOQueues = orDefault(c.NrIOQueues, 1)
	c.QueueSize = orDefault(c.QueueSize, DefaultQueueSize)
	c.MaxData = orDefault(c.MaxData, DefaultMaxData)
	if c.KATO == 0 {
		c.KATO = DefaultKATO
		if c.discovery() {
			c.KATO = Off
		}
	}
	c.ReconnectDelay = orDefault(c.ReconnectDelay, DefaultReconnectDelay)
	c.CtrlLossTMO = orDefault(c.CtrlLossTMO, DefaultCtrlLossTMO)
	c.FastIOFailTMO = orDefault(c.FastIOFailTMO, Off)
	c.MaxRetries = orDefault(c.MaxRetries, DefaultMaxRetries)
	c.IOTimeout = orDefault(c.IOTimeout, DefaultIOTimeout)
	c.AdminTimeout = orDefault(c.AdminTimeout, DefaultAdminTimeout)
	switch {
	case c.NrIOQueues < 1 || c.NrIOQueues > 0xFFFE:
		return c, fmt.Errorf("host: config: NrIOQueues %d, want 1 to 65534", c.NrIOQueues)
	case c.QueueSize < MinQueueSize || c.QueueSize > MaxQueueSize:
		return c, fmt.Errorf("host: config: QueueSize %d, want %d to %d", c.QueueSize, MinQueueSize, MaxQueueSize)
	case c.MaxData < nvme.IdentifySize:
		return c, fmt.Errorf("host: config: MaxData %d, want %d or more", c.MaxData, nvme.IdentifySize)
	case c.KATO != Off && (c.KATO < time.Millisecond || c.KATO > 0xFFFFFFFF*time.Millisecond):
		return c, fmt.Errorf("host: config: KATO %v, want 1ms to 2^32-1 ms, or Off", c.KATO)
	case c.ReconnectDelay < 0:
		return c, fmt.Errorf("host: config: ReconnectDelay %v is negative", c.ReconnectDelay)
	case c.CtrlLossTMO < 0 && c.CtrlLossTMO != Off && c.CtrlLossTMO != Forever:
		return c, fmt.Errorf("host: config: CtrlLossTMO %v is neither a time nor Off nor Forever", c.CtrlLossTMO)
	case c.FastIOFailTMO < 0 && c.FastIOFailTMO != Off:
		return c, fmt.Errorf("host: config: FastIOFailTMO %v is neither a time nor Off", c.FastIOFailTMO)
	case c.IOTimeout < 0 || c.AdminTimeout < 0:
		return c, fmt.Errorf("host: config: IOTimeout %v, AdminTimeout %v: negative", c.IOTimeout, c.AdminTimeout)
	}
	return c, nil
}

func orDefault[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}

// discovery reports whether the controller is asked for as a discovery
// controller: without I/O queues, and without keep alive unless wanted.
func (c *Config) discovery() bool { return c.NQN == nvme.DiscoveryNQN }

// maxRetries is how often a command is sent again.
func (c *Config) maxRetries() int { return max(c.MaxRetries, 0) }
