package transport

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
)

// ErrQueueFull is returned by [HostQueue.Submit] when as many commands are
// outstanding as the queue is deep.
var ErrQueueFull = errors.New("transport: queue full")

// ErrQueueDown is in the chain of the error of every request that a queue
// could not carry to its end.
var ErrQueueDown = errors.New("transport: queue down")

// A RefusedError is in the chain of Dial's error if the peer's machine answered
// and said no.
type RefusedError struct {
	Remote netip.AddrPort
	// Listening: somebody was there to refuse. Otherwise nobody listens on the
	// port.
	Listening bool
	// Busy: it may work later, the peer has no resources now.
	Busy bool
	// Reason is the peer's, in the words of the fabric.
	Reason string
}

func (e *RefusedError) Error() string {
	if !e.Listening {
		return fmt.Sprintf("connection refused: nobody listens at %v (%s)", e.Remote, e.Reason)
	}
	return fmt.Sprintf("connection refused by %v: %s", e.Remote, e.Reason)
}

// A Dialer connects the host's queues over one fabric.
type Dialer interface {
	// Dial connects a queue, as far as the fabric goes: the Connect command is
	// the caller's. It blocks until the peer has answered, or ctx is done.
	Dial(ctx context.Context, p HostQueueParam) (HostQueue, error)
}

// HostQueueParam describes a queue to be connected.
type HostQueueParam struct {
	Remote netip.AddrPort
	Local  netip.Addr // invalid: the fabric chooses
	QID    uint16
	Depth  int // commands outstanding, 2 to 65535: SQSIZE plus one

	// Shard, if not nil, is where the queue is to live: that of the queue it
	// takes the place of after a reconnect. Dial fails if that cannot be.
	Shard *shard.Shard

	// CNTLID is the controller's, for I/O queues.
	CNTLID uint16
	// InCapsule is how many bytes of data a command capsule may carry (IOCCSZ);
	// zero on admin queues.
	InCapsule int
	// MaxData bounds the data of a command in bytes.
	MaxData int

	// Down is called once, on the queue's shard, when the queue carries nothing
	// any more and was not closed by its owner. Requests that were outstanding
	// have been completed with an error by then. It does not block.
	Down func(cause error)
}

// A HostQueue is the host's end of a connected queue.
type HostQueue interface {
	// Shard is the loop that owns the queue.
	Shard() *shard.Shard

	// Submit sends a command; r.Done follows, on the shard and after Submit has
	// returned, unless an error is returned. It is called on the shard.
	// [ErrQueueFull] never is while fewer than Depth requests have not been
	// done; within Done its own request no longer counts.
	Submit(r *HostRequest) error

	// Disconnect closes the connection and frees the queue; requests that are
	// outstanding complete with [ErrQueueDown] first. It may be called from any
	// goroutine but the shard, more than once, waits within a bound of its own,
	// and no call of Done or Down begins after it has returned.
	Disconnect()
}

// A HostRequest is one command of a host. It is the caller's, but from Submit
// until Done the fabric's, with its data.
type HostRequest struct {
	// Command is the submission queue entry; the fabric sets its command
	// identifier, its PSDT and its SGL.
	Command [nvme.CommandSize]byte

	// Data is what is written to the controller or read into, by the direction
	// that the opcode's two lowest bits name; for Fabrics commands those of
	// the command type. Empty: no data.
	Data []byte

	// Done is called on the shard when the command has ended. Err and, if it is
	// nil, Completion are set. The request may be submitted again from within.
	Done func(r *HostRequest)

	Completion nvme.Completion
	Err        error

	// Context is the caller's; nobody else looks at it.
	Context any
}
