package roce

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/fabrid/fabrid/shard"
)

const (
	rxMessages = 32
	rxBuffer   = 1 << 16
	// rxStride keeps the starts of the buffers out of each other's cache sets.
	rxStride  = rxBuffer + 320
	rxControl = 96
)

// An rxRing is the messages of one call that receives: packets, or trains of them,
// each in a buffer of its own.
type rxRing struct {
	msgs  [rxMessages]mmsghdr
	iovs  [rxMessages]unix.Iovec
	names [rxMessages]unix.RawSockaddrInet6 // large enough for both families
	ctl   [rxMessages][rxControl / 8]uint64 // aligned as the kernel's structures are
	mem   []byte                            // mapped
	used  int                               // messages that the kernel has filled in
}

// ready says how much the kernel may fill in of message i.
func (r *rxRing) ready(i int) {
	h := &r.msgs[i].hdr
	h.Namelen = uint32(unsafe.Sizeof(r.names[0]))
	h.SetControllen(rxControl)
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
		r.ready(i)
	}
}

// largePacket is the length from which on a packet tells whether data comes in
// trains.
const largePacket = 1024

// maxReads bounds the batches of one turn, so that what they lead to is sent.
const maxReads = 2

// ready takes in what has come. It runs on the shard.
func (s *socket) ready(events uint32) {
	if events&unix.EPOLLERR != 0 {
		s.readErrors()
	}
	if events&shard.Writable != 0 && s.blocked {
		s.blocked = false
		_ = s.eng.shard.Watch(s.id, shard.Readable)
		s.eng.writable()
	}
	for range maxReads {
		n := s.recvmmsg()
		for i := range n {
			s.take(i)
		}
		if n < rxMessages {
			break
		}
	}
	s.eng.received()
}

func (s *socket) recvmmsg() int {
	for i := range s.rx.used {
		s.rx.ready(i)
	}
	s.rx.used = 0
	// It does not block: no need to tell the scheduler.
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.rx.msgs)), rxMessages, unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		// EAGAIN, or news of a packet of ours that did not arrive, which the
		// protocol finds out by itself.
		return 0
	}
	s.eng.stats.ReceiveCalls++
	s.rx.used = int(n)
	return int(n)
}

// take takes in message i: a packet, or a train of them.
func (s *socket) take(i int) {
	m := &s.rx.msgs[i]
	from, ok := s.source(i)
	if !ok || m.hdr.Flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		s.eng.stats.DropsMalformed++
		return
	}
	ctl := unsafe.Slice((*byte)(unsafe.Pointer(&s.rx.ctl[i])), min(int(m.hdr.Controllen), rxControl))
	to, size, marked := parseControl(ctl)
	if !to.IsValid() {
		to = s.local
	}
	n := min(int(m.n), rxBuffer)
	b := s.rx.mem[i*rxStride : i*rxStride+n : i*rxStride+n]
	icrc := newICRCPath(from, netip.AddrPortFrom(to, s.eng.dev.port))
	s.eng.marked = marked
	train := size > 0 && size < n
	if n >= largePacket {
		s.eng.came(!train)
	}
	if !train {
		s.eng.receive(from.Addr(), to, icrc, b, -1)
		return
	}
	// The packets of a train have Identifications one after the other, and ours
	// begin at 0.
	ident := uint16(0)
	for len(b) > 0 {
		k := min(size, len(b))
		ident = s.eng.receive(from.Addr(), to, icrc, b[:k:k], int(ident)) + 1
		b = b[k:]
	}
}

// source is where message i came from.
func (s *socket) source(i int) (netip.AddrPort, bool) {
	if s.v6 {
		sa := &s.rx.names[i]
		if s.rx.msgs[i].hdr.Namelen < unix.SizeofSockaddrInet6 {
			return netip.AddrPort{}, false
		}
		return netip.AddrPortFrom(s.scoped(sa.Addr, sa.Scope_id), ntohs(sa.Port)), true
	}
	sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&s.rx.names[i]))
	if s.rx.msgs[i].hdr.Namelen < unix.SizeofSockaddrInet4 {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), ntohs(sa.Port)), true
}

// scoped is a peer's address: its zone is the interface of a link-local one.
func (s *socket) scoped(addr [16]byte, scope uint32) netip.Addr {
	a := netip.AddrFrom16(addr)
	if scope == 0 || !a.IsLinkLocalUnicast() {
		return a
	}
	if s.scope.id != scope || s.scope.addr != a {
		s.scope.id, s.scope.addr = scope, a
		s.scope.peer = a.WithZone(strconv.FormatUint(uint64(scope), 10))
	}
	return s.scope.peer
}

// parseControl returns, from the control messages of a message, the address that
// it was for, invalid if none says so, the size of the packets of a train, 0 if
// it is none, and whether it has seen congestion: a train is of one kind.
func parseControl(ctl []byte) (to netip.Addr, size int, marked bool) {
	for len(ctl) >= unix.SizeofCmsghdr {
		n := binary.NativeEndian.Uint64(ctl) // struct cmsghdr of 64-bit systems
		level, typ := binary.NativeEndian.Uint32(ctl[8:]), binary.NativeEndian.Uint32(ctl[12:])
		if n < unix.SizeofCmsghdr || n > uint64(len(ctl)) {
			return
		}
		data := ctl[unix.SizeofCmsghdr:n]
		switch {
		case level == unix.IPPROTO_IP && typ == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			to = netip.AddrFrom4([4]byte(data[8:])) // ipi_addr
		case level == unix.IPPROTO_IPV6 && typ == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			to = netip.AddrFrom16([16]byte(data)) // ipi6_addr
		case level == unix.IPPROTO_IP && typ == unix.IP_TOS && len(data) >= 1:
			marked = data[0]&ecnMask == ecnCE
		case level == unix.IPPROTO_IPV6 && typ == unix.IPV6_TCLASS && len(data) >= 4:
			marked = binary.NativeEndian.Uint32(data)&ecnMask == ecnCE
		case level == unix.IPPROTO_UDP && typ == unix.UDP_GRO && len(data) >= 4:
			size = int(int32(binary.NativeEndian.Uint32(data)))
		}
		ctl = ctl[min(unix.CmsgSpace(len(data)), len(ctl)):]
	}
	return
}

// The ECN field of a packet's type of service or traffic class (RFC 3168).
const (
	ecnMask = 3
	ecnCE   = 3 // congestion experienced
)
