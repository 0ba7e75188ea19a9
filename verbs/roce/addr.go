package roce

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"
)

// ChooseAddr returns the local address to open a device on that is to reach
// remote: the one that the routing table names, but towards a loopback
// address one of 127.64.0.0/10 by chance, because a peer on the same machine
// has the usual ones.
func ChooseAddr(remote netip.Addr) (netip.Addr, error) {
	remote = remote.Unmap()
	if remote.Is4() && remote.IsLoopback() {
		r := rand.Uint32()
		return netip.AddrFrom4([4]byte{127, 64 | byte(r>>16)&63, byte(r >> 8), byte(r)&^1 | 2}), nil
	}
	local, err := routeTo(remote)
	if err != nil {
		return local, fmt.Errorf("roce: no route to %v: %w", remote, err)
	}
	if plainAddr(local) == plainAddr(remote) {
		return local, fmt.Errorf("roce: %v is this machine's own address, and both ends receive on one UDP port there: "+
			"reach the target by a loopback address of IPv4, or give the host another address", remote)
	}
	return local, nil
}

// routeTo returns the local address that packets to remote leave from.
func routeTo(remote netip.Addr) (netip.Addr, error) {
	if _, err := toPeer(netip.Addr{}, remote); err != nil {
		return netip.Addr{}, err
	}
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(remote, udpPort)))
	if err != nil {
		return netip.Addr{}, err
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}

// routeTo returns the local address for a connection to remote.
func (d *Device) routeTo(remote netip.Addr) (netip.Addr, error) {
	if !d.cfg.Addr.IsUnspecified() {
		return d.cfg.Addr, nil
	}
	local, err := routeTo(remote)
	if err == nil {
		local, err = numbered(local)
	}
	if err != nil {
		return local, fmt.Errorf("roce: no route to %v: %w", remote, err)
	}
	return local, nil
}

// An mtuCache keeps the machine's addresses and their interfaces' MTUs for a
// while, because to ask for them takes long, and a storm of connections, of
// which each needs one, must not. It belongs to the shard.
type mtuCache struct {
	asked time.Time
	mtus  map[netip.Addr]int
}

const (
	mtuCacheTime  = 10 * time.Second // of an address that there is
	mtuCacheTime0 = time.Second      // of one that there is not: it may be new
)

// linkMTU returns the MTU of the interface that has an address; ok is false if
// none has.
func (c *mtuCache) linkMTU(local netip.Addr) (mtu int, ok bool) {
	age := time.Since(c.asked)
	if mtu, ok = c.lookUp(local); ok && age < mtuCacheTime || age < mtuCacheTime0 {
		return mtu, ok
	}
	c.asked = time.Now()
	c.mtus = interfaceMTUs()
	return c.lookUp(local)
}

func (c *mtuCache) lookUp(local netip.Addr) (mtu int, ok bool) {
	if mtu, ok = c.mtus[local]; !ok && local.Is4() && local.IsLoopback() {
		// All of 127.0.0.0/8 is the machine's, whatever is configured.
		mtu, ok = c.mtus[netip.AddrFrom4([4]byte{127, 0, 0, 1})]
	}
	return mtu, ok
}

func interfaceMTUs() map[netip.Addr]int {
	mtus := make(map[netip.Addr]int)
	ifs, err := net.Interfaces()
	if err != nil {
		return mtus
	}
	for _, i := range ifs {
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				if ip, ok := netip.AddrFromSlice(n.IP); ok {
					ip = ip.Unmap()
					if mtu, ok := mtus[ip]; ok { // link-local, on another interface too
						mtus[ip] = min(mtu, i.MTU)
						continue
					}
					mtus[ip] = i.MTU
				}
			}
		}
	}
	return mtus
}

// pathMTU returns the path MTU from a local address, in bytes of payload, 0 if
// there is no such address.
func (d *Device) pathMTU(local netip.Addr) int {
	if d.cfg.Network != nil {
		return d.cfg.MTU
	}
	mtu, ok := d.mtus.linkMTU(plainAddr(local))
	if !ok {
		return 0
	}
	return min(d.cfg.MTU, mtuBytes(mtuCodeOfLink(mtu)))
}

// isLocal reports whether packets to addr are for this device.
func (d *Device) isLocal(addr netip.Addr) bool {
	if !d.cfg.Addr.IsUnspecified() {
		return plainAddr(addr) == plainAddr(d.cfg.Addr)
	}
	if d.cfg.Network != nil {
		return true
	}
	_, ok := d.mtus.linkMTU(plainAddr(addr))
	return ok
}
