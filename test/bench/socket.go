package main

import (
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A conn is a connected UDP socket that sends and receives trains of equal
// datagrams, many at a call.
type conn struct {
	fd int

	rxMsgs [rxMessages]mmsghdr
	rxIovs [rxMessages]unix.Iovec
	rxCtl  [rxMessages][4]uint64
	rxMem  []byte

	headers [txSegments][headerSize]byte
	used    int // headers
	trains  []train
	iovs    []unix.Iovec
	txMsgs  [txMessages]mmsghdr
	txCtl   [txMessages][3]uint64
}

// A train is datagrams of one size that are sent as one.
type train struct {
	first, iovs   int // in conn.iovs
	size          int // of a datagram
	bytes, number int
}

// mmsghdr is struct mmsghdr of 64-bit systems.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   uint32
}

const (
	rxMessages = 32
	rxBuffer   = 1 << 16
	txMessages = 64
	txSegments = 2048
	// What the kernel takes as one datagram before it is cut up.
	maxTrainBytes    = 65507
	maxTrainSegments = 64

	socketBuffer = 4 << 20
)

func newConn(localPort, remotePort int) (*conn, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	// Privileged users get what they ask for, others up to the system's limit.
	for _, o := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[0], socketBuffer) != nil {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[1], socketBuffer); err != nil {
				return nil, fmt.Errorf("socket buffer: %w", err)
			}
		}
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1); err != nil {
		return nil, fmt.Errorf("UDP_GRO: %w", err)
	}
	loopback := [4]byte{127, 0, 0, 1}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: localPort, Addr: loopback}); err != nil {
		return nil, fmt.Errorf("bind 127.0.0.1:%d: %w", localPort, err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: remotePort, Addr: loopback}); err != nil {
		return nil, fmt.Errorf("connect 127.0.0.1:%d: %w", remotePort, err)
	}
	c := &conn{fd: fd, rxMem: make([]byte, rxMessages*rxBuffer)}
	for i := range c.rxMsgs {
		c.rxIovs[i].Base = &c.rxMem[i*rxBuffer]
		c.rxIovs[i].SetLen(rxBuffer)
		h := &c.rxMsgs[i].hdr
		h.Iov, h.Control = &c.rxIovs[i], (*byte)(unsafe.Pointer(&c.rxCtl[i]))
		h.SetIovlen(1)
	}
	return c, nil
}

// receive hands over the datagrams that are there; if there are none it waits,
// for ever if the time is negative.
func (c *conn) receive(wait time.Duration, take func([]byte)) error {
	for waited := false; ; waited = true {
		for i := range c.rxMsgs {
			c.rxMsgs[i].hdr.SetControllen(len(c.rxCtl[i]) * 8)
		}
		// It never blocks, so the scheduler need not know.
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(c.fd), uintptr(unsafe.Pointer(&c.rxMsgs)), rxMessages, unix.MSG_DONTWAIT, 0, 0)
		switch {
		case errno == 0:
			for i := range n {
				c.cut(int(i), take)
			}
			return nil
		case errno == unix.EINTR || errno == unix.ECONNREFUSED: // the other end is not there yet
		case errno != unix.EAGAIN:
			return fmt.Errorf("recvmmsg: %w", errno)
		case waited:
			return nil
		}
		if err := c.poll(unix.POLLIN, wait); err != nil {
			return err
		}
	}
}

func (c *conn) poll(events int16, wait time.Duration) error {
	fds := [1]unix.PollFd{{Fd: int32(c.fd), Events: events}}
	ms := -1
	if wait >= 0 {
		ms = int(wait / time.Millisecond)
	}
	if _, err := unix.Poll(fds[:], ms); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("poll: %w", err)
	}
	return nil
}

// cut hands over the datagrams of a message that the kernel put together.
func (c *conn) cut(i int, take func([]byte)) {
	m := &c.rxMsgs[i]
	data := c.rxMem[i*rxBuffer:][:m.n]
	size := len(data)
	control := unsafe.Slice((*byte)(unsafe.Pointer(&c.rxCtl[i])), int(m.hdr.Controllen))
	if len(control) >= unix.SizeofCmsghdr+4 {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
		if h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO {
			size = int(*(*int32)(unsafe.Pointer(&control[unix.CmsgLen(0)])))
		}
	}
	for len(data) > 0 && size > 0 {
		n := min(size, len(data))
		take(data[:n])
		data = data[n:]
	}
}

// queue has a datagram sent by the next flush. The data stays where it is.
func (c *conn) queue(header [headerSize]byte, data []byte) {
	if c.used == txSegments {
		if err := c.flush(); err != nil {
			exit(err)
		}
	}
	size := headerSize + len(data)
	t := len(c.trains) - 1
	if t < 0 || c.trains[t].size != size || c.trains[t].bytes+size > maxTrainBytes || c.trains[t].number == maxTrainSegments {
		c.trains = append(c.trains, train{first: len(c.iovs), size: size})
		t++
	}
	c.headers[c.used] = header
	c.iovs = append(c.iovs, unix.Iovec{Base: &c.headers[c.used][0]}, unix.Iovec{Base: &data[0]})
	c.iovs[len(c.iovs)-2].SetLen(headerSize)
	c.iovs[len(c.iovs)-1].SetLen(len(data))
	c.used++
	c.trains[t].iovs += 2
	c.trains[t].bytes += size
	c.trains[t].number++
}

// flush sends what was queued.
func (c *conn) flush() error {
	for done := 0; done < len(c.trains); {
		n := min(txMessages, len(c.trains)-done)
		for i, t := range c.trains[done : done+n] {
			h := &c.txMsgs[i].hdr
			*h = unix.Msghdr{Iov: &c.iovs[t.first]}
			h.SetIovlen(t.iovs)
			if t.number > 1 {
				control := (*unix.Cmsghdr)(unsafe.Pointer(&c.txCtl[i]))
				control.Level, control.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
				control.SetLen(unix.CmsgLen(2))
				*(*uint16)(unsafe.Pointer(uintptr(unsafe.Pointer(control)) + uintptr(unix.CmsgLen(0)))) = uint16(t.size)
				h.Control = (*byte)(unsafe.Pointer(control))
				h.SetControllen(unix.CmsgSpace(2))
			}
		}
		sent, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(c.fd), uintptr(unsafe.Pointer(&c.txMsgs)), uintptr(n), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			done += int(sent)
		case unix.EINTR, unix.ECONNREFUSED:
		case unix.EAGAIN:
			if err := c.poll(unix.POLLOUT, -1); err != nil {
				return err
			}
		default:
			return fmt.Errorf("sendmmsg: %w", errno)
		}
	}
	c.trains, c.iovs, c.used = c.trains[:0], c.iovs[:0], 0
	return nil
}
