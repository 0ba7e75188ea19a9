package target

import (
	"errors"
	"fmt"
	"slices"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/nvme"
)

// dsmMost is how many bytes of ranges a Dataset Management may have. Linux
// hosts always send as many, whatever NR says.
const dsmMost = nvme.MaxDSMRanges * nvme.DSMRangeSize

// Errors of I/O commands, which are made once: the I/O path allocates nothing
// but for the log.
var (
	errInvalidNamespace error = &nvme.FieldError{Status: nvme.InvalidNamespace.WithDNR(), Field: "NSID", Offset: offNSID}
	errLBAOutOfRange    error = &nvme.FieldError{Status: nvme.LBAOutOfRange.WithDNR(), Field: "SLBA", Offset: nvme.OffSLBA}
	errReadOnly         error = &nvme.FieldError{Status: nvme.NamespaceWriteProtected.WithDNR(), Field: "NSID", Offset: offNSID}
	errUncorrectable    error = nvme.UnrecoveredReadError.WithDNR() // until it is written
)

// findNamespace looks the command's namespace up.
func (rq *request) findNamespace() error {
	rq.ns = rq.q.ctrl.subsystem.table.Load().find(rq.r.Command.NSID())
	if rq.ns == nil {
		return errInvalidNamespace
	}
	return nil
}

// writable is findNamespace for a command that writes.
func (rq *request) writable() error {
	err := rq.findNamespace()
	if err == nil && rq.ns.readOnly() {
		err = errReadOnly
	}
	return err
}

// blockRange checks blocks [lba, lba+n) of the namespace and sets where they
// are on the device.
func (rq *request) blockRange(lba uint64, n uint64) error {
	if err := rq.inRange(lba, n); err != nil {
		return err
	}
	rq.offset, rq.length = lba<<rq.ns.shift, n<<rq.ns.shift
	return nil
}

// inRange checks blocks [lba, lba+n) of the namespace.
func (rq *request) inRange(lba uint64, n uint64) error {
	rq.lba = lba
	if lba > rq.ns.info.Blocks || n > rq.ns.info.Blocks-lba {
		return errLBAOutOfRange
	}
	return nil
}

// blocks checks a command with SLBA and NLB. No namespace has protection
// information, so that PRINFO says nothing.
func (rq *request) blocks() error {
	cmd := rq.r.Command
	rq.lba = cmd.SLBA()
	if err := rq.findNamespace(); err != nil {
		return err
	}
	return rq.blockRange(cmd.SLBA(), uint64(cmd.Blocks()))
}

func (rq *request) readSize() (uint64, error) {
	err := rq.blocks()
	return rq.length, err
}

func (rq *request) writeSize() (uint64, error) {
	err := rq.blocks()
	if err == nil && rq.ns.readOnly() {
		err = errReadOnly
	}
	return rq.length, err
}

func (rq *request) writeZeroesSize() (uint64, error) {
	_, err := rq.writeSize()
	return 0, err
}

// flushSize checks a Flush. VWC says that it takes all namespaces at once.
func (rq *request) flushSize() (uint64, error) {
	if rq.r.Command.NSID() == nvme.NSIDBroadcast {
		rq.ns = nil
		return 0, nil
	}
	return 0, rq.findNamespace()
}

// dsmSize checks a Dataset Management. Hints are for a namespace that is write
// protected, too.
func (rq *request) dsmSize() (uint64, error) {
	nr, attributes := rq.r.Command.DSM()
	check := rq.findNamespace
	if attributes&nvme.DSMAD != 0 {
		check = rq.writable
	}
	return (uint64(nr) + 1) * nvme.DSMRangeSize, check()
}

// submit gives an op to the namespace's device.
func (rq *request) submit(kind bdev.Kind, offset, length uint64, data [][]byte) {
	ns := rq.ns
	switch {
	case ns.state.removed.Load():
		rq.complete(errInvalidNamespace)
		return
	case (kind == bdev.Read || kind == bdev.Compare) && ns.state.marks.any():
		if lba, marked := ns.state.marks.first(offset>>ns.shift, length>>ns.shift); marked {
			rq.lba = lba
			rq.complete(errUncorrectable)
			return
		}
	}
	op := &rq.op
	op.Kind, op.Offset, op.Length, op.Data = kind, offset, length, data
	if op.FUA, op.Unmap = false, false; op.Done == nil {
		op.Done = rq.opDone // most queues of a storm have no I/O
	}
	switch kind {
	case bdev.Write:
		op.FUA = rq.fua()
	case bdev.WriteZeroes:
		op.FUA = rq.fua()
		op.Unmap = rq.r.Command.DEAC()
	}
	rq.stage = stageDevice
	ns.cfg.Device.Submit(op)
}

// fua reports whether a write must be durable when done: because the host
// says so, or because it does not know that there is a cache.
func (rq *request) fua() bool {
	return rq.r.Command.FUA() || rq.ns.info.VolatileWriteCache && rq.q.ctrl.cacheHidden.Load()
}

// opDone takes an op back from the device.
func (rq *request) opDone(op *bdev.Op) {
	op.Data = nil
	rq.stage = stageCore
	if op.Err != nil {
		rq.complete(deviceError(op.Kind, op.Err))
		return
	}
	if (op.Kind == bdev.Write || op.Kind == bdev.WriteZeroes) && rq.ns.state.marks.any() {
		rq.ns.state.marks.clear(op.Offset>>rq.ns.shift, op.Length>>rq.ns.shift)
	}
	if rq.cmd.done != nil {
		rq.cmd.done(rq)
		return
	}
	rq.complete(nil)
}

// deviceError is what a command ends with whose op has failed. What may go well
// another time has no DNR.
func deviceError(kind bdev.Kind, err error) error {
	status := nvme.InternalError
	switch {
	case errors.Is(err, bdev.ErrRange):
		status = nvme.LBAOutOfRange.WithDNR()
	case errors.Is(err, bdev.ErrReadOnly):
		status = nvme.NamespaceWriteProtected.WithDNR()
	case errors.Is(err, bdev.ErrCompare):
		status = nvme.CompareFailure.WithDNR()
	case errors.Is(err, bdev.ErrNoSpace):
		status = nvme.CapacityExceeded.WithDNR()
	case errors.Is(err, bdev.ErrClosed):
		status = nvme.NamespaceNotReady
	case kind == bdev.Read || kind == bdev.Compare:
		status = nvme.UnrecoveredReadError
	case kind == bdev.Write || kind == bdev.WriteZeroes || kind == bdev.Flush:
		status = nvme.WriteFault
	}
	return fmt.Errorf("target: %v: %w: %w", kind, status, err)
}

func (rq *request) read()        { rq.submit(bdev.Read, rq.offset, rq.length, rq.r.Data) }
func (rq *request) write()       { rq.submit(bdev.Write, rq.offset, rq.length, rq.r.Data) }
func (rq *request) writeZeroes() { rq.submit(bdev.WriteZeroes, rq.offset, rq.length, nil) }

// compare is Compare. The status of a mismatch is from the device.
func (rq *request) compare() { rq.submit(bdev.Compare, rq.offset, rq.length, rq.r.Data) }

// flush is Flush, of one namespace or of all.
func (rq *request) flush() {
	if rq.r.Command.NSID() == nvme.NSIDBroadcast {
		rq.inSteps()
		rq.nextFlush()
		return
	}
	rq.submit(bdev.Flush, 0, 0, nil)
}

// flushDone goes on after a namespace.
func (rq *request) flushDone() {
	if rq.r.Command.NSID() == nvme.NSIDBroadcast {
		ids := rq.q.ctrl.subsystem.table.Load().ids
		if n := len(ids); n > 0 && int(ids[n-1]) > rq.steps.next {
			rq.again()
			return
		}
	}
	rq.complete(nil)
}

// nextFlush flushes the namespace that comes next, in the order of their
// identifiers; steps.next is the last that was.
func (rq *request) nextFlush() {
	table := rq.q.ctrl.subsystem.table.Load()
	from, _ := slices.BinarySearch(table.ids, uint32(rq.steps.next)+1)
	for _, id := range table.ids[from:] {
		rq.steps.next, rq.ns = int(id), table.find(id)
		if rq.ns.state.removed.Load() {
			continue
		}
		if !rq.stopped() {
			rq.submit(bdev.Flush, 0, 0, nil)
		}
		return
	}
	rq.complete(nil)
}

// dsm is Dataset Management. All ranges are checked before the first is
// deallocated; the other attributes are hints, which may be ignored.
func (rq *request) dsm() {
	nr, attributes := rq.r.Command.DSM()
	for i := range int(nr) + 1 {
		r := rq.dsmRange(i)
		if err := rq.blockRange(r.SLBA, uint64(r.NLB)); err != nil {
			rq.complete(nvme.LBAOutOfRange.WithDNR()) // the field is in the data
			return
		}
	}
	if attributes&nvme.DSMAD == 0 {
		rq.complete(nil)
		return
	}
	rq.inSteps()
	rq.nextRange()
}

// rangeDone goes on after a range.
func (rq *request) rangeDone() {
	if nr, _ := rq.r.Command.DSM(); rq.steps.next <= int(nr) {
		rq.again()
		return
	}
	rq.complete(nil)
}

// nextRange deallocates the range that comes next, and completes the command
// after the last.
func (rq *request) nextRange() {
	nr, _ := rq.r.Command.DSM()
	for rq.steps.next <= int(nr) {
		r := rq.dsmRange(rq.steps.next)
		rq.steps.next++
		if r.NLB == 0 {
			continue
		}
		if rq.stopped() {
			return
		}
		if err := rq.blockRange(r.SLBA, uint64(r.NLB)); err != nil {
			rq.complete(nvme.LBAOutOfRange.WithDNR())
			return
		}
		rq.submit(bdev.Deallocate, rq.offset, rq.length, nil)
		return
	}
	rq.complete(nil)
}

func (rq *request) dsmRange(i int) nvme.DSMRange {
	var b [nvme.DSMRangeSize]byte
	rq.dataAt(b[:], i*nvme.DSMRangeSize)
	var r nvme.DSMRange
	// It has all of its bytes: check saw to the length.
	_ = r.Parse(b[:])
	return r
}
