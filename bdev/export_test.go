package bdev

import (
	"errors"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// FakeBlock plays the kernel's part of a block device in a regular file.
type FakeBlock struct {
	Size64  atomic.Uint64
	Numbers map[uint]int      // by ioctl; others are refused
	Queue   map[string]string // of sysfs
	Refuse  error             // what BLKDISCARD and BLKZEROOUT end with
	Spans   [2]atomic.Int64   // discards, zero-outs
}

// Open opens the file as if it were a block device.
func (k *FakeBlock) Open(cfg FileConfig) (*File, error) { return open(cfg, blockDevice{k}) }

func (k *FakeBlock) isBlock(st os.FileInfo) bool { return st.Mode().IsRegular() }

func (k *FakeBlock) size64(int) (uint64, error) { return k.Size64.Load(), nil }

func (k *FakeBlock) number(_ int, request uint) (int, error) {
	if n, ok := k.Numbers[request]; ok {
		return n, nil
	}
	return 0, unix.ENOTTY
}

func (k *FakeBlock) span(fd int, request uint, at, n uint64) error {
	if at%512 != 0 || n%512 != 0 {
		return unix.EINVAL
	}
	switch request {
	case unix.BLKDISCARD:
		k.Spans[0].Add(1)
		if k.Refuse != nil {
			return k.Refuse
		}
		return fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE, at, n)
	case unix.BLKZEROOUT:
		k.Spans[1].Add(1)
		if k.Refuse != nil {
			return k.Refuse
		}
		return fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, at, n)
	}
	return unix.ENOTTY
}

func (k *FakeBlock) queue(_ int, name string) (string, error) {
	if s, ok := k.Queue[name]; ok {
		return s, nil
	}
	return "", os.ErrNotExist
}

// FailedFlush is what a flush ends with of which the kernel said err.
func (f *File) FailedFlush(err error) error { return f.flushed(err) }

// TryURing is what decides whether there is io_uring.
func TryURing() error { return tryUring() }

// RawURing moves buffers to or from a file with nothing but a ring, n times in
// all, all buffers at once, at the offsets that next returns.
func RawURing(fd int, kind Kind, bufs [][]byte, n int, next func() uint64) (err error) {
	u, err := newUring(uint32(len(bufs)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, u.close()) }()
	submit := func(i uint64) {
		e := u.next()
		e.opcode, e.fd, e.off, e.userData = uringRead, int32(fd), next(), i
		e.addr, e.len = uint64(uintptr(unsafe.Pointer(&bufs[i][0]))), uint32(len(bufs[i]))
		if kind == Write {
			e.opcode = uringWrite
		}
	}
	for i := range min(n, len(bufs)) {
		submit(uint64(i))
		n--
	}
	for u.underWay > 0 {
		if err := u.enter(1); err != nil {
			return err
		}
		for {
			c, ok := u.reap()
			if !ok {
				break
			}
			if c.res < 0 {
				return unix.Errno(-c.res)
			}
			if n > 0 {
				n--
				submit(c.userData)
			}
		}
	}
	return nil
}
