package roce

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/fabrid/fabrid/shard"
)

// A socket is a wire over one UDP socket, for both directions. Peers do not
// look at our source port. It is not connected and never fragments: so the
// Identification of its packets is 0, or the index of a packet in its train,
// which the ICRC must know.
type socket struct {
	eng     *engine
	fd, id  int // descriptor, and its name on the shard
	v6      bool
	gso     bool
	local   netip.Addr // unspecified: the packet says which address it was for
	blocked bool       // waits until the kernel takes packets again
	hears   bool       // see hearErrors

	scope struct { // of the last link-local peer, because a zone costs much to make
		id         uint32
		addr, peer netip.Addr
	}

	*Shared // rings that are used during a call only
}

const (
	rxMessages = 32
	rxBuffer   = 1 << 16
	// rxStride keeps the starts of the buffers out of each other's cache sets.
	rxStride  = rxBuffer + 320
	rxControl = 96

	txMessages = 64
	// A train is one datagram for the kernel until it is cut: no longer than
	// IP allows, of no more segments than every kernel takes.
	maxTrainBytes    = 65507
	maxTrainSegments = 64
	maxIovecs        = 1024 // of a message
	txControl        = 96
)

// mmsghdr is struct mmsghdr of 64-bit systems.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   uint32
}

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

type txRing struct {
	msgs    [txMessages]mmsghdr
	packets [txMessages]int // that message i carries
	iovs    []unix.Iovec
	ctl     [txMessages][txControl / 8]uint64
}

func newSocket(e *engine, cfg Config) (_ *socket, err error) {
	s := &socket{eng: e, Shared: cfg.Shared, v6: cfg.Addr.Is6(), local: plainAddr(cfg.Addr), gso: !cfg.NoGSO}
	family := unix.AF_INET
	if s.v6 {
		family = unix.AF_INET6
	}
	s.fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	defer func() {
		if err != nil {
			unix.Close(s.fd)
		}
	}()
	if err := s.setOptions(cfg); err != nil {
		return nil, err
	}
	if err := s.bind(cfg); err != nil {
		return nil, err
	}
	granted, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil {
		return nil, fmt.Errorf("SO_RCVBUF: %w", err)
	}
	e.setReadBudget(granted)
	if err := s.join(s); err != nil {
		return nil, err
	}
	if s.id, err = e.shard.Add(s.fd, shard.Readable, s.ready); err != nil {
		return nil, errors.Join(err, s.leave(s))
	}
	return s, nil
}

func (s *socket) setOptions(cfg Config) error {
	type option struct {
		level, name, value int
		what               string
	}
	options := []option{{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1, "SO_REUSEADDR"}}
	if s.v6 {
		options = append(options,
			option{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1, "IPV6_V6ONLY"},
			option{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1, "IPV6_RECVPKTINFO"},
			option{unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1, "IPV6_RECVTCLASS"},
			option{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE, "IPV6_MTU_DISCOVER"},
			// Linux's software RDMA sends checksum 0; the ICRC covers what counts.
			option{unix.IPPROTO_UDP, unix.UDP_NO_CHECK6_RX, 1, "UDP_NO_CHECK6_RX"})
	} else {
		options = append(options,
			option{unix.IPPROTO_IP, unix.IP_PKTINFO, 1, "IP_PKTINFO"},
			option{unix.IPPROTO_IP, unix.IP_RECVTOS, 1, "IP_RECVTOS"},
			// Never fragmented, and so with Identification 0.
			option{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE, "IP_MTU_DISCOVER"})
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(s.fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("%s: %w", o.what, err)
		}
	}
	// Privileged users get what they ask for, others up to the system's limit.
	for _, o := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, o[0], cfg.SocketBuffer) == nil {
			continue
		}
		if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, o[1], cfg.SocketBuffer); err != nil {
			return fmt.Errorf("socket buffer of %d bytes: %w", cfg.SocketBuffer, err)
		}
	}
	if !cfg.NoGRO {
		// A kernel without it delivers packets one by one.
		_ = unix.SetsockoptInt(s.fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	}
	if s.gso {
		// Asking for the default tells whether the kernel knows it.
		s.gso = unix.SetsockoptInt(s.fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 0) == nil
	}
	return nil
}

func (s *socket) bind(cfg Config) error {
	var sa unix.Sockaddr
	if s.v6 {
		sa = &unix.SockaddrInet6{Port: int(cfg.UDPPort), Addr: cfg.Addr.As16(), ZoneId: scopeID(cfg.Addr)}
	} else {
		sa = &unix.SockaddrInet4{Port: int(cfg.UDPPort), Addr: cfg.Addr.As4()}
	}
	err := unix.Bind(s.fd, sa)
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("bind: %w: is rdma_rxe loaded, or another user of the port? Use another address or UDP port", err)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("bind: %w: no interface of this machine has that address", err)
	case err != nil:
		return fmt.Errorf("bind: %w", err)
	}
	return nil
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

// A rawPath is a path as the kernel wants it: the peer's address, and control
// messages with our own and with the size of the packets of a train.
type rawPath struct {
	name    unix.RawSockaddrInet6 // large enough for both families
	nameLen uint32
	ctl     [txControl / 8]uint64
	ctlLen  int // without, and ctlSeg with the size of packets
	ctlSeg  int
}

func newRawPath(local netip.Addr, remote netip.AddrPort) (r rawPath) {
	ctl := unsafe.Slice((*byte)(unsafe.Pointer(&r.ctl)), txControl)
	h := (*unix.Cmsghdr)(unsafe.Pointer(&ctl[0]))
	data := unsafe.Pointer(&ctl[unix.CmsgLen(0)])
	if remote.Addr().Is4() {
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&r.name))
		*sa = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: htons(remote.Port()), Addr: remote.Addr().As4()}
		r.nameLen = unix.SizeofSockaddrInet4
		h.Level, h.Type = unix.IPPROTO_IP, unix.IP_PKTINFO
		h.SetLen(unix.CmsgLen(unix.SizeofInet4Pktinfo))
		(*unix.Inet4Pktinfo)(data).Spec_dst = local.As4()
		r.ctlLen = unix.CmsgSpace(unix.SizeofInet4Pktinfo)
	} else {
		r.name = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: htons(remote.Port()), Addr: remote.Addr().As16(), Scope_id: scopeID(remote.Addr())}
		r.nameLen = unix.SizeofSockaddrInet6
		h.Level, h.Type = unix.IPPROTO_IPV6, unix.IPV6_PKTINFO
		h.SetLen(unix.CmsgLen(unix.SizeofInet6Pktinfo))
		(*unix.Inet6Pktinfo)(data).Addr = local.As16()
		r.ctlLen = unix.CmsgSpace(unix.SizeofInet6Pktinfo)
	}
	h = (*unix.Cmsghdr)(unsafe.Pointer(&ctl[r.ctlLen]))
	h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	r.ctlSeg = r.ctlLen + unix.CmsgSpace(2)
	return r
}

// send sends the batch, or as much of it as the kernel takes.
func (s *socket) send(b *txBatch) {
	if s.staging != nil {
		s.staging.add(s, b)
		return
	}
	for !b.empty() {
		n := s.fill(b)
		sent, errno := s.sendmmsg(n)
		clear(s.tx.iovs) // what they name is not ours to keep
		for i := range sent {
			b.sent += s.tx.packets[i]
		}
		if sent == n {
			continue
		}
		switch errno {
		case 0, unix.EINTR:
			// The next call says what was wrong.
		case unix.EAGAIN, unix.ENOBUFS:
			s.blocked = true
			_ = s.eng.shard.Watch(s.id, shard.Readable|shard.Writable)
			return
		case unix.EINVAL, unix.EMSGSIZE, unix.EIO:
			if s.tx.packets[sent] > 1 {
				// This kernel takes no trains, or this interface.
				b.pkts[b.sent].path.noTrains = true
				continue
			}
			fallthrough
		default:
			// It will not go, and neither will it when it is tried again: as if it
			// were lost on the way.
			for range s.tx.packets[sent] {
				s.notSent(b, b.sent, errno)
				b.sent++
			}
		}
	}
}

// fill makes messages of the packets of b that have not been sent, and returns
// how many.
func (s *socket) fill(b *txBatch) int {
	t := &s.tx
	t.iovs = t.iovs[:0]
	msgs := 0
	for next := b.sent; next < len(b.pkts) && msgs < txMessages; msgs++ {
		first := len(t.iovs)
		n := b.train(next, s.gso && !b.pkts[next].path.noTrains, min(cap(t.iovs)-first, maxIovecs))
		if n == 0 {
			break // the next call has room
		}
		for k := range n {
			b.seal(next+k, k)
			p := &b.pkts[next+k]
			for _, seg := range b.segs[p.lo:p.hi] {
				t.iovs = append(t.iovs, unix.Iovec{Base: unsafe.SliceData(seg)})
				t.iovs[len(t.iovs)-1].SetLen(len(seg))
			}
		}
		t.message(msgs, &b.pkts[next].path.raw, &t.iovs[first], len(t.iovs)-first, n, b.pkts[next].size)
		if n > 1 {
			s.eng.stats.Trains++
		}
		t.packets[msgs] = n
		next += n
	}
	return msgs
}

// message makes message i of what niov elements from iov on name: n packets of
// size bytes, of which the last may be smaller.
func (t *txRing) message(i int, raw *rawPath, iov *unix.Iovec, niov, n, size int) {
	t.ctl[i] = raw.ctl
	ctl := (*byte)(unsafe.Pointer(&t.ctl[i]))
	h := &t.msgs[i].hdr
	*h = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&raw.name)), Namelen: raw.nameLen, Iov: iov, Control: ctl}
	h.SetIovlen(niov)
	h.SetControllen(raw.ctlLen)
	if n > 1 {
		*(*uint16)(unsafe.Add(unsafe.Pointer(ctl), raw.ctlLen+unix.CmsgLen(0))) = uint16(size)
		h.SetControllen(raw.ctlSeg)
	}
}

// train returns how many packets from i on can go as one with at most iovs
// segments: to one peer, of one size, but for the last, which may be smaller.
// Without gso a train has one packet; 0 means that there is no room for one.
func (b *txBatch) train(i int, gso bool, iovs int) int {
	first := &b.pkts[i]
	bytes, n := 0, 0
	for ; i+n < len(b.pkts) && n < maxTrainSegments; n++ {
		p := &b.pkts[i+n]
		bytes += p.size
		if iovs -= p.hi - p.lo; iovs < 0 {
			break
		}
		if p.path != first.path || p.size > first.size || n > 0 && (!gso || bytes > maxTrainBytes) {
			break
		}
		if p.size < first.size {
			return n + 1
		}
	}
	return n
}

func (s *socket) sendmmsg(n int) (sent int, errno unix.Errno) {
	if sent, errno = s.trySendmmsg(n); errno != 0 && s.hears {
		// That may have been about a packet before, which is told once.
		sent, errno = s.trySendmmsg(n)
	}
	return sent, errno
}

func (s *socket) trySendmmsg(n int) (int, unix.Errno) {
	s.eng.stats.SendCalls++
	sent, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.tx.msgs)), uintptr(n), unix.MSG_DONTWAIT, 0, 0)
	runtime.KeepAlive(s)
	if errno != 0 {
		return 0, errno
	}
	return int(sent), 0
}

// drops returns how many packets, or trains of them, the kernel had no room for.
func (s *socket) drops() uint64 {
	// SK_MEMINFO_DROPS is the last of linux/sock_diag.h's SK_MEMINFO variables.
	var info [9]uint32
	n := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(s.fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return 0 // a kernel before 4.12
	}
	return uint64(info[8])
}

func (s *socket) close() error {
	return errors.Join(s.eng.shard.Remove(s.id), s.leave(s), unix.Close(s.fd))
}

// ntohs and htons turn a port of a raw socket address into a number and back.
func ntohs(p uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(&p))
	return uint16(b[0])<<8 | uint16(b[1])
}

func htons(p uint16) uint16 { return ntohs(p) }
