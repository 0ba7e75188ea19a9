package roce

import (
	"net/netip"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/fabrid/fabrid/shard"
)

const (
	txMessages = 64
	// A train is one datagram for the kernel until it is cut: no longer than
	// IP allows, of no more segments than every kernel takes.
	maxTrainBytes    = 65507
	maxTrainSegments = 64
	maxIovecs        = 1024 // of a message
	txControl        = 96
)

// A txRing is the messages of one call that sends.
type txRing struct {
	msgs    [txMessages]mmsghdr
	packets [txMessages]int // that message i carries
	iovs    []unix.Iovec
	ctl     [txMessages][txControl / 8]uint64
}

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
		switch n := s.tx.packets[sent]; {
		case errno == 0 || errno == unix.EINTR:
			// The next call says what was wrong.
		case errno == unix.EAGAIN || errno == unix.ENOBUFS:
			s.blocked = true
			_ = s.eng.shard.Watch(s.id, shard.Readable|shard.Writable)
			return
		case n > 1 && refusesTrain(errno):
			b.pkts[b.sent].path.noTrains = true
		default:
			// It will not go, and neither will it when it is tried again: as if it
			// were lost on the way.
			for range n {
				s.notSent(b, b.sent, errno)
				b.sent++
			}
		}
	}
}

// refusesTrain reports whether the error may be about a train being one: this
// kernel takes none, or this interface.
func refusesTrain(errno unix.Errno) bool {
	return errno == unix.EINVAL || errno == unix.EMSGSIZE || errno == unix.EIO
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
