package bdev

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/fabrid/fabrid/shard"
)

// A fileRing is a shard's own way to a file device: an io_uring that only the
// shard uses. Ops gather during a round and are submitted at its end; the shard
// sees completions as it sees those of sockets.
type fileRing struct {
	f       *File
	shard   *shard.Shard
	u       *uring // nil: the shard has none, and workers do its I/O
	id      int    // of the descriptor on the shard
	flusher shard.Flusher
	again   shard.Task
}

// asyncFrom is from how many bytes on the kernel's workers copy to and from the
// page cache: the shard has other things to do.
const asyncFrom = 64 << 10

// tryRing reports why the device cannot use io_uring.
func (f *File) tryRing() error { return tryUring() }

// ring returns the ring of the shard that it is called on, or nil. A shard that
// comes for the first time gets one.
func (f *File) ring(s *shard.Shard) *fileRing {
	if !f.mode.URing {
		return nil
	}
	if all := f.rings.Load(); all != nil {
		for _, r := range *all {
			if r.shard == s {
				return r.orNil()
			}
		}
	}
	return f.addRing(s).orNil()
}

func (r *fileRing) orNil() *fileRing {
	if r.u == nil {
		return nil
	}
	return r
}

func (f *File) addRing(s *shard.Shard) *fileRing {
	r := &fileRing{f: f, shard: s}
	r.flusher.Fn, r.again.Fn = r.flush, r.flush
	// A simulated shard has no descriptors, and a process may have too many:
	// that shard makes do with workers.
	if u, err := newUring(windowSize); err == nil {
		if r.id, err = s.Add(u.fd, shard.Readable, r.readable); err == nil {
			r.u = u
		} else {
			_ = u.close() // nothing was done with it
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []*fileRing
	if old := f.rings.Load(); old != nil {
		all = slices.Clone(*old)
	}
	all = append(all, r)
	f.rings.Store(&all)
	return r
}

// submit queues what is in s, or what is left of it, for the end of the round.
func (r *fileRing) submit(s *slot) {
	f, op, e := r.f, s.op, r.u.next()
	e.fd, e.userData = int32(f.fd), uint64(s.index)
	r.shard.Flush(&r.flusher)
	if op.Kind == Flush {
		if f.info.ReadOnly {
			e.opcode = uringNop
			return
		}
		e.opcode, e.opFlags = uringFsync, uringDatasync
		return
	}
	f.aim(s)
	e.off = op.Offset + s.moved
	if len(s.iov) == 1 {
		e.opcode = uringRead
		e.addr, e.len = uint64(uintptr(unsafe.Pointer(s.iov[0].Base))), uint32(s.iov[0].Len)
	} else {
		e.opcode = uringReadv
		e.addr, e.len = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(s.iov)))), uint32(len(s.iov))
	}
	if op.Kind == Write {
		e.opcode++ // WRITE follows READ
		if op.FUA {
			e.opFlags = unix.RWF_DSYNC
		}
	}
	if !f.mode.Direct && op.Length-s.moved >= asyncFrom {
		e.flags = uringAsync
	}
}

// flush gives the kernel what has gathered.
func (r *fileRing) flush() {
	if r.u.unentered > 0 && r.u.enter(0) != nil {
		// It has no memory for more just now, and says so with EAGAIN or EBUSY.
		// Other errors would be of a ring that is not ours.
		r.shard.Post(&r.again)
	}
}

// readable takes the completions that there are.
func (r *fileRing) readable(uint32) {
	for range windowSize {
		c, ok := r.u.reap()
		if !ok {
			return
		}
		s := &r.f.window.slots[c.userData]
		if done, err := r.f.completed(s, c.res); !done {
			r.submit(s)
		} else {
			op := s.op
			r.f.leave(s, r.shard)
			op.Finish(err)
			r.f.ops.Done()
		}
	}
}

// completed takes note of what the kernel says of s.
func (f *File) completed(s *slot, res int32) (done bool, err error) {
	var errno unix.Errno
	if res < 0 {
		errno, res = unix.Errno(-res), 0
	}
	if s.op.Kind != Flush {
		return f.moved(s, int(res), errno)
	}
	switch errno {
	case 0:
		return true, f.flushed(nil)
	case unix.EINTR, unix.EAGAIN:
		return false, nil
	}
	return true, f.flushed(errno)
}

// drainOfClosed ends the ops of a shard that has been closed: nobody else does.
// It does nothing if the shard runs.
func (r *fileRing) drainOfClosed() {
	if r.u == nil || !errors.Is(r.shard.Run(func() {}), shard.ErrClosed) {
		return
	}
	_ = r.shard.Close() // it has been; this waits for its end
	for r.u.underWay > 0 {
		if err := r.u.enter(1); err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EBUSY) {
			return
		}
		for {
			c, ok := r.u.reap()
			if !ok {
				break
			}
			s := &r.f.window.slots[c.userData]
			r.f.leave(s, nil)
			r.f.ops.Done()
		}
	}
}

// close ends the ring, when no op is under way.
func (r *fileRing) close() error {
	if r.u == nil {
		return nil
	}
	err := error(nil)
	if rerr := r.shard.Run(func() { err = r.shard.Remove(r.id) }); rerr != nil {
		err = nil // the shard's descriptors are gone with it
	}
	if err = errors.Join(err, r.u.close()); err != nil {
		return fmt.Errorf("io_uring: %w", err)
	}
	return nil
}
