package roce

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fabrid/fabrid/internal/simnet"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs/verbstest"
)

var _ Network = (*simnet.Net)(nil)

// TestVerbsSimulated runs the conformance suite over a perfect network under
// virtual time.
func TestVerbsSimulated(t *testing.T) {
	if testing.Short() && raceEnabled {
		t.Skip("short: over sockets there is more to race")
	}
	verbstest.Run(t, verbstest.Config{
		Bubble: true,
		Open: func(t testing.TB) (a, b verbstest.Node) {
			l := newLab(t, simnet.Config{Link: simnet.Link{Delay: simDelay}})
			return l.a.node(), l.b.node()
		},
	})
}

// TestVerbsSimulatedLossy runs it over a network that loses, repeats and
// reorders: what a user sees does not depend on that.
func TestVerbsSimulatedLossy(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	verbstest.Run(t, verbstest.Config{
		Bubble: true,
		MTU:    4096,
		Open: func(t testing.TB) (a, b verbstest.Node) {
			l := newLab(t, simnet.Config{Seed: 1, Link: simnet.Link{
				Delay: simDelay, Loss: 0.005, Duplicate: 0.02, HoldBack: 0.02, Corrupt: 0.005,
			}})
			return l.a.node(), l.b.node()
		},
	})
}

// TestVerbsSockets runs it over UDP sockets on the loopback interface.
func TestVerbsSockets(t *testing.T) {
	const unprivileged = 212_992 / 2 // the kernel doubles what it is asked for
	for _, c := range []struct {
		name string
		mtu  int
		cfg  Config
	}{
		{"trains", 1024, Config{}},
		{"no trains", 4096, Config{NoGSO: true, NoGRO: true}},
		{"trains sent only", 256, Config{NoGRO: true}},
		{"trains received only", 2048, Config{NoGSO: true}},
		{"the buffers of an unprivileged user", 1024, Config{SocketBuffer: unprivileged}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if testing.Short() && c.name != "trains" {
				t.Skip("long")
			}
			t.Parallel()
			verbstest.Run(t, verbstest.Config{MTU: c.mtu, Open: func(t testing.TB) (a, b verbstest.Node) {
				x, y := openSockets(t, c.cfg)
				return x.node(), y.node()
			}})
		})
	}
}

// TestSteadyIODoesNotAllocate has the suite count allocations, which are the
// process's: nothing else runs meanwhile.
func TestSteadyIODoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, c := range []struct {
		name string
		cfg  Config
	}{{"trains", Config{}}, {"no trains", Config{NoGSO: true, NoGRO: true}}} {
		t.Run(c.name, func(t *testing.T) {
			a, b := openSockets(t, c.cfg)
			verbstest.SteadyDoesNotAllocate(t, a.node(), b.node())
		})
	}
}

// TestVerbsSocketsIPv6 runs it over IPv6, in a network namespace: the loopback
// interface has but one address of that family.
func TestVerbsSocketsIPv6(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	a, b := netip.MustParseAddr("fd00:71::1"), netip.MustParseAddr("fd00:71::2")
	for _, c := range []struct {
		name string
		mtu  int
		cfg  Config
	}{
		{"trains", 1024, Config{}},
		{"no trains", 4096, Config{NoGSO: true, NoGRO: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			verbstest.Run(t, verbstest.Config{MTU: c.mtu, Open: func(t testing.TB) (verbstest.Node, verbstest.Node) {
				sa, sb := newShard(t, "A"), newShard(t, "B")
				enterNamespace(t, sa, sb, a, b)
				open := func(s *shard.Shard, addr netip.Addr) verbstest.Node {
					cfg := c.cfg
					cfg.Shard, cfg.Addr = s, addr
					return openDevice(t, cfg).node()
				}
				return open(sa, a), open(sb, b)
			}})
		})
	}
}

// enterNamespace moves the threads of two shards to a new network namespace,
// which has addrs, and goes when they do.
func enterNamespace(t testing.TB, a, b *shard.Shard, addrs ...netip.Addr) {
	t.Helper()
	var ns *os.File
	on := func(s *shard.Shard, fn func() error) {
		t.Helper()
		var err error
		if e := s.Run(func() { err = fn() }); e != nil {
			err = e
		}
		if errors.Is(err, unix.EPERM) {
			t.Skip("needs the right to make a network namespace")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	on(a, func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		if ns, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())); err != nil {
			return err
		}
		return setUpLoopback(addrs)
	})
	on(b, func() error { return unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET) })
	ns.Close()
}

// setUpLoopback sets up the loopback interface of the thread's network
// namespace, with addrs, which are IPv6.
func setUpLoopback(addrs []netip.Addr) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	// In this order: an interface that comes up has the routes to its addresses
	// made again, a while later.
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("SIOCSIFFLAGS: %w", err)
	}
	for _, addr := range addrs {
		if err := addAddress(addr); err != nil {
			return fmt.Errorf("RTM_NEWADDR %v: %w", addr, err)
		}
	}
	return nil
}

// addAddress gives the loopback interface an address, by rtnetlink(7), because
// the older way has it wait for duplicates. It returns when the route is there,
// which the kernel makes a while after the address.
func addAddress(addr netip.Addr) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_IPV6_ROUTE}); err != nil {
		return err
	}
	const size = unix.SizeofNlMsghdr + unix.SizeofIfAddrmsg + unix.SizeofRtAttr + 16
	ne := binary.NativeEndian
	b := ne.AppendUint32(nil, size) // struct nlmsghdr
	b = ne.AppendUint16(b, unix.RTM_NEWADDR)
	b = ne.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE)
	b = append(b, make([]byte, 8)...)
	b = append(b, unix.AF_INET6, uint8(addr.BitLen()), unix.IFA_F_NODAD, unix.RT_SCOPE_UNIVERSE) // struct ifaddrmsg
	b = ne.AppendUint32(b, 1)                                                                    // lo, in every namespace
	b = ne.AppendUint16(b, unix.SizeofRtAttr+16)
	b = ne.AppendUint16(b, unix.IFA_LOCAL)
	b = append(b, addr.AsSlice()...)
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for acked, routed := false, false; !acked || !routed; {
		reply := make([]byte, 8192)
		n, _, err := unix.Recvfrom(fd, reply, 0)
		if err != nil {
			return fmt.Errorf("acknowledged %v, route made %v: %w", acked, routed, err)
		}
		messages, err := syscall.ParseNetlinkMessage(reply[:n])
		if err != nil {
			return err
		}
		for _, m := range messages {
			switch m.Header.Type {
			case unix.NLMSG_ERROR:
				if errno := int32(ne.Uint32(m.Data)); errno != 0 {
					return unix.Errno(-errno)
				}
				acked = true
			case unix.RTM_NEWROUTE:
				routed = routed || bytes.Contains(m.Data, addr.AsSlice())
			}
		}
	}
	return nil
}

// newShard starts a shard, which the test's end closes.
func newShard(t testing.TB, name string) *shard.Shard {
	t.Helper()
	s, err := shard.New(shard.Config{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() }) // openDevice has, unless it never came so far
	return s
}

// openSockets opens two devices on loopback addresses that nobody else has: what
// runs beside us uses the same UDP port.
func openSockets(t testing.TB, cfg Config) (a, b *station) {
	t.Helper()
	open := func() *station {
		addr, err := ChooseAddr(netip.MustParseAddr("127.0.0.1"))
		if err != nil {
			t.Fatal(err)
		}
		cfg.Shard, cfg.Addr = newShard(t, addr.String()), addr
		return openDevice(t, cfg)
	}
	return open(), open()
}

// A station is a device and its shard.
type station struct {
	*Device
	shard *shard.Shard
}

// openDevice opens a device, which the test's end closes with its shard.
func openDevice(t testing.TB, cfg Config) *station {
	t.Helper()
	d, err := Open(cfg)
	if err != nil {
		cfg.Shard.Close()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if st := d.Stats(); cfg.Network == nil && st.DropsICRC+st.DropsIdent+st.DropsMalformed > 0 {
			t.Errorf("%v dropped good packets: %+v", d.Addr(), st)
		}
		if err := d.Close(); err != nil {
			t.Errorf("close %v: %v", d.Addr(), err)
		}
		if err := cfg.Shard.Close(); err != nil {
			t.Errorf("close shard of %v: %v", d.Addr(), err)
		}
	})
	return &station{d, cfg.Shard}
}

func (s *station) node() verbstest.Node {
	return verbstest.Node{Device: s.Device, Addr: s.Device.Addr().Addr(), Run: s.shard.Run}
}
