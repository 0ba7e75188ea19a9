package bdev

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctls is what the kernel tells of a block device, and does to it.
type ioctls interface {
	// isBlock reports whether the file is a block device.
	isBlock(os.FileInfo) bool
	// size64 is BLKGETSIZE64.
	size64(fd int) (uint64, error)
	// number is an ioctl that returns an int.
	number(fd int, request uint) (int, error)
	// span is an ioctl on a range.
	span(fd int, request uint, at, n uint64) error
	// queue is an attribute of the request queue, in sysfs, or an error.
	queue(fd int, name string) (string, error)
}

// blockDevice is the store of a block device.
type blockDevice struct{ ioctls }

func (s blockDevice) open(cfg *FileConfig, flags int) (*os.File, error) {
	if !cfg.ReadOnly {
		flags |= unix.O_EXCL // not while it is mounted, or part of something
	}
	file, err := os.OpenFile(cfg.Path, flags, 0)
	if err != nil {
		return nil, err
	}
	st, err := file.Stat()
	if err == nil && !s.isBlock(st) {
		err = fmt.Errorf("%v, want a block device", st.Mode().Type())
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

func (s blockDevice) size(fd int) (uint64, error) { return s.size64(fd) }

// describe asks for the geometry. What the device does not tell is not told.
func (s blockDevice) describe(f *File, cfg *FileConfig) (Info, error) {
	have, err := s.size64(f.fd)
	if err != nil {
		return Info{}, err
	}
	logical, err := s.number(f.fd, unix.BLKSSZGET)
	if err != nil {
		return Info{}, err
	}
	if cfg.BlockSize == 0 {
		cfg.BlockSize = max(logical, 512)
	}
	if cfg.BlockSize < logical || logical <= 0 || cfg.BlockSize%logical != 0 {
		return Info{}, fmt.Errorf("blocks of %d bytes, and the device's are of %d", cfg.BlockSize, logical)
	}
	info, err := cfg.geometry(have)
	if err != nil {
		return info, err
	}
	if info.Size() > have {
		return info, fmt.Errorf("%d bytes, want %d", have, info.Size())
	}
	units := func(bytes int) int {
		if bytes <= info.BlockSize || bytes%info.BlockSize != 0 {
			return 0
		}
		return bytes / info.BlockSize
	}
	number := func(request uint) int {
		n, err := s.number(f.fd, request)
		if err != nil {
			return 0
		}
		return n
	}
	info.OptimalWrite = units(max(number(unix.BLKPBSZGET), number(unix.BLKIOMIN)))
	info.OptimalIO = units(number(unix.BLKIOOPT))
	info.ReadOnly = number(unix.BLKROGET) != 0
	if text, err := s.queue(f.fd, "discard_granularity"); err == nil {
		if n, err := strconv.Atoi(text); err == nil {
			info.OptimalDeallocate = units(n)
		}
	}
	f.direct(cfg, uint64(info.BlockSize), info.Size())
	// The page cache is volatile whatever the device has, and what a device does
	// not tell may be.
	cache, err := s.queue(f.fd, "write_cache")
	info.VolatileWriteCache = !f.mode.Direct || err != nil || cache != "write through"
	return info, nil
}

// zero leaves it to the kernel to find the best way: it may deallocate if unmap
// is set, and otherwise writes zeros itself if the device cannot.
func (s blockDevice) zero(fd int, at, n uint64, unmap bool) error {
	if unmap {
		// On a block device this deallocates what reads as zeros then for certain,
		// or does nothing.
		if err := fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE, at, n); !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
	}
	return retry(func() error { return s.span(fd, unix.BLKZEROOUT, at, n) })
}

// deallocate discards. A device that cannot need not.
func (s blockDevice) deallocate(fd int, at, n uint64) error {
	err := retry(func() error { return s.span(fd, unix.BLKDISCARD, at, n) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// kernel is the ioctls of this machine.
type kernel struct{}

func (kernel) isBlock(st os.FileInfo) bool {
	return st.Mode()&(os.ModeDevice|os.ModeCharDevice) == os.ModeDevice
}

func (kernel) size64(fd int) (uint64, error) {
	var size uint64
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&size))); errno != 0 {
		return 0, fmt.Errorf("ioctl BLKGETSIZE64: %w", errno)
	}
	return size, nil
}

func (kernel) number(fd int, request uint) (int, error) {
	var n uint32 // an int of C's, but for sizes, which are unsigned
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(unsafe.Pointer(&n))); errno != 0 {
		return 0, fmt.Errorf("ioctl %#x: %w", request, errno)
	}
	return int(min(n, math.MaxInt32)), nil
}

func (kernel) span(fd int, request uint, at, n uint64) error {
	span := [2]uint64{at, n}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(unsafe.Pointer(&span))); errno != 0 {
		return fmt.Errorf("ioctl %#x of %d+%d: %w", request, at, n, errno)
	}
	return nil
}

// queue finds the request queue of the device, or of the one that it is a
// partition of.
func (kernel) queue(fd int, name string) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	dir := fmt.Sprintf("/sys/dev/block/%d:%d/", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)))
	text, err := os.ReadFile(dir + "queue/" + name)
	if errors.Is(err, os.ErrNotExist) {
		text, err = os.ReadFile(dir + "../queue/" + name)
	}
	return strings.TrimSpace(string(text)), err
}
