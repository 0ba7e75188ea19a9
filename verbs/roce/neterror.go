package roce

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/fabrid/fabrid/shard"
)

// Why a MAD of ours has not arrived: ICMP says so, or the kernel, which found no
// way for it. It is known for as long as somebody asks, which is while requests
// of ours are in flight (see [socket.hearErrors]).
//
// ICMP is easily forged. So nobody else is told of it, and of what an error is
// about only the bytes are believed that it quotes: see [cm.undelivered].

// hearErrors has the kernel keep the ICMP errors that come for what the socket
// has sent, or no more. While it does, each also fails some call on the socket,
// once.
func (s *socket) hearErrors(on bool) {
	if s.hears == on {
		return
	}
	s.hears = on
	value := 0
	if on {
		value = 1
	}
	// Without it connections to nobody take their time, and nothing else.
	if s.v6 {
		_ = unix.SetsockoptInt(s.fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, value)
	} else {
		_ = unix.SetsockoptInt(s.fd, unix.IPPROTO_IP, unix.IP_RECVERR, value)
	}
	if !on { // what has not been told is nobody's any more
		_, _ = unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	}
}

// maxErrors bounds the errors of one turn: a flood of them has others wait.
const maxErrors = 16

// readErrors takes in the errors that the kernel has kept. It runs on the shard,
// and nowhere in the middle of something.
func (s *socket) readErrors() {
	var buf [512]byte // a MAD with its headers, and some
	var oob [256]byte
	for range maxErrors {
		n, oobn, _, to, err := unix.Recvmsg(s.fd, buf[:], oob[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if err != nil {
			return
		}
		remote, ok := s.address(to)
		errno := unreachable(oob[:oobn])
		if !ok || errno == 0 || !s.hears {
			continue
		}
		s.eng.stats.ICMPErrors++
		s.eng.undelivered(remote, buf[:n], errno)
	}
}

// address is a peer's address as the socket names it.
func (s *socket) address(sa unix.Sockaddr) (netip.Addr, bool) {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(sa.Addr), sa.Port == int(s.eng.dev.port)
	case *unix.SockaddrInet6:
		return s.scoped(sa.Addr, sa.ZoneId), sa.Port == int(s.eng.dev.port)
	}
	return netip.Addr{}, false
}

// unreachable returns what an ICMP error of the control messages says, as the
// kernel puts it, if that is Destination Unreachable; else 0. Too long a packet
// is another matter.
func unreachable(ctl []byte) unix.Errno {
	msgs, err := unix.ParseSocketControlMessage(ctl)
	if err != nil {
		return 0
	}
	for _, m := range msgs {
		if len(m.Data) < 8 {
			continue
		}
		// struct sock_extended_err
		errno, origin, typ, code := unix.Errno(binary.NativeEndian.Uint32(m.Data)), m.Data[4], m.Data[5], m.Data[6]
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR:
			const destUnreachable, fragNeeded = 3, 4 // RFC 792
			if origin == unix.SO_EE_ORIGIN_ICMP && typ == destUnreachable && code != fragNeeded {
				return errno
			}
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR:
			const destUnreachable = 1 // RFC 4443
			if origin == unix.SO_EE_ORIGIN_ICMP6 && typ == destUnreachable {
				return errno
			}
		}
	}
	return 0
}

// notSent is told that the kernel will not send packet i of b. If somebody may
// wait for an answer, he is told, when this is over.
func (s *socket) notSent(b *txBatch, i int, errno unix.Errno) {
	s.eng.stats.DropsSend++
	if !s.hears {
		return
	}
	remote, packet := b.pkts[i].path.remote.Addr(), b.bytes(i, nil)
	s.eng.shard.Post(&shard.Task{Fn: func() { s.eng.undelivered(remote, packet, errno) }})
}

// undelivered is told that a packet of ours to remote has not arrived. Its end
// may be missing: b is what an ICMP error has of it.
func (e *engine) undelivered(remote netip.Addr, b []byte, why error) {
	const mad = bthLen + dethLen
	if e.cm == nil || e.closed || len(b) < mad || b[0] != opUDSendOnly {
		return
	}
	e.cm.undelivered(remote, b[mad:], why)
}
