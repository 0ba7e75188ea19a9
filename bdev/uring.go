package bdev

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A uring is an io_uring: a ring of entries that the kernel takes, and one of
// completions that it fills. It is used by one goroutine at a time. No entry
// outlives its submission but for the memory that it names; there are never
// more under way than the rings have room for, which the user sees to.
//
// Its descriptor is readable, for epoll, while there is a completion.
type uring struct {
	fd   int
	mem  []byte // both rings
	sqes []byte

	sqTail    *uint32
	sqMask    uint32
	cqHead    *uint32
	cqTail    *uint32
	cqMask    uint32
	cqes      unsafe.Pointer
	tail      uint32 // of what has been queued
	unentered uint32 // queued, and not yet the kernel's
	underWay  int    // queued, and not reaped
}

// What the kernel's header linux/io_uring.h says.
const (
	uringSetupCQSize = 1 << 3
	uringSetupClamp  = 1 << 4
	uringSetupCoop   = 1 << 8 // no interrupt for a completion: whoever waits in epoll is woken anyway

	uringFeatSingleMmap   = 1 << 0
	uringFeatNoDrop       = 1 << 1
	uringFeatSubmitStable = 1 << 2 // iovecs may change once an entry is submitted
	uringFeatCurPos       = 1 << 3 // of the version that READ and WRITE came with
	uringFeatures         = uringFeatSingleMmap | uringFeatNoDrop | uringFeatSubmitStable | uringFeatCurPos

	uringEnterGetEvents = 1 << 0

	uringOffSQEs = 0x10000000

	uringNop    = 0
	uringReadv  = 1
	uringWritev = 2
	uringFsync  = 3
	uringRead   = 22
	uringWrite  = 23

	uringAsync    = 1 << 4 // entry flag: by a worker of the kernel's from the start
	uringDatasync = 1 << 0 // of uringFsync
)

// uringParams is struct io_uring_params.
type uringParams struct {
	sqEntries, cqEntries, flags, threadCPU, threadIdle, features, wqFD uint32
	_                                                                  [3]uint32
	sq                                                                 struct {
		head, tail, ringMask, ringEntries, flags, dropped, array, _ uint32
		_                                                           uint64
	}
	cq struct {
		head, tail, ringMask, ringEntries, overflow, cqes, flags, _ uint32
		_                                                           uint64
	}
}

// A sqe is struct io_uring_sqe, a submission.
type sqe struct {
	opcode, flags uint8
	_             uint16
	fd            int32
	off, addr     uint64
	len           uint32
	opFlags       uint32
	userData      uint64
	_             [3]uint64
}

// A cqe is struct io_uring_cqe, a completion.
type cqe struct {
	userData uint64
	res      int32
	flags    uint32
}

const (
	sqeSize = unsafe.Sizeof(sqe{})
	cqeSize = unsafe.Sizeof(cqe{})
)

// newUring makes a ring with room for so many entries under way.
func newUring(entries uint32) (*uring, error) {
	p := uringParams{flags: uringSetupCQSize | uringSetupClamp | uringSetupCoop, cqEntries: 2 * entries}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&p)), 0)
	if errno == unix.EINVAL { // older than Linux 5.19
		p = uringParams{flags: uringSetupCQSize | uringSetupClamp, cqEntries: 2 * entries}
		fd, _, errno = unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&p)), 0)
	}
	if errno != 0 {
		return nil, fmt.Errorf("io_uring_setup: %w", errno)
	}
	u := &uring{fd: int(fd)}
	if err := u.mmap(&p, entries); err != nil {
		return nil, errors.Join(err, u.close())
	}
	return u, nil
}

func (u *uring) mmap(p *uringParams, entries uint32) error {
	if p.features&uringFeatures != uringFeatures || p.sqEntries < entries {
		return fmt.Errorf("io_uring: features %#x and %d entries, want %#x and %d: %w",
			p.features, p.sqEntries, uringFeatures, entries, unix.EOPNOTSUPP)
	}
	size := max(uintptr(p.sq.array)+4*uintptr(p.sqEntries), uintptr(p.cq.cqes)+cqeSize*uintptr(p.cqEntries))
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	var err error
	if u.mem, err = unix.Mmap(u.fd, 0, int(size), prot, flags); err != nil {
		return fmt.Errorf("io_uring: mmap rings: %w", err)
	}
	if u.sqes, err = unix.Mmap(u.fd, uringOffSQEs, int(sqeSize)*int(p.sqEntries), prot, flags); err != nil {
		return fmt.Errorf("io_uring: mmap entries: %w", err)
	}
	word := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&u.mem[off])) }
	u.sqTail, u.sqMask = word(p.sq.tail), *word(p.sq.ringMask)
	u.cqHead, u.cqTail, u.cqMask = word(p.cq.head), word(p.cq.tail), *word(p.cq.ringMask)
	u.cqes = unsafe.Pointer(&u.mem[p.cq.cqes])
	for i := range p.sqEntries {
		*word(p.sq.array + 4*i) = i
	}
	u.tail = *u.sqTail
	return nil
}

// next returns an entry to be filled in, all of it zero.
func (u *uring) next() *sqe {
	e := (*sqe)(unsafe.Pointer(&u.sqes[uintptr(u.tail&u.sqMask)*sqeSize]))
	*e = sqe{}
	u.tail++
	u.unentered++
	u.underWay++
	return e
}

// enter gives the kernel what was queued, and waits for so many completions.
// With EAGAIN or EBUSY it has taken less, and enter is to be called again.
func (u *uring) enter(wait uint32) error {
	atomic.StoreUint32(u.sqTail, u.tail)
	for {
		flags := uintptr(0)
		if wait > 0 {
			flags = uringEnterGetEvents
		}
		n, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(u.fd), uintptr(u.unentered), uintptr(wait), flags, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return errno
		}
		u.unentered -= uint32(n)
		if u.unentered == 0 {
			return nil
		}
		if n == 0 {
			return unix.EAGAIN
		}
	}
}

// reap takes a completion, if there is one.
func (u *uring) reap() (c cqe, ok bool) {
	head := *u.cqHead
	if head == atomic.LoadUint32(u.cqTail) {
		return c, false
	}
	c = *(*cqe)(unsafe.Add(u.cqes, uintptr(head&u.cqMask)*cqeSize))
	atomic.StoreUint32(u.cqHead, head+1)
	u.underWay--
	return c, true
}

func (u *uring) close() error {
	var errs []error
	if u.sqes != nil {
		errs = append(errs, unix.Munmap(u.sqes))
	}
	if u.mem != nil {
		errs = append(errs, unix.Munmap(u.mem))
	}
	return errors.Join(append(errs, unix.Close(u.fd))...)
}

// tryUring reports why this process cannot use io_uring, or nil: a kernel
// without it, or that forbids it, may say so at either call.
func tryUring() error {
	u, err := newUring(1)
	if err != nil {
		return err
	}
	const mark = 42
	u.next().userData = mark // uringNop
	if err = u.enter(1); err != nil {
		err = fmt.Errorf("io_uring_enter: %w", err)
	} else if c, ok := u.reap(); !ok || c.userData != mark || c.res != 0 {
		err = fmt.Errorf("io_uring: a no-op completed with %+v: %w", c, unix.EOPNOTSUPP)
	}
	return errors.Join(err, u.close())
}
