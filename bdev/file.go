package bdev

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/shard"
)

// DefaultFileWorkers is how many ops of a file device run at a time, beside
// those that the kernel carries out by itself, if nothing else is said.
const DefaultFileWorkers = 8

// DefaultResizePoll is how often a file device looks at its size.
const DefaultResizePoll = time.Second

// FileConfig describes a device in a regular file or on a block device.
type FileConfig struct {
	Path string
	// Size in bytes, a multiple of BlockSize. A file that is shorter grows to it
	// (sparsely); what is longer is used as far as Size goes. Zero: its own,
	// rounded down to whole blocks, and when that changes the device follows.
	Size uint64
	// BlockSize is 512 or 4096. Zero: DefaultBlockSize, or the block device's.
	BlockSize int
	// Create makes the file if it does not exist.
	Create   bool
	ReadOnly bool
	// Workers is how many ops run at a time, each on a goroutine of the device's,
	// of those that the kernel does not carry out by itself. Zero:
	// DefaultFileWorkers.
	Workers int

	// Buffered uses the page cache. Otherwise I/O goes around it, by O_DIRECT,
	// if file system and block size allow it.
	Buffered bool
	// NoURing has workers do all I/O. Otherwise reads, writes and flushes go by
	// io_uring, if the kernel allows it.
	NoURing bool

	// Resized is told when the size has changed, on a goroutine of the
	// device's, which it must not close the device on.
	Resized func(Info)
	// ResizePoll is how often the size is looked at. Zero: DefaultResizePoll;
	// negative: never but by [File.Refresh].
	ResizePoll time.Duration
}

// Mode says how a file device does its I/O.
type Mode struct {
	// Direct: around the page cache. If not, and not told so, DirectErr says why.
	Direct    bool
	DirectErr error
	// URing: reads, writes and flushes by io_uring. If not, and not told so,
	// URingErr says why.
	URing    bool
	URingErr error
}

// File is a device in a regular file ([OpenFile]) or on a block device
// ([OpenBlock]). What it does by io_uring stays on the op's shard, which
// submits at the end of a round what has gathered; all else leaves for one of a
// fixed number of goroutines and comes back through [shard.Shard.Post].
//
// Power loss: what has been written is in the page cache, in the cache of the
// disk, or, what is in a file, in blocks that the file system does not know of
// yet: a volatile write cache. It is on stable storage, as far as the file
// system and the disk keep their word, after a Flush (fdatasync) that was
// submitted when the write was done, or if the write had FUA (RWF_DSYNC).
// Without, a logical block may after a power loss be old, new, or, where the
// file system or disk tears its own blocks, a mix of both. Of a block device
// that has no volatile cache, used around the page cache, what is written is
// safe at once, and no volatile write cache is reported.
//
// After a Flush has failed all others do, and so do writes with FUA: the kernel
// tells of data that it could not write only once.
//
// A logical block is read and written as a whole, never torn, by any number of
// shards, and so are ops that overlap: see [window]. Other users of the file
// are kept out by an advisory lock (flock), those of a block device by O_EXCL.
type File struct {
	info   Info // Blocks as they were at first
	blocks atomic.Uint64
	mode   Mode
	cfg    FileConfig
	store  store

	file     *os.File
	fd       int    // of file, or of its own for direct I/O
	memAlign uint64 // of direct I/O: of addresses
	ioAlign  uint64 // and of lengths; no more than a block
	bounce   []byte // of direct I/O: bounceSize bytes for each slot
	zeros    []byte // aligned

	lost atomic.Pointer[error] // why nothing can be flushed any more

	ops     lockdep.WaitGroup[fileOps] // from Submit to Done
	workers lockdep.WaitGroup[fileWorkers]
	rings   atomic.Pointer[[]*fileRing] // of the shards that have been here; replaced under mu
	stop    chan struct{}               // closed to end the workers' watch of the size

	mu          lockdep.Mutex[fileMu]
	more        sync.Cond // on mu
	window      window    // guarded by mu
	first, last *slot     // guarded by mu: what workers are to do, by slot.next
	closed      bool      // guarded by mu: nothing is taken any more
	ended       bool      // guarded by mu: the workers may go

	refresh lockdep.Mutex[fileRefreshMu]
}

type (
	fileMu        struct{} // innermost
	fileRefreshMu struct{} // innermost
	fileOps       struct{}
	fileWorkers   struct{}
)

func (fileMu) String() string        { return "bdev file queue" }
func (fileRefreshMu) String() string { return "bdev file size" }
func (fileOps) String() string       { return "bdev file ops" }
func (fileWorkers) String() string   { return "bdev file workers" }

// A store is what a regular file and a block device do each in their way.
type store interface {
	// open opens the path, for direct I/O or not, and checks what it is.
	open(cfg *FileConfig, flags int) (*os.File, error)
	// size returns the size in bytes.
	size(fd int) (uint64, error)
	// describe returns what Info says but for the size, which is in bytes,
	// given whether I/O is direct.
	describe(f *File, cfg *FileConfig) (Info, error)
	// zero makes a range zeros, and may deallocate it if unmap is set.
	// EOPNOTSUPP: they have to be written.
	zero(fd int, at, n uint64, unmap bool) error
	deallocate(fd int, at, n uint64) error
}

// Info returns the geometry.
func (f *File) Info() Info {
	i := f.info
	i.Blocks = f.blocks.Load()
	return i
}

// Mode returns how I/O is done. It does not change.
func (f *File) Mode() Mode { return f.mode }

// Submit starts op; see [Device].
func (f *File) Submit(op *Op) {
	if err := f.check(op); err != nil || op.Length == 0 && op.Kind != Flush {
		op.Finish(err)
		return
	}
	if op.file != f {
		op.file = f
		op.back.Fn = func() { f.onShard(op) }
	}
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		op.Finish(ErrClosed)
		return
	}
	f.ops.Add(1)
	s := f.window.enter(op)
	f.mu.Unlock()
	if s != nil {
		f.start(s)
	}
}

// check says what is wrong with op.
func (f *File) check(op *Op) error {
	if op.Kind > Compare {
		return errKind(op.Kind)
	}
	if err := op.inRange(f.Info()); err != nil {
		return err
	}
	switch op.Kind {
	case Read, Write, Compare:
		if op.dataLen() < op.Length {
			return errShortData(op)
		}
	}
	if f.info.ReadOnly && op.Kind.changes() {
		return ErrReadOnly
	}
	return nil
}

// onShard is what an op's task does: it starts the op, or ends it.
func (f *File) onShard(op *Op) {
	if op.slot != nil {
		f.start(op.slot)
		return
	}
	op.Done(op)
	f.ops.Done()
}

// start carries out what is in s, on the shard of its op.
func (f *File) start(s *slot) {
	switch s.op.Kind {
	case Read, Write, Flush:
		if r := f.ring(s.op.Shard); r != nil {
			r.submit(s)
			return
		}
	}
	f.hand(s)
}

// hand gives s to the workers.
func (f *File) hand(s *slot) {
	s.next = nil
	f.mu.Lock()
	if f.last == nil {
		f.first = s
	} else {
		f.last.next = s
	}
	f.last = s
	f.mu.Unlock()
	f.more.Signal()
}

// Cancel takes back an op that waits, for another or for a worker; see
// [Canceler].
func (f *File) Cancel(op *Op) bool {
	f.mu.Lock()
	ok, ready := f.cancelLocked(op)
	f.mu.Unlock()
	f.startAll(ready, op.Shard)
	if ok {
		f.ops.Done()
	}
	return ok
}

func (f *File) cancelLocked(op *Op) (ok bool, ready *slot) {
	s := op.slot
	if s == nil {
		return f.window.leaveLine(op), nil
	}
	if s.waitsFor > 0 {
		f.window.waitNoMore(s)
		return true, f.window.leave(s)
	}
	for at, before := &f.first, (*slot)(nil); *at != nil; before, at = *at, &(*at).next {
		if *at != s {
			continue
		}
		if *at = s.next; f.last == s {
			f.last = before
		}
		return true, f.window.leave(s)
	}
	return false, nil
}

// work is a worker: it carries out what it is given until the device is closed.
func (f *File) work() {
	for {
		f.mu.Lock()
		for f.first == nil && !f.ended {
			f.more.Wait()
		}
		s := f.first
		if s == nil {
			f.mu.Unlock()
			return
		}
		f.first = s.next
		if f.first == nil {
			f.last = nil
		}
		f.mu.Unlock()
		op := s.op
		op.Err = f.do(s)
		f.leave(s, nil)
		if !op.Shard.Post(&op.back) {
			f.ops.Done() // the shard is closed, and with it whoever would have been told
		}
	}
}

// leave ends s, and starts what waits for that: on the shard where it is
// called, if any, or by post.
func (f *File) leave(s *slot, here *shard.Shard) {
	f.mu.Lock()
	ready := f.window.leave(s)
	f.mu.Unlock()
	f.startAll(ready, here)
}

// startAll starts what leave has returned.
func (f *File) startAll(ready *slot, here *shard.Shard) {
	for ready != nil {
		s := ready
		ready = s.next
		switch {
		case s.op.Shard == here:
			f.start(s)
		case !f.mode.URing || !s.op.Shard.Post(&s.op.back):
			f.hand(s)
		}
	}
}

// Close waits for the ops and ends the device; see [Device].
func (f *File) Close() error {
	f.mu.Lock()
	again := f.closed
	f.closed = true
	f.mu.Unlock()
	if again {
		f.workers.Wait()
		return nil
	}
	var rings []*fileRing
	if all := f.rings.Load(); all != nil {
		rings = *all
	}
	for _, r := range rings {
		r.drainOfClosed()
	}
	f.ops.Wait()
	f.mu.Lock()
	f.ended = true
	f.mu.Unlock()
	f.more.Broadcast()
	close(f.stop)
	f.workers.Wait()
	var err error
	for _, r := range rings {
		err = first(err, r.close())
	}
	if !f.info.ReadOnly {
		err = first(err, f.flushed(unix.Fdatasync(f.fd)))
	}
	if err = first(err, f.free()); err != nil {
		return fmt.Errorf("bdev: file: close: %w", err)
	}
	return nil
}

// free gives back what open took.
func (f *File) free() error {
	var err error
	if f.bounce != nil {
		err = unix.Munmap(f.bounce)
	}
	if f.zeros != nil {
		err = first(err, unix.Munmap(f.zeros))
	}
	return first(err, f.file.Close())
}

func first(a, b error) error {
	if a != nil {
		return a
	}
	return b
}
