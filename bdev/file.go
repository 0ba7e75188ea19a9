package bdev

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/fabrid/fabrid/lockdep"
)

// DefaultFileWorkers is how many ops of a file device run at a time if nothing
// else is said.
const DefaultFileWorkers = 8

// FileConfig describes a file device.
type FileConfig struct {
	Path string
	// Size in bytes, a multiple of BlockSize. A file that is shorter grows to it
	// (sparsely), one that is longer is used as far as Size goes. Zero: the
	// file's own, rounded down to whole blocks.
	Size      uint64
	BlockSize int // 512 or 4096; zero: DefaultBlockSize
	// Create makes the file if it does not exist.
	Create   bool
	ReadOnly bool
	// Workers is how many ops run at a time, each on a goroutine of the device's.
	// Zero: DefaultFileWorkers.
	Workers int
}

// File is a device in a regular file, through the page cache. Ops leave the
// shard for one of a fixed number of goroutines and come back through
// [shard.Shard.Post].
//
// Power loss: what has been written is in the page cache, which is reported as
// a volatile write cache. It is on stable storage, as far as the file system
// and the disk below keep their word, after a Flush that was submitted when
// the write was done, or if the write had FUA; both are fdatasync. Without, a
// logical block may after a power loss be old, new, or, where the file system
// or disk tears its own blocks, a mix of both.
//
// A logical block is read and written as a whole, never torn, by any number of
// shards. Other users of the file are kept out by an advisory lock (flock).
type File struct {
	info  Info
	file  *os.File
	fd    int
	punch bool // the file system can punch holes
	zeros []byte

	// regions serialize accesses to the same bytes, of which the file system does
	// not keep a reader from seeing half a write. whole is held for reading by
	// all that hold a region, and for writing by what concerns many of them.
	whole   lockdep.RWMutex[fileWholeMu]
	regions [fileStripes]lockdep.RWMutex[fileRegionMu]

	ops     lockdep.WaitGroup[fileOps] // from Submit to Done
	workers lockdep.WaitGroup[fileWorkers]

	mu          lockdep.Mutex[fileMu]
	more        sync.Cond // on mu
	first, last *Op       // guarded by mu: a queue, by Op.Next
	closed      bool      // guarded by mu
}

const (
	fileRegion  = 256 << 10 // bytes: a multiple of every block size
	fileStripes = 1024
	fileStep    = 1 << 30 // bytes that one fallocate concerns while others wait
	fileIovecs  = 1024    // the kernel's UIO_MAXIOV
)

type (
	fileWholeMu  struct{} // before fileRegionMu
	fileRegionMu struct{} // innermost
	fileMu       struct{} // innermost
	fileOps      struct{}
	fileWorkers  struct{}
)

func (fileWholeMu) String() string  { return "bdev file" }
func (fileRegionMu) String() string { return "bdev file region" }
func (fileMu) String() string       { return "bdev file queue" }
func (fileOps) String() string      { return "bdev file ops" }
func (fileWorkers) String() string  { return "bdev file workers" }

// OpenFile opens a file device and starts its goroutines.
func OpenFile(cfg FileConfig) (*File, error) {
	f, err := openFile(cfg)
	if err != nil {
		return nil, fmt.Errorf("bdev: file %s: %w", cfg.Path, err)
	}
	if cfg.Workers <= 0 {
		cfg.Workers = DefaultFileWorkers
	}
	for range cfg.Workers {
		f.workers.Go(f.work)
	}
	return f, nil
}

func openFile(cfg FileConfig) (*File, error) {
	flags, lock := os.O_RDWR, unix.LOCK_EX
	if cfg.ReadOnly {
		flags, lock = os.O_RDONLY, unix.LOCK_SH
	} else if cfg.Create {
		flags |= os.O_CREATE
	}
	file, err := os.OpenFile(cfg.Path, flags, 0o600)
	if err != nil {
		return nil, errors.Unwrap(err) // without the path, which the caller adds
	}
	// The descriptor is used without the runtime's poller, which knows nothing of
	// regular files; Close waits for its users.
	f := &File{file: file, fd: int(file.Fd())}
	f.more.L = &f.mu
	if err := f.prepare(cfg, lock); err != nil {
		file.Close()
		return nil, err
	}
	return f, nil
}

// prepare takes the lock, finds the size and what the file system can do.
func (f *File) prepare(cfg FileConfig, lock int) error {
	st, err := f.file.Stat()
	if err != nil {
		return errors.Unwrap(err)
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%v, want a regular file", st.Mode().Type())
	}
	if err := unix.Flock(f.fd, lock|unix.LOCK_NB); err != nil {
		return fmt.Errorf("flock: %w", err)
	}
	size, have := cfg.Size, uint64(st.Size())
	if size == 0 {
		block := uint64(cfg.BlockSize)
		if block == 0 {
			block = DefaultBlockSize
		}
		size = have / block * block
	}
	if f.info, err = geometry(size, cfg.BlockSize); err != nil {
		return err
	}
	if have < size {
		if cfg.ReadOnly {
			return fmt.Errorf("%d bytes, want %d, and the device is read-only", have, size)
		}
		if err := unix.Ftruncate(f.fd, int64(size)); err != nil {
			return fmt.Errorf("ftruncate to %d: %w", size, err)
		}
	}
	f.info.ReadOnly = cfg.ReadOnly
	f.info.VolatileWriteCache = !cfg.ReadOnly
	if !cfg.ReadOnly {
		// Behind the end of the file there is nothing to lose.
		f.punch = unix.Fallocate(f.fd, unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE,
			max(int64(size), st.Size()), fileRegion) == nil
		f.info.ZeroAfterDeallocate = f.punch
	}
	f.zeros = make([]byte, 64<<10)
	return nil
}

// Info returns the geometry.
func (f *File) Info() Info { return f.info }

// Submit hands op to a worker; see [Device].
func (f *File) Submit(op *Op) {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		op.Finish(ErrClosed)
		return
	}
	f.ops.Add(1)
	op.Next = nil
	if f.last == nil {
		f.first = op
	} else {
		f.last.Next = op
	}
	f.last = op
	f.mu.Unlock()
	f.more.Signal()
}

// Cancel takes back an op that no worker has taken; see [Canceler].
func (f *File) Cancel(op *Op) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	var before *Op
	for o := f.first; o != nil; before, o = o, o.Next {
		if o != op {
			continue
		}
		if before == nil {
			f.first = op.Next
		} else {
			before.Next = op.Next
		}
		if f.last == op {
			f.last = before
		}
		op.Next = nil
		f.ops.Done()
		return true
	}
	return false
}

// work is a worker: it takes ops until the device is closed and none is left.
func (f *File) work() {
	for {
		f.mu.Lock()
		for f.first == nil && !f.closed {
			f.more.Wait()
		}
		op := f.first
		if op == nil {
			f.mu.Unlock()
			return
		}
		f.first = op.Next
		if f.first == nil {
			f.last = nil
		}
		f.mu.Unlock()
		op.Next = nil
		op.Err = f.do(op)
		op.Task.Fn = func() {
			op.Done(op)
			f.ops.Done()
		}
		if !op.Shard.Post(&op.Task) {
			f.ops.Done() // the shard is closed, and with it whoever would have been told
		}
	}
}

// Close waits for the ops and ends the device; see [Device].
func (f *File) Close() error {
	f.mu.Lock()
	again := f.closed
	f.closed = true
	f.mu.Unlock()
	f.more.Broadcast()
	f.workers.Wait()
	f.ops.Wait()
	if again {
		return nil
	}
	var err error
	if !f.info.ReadOnly {
		err = unix.Fdatasync(f.fd)
	}
	if err = errors.Join(err, f.file.Close()); err != nil {
		return fmt.Errorf("bdev: file: close: %w", err)
	}
	return nil
}
