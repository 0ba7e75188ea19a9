package shard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNotSupported is returned by [Shard.Add] on a simulated shard.
var ErrNotSupported = errors.New("shard: descriptors are not supported by a simulated shard")

// Events of a descriptor, as epoll has them.
const (
	Readable = unix.EPOLLIN
	Writable = unix.EPOLLOUT
	Hangup   = unix.EPOLLHUP | unix.EPOLLERR
)

// epoll waits in the kernel. Descriptors are known by a slot, so that an event
// leads to its handler without a map.
type epoll struct {
	fd, event int
	woken     func() // called before handlers
	slots     []slot
	free      []int32
	events    [64]unix.EpollEvent
}

// A slot is the place of a descriptor. Its gen tells it from those that had the
// slot before: an event of theirs may have been fetched when they were removed.
type slot struct {
	fd    int
	gen   int32
	ready func(events uint32)
}

const wakeSlot = -1

// one is what a wake writes to the eventfd.
var one = binary.NativeEndian.AppendUint64(nil, 1)

func newEpoll() (*epoll, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("shard: epoll_create1: %w", err)
	}
	ev, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("shard: eventfd: %w", err)
	}
	p := &epoll{fd: fd, event: ev}
	e := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: wakeSlot}
	if err := unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, ev, &e); err != nil {
		p.close()
		return nil, fmt.Errorf("shard: epoll_ctl: %w", err)
	}
	return p, nil
}

func (p *epoll) wait(timeout time.Duration) bool {
	ms := -1
	if timeout != forever {
		// Rounded up: a timer a little late is right, an early wake-up is a spin.
		ms = int((min(timeout, time.Hour) + time.Millisecond - 1) / time.Millisecond)
	}
	n, err := unix.EpollWait(p.fd, p.events[:], ms)
	if err != nil {
		return false // EINTR; the others cannot be: the descriptor is ours
	}
	if n > 0 {
		p.woken()
	}
	ran := false
	for _, e := range p.events[:n] {
		if e.Fd == wakeSlot {
			continue // edge-triggered: nothing to read
		}
		if s := &p.slots[e.Fd]; s.ready != nil && s.gen == e.Pad {
			s.ready(e.Events)
			ran = true
		}
	}
	return ran
}

func (p *epoll) wake() {
	// EAGAIN means that 2⁶⁴-2 wakes are unread: it will wake.
	_, _ = unix.Write(p.event, one)
}

func (p *epoll) close() error { return errors.Join(unix.Close(p.event), unix.Close(p.fd)) }

// Add has ready called on the shard whenever fd has one of events (or a
// hang-up), for as long as it has. It returns an id for [Shard.Remove]. ready
// takes a bounded batch per call.
func (s *Shard) Add(fd int, events uint32, ready func(events uint32)) (id int, err error) {
	p, ok := s.poller.(*epoll)
	if !ok {
		return 0, ErrNotSupported
	}
	if n := len(p.free); n > 0 {
		id = int(p.free[n-1])
		p.free = p.free[:n-1]
	} else {
		id = len(p.slots)
		p.slots = append(p.slots, slot{})
	}
	gen := p.slots[id].gen
	e := unix.EpollEvent{Events: events, Fd: int32(id), Pad: gen}
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &e); err != nil {
		p.free = append(p.free, int32(id))
		return 0, fmt.Errorf("shard: add descriptor %d: %w", fd, err)
	}
	p.slots[id] = slot{fd, gen, ready}
	return id, nil
}

// Watch changes the events that the descriptor added as id is called for.
func (s *Shard) Watch(id int, events uint32) error {
	p := s.poller.(*epoll)
	e := unix.EpollEvent{Events: events, Fd: int32(id), Pad: p.slots[id].gen}
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_MOD, p.slots[id].fd, &e); err != nil {
		return fmt.Errorf("shard: watch descriptor %d: %w", p.slots[id].fd, err)
	}
	return nil
}

// Remove ends what Add began. No call of ready begins after it. The descriptor
// stays open.
func (s *Shard) Remove(id int) error {
	p := s.poller.(*epoll)
	fd := p.slots[id].fd
	p.slots[id] = slot{gen: p.slots[id].gen + 1}
	p.free = append(p.free, int32(id))
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_DEL, fd, nil); err != nil {
		return fmt.Errorf("shard: remove descriptor %d: %w", fd, err)
	}
	return nil
}
