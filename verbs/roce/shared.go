package roce

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Shared is what devices of one shard need in turns only, and so can share: a
// program that opens a thousand of them would pay for it a thousand times. The
// zero value is ready. It belongs to the shard.
type Shared struct {
	rx    rxRing
	tx    txRing
	mtus  mtuCache
	users int // sockets
}

// sharedBatch is how many packets a device gathers that shares with others.
const sharedBatch = 32

// join makes the rings for their first user, and for those after it counts them.
func (s *Shared) join() error {
	if s.users == 0 {
		mem, err := unix.Mmap(-1, 0, rxMessages*rxStride, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return fmt.Errorf("map receive buffers: %w", err)
		}
		s.rx.init(mem)
		s.tx.iovs = make([]unix.Iovec, 0, 6*batchPackets) // a packet has maxSGE+2 at most
	}
	s.users++
	return nil
}

// leave gives the rings back after their last user.
func (s *Shared) leave() error {
	if s.users--; s.users > 0 {
		return nil
	}
	mem := s.rx.mem
	s.rx.mem = nil
	return unix.Munmap(mem)
}

func (r *rxRing) init(mem []byte) {
	r.mem = mem
	for i := range r.msgs {
		buf := mem[i*rxStride : i*rxStride+rxBuffer]
		r.iovs[i].Base = &buf[0]
		r.iovs[i].SetLen(len(buf))
		h := &r.msgs[i].hdr
		h.Iov, h.Name, h.Control = &r.iovs[i], (*byte)(unsafe.Pointer(&r.names[i])), (*byte)(unsafe.Pointer(&r.ctl[i]))
		h.SetIovlen(1)
	}
}
