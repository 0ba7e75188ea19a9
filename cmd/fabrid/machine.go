package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fabrid/fabrid/nvme"
)

// addresses returns the machine's addresses that others can reach, as far as they
// are covered by addr, an address or all of a family. Those that are good on one
// link only are there if they are named.
func addresses(addr netip.Addr) []netip.Addr {
	if !addr.IsUnspecified() {
		return []netip.Addr{addr}
	}
	var all []netip.Addr
	found, err := net.InterfaceAddrs()
	if err != nil {
		return nil // they are for information only
	}
	for _, a := range found {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		if ip = ip.Unmap(); ok && ip.Is4() == addr.Is4() && !ip.IsLoopback() && !ip.IsLinkLocalUnicast() {
			all = append(all, ip)
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// machineUUID is a UUID that stays the same on this machine, for one purpose.
func machineUUID(purpose string) nvme.UUID {
	id, err := os.ReadFile("/etc/machine-id")
	if err != nil || len(bytes.TrimSpace(id)) == 0 {
		name, _ := os.Hostname() // all machines without both are one
		id = []byte(name)
	}
	h := sha256.Sum256(append([]byte("fabrid\x00"+purpose+"\x00"), bytes.TrimSpace(id)...))
	var u nvme.UUID
	copy(u[:], h[:])
	u[6] = u[6]&0x0F | 0x80 // version 8: made in a way of our own [RFC9562 5.8]
	u[8] = u[8]&0x3F | 0x80 // variant
	return u
}

// resolve returns the address that a user gave, by number or by name.
func resolve(ctx context.Context, host string) (netip.Addr, error) {
	number := host
	if in, ok := strings.CutPrefix(host, "["); ok { // as in URLs
		number, _ = strings.CutSuffix(in, "]")
	}
	if a, err := netip.ParseAddr(number); err == nil {
		return a.Unmap(), nil
	}
	if _, err := netip.ParseAddrPort(host); err == nil || host == "" {
		return netip.Addr{}, fmt.Errorf("--traddr %q: want an IP address or a name, without a port: --trsvcid has that", host)
	}
	all, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("--traddr %q: %w", host, err)
	}
	return all[0].Unmap(), nil
}

// checkPortFree returns a *portTaken if a UDP socket of this machine is bound to
// exactly one of those addresses and ports, which are of one family. Sockets of
// RoCEv2 peers may share a port, so that a specific address works beside all
// addresses: the kernel would let a second one have the first one's packets
// without a word.
func checkPortFree(addrs ...netip.AddrPort) error {
	wanted := make(map[netip.AddrPort]bool)
	name := "/proc/net/udp"
	for _, a := range addrs {
		a = netip.AddrPortFrom(a.Addr().WithZone(""), a.Port())
		wanted[a] = true
		if a.Addr().Is6() {
			name = "/proc/net/udp6"
		}
	}
	table, err := os.ReadFile(name)
	if err != nil {
		return nil // the kernel does not tell
	}
	for in := bufio.NewScanner(bytes.NewReader(table)); in.Scan(); {
		if f := strings.Fields(in.Text()); len(f) > 1 {
			if a, ok := parseProcAddress(f[1]); ok && wanted[a] {
				return &portTaken{a, a}
			}
		}
	}
	return nil
}

// parseProcAddress reads an address as /proc/net/udp has it: words of 32 bits
// in the byte order of the machine, and the port.
func parseProcAddress(s string) (netip.AddrPort, bool) {
	words, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(words)
	p, perr := strconv.ParseUint(port, 16, 16)
	if err != nil || perr != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, false
	}
	if littleEndian {
		for i := 0; i < len(b); i += 4 {
			slices.Reverse(b[i : i+4])
		}
	}
	a, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a, uint16(p)), ok
}

// littleEndian tells the byte order of the machine.
var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// isTerminal reports whether f is one.
func isTerminal(f any) bool {
	file, ok := f.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}
