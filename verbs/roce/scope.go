package roce

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// Link-local addresses of IPv6 are good on one interface alone. Within this
// package the zone of such a peer's address is the number of the interface, which
// is what the kernel has; other addresses have no zone. Nor has a local address,
// nor one in a GID: see [plainAddr].

// numbered returns addr with its zone as this package has it.
func numbered(addr netip.Addr) (netip.Addr, error) {
	addr = addr.Unmap()
	zone := addr.Zone()
	addr = addr.WithZone("")
	if zone == "" || !addr.IsLinkLocalUnicast() {
		return addr, nil
	}
	if n, err := strconv.ParseUint(zone, 10, 31); err == nil && n > 0 {
		return addr.WithZone(strconv.FormatUint(n, 10)), nil
	}
	i, err := net.InterfaceByName(zone)
	if err != nil {
		return addr, fmt.Errorf("%v%%%s: %w", addr, zone, err)
	}
	return addr.WithZone(strconv.Itoa(i.Index)), nil
}

// scopeID is the number of the interface of a numbered address, 0 without one.
func scopeID(addr netip.Addr) uint32 {
	n, _ := strconv.ParseUint(addr.Zone(), 10, 31)
	return uint32(n)
}

// plainAddr is addr as it stands in a GID: without a zone.
func plainAddr(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// toPeer returns the address of a peer, as a user has it, as this package has
// it, for a device at local.
func toPeer(local, remote netip.Addr) (netip.Addr, error) {
	remote, err := numbered(remote)
	if err != nil || !remote.Is6() || !remote.IsLinkLocalUnicast() || remote.Zone() != "" {
		return remote, err
	}
	if local.Zone() == "" {
		return remote, fmt.Errorf("%v is good on one interface alone: say which, as in %v%%eth0", remote, remote)
	}
	return remote.WithZone(local.Zone()), nil
}
