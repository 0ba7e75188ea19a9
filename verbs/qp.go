package verbs

import "errors"

// ErrQueueFull is returned by posts that find no room. Nothing of the batch
// was posted.
var ErrQueueFull = errors.New("verbs: queue full")

// ErrTooManySGE is returned by posts of a work request with more elements than
// the queue was made for. Nothing of the batch was posted.
var ErrTooManySGE = errors.New("verbs: too many scatter/gather elements")

// QPInitAttr describes a queue pair to be.
type QPInitAttr struct {
	SendCQ, RecvCQ CQ
	SRQ            SRQ // nil: the queue pair has receives of its own
	MaxSendWR      int
	MaxRecvWR      int // without an SRQ
	MaxSendSGE     int
	MaxRecvSGE     int

	// SQSigAll makes every send work request complete visibly; otherwise those
	// with SendSignaled do, and those that fail.
	SQSigAll bool

	// Event is told, on the loop, once, that the QP has gone to Err by itself,
	// and why; nil if nobody cares. Moves that the consumer asked for are not
	// told.
	Event func(err error)
}

// QPAttr is what a connection manager learns and sets, for the moves to RTR and
// RTS, which [QP.Connect] makes at once.
type QPAttr struct {
	Path         Path
	DestQPN      uint32
	SQPSN, RQPSN uint32 // 24 bits
	MaxRdAtomic  int    // RDMA READs we may have outstanding
	MaxDestRd    int    // RDMA READs we answer at once
	RetryCnt     int    // 0..7
	RNRRetry     int    // 0..7, 7 for ever
	Timeout      uint8  // ACK timeout: 4.096 µs × 2^Timeout, 0 for none; software may follow the round trip instead
	MinRNRTimer  uint8  // code of 5 bits
	RemoteAccess Access
}

// A QP is a reliable-connection queue pair. All methods are for the loop of its
// CQs.
type QP interface {
	// Num is the queue pair number, 24 bits. It is never one that the device
	// used shortly before.
	Num() uint32

	// State returns the state.
	State() QPState

	// Connect moves the QP from Init through RTR to RTS. It is the connection
	// manager's to call.
	Connect(attr QPAttr) error

	// Modify moves the QP to Init, to Err (what was posted is flushed: it
	// completes with WCWRFlushErr, in order), or to Reset (what was posted is
	// forgotten). Other moves are Connect's. A move that the table does not have
	// is a [*StateError].
	Modify(to QPState) error

	// PostSend posts a batch, all or nothing. The slice and the SGE lists are
	// read during the call only; the memory they name is the provider's until
	// the completion. Posting to a QP in Err is allowed: the work request is
	// flushed. In Reset, Init and RTR it is a [*StateError].
	PostSend(wrs []SendWR) error

	// PostRecv posts a batch of receives, all or nothing, in Init or later.
	PostRecv(wrs []RecvWR) error

	// Destroy frees the QP. Work requests that have not completed never will.
	Destroy() error
}

// An SRQ is a shared receive queue.
type SRQ interface {
	// PostRecv posts a batch, all or nothing.
	PostRecv(wrs []RecvWR) error
	// Posted is the number of receives that wait for a message.
	Posted() int
	// Destroy frees the SRQ. It fails while a QP uses it.
	Destroy() error
}

// SRQAttr describes a shared receive queue to be.
type SRQAttr struct {
	Vector int
	MaxWR  int
	MaxSGE int
}

// A RecvWR is a receive work request: where an incoming SEND goes.
type RecvWR struct {
	WRID uint64
	SG   []SGE
}

// A SendWR is a send work request.
type SendWR struct {
	WRID   uint64
	Opcode WROpcode
	Flags  SendFlags
	SG     []SGE // gathered, or for WRRDMARead scattered to; unused by others

	RemoteAddr uint64 // WRRDMAWrite, WRRDMARead
	RKey       uint32 // the remote key; WRSendWithInv and WRLocalInv: the key to invalidate
	Imm        uint32 // ...WithImm

	// WRRegMR: the region MR becomes valid for Buf at IOVA under RKey, whose
	// upper 24 bits are those of MR.RKey.
	MR     MR
	Buf    []byte
	IOVA   uint64
	Access Access
}

// A WROpcode says what a send work request does.
type WROpcode uint8

// Send work request opcodes.
const (
	WRSend WROpcode = iota
	WRSendWithInv
	WRSendWithImm
	WRRDMAWrite
	WRRDMAWriteWithImm
	WRRDMARead
	WRRegMR
	WRLocalInv
)

// SendFlags qualify a send work request.
type SendFlags uint8

// Send flags.
const (
	SendSignaled  SendFlags = 1 << iota // complete visibly
	SendSolicited                       // set the solicited event bit
	SendFence                           // wait for earlier RDMA READs
)
