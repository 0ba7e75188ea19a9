package transport

import (
	"net/netip"
	"time"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
)

// A Request is one command in the target, from the arrival of its capsule to
// the end of its last send. A queue's requests are allocated with the queue,
// and number as many as the host may have commands outstanding.
//
// A request is the core's from [Queue.Receive] until [Fabric.Complete], and
// between [Fabric.Pull], or a [Fabric.Reserve] that has to wait, and
// [Queue.DataReady] nobody may touch it. After [Fabric.Complete] it is the
// fabric's; [Queue.Sent] only tells the core when memory that it lent in Data
// is its own again.
type Request struct {
	// Index numbers the requests of a queue from zero: both ends keep what they
	// need per request in arrays of their own.
	Index int

	// Set by the fabric before Receive.

	// Command is the submission queue entry, in place. It does not change until
	// Complete: the fabric keeps the host from writing it.
	Command nvme.Command
	// Length is how many bytes of data the command's SGL describes.
	Length int
	// SGLStatus is what is wrong with the SGL, or nvme.Success. The core
	// completes a request with it before it looks at Length.
	SGLStatus nvme.Status

	// Data is the command's data: from the host after Pull, to the host before
	// Complete. Its memory comes from the fabric (Reserve, Pull), or from the
	// core, which then keeps it unchanged until Sent.
	Data [][]byte

	// Completion is the completion queue entry, set by the core before Complete.
	Completion nvme.Completion
}

// A Fabric carries the capsules and the data of one queue for the target core.
// Its methods are called on the queue's shard and do not block.
type Fabric interface {
	// Reserve sets r.Data to n bytes of the fabric's memory for data to send,
	// unspecified in content. If there is none now it returns false, and
	// [Queue.DataReady] follows when there is.
	Reserve(r *Request, n int) bool

	// Pull fetches the host's data, all r.Length bytes, into r.Data.
	// [Queue.DataReady] follows, possibly before Pull has returned.
	Pull(r *Request)

	// Cancel takes back a Reserve or Pull that waits for the fabric's memory: r is
	// the core's again, without Data, and DataReady does not follow. If it does not
	// wait, or the data is on its way, Cancel returns false and changes nothing.
	Cancel(r *Request) bool

	// Complete sends r.Data, if the command moves data to the host and its
	// status is success, and then r.Completion. [Queue.Sent] follows, also when
	// the queue is down and nothing is sent.
	Complete(r *Request)

	// Disconnect takes the queue down; [Queue.Down] follows. What was completed
	// before is sent first, within a bound.
	Disconnect(cause error)
}

// A Queue is the target core's end of a queue. Its methods are called on the
// queue's shard, unless they say otherwise, and do not block.
type Queue interface {
	// Receive takes the commands of one batch, in the order of arrival. The
	// slice is valid during the call only, the requests are the core's.
	Receive(batch []*Request)

	// DataReady tells that r.Data is there, or why it never will be: then the
	// request is to be completed, and nothing will be sent if the queue is down.
	DataReady(r *Request, err error)

	// Sent tells that the fabric is done with r and its data.
	Sent(r *Request)

	// Down tells once that the queue carries nothing any more. The core
	// completes what it has as soon as it can, so that buffers come home.
	Down(cause error)

	// Quiesce waits until the core and its storage hold no request of the queue
	// any more, or until the deadline, and returns how many they still hold.
	// It is called after Down, on the delete workqueue.
	Quiesce(deadline time.Time) (orphans int)

	// Destroy forgets the queue. It is called once, after Quiesce, on the delete
	// workqueue. Requests that were orphaned are completed later nevertheless;
	// with the last of them the core calls [Life.Settled].
	Destroy()
}

// A Core is where fabrics bring new queues: a port of a target.
type Core interface {
	// Open makes the core's end of a queue. It is called on p.Shard, before any
	// command can arrive. An error refuses the connection.
	Open(f Fabric, p QueueParam) (Queue, error)

	// Removed tells whether the port is gone, so that nothing new is opened. It
	// may be called from any goroutine.
	Removed() bool
}

// QueueParam is what a fabric knows of a queue before its Connect command.
type QueueParam struct {
	Shard         *shard.Shard
	Local, Remote netip.AddrPort // zero on fabrics without addresses
	QID           uint16         // as the host said in the fabric's own connect
	AnyQID        bool           // that does not say it: QID means nothing
	Depth         int            // requests: commands that may be outstanding
	Limits        Limits
	Life          *Life
}

// Limits is what a fabric can do, as Identify Controller reports it.
type Limits struct {
	Type           nvme.TransportType
	AdrFam         nvme.AddressFamily
	TSAS           nvme.TSAS // as discovery tells it
	MaxQueueDepth  int       // entries of an I/O queue, for CAP.MQES and MAXCMD
	MaxData        int       // bytes of data of a command, for MDTS
	InCapsule      int       // bytes of in-capsule data of an I/O queue, for IOCCSZ
	KeyedSGL       bool      // SGLS bit 2
	OffsetInCap    bool      // SGLS bit 20
	MaxDescriptors int       // MSDBD
}
