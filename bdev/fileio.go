package bdev

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// do carries op out, on a worker.
func (f *File) do(op *Op) error {
	if err := op.inRange(f.info); err != nil {
		return err
	}
	switch op.Kind {
	case Write, WriteZeroes, Deallocate:
		if f.info.ReadOnly {
			return ErrReadOnly
		}
	}
	var err error
	switch op.Kind {
	case Read:
		err = f.transfer(op, unix.Preadv)
	case Write:
		err = f.transfer(op, unix.Pwritev)
	case Compare:
		err = f.compare(op)
	case Flush:
		return f.sync()
	case WriteZeroes:
		err = f.writeZeroes(op)
	case Deallocate:
		if !f.punch {
			return nil // the content may be forgotten, and need not
		}
		return f.allocate(op.Offset, op.Length, unix.FALLOC_FL_PUNCH_HOLE)
	default:
		return errKind(op.Kind)
	}
	if err == nil && op.FUA && (op.Kind == Write || op.Kind == WriteZeroes) {
		err = f.sync()
	}
	return err
}

func (f *File) sync() error {
	if f.info.ReadOnly {
		return nil
	}
	if err := retry(func() error { return unix.Fdatasync(f.fd) }); err != nil {
		return fileError("fdatasync", err)
	}
	return nil
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

// lock takes the region at a byte, for reading or writing.
func (f *File) lock(at uint64, write bool) (unlock func()) {
	r := &f.regions[at/fileRegion%fileStripes]
	f.whole.RLock()
	if write {
		r.Lock()
		return func() { r.Unlock(); f.whole.RUnlock() }
	}
	r.RLock()
	return func() { r.RUnlock(); f.whole.RUnlock() }
}

// regionsOf calls fn for each part of [at, end) that lies in one region, with
// the region locked.
func (f *File) regionsOf(at, end uint64, write bool, fn func(at, end uint64) error) error {
	for at < end {
		stop := min(end, (at/fileRegion+1)*fileRegion)
		unlock := f.lock(at, write)
		err := fn(at, stop)
		unlock()
		if err != nil {
			return err
		}
		at = stop
	}
	return nil
}

// transfer reads or writes op's data.
func (f *File) transfer(op *Op, call func(fd int, iovs [][]byte, offset int64) (int, error)) error {
	data := cursor{data: op.Data}
	var room [16][]byte
	return f.regionsOf(op.Offset, op.Offset+op.Length, op.Kind == Write, func(at, end uint64) error {
		for at < end {
			iovs := data.take(room[:0], end-at)
			if len(iovs) == 0 {
				return errShortData(op)
			}
			for len(iovs) > 0 {
				n, err := call(f.fd, iovs, int64(at))
				switch {
				case errors.Is(err, unix.EINTR):
					continue
				case err != nil:
					return fileError(op.Kind.String(), err)
				case n == 0:
					return fileError(op.Kind.String(), io.ErrUnexpectedEOF) // somebody has cut the file
				}
				at += uint64(n)
				iovs = skip(iovs, n)
			}
		}
		return nil
	})
}

// A cursor hands out data piece by piece.
type cursor struct {
	data [][]byte
	off  int // in data[0]
}

// take appends to iovs up to most bytes of the data, and no more pieces than
// the kernel takes.
func (c *cursor) take(iovs [][]byte, most uint64) [][]byte {
	for most > 0 && len(c.data) > 0 && len(iovs) < fileIovecs {
		d := c.data[0][c.off:]
		if uint64(len(d)) > most {
			d = d[:most]
			c.off += len(d)
		} else {
			c.data, c.off = c.data[1:], 0
		}
		if len(d) > 0 {
			iovs = append(iovs, d)
			most -= uint64(len(d))
		}
	}
	return iovs
}

// skip drops the first n bytes of iovs.
func skip(iovs [][]byte, n int) [][]byte {
	for len(iovs) > 0 && n >= len(iovs[0]) {
		n -= len(iovs[0])
		iovs = iovs[1:]
	}
	if n > 0 {
		iovs[0] = iovs[0][n:]
	}
	return iovs
}

// compare reads and compares with op's data.
func (f *File) compare(op *Op) error {
	if op.dataLen() < op.Length {
		return errShortData(op)
	}
	got := make([]byte, min(op.Length, fileRegion))
	data := cursor{data: op.Data}
	return f.regionsOf(op.Offset, op.Offset+op.Length, false, func(at, end uint64) error {
		b := got[:end-at]
		for n := 0; n < len(b); {
			m, err := unix.Pread(f.fd, b[n:], int64(at)+int64(n))
			switch {
			case errors.Is(err, unix.EINTR):
				continue
			case err != nil:
				return fileError("compare", err)
			case m == 0:
				return fileError("compare", io.ErrUnexpectedEOF)
			}
			n += m
		}
		for len(b) > 0 {
			for _, d := range data.take(nil, uint64(len(b))) {
				if !bytes.Equal(b[:len(d)], d) {
					return ErrCompare
				}
				b = b[len(d):]
			}
		}
		return nil
	})
}

// writeZeroes makes a range zeros: by a hole, by unwritten extents, or else by
// writing them.
func (f *File) writeZeroes(op *Op) error {
	if op.Unmap && f.punch {
		return f.allocate(op.Offset, op.Length, unix.FALLOC_FL_PUNCH_HOLE)
	}
	err := f.allocate(op.Offset, op.Length, unix.FALLOC_FL_ZERO_RANGE)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	return f.regionsOf(op.Offset, op.Offset+op.Length, true, func(at, end uint64) error {
		for at < end {
			n, err := unix.Pwrite(f.fd, f.zeros[:min(end-at, uint64(len(f.zeros)))], int64(at))
			switch {
			case errors.Is(err, unix.EINTR):
				continue
			case err != nil:
				return fileError("write zeroes", err)
			}
			at += uint64(n)
		}
		return nil
	})
}

// allocate is fallocate. A small range is locked by its regions, a large one
// stops everything else, a step at a time.
func (f *File) allocate(at, length uint64, mode uint32) error {
	call := func(at, end uint64) error {
		err := retry(func() error {
			return unix.Fallocate(f.fd, mode|unix.FALLOC_FL_KEEP_SIZE, int64(at), int64(end-at))
		})
		if err != nil {
			return fileError("fallocate", err)
		}
		return nil
	}
	end := at + length
	if length <= 8*fileRegion {
		return f.regionsOf(at, end, true, call)
	}
	for at < end {
		stop := min(end, at+fileStep)
		f.whole.Lock()
		err := call(at, stop)
		f.whole.Unlock()
		if err != nil {
			return err
		}
		at = stop
	}
	return nil
}
