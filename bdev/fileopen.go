package bdev

import (
	"errors"
	"fmt"
	"math"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	bounceSize = 32 << 10 // bytes of a slot's bounce buffer: data in capsules, which is not aligned, is less
	zerosSize  = 128 << 10
)

// OpenFile opens a device in a regular file and starts its goroutines.
func OpenFile(cfg FileConfig) (*File, error) { return open(cfg, regular{}) }

// OpenBlock opens a device on a block device, which nobody else may be using,
// and starts its goroutines. FileConfig.Create means nothing to it.
func OpenBlock(cfg FileConfig) (*File, error) { return open(cfg, blockDevice{kernel{}}) }

func open(cfg FileConfig, st store) (*File, error) {
	f := &File{store: st, stop: make(chan struct{})}
	f.more.L = &f.mu
	f.window.init()
	if err := f.open(cfg); err != nil {
		if f.file != nil {
			err = errors.Join(err, f.free())
		}
		return nil, fmt.Errorf("bdev: file %s: %w", cfg.Path, err)
	}
	for range f.cfg.Workers {
		f.workers.Go(f.work)
	}
	if f.cfg.Size == 0 && f.cfg.ResizePoll > 0 {
		f.workers.Go(f.watch)
	}
	return f, nil
}

// open opens the file, takes it for this process alone, and finds out what it
// can do.
func (f *File) open(cfg FileConfig) error {
	if cfg.Workers <= 0 {
		cfg.Workers = DefaultFileWorkers
	}
	if cfg.ResizePoll == 0 {
		cfg.ResizePoll = DefaultResizePoll
	}
	if cfg.ReadOnly {
		cfg.Create = false
	}
	flags, lock := os.O_RDWR, unix.LOCK_EX
	if cfg.ReadOnly {
		flags, lock = os.O_RDONLY, unix.LOCK_SH
	}
	file, err := f.store.open(&cfg, flags)
	if err != nil {
		return bare(err)
	}
	// The descriptor is used without the runtime's poller, which knows nothing of
	// such files; Close waits for its users.
	f.file, f.fd = file, int(file.Fd())
	if err := unix.Flock(f.fd, lock|unix.LOCK_NB); err != nil {
		return fmt.Errorf("flock: %w", err)
	}
	if f.zeros, err = anonymous(zerosSize); err != nil {
		return err
	}
	if f.info, err = f.store.describe(f, &cfg); err != nil {
		return err
	}
	f.info.ReadOnly = f.info.ReadOnly || cfg.ReadOnly
	if f.info.ReadOnly {
		f.info.VolatileWriteCache = false
	}
	f.blocks.Store(f.info.Blocks)
	f.cfg = cfg
	if !cfg.NoURing {
		f.mode.URingErr = f.tryRing()
		f.mode.URing = f.mode.URingErr == nil
	}
	return nil
}

// bare is the error without the path, which the caller adds.
func bare(err error) error {
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		return pe.Err
	}
	return err
}

func anonymous(n int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("mmap %d bytes: %w", n, err)
	}
	return b, nil
}

// geometry sets block size and blocks, given the size that there is.
func (cfg *FileConfig) geometry(have uint64) (Info, error) {
	size := cfg.Size
	if size == 0 {
		block := uint64(cfg.BlockSize)
		if block == 0 {
			block = DefaultBlockSize
		}
		size = have / block * block
	}
	return geometry(size, cfg.BlockSize)
}

// goDirect turns I/O with blocks of so many bytes around the page cache, or
// says why that cannot be. The lock stays: it belongs to the open file, on
// which O_DIRECT is a flag that can be set.
func (f *File) goDirect(block uint64, size uint64) error {
	f.memAlign, f.ioAlign = 4096, 512
	var st unix.Statx_t
	err := unix.Statx(f.fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	if err == nil && st.Mask&unix.STATX_DIOALIGN != 0 {
		if st.Dio_offset_align == 0 || st.Dio_mem_align == 0 {
			return fmt.Errorf("statx: no direct I/O: %w", unix.EOPNOTSUPP)
		}
		f.memAlign, f.ioAlign = uint64(st.Dio_mem_align), uint64(st.Dio_offset_align)
	}
	if block%f.ioAlign != 0 || f.memAlign > uint64(os.Getpagesize()) {
		return fmt.Errorf("direct I/O needs units of %d bytes at multiples of %d, and blocks are of %d: %w",
			f.ioAlign, f.memAlign, block, unix.EOPNOTSUPP)
	}
	flags, err := unix.FcntlInt(uintptr(f.fd), unix.F_GETFL, 0)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(f.fd), unix.F_SETFL, flags|unix.O_DIRECT)
	}
	if err != nil {
		return fmt.Errorf("fcntl: O_DIRECT: %w", err)
	}
	// Not every file system that takes the flag means it, or says how it must be
	// aligned.
	if size >= block {
		if n, rerr := unix.Pread(f.fd, f.zeros[:block], 0); rerr != nil || uint64(n) != block {
			err = fmt.Errorf("direct read of %d bytes: %d, %w", block, n, cmpErr(rerr))
		}
		clear(f.zeros[:block])
	}
	if err == nil {
		f.bounce, err = anonymous(windowSize * bounceSize)
	}
	if err != nil {
		_, uerr := unix.FcntlInt(uintptr(f.fd), unix.F_SETFL, flags)
		return errors.Join(err, uerr)
	}
	return nil
}

func cmpErr(err error) error {
	if err == nil {
		return unix.EIO
	}
	return err
}

// direct decides on direct I/O and remembers why not.
func (f *File) direct(cfg *FileConfig, block, size uint64) {
	if !cfg.Buffered {
		f.mode.DirectErr = f.goDirect(block, size)
		f.mode.Direct = f.mode.DirectErr == nil
	}
}

// aligned reports whether b can be moved without the page cache.
func (f *File) aligned(b []byte) bool {
	return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b))))%f.memAlign == 0 && uint64(len(b))%f.ioAlign == 0
}

// regular is the store of a regular file.
type regular struct{}

func (regular) open(cfg *FileConfig, flags int) (*os.File, error) {
	if cfg.Create {
		flags |= os.O_CREATE
	}
	file, err := os.OpenFile(cfg.Path, flags, 0o600)
	if err != nil {
		return nil, err
	}
	st, err := file.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%v, want a regular file", st.Mode().Type())
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

func (regular) size(fd int) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, fmt.Errorf("fstat: %w", err)
	}
	return uint64(st.Size), nil
}

// describe makes the file as long as it should be, too.
func (s regular) describe(f *File, cfg *FileConfig) (Info, error) {
	have, err := s.size(f.fd)
	if err != nil {
		return Info{}, err
	}
	info, err := cfg.geometry(have)
	if err != nil {
		return info, err
	}
	size := info.Size()
	if have < size {
		if cfg.ReadOnly {
			return info, fmt.Errorf("%d bytes, want %d, and the device is read-only", have, size)
		}
		if err := unix.Ftruncate(f.fd, int64(size)); err != nil {
			return info, fmt.Errorf("ftruncate to %d: %w", size, err)
		}
	}
	info.VolatileWriteCache = true
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err == nil && int64(st.Blksize) > int64(info.BlockSize) && st.Blksize <= 1<<16 {
		info.OptimalWrite = int(st.Blksize) / info.BlockSize
		info.OptimalDeallocate = info.OptimalWrite
	}
	if !cfg.ReadOnly && size < math.MaxInt64-1<<20 {
		// Behind the end of the file there is nothing to lose.
		info.ZeroAfterDeallocate = unix.Fallocate(f.fd, unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE,
			int64(max(have, size)), 1<<16) == nil
	}
	f.direct(cfg, uint64(info.BlockSize), size)
	return info, nil
}

func (regular) zero(fd int, at, n uint64, unmap bool) error {
	if unmap {
		if err := fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE, at, n); !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
	}
	return fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, at, n)
}

// deallocate need not do anything: the content may be forgotten.
func (regular) deallocate(fd int, at, n uint64) error {
	if err := fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE, at, n); !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	return nil
}

func fallocate(fd int, mode uint32, at, n uint64) error {
	return retry(func() error { return unix.Fallocate(fd, mode|unix.FALLOC_FL_KEEP_SIZE, int64(at), int64(n)) })
}
