// Package bdev is the target's storage: the [Device] interface and the devices
// that implement it.
package bdev

import (
	"errors"
	"fmt"

	"github.com/fabrid/fabrid/shard"
)

// A Device is a block device. It may be used from any goroutine.
type Device interface {
	// Info returns the device's geometry and abilities, as they are now.
	Info() Info

	// Submit starts op, which is the device's until op.Done is called: exactly
	// once, on op.Shard, within Submit by devices that never wait, posted by
	// the others. It must be called on op.Shard and does not block. The op is
	// within the device and in whole blocks: see [Info.Check].
	Submit(op *Op)

	// Close ends the device. It waits until every op has been done, so it must
	// not be called on a shard; what is submitted after it fails with
	// [ErrClosed]. A second Close does nothing. Of a shard that has been closed
	// nobody is told any more, but its ops are waited for.
	Close() error
}

// A Canceler is a device with a queue of its own, that can give back an op which
// it has not begun.
type Canceler interface {
	Device

	// Cancel takes back an op that was submitted, if the device has not begun it.
	// If so, it will not, Done is not called, and the op is its owner's again;
	// otherwise Done is called as if nothing had been asked. It must be called on
	// op.Shard, before Done, and does not block.
	Cancel(op *Op) bool
}

// Info describes a device.
type Info struct {
	BlockSize int    // bytes of a logical block: a power of two, at least 512
	Blocks    uint64 // logical blocks

	// VolatileWriteCache: what was written is safe from a power loss only after
	// a Flush, or if written with FUA.
	VolatileWriteCache bool
	// ReadOnly devices fail writes with [ErrReadOnly].
	ReadOnly bool
	// ZeroAfterDeallocate: deallocated blocks read as zeros.
	ZeroAfterDeallocate bool
	// OptimalWrite is the preferred write granularity in blocks, 0 if unknown:
	// less than that is read, changed and written back somewhere below.
	OptimalWrite int
	// OptimalIO is the preferred size of an op in blocks, 0 if unknown.
	OptimalIO int
	// OptimalDeallocate is the granularity in blocks in which space is given
	// back, 0 if unknown.
	OptimalDeallocate int
}

// Size returns the device's size in bytes.
func (i Info) Size() uint64 { return i.Blocks * uint64(i.BlockSize) }

// Check returns [ErrRange] unless blocks [lba, lba+n) lie within the device.
func (i Info) Check(lba, n uint64) error {
	if lba > i.Blocks || n > i.Blocks-lba {
		return fmt.Errorf("bdev: blocks %d+%d of %d: %w", lba, n, i.Blocks, ErrRange)
	}
	return nil
}

// Errors that callers act upon.
var (
	ErrRange    = errors.New("out of range")
	ErrReadOnly = errors.New("read-only device")
	ErrCompare  = errors.New("compare mismatch")
	ErrNoSpace  = errors.New("no space")
	ErrClosed   = errors.New("device closed")
)

// Kind is what an op does.
type Kind uint8

// Kinds of op.
const (
	Read Kind = iota
	Write
	Flush       // everything that was done before it was submitted survives a power loss
	WriteZeroes // blocks read as zeros from now on; Unmap allows to deallocate them
	Deallocate  // the content may be forgotten
	Compare
)

var kindNames = [...]string{"read", "write", "flush", "write zeroes", "deallocate", "compare"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// An Op is an operation on a device. Whoever submits it owns it again when
// Done is called; it may be used again then.
type Op struct {
	Kind   Kind
	Offset uint64 // bytes
	Length uint64 // bytes
	// Data is Length bytes: read into, written from, or compared with.
	Data  [][]byte
	FUA   bool // Write, WriteZeroes: durable when done
	Unmap bool // WriteZeroes

	Shard *shard.Shard
	Done  func(*Op)
	Err   error // set before Done

	// Task and Next are the device's while it has the op: for coming back to
	// the shard, and for lists.
	Task shard.Task
	Next *Op

	// Of file devices. The function of back is that of the device that had the
	// op last, so that it is made once.
	slot *slot
	prev *Op // in the line before the window; Next is the other way
	file *File
	back shard.Task
}

// Finish ends op on its shard, from that shard.
func (op *Op) Finish(err error) {
	op.Err = err
	op.Done(op)
}
