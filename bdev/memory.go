package bdev

import (
	"bytes"
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/shard"
)

// DefaultBlockSize is the block size of devices of which none is asked for.
const DefaultBlockSize = 4096

// MemoryConfig describes a memory device.
type MemoryConfig struct {
	Size      uint64 // bytes: a multiple of BlockSize, not zero
	BlockSize int    // 512 or 4096; zero: DefaultBlockSize
}

// Memory is a device in the process's memory. It is sparse: what has never
// been written, or has been deallocated, takes no memory and reads as zeros.
//
// Power loss, and the end of the process: everything is lost. There is
// nothing that a flush could save, so no volatile write cache is reported.
//
// Ops are done within Submit, but for long ones of the kinds WriteZeroes and
// Deallocate, which give the shard back in between. Several shards may use the
// device: a logical block is read and written as a whole, never torn. An op of
// several blocks is not one with respect to others.
type Memory struct {
	info Info
	mem  []byte
	long lockdep.WaitGroup[memoryLong]

	// A stripe guards the bytes of the regions that map to it. It is held for
	// one region at a time: no longer than it takes to copy that.
	stripes [memoryStripes]memoryStripe
}

const (
	memoryRegion  = 256 << 10 // bytes: a multiple of every block size and of the page size
	memoryStripes = 1024
	memoryTurn    = 4 << 20  // bytes that a long op handles before it lets others run: a queue has many at once
	memoryDrop    = 64 << 10 // bytes from which on zeroing a range gives its pages back instead
)

type (
	memoryMu     struct{} // innermost
	memoryLong   struct{}
	memoryStripe struct {
		mu     lockdep.Mutex[memoryMu]
		closed bool     // guarded by mu
		_      [52]byte // a cache line of its own
	}
)

func (memoryMu) String() string   { return "bdev memory stripe" }
func (memoryLong) String() string { return "bdev memory long op" }

// NewMemory returns a memory device that reads as zeros.
func NewMemory(cfg MemoryConfig) (*Memory, error) {
	info, err := geometry(cfg.Size, cfg.BlockSize)
	if err != nil {
		return nil, fmt.Errorf("bdev: memory: %w", err)
	}
	if cfg.Size > math.MaxInt {
		return nil, fmt.Errorf("bdev: memory: %d bytes, at most %d", cfg.Size, math.MaxInt)
	}
	mem, err := unix.Mmap(-1, 0, int(cfg.Size), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("bdev: memory: mmap %d bytes: %w", cfg.Size, err)
	}
	info.ZeroAfterDeallocate = true
	return &Memory{info: info, mem: mem}, nil
}

// geometry returns the Info of a device of so many bytes.
func geometry(size uint64, blockSize int) (Info, error) {
	if blockSize == 0 {
		blockSize = DefaultBlockSize
	}
	if blockSize != 512 && blockSize != 4096 {
		return Info{}, fmt.Errorf("blocks of %d bytes, want 512 or 4096", blockSize)
	}
	if size == 0 || size%uint64(blockSize) != 0 || size > math.MaxInt64 {
		return Info{}, fmt.Errorf("%d bytes, want a positive multiple of %d", size, blockSize)
	}
	return Info{BlockSize: blockSize, Blocks: size / uint64(blockSize)}, nil
}

// Info returns the geometry.
func (m *Memory) Info() Info { return m.info }

// Submit carries op out; see [Device].
func (m *Memory) Submit(op *Op) {
	if err := op.inRange(m.info); err != nil {
		op.Finish(err)
		return
	}
	switch op.Kind {
	case Read, Write, Compare:
		op.Finish(m.transfer(op))
	case Flush:
		op.Finish(nil)
	case WriteZeroes, Deallocate:
		if op.Length <= memoryTurn {
			op.Finish(m.zero(op.Offset, op.Offset+op.Length))
			return
		}
		m.zeroLong(op)
	default:
		op.Finish(errKind(op.Kind))
	}
}

// transfer copies between op's data and the device, or compares them.
func (m *Memory) transfer(op *Op) error {
	var seg []byte // what is left of the segment of Data
	data := op.Data
	for at, end := op.Offset, op.Offset+op.Length; at < end; {
		stop := min(end, (at/memoryRegion+1)*memoryRegion)
		s := m.stripe(at)
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return ErrClosed
		}
		for at < stop {
			for len(seg) == 0 {
				if len(data) == 0 {
					s.mu.Unlock()
					return errShortData(op)
				}
				seg, data = data[0], data[1:]
			}
			n := min(uint64(len(seg)), stop-at)
			mem := m.mem[at : at+n]
			switch op.Kind {
			case Read:
				copy(seg, mem)
			case Write:
				copy(mem, seg)
			default:
				if !bytes.Equal(mem, seg[:n]) {
					s.mu.Unlock()
					return ErrCompare
				}
			}
			at += n
			seg = seg[n:]
		}
		s.mu.Unlock()
	}
	return nil
}

func (m *Memory) stripe(at uint64) *memoryStripe {
	return &m.stripes[at/memoryRegion%memoryStripes]
}

// zero makes bytes [at, end) zeros.
func (m *Memory) zero(at, end uint64) error {
	page := uint64(unix.Getpagesize())
	for at < end {
		stop := min(end, (at/memoryRegion+1)*memoryRegion)
		s := m.stripe(at)
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return ErrClosed
		}
		err := m.zeroRegion(at, stop, page)
		s.mu.Unlock()
		if err != nil {
			return err
		}
		at = stop
	}
	return nil
}

func (m *Memory) zeroRegion(at, end, page uint64) error {
	first, last := (at+page-1)/page*page, end/page*page
	if first >= last || end-at < memoryDrop {
		clear(m.mem[at:end])
		return nil
	}
	clear(m.mem[at:first])
	clear(m.mem[last:end])
	if err := unix.Madvise(m.mem[first:last], unix.MADV_DONTNEED); err != nil {
		return fmt.Errorf("bdev: memory: madvise: %w", err)
	}
	return nil
}

// zeroLong zeroes a range in turns, and lets the shard do other things between
// them.
func (m *Memory) zeroLong(op *Op) {
	at, end := op.Offset, op.Offset+op.Length
	var task shard.Task
	turn := func() {
		stop := min(end, at+memoryTurn)
		err := m.zero(at, stop)
		at = stop
		if err == nil && at < end && op.Shard.Post(&task) {
			return
		}
		if err == nil && at < end {
			err = shard.ErrClosed
		}
		op.Finish(err)
		m.long.Done()
	}
	task.Fn = turn
	m.long.Add(1)
	turn()
}

// Close ends the device and gives its memory back; see [Device].
func (m *Memory) Close() error {
	m.long.Wait()
	// Who holds a stripe uses the memory still; who comes later sees closed.
	for i := range m.stripes {
		s := &m.stripes[i]
		s.mu.Lock()
		again := s.closed
		s.closed = true
		s.mu.Unlock()
		if again {
			return nil
		}
	}
	if err := unix.Munmap(m.mem); err != nil {
		return fmt.Errorf("bdev: memory: munmap: %w", err)
	}
	return nil
}
