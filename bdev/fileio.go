package bdev

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	fileStep   = 1 << 30 // bytes that one fallocate or ioctl concerns: it cannot be interrupted
	fileIovecs = 1024    // the kernel's UIO_MAXIOV
)

// do carries out what is in s, on a worker.
func (f *File) do(s *slot) error {
	op := s.op
	switch op.Kind {
	case Read, Write:
		return f.transfer(s)
	case Flush:
		return f.flush()
	case Compare:
		return f.compare(op)
	case Deallocate:
		return f.steps(op, f.store.deallocate)
	}
	err := f.steps(op, func(fd int, at, n uint64) error { return f.store.zero(fd, at, n, op.Unmap) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = f.writeZeroes(op)
	}
	if err == nil && op.FUA {
		err = f.flush()
	}
	return err
}

// flush makes all that has been written durable.
func (f *File) flush() error {
	if f.info.ReadOnly {
		return nil
	}
	return f.flushed(retry(func() error { return unix.Fdatasync(f.fd) }))
}

// flushed is what a flush ends with: an error if this or an earlier one has
// failed.
func (f *File) flushed(err error) error {
	if err != nil {
		err = fileError("fdatasync", err)
		f.lost.CompareAndSwap(nil, &err)
		return err
	}
	return f.anyLost()
}

func (f *File) anyLost() error {
	if lost := f.lost.Load(); lost != nil {
		return fmt.Errorf("bdev: file: an earlier flush has failed: %w", *lost)
	}
	return nil
}

// moveError is what an op ends with whose transfer has failed.
func (f *File) moveError(op *Op, err error) error {
	err = fileError(op.Kind.String(), err)
	if op.FUA && op.Kind == Write && errors.Is(err, unix.EIO) {
		f.lost.CompareAndSwap(nil, &err) // it may have been of an earlier write, told of but here
	}
	return err
}

// fileError names the call and says what callers act upon.
func fileError(call string, err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("bdev: file: %s: %w: %w", call, ErrNoSpace, err)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("bdev: file: %s: %w: %w", call, ErrReadOnly, err)
	}
	return fmt.Errorf("bdev: file: %s: %w", call, err)
}

func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// aim has s.iov name what is to be moved next of the op's data, or the slot's
// bounce buffer if that is not aligned for direct I/O. At the op's first byte
// s.moved is zero.
func (f *File) aim(s *slot) {
	op := s.op
	if s.bounced = false; s.iov == nil {
		s.iov = s.room[:]
	}
	s.iov = s.iov[:0]
	skip, left := s.moved, min(op.Length-s.moved, fileStep)
	for _, d := range op.Data {
		if uint64(len(d)) <= skip {
			skip -= uint64(len(d))
			continue
		}
		d = d[skip:]
		skip = 0
		d = d[:min(uint64(len(d)), left)]
		if f.mode.Direct && !f.aligned(d) {
			s.bounced = true
			break
		}
		s.add(d)
		if left -= uint64(len(d)); left == 0 || len(s.iov) == fileIovecs {
			return
		}
	}
	b := f.bounce[int(s.index)*bounceSize:][:min(op.Length-s.moved, bounceSize)]
	if op.Kind == Write {
		copyData(op.Data, s.moved, b, false)
	}
	s.iov = s.iov[:0]
	s.add(b)
}

func (s *slot) add(b []byte) {
	s.iov = append(s.iov, unix.Iovec{Base: unsafe.SliceData(b)})
	s.iov[len(s.iov)-1].SetLen(len(b))
}

// copyData copies between b and data from byte off on.
func copyData(data [][]byte, off uint64, b []byte, toData bool) {
	for _, d := range data {
		if uint64(len(d)) <= off {
			off -= uint64(len(d))
			continue
		}
		d, off = d[off:], 0
		var n int
		if toData {
			n = copy(d, b)
		} else {
			n = copy(b, d)
		}
		if b = b[n:]; len(b) == 0 {
			return
		}
	}
}

// moved takes note of n bytes that have been moved, or of the error, and
// reports whether the op is done with.
func (f *File) moved(s *slot, n int, errno unix.Errno) (done bool, err error) {
	op := s.op
	if errno == unix.EINTR || errno == unix.EAGAIN {
		return false, nil
	}
	if errno != 0 {
		return true, f.moveError(op, errno)
	}
	if f.mode.Direct {
		n -= n % int(f.ioAlign) // the rest can only be done as a whole
	}
	if n == 0 {
		return true, f.moveError(op, io.ErrUnexpectedEOF) // somebody has cut the file
	}
	if s.bounced && op.Kind == Read {
		copyData(op.Data, s.moved, f.bounce[int(s.index)*bounceSize:][:n], true)
	}
	if s.moved += uint64(n); s.moved < op.Length {
		return false, nil
	}
	if op.FUA && op.Kind == Write {
		return true, f.anyLost()
	}
	return true, nil
}

// transfer reads or writes the data of what is in s.
func (f *File) transfer(s *slot) error {
	op := s.op
	call, flags := uintptr(unix.SYS_PREADV2), uintptr(0)
	if op.Kind == Write {
		call = unix.SYS_PWRITEV2
		if op.FUA {
			flags = unix.RWF_DSYNC
		}
	}
	for {
		f.aim(s)
		n, _, errno := unix.Syscall6(call, uintptr(f.fd), uintptr(unsafe.Pointer(unsafe.SliceData(s.iov))), uintptr(len(s.iov)),
			uintptr(op.Offset+s.moved), 0, flags)
		if done, err := f.moved(s, int(n), errno); done {
			return err
		}
	}
}

// compare reads and compares with op's data.
func (f *File) compare(op *Op) error {
	got, err := anonymous(int(min(op.Length, zerosSize)))
	if err != nil {
		return fileError("compare", err)
	}
	defer func() { _ = unix.Munmap(got) }() // it is a mapping of ours
	data := op.Data
	var d []byte
	for done := uint64(0); done < op.Length; {
		n, err := unix.Pread(f.fd, got[:min(uint64(len(got)), op.Length-done)], int64(op.Offset+done))
		if f.mode.Direct {
			n -= n % int(f.ioAlign)
		}
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fileError("compare", err)
		case n <= 0:
			return fileError("compare", io.ErrUnexpectedEOF)
		}
		done += uint64(n)
		for b := got[:n]; len(b) > 0; {
			for len(d) == 0 {
				d, data = data[0], data[1:]
			}
			m := min(len(b), len(d))
			if !bytes.Equal(b[:m], d[:m]) {
				return ErrCompare
			}
			b, d = b[m:], d[m:]
		}
	}
	return nil
}

// steps does to op's range what call does, a step at a time.
func (f *File) steps(op *Op, call func(fd int, at, n uint64) error) error {
	for at, end := op.Offset, op.Offset+op.Length; at < end; {
		n := min(end-at, fileStep)
		if err := call(f.fd, at, n); err != nil {
			return fileError(op.Kind.String(), err)
		}
		at += n
	}
	return nil
}

// writeZeroes writes zeros.
func (f *File) writeZeroes(op *Op) error {
	for at, end := op.Offset, op.Offset+op.Length; at < end; {
		n, err := unix.Pwrite(f.fd, f.zeros[:min(end-at, zerosSize)], int64(at))
		if f.mode.Direct {
			n -= n % int(f.ioAlign)
		}
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fileError("write zeroes", err)
		case n <= 0:
			return fileError("write zeroes", io.ErrShortWrite)
		}
		at += uint64(n)
	}
	return nil
}
