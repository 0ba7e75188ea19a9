package roce

import (
	"errors"
	"fmt"
	"net/netip"
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

// mmsghdr is struct mmsghdr of 64-bit systems.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   uint32
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
