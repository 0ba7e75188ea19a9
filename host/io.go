package host

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/fabrid/fabrid/nvme"
)

// An IO is a command on a namespace. It is prepared once and may be submitted
// again and again, with fields changed or not; it must not be copied after the
// first time. It is its owner's, but from [Queue.Submit] until Done the queue's,
// with its data.
type IO struct {
	// Op is IORead, IOWrite, IOCompare, IOWriteZeroes, IODatasetManagement (to
	// deallocate) or IOFlush.
	Op        nvme.IOOpcode
	Namespace *Namespace
	// LBA is the first block; Flush has none.
	LBA uint64
	// Blocks is the number of blocks of Write Zeroes, at most 65,536, and of a
	// deallocation, at most 2^32-1. Read, Write and Compare have as many as
	// Data.
	Blocks uint64
	// Data is read into, written or compared: whole blocks, at most
	// [Namespace.MaxData].
	Data []byte
	// FUA makes a Write or Write Zeroes durable before it ends.
	FUA bool
	// Deallocate allows Write Zeroes to deallocate.
	Deallocate bool

	// Done is called on the queue's shard when the command has ended, with Err
	// set. It does not block. The IO may be submitted again from within.
	Done func(*IO)
	// Err is nil, or why the command failed: a [*CommandError] if the
	// controller said so, a [*PathError] if it was not, or not known to be,
	// reached.
	Err error

	// Context is the caller's; nobody else looks at it.
	Context any

	cmd command
	dsm [nvme.DSMRangeSize]byte
}

// Submit sends io, when the queue has room; it waits for that in the order of
// submission, and for the connection if that is lost. io.Done follows, after
// Submit has returned, unless an error is returned. Submit is called on the
// queue's shard and in steady state allocates nothing.
//
// Errors are: [ErrClosed], [ErrLost] if the controller has been given up or
// FastIOFailTMO has passed, [ErrQueueGone], [ErrNamespaceGone], or what is wrong
// with io.
func (q *Queue) Submit(io *IO) error {
	if io.cmd.place != nowhere {
		return errors.New("host: submit: the IO is outstanding")
	}
	if err := io.encode(); err != nil {
		return err
	}
	c := &io.cmd
	if c.done == nil {
		c.prepare(func(*command) { io.ended() })
	}
	c.gone = &io.Namespace.gone
	c.timeout = io.Namespace.ctrl.cfg.IOTimeout
	c.idempotent = !io.Namespace.ctrl.cfg.NoRequeue
	c.writes = io.Op == nvme.IOWrite || io.Op == nvme.IOWriteZeroes || io.Op == nvme.IODatasetManagement
	return q.submit(c)
}

// ended is told that the command has ended.
func (io *IO) ended() {
	io.Err = io.cmd.err
	if io.Err != nil {
		io.explain()
	}
	io.Done(io)
}

// explain makes Err say which command failed, and what that leaves open.
func (io *IO) explain() {
	c := &io.cmd
	if s, ok := io.Err.(nvme.Status); ok {
		io.Err = &CommandError{
			Command: io.Op.String(), QID: c.queue.qid, NSID: io.Namespace.nsid,
			LBA: io.LBA, Blocks: io.blocks(),
			Status: s, Result: c.req.Completion.Result, io: true,
		}
		if s.Type() != nvme.SCTPath {
			return
		}
	} else if !c.doubt && !errors.Is(io.Err, ErrLost) {
		return
	}
	io.Err = &PathError{
		Command: io.Op.String(), NSID: io.Namespace.nsid, LBA: io.LBA, Blocks: io.blocks(),
		Unknown: c.doubt, Err: io.Err,
	}
}

// blocks is the number of blocks that the command names.
func (io *IO) blocks() uint64 {
	switch io.Op {
	case nvme.IORead, nvme.IOWrite, nvme.IOCompare:
		return uint64(len(io.Data)) >> io.Namespace.format.Load().shift
	case nvme.IOFlush:
		return 0
	}
	return io.Blocks
}

// encode makes the submission queue entry, or says what is wrong.
func (io *IO) encode() error {
	ns := io.Namespace
	if ns == nil || io.Done == nil {
		return errors.New("host: submit: no Namespace or no Done")
	}
	if ns.gone.Load() {
		return fmt.Errorf("host: %v of namespace %d: %w", io.Op, ns.nsid, ErrNamespaceGone)
	}
	f := ns.format.Load()
	n := io.blocks()
	var control uint16
	io.cmd.req.Data = nil
	switch io.Op {
	case nvme.IORead, nvme.IOWrite, nvme.IOCompare:
		if len(io.Data) == 0 || n<<f.shift != uint64(len(io.Data)) {
			return fmt.Errorf("host: %v of namespace %d: %d bytes are not whole blocks of %d", io.Op, ns.nsid, len(io.Data), f.blockSize())
		}
		if len(io.Data) > f.maxData {
			return fmt.Errorf("host: %v of namespace %d: %d bytes, at most %d at once", io.Op, ns.nsid, len(io.Data), f.maxData)
		}
		io.cmd.req.Data = io.Data
	case nvme.IOWriteZeroes:
		if n == 0 || n > maxNLB {
			return fmt.Errorf("host: %v of namespace %d: %d blocks, want 1 to %d", io.Op, ns.nsid, n, maxNLB)
		}
		if io.Deallocate {
			control |= nvme.ControlDEAC
		}
	case nvme.IODatasetManagement:
		if n > maxDSMBlocks {
			return fmt.Errorf("host: %v of namespace %d: %d blocks, want 1 to %d", io.Op, ns.nsid, n, maxDSMBlocks)
		}
	case nvme.IOFlush:
		nvme.MakeCommand(io.cmd.req.Command[:]).PutFlush(ns.nsid)
		return nil
	default:
		return fmt.Errorf("host: submit: %v is not supported", io.Op)
	}
	if io.LBA > f.blocks || n > f.blocks-io.LBA {
		return fmt.Errorf("host: %v of namespace %d: blocks %d+%d of %d: %w", io.Op, ns.nsid, io.LBA, n, f.blocks, nvme.LBAOutOfRange)
	}
	if io.FUA {
		control |= nvme.ControlFUA
	}
	c := nvme.MakeCommand(io.cmd.req.Command[:])
	if io.Op == nvme.IODatasetManagement {
		c.PutDSM(ns.nsid, 0, nvme.DSMAD)
		binary.LittleEndian.PutUint32(io.dsm[4:], uint32(n))
		binary.LittleEndian.PutUint64(io.dsm[8:], io.LBA)
		io.cmd.req.Data = io.dsm[:]
		return nil
	}
	c.PutIO(io.Op, ns.nsid, io.LBA, uint16(n-1), control)
	return nil
}

const (
	maxNLB       = 1 << 16   // blocks that NLB can count
	maxDSMBlocks = 1<<32 - 1 // blocks that a range can count
)
