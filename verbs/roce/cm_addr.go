package roce

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fabrid/fabrid/rdmacm"
)

// probePeriod is how often a cm looks whether the addresses that are listened
// at are still there. The kernel tells a socket nothing of it: packets just do
// not come any more.
const probePeriod = time.Second

var errAddrGone = errors.New("roce: cm: no interface has the address any more")

// probe tells of addresses that are listened at and that have gone, each once
// until it is back. It runs while there are such listeners.
func (m *cm) probe() {
	var here, gone, told []netip.Addr
	for key, l := range m.listeners {
		addr := key.Addr()
		switch {
		case !addr.IsValid():
			continue
		case slices.Contains(here, addr):
		case slices.Contains(gone, addr) || !m.cfg.link.hasAddr(addr):
			if gone = append(gone, addr); !l.gone && !slices.Contains(told, addr) {
				told = append(told, addr)
			}
			l.gone = true
			continue
		default:
			here = append(here, addr)
		}
		l.gone = false
	}
	if len(here)+len(gone) > 0 {
		m.probeLater()
	}
	for _, addr := range told {
		m.tell(rdmacm.DeviceEvent{Type: rdmacm.AddrChange, Addr: addr, Err: errAddrGone})
	}
}

func (m *cm) probeLater() { m.cfg.shard.Arm(&m.prober, m.cfg.shard.Now()+probePeriod) }

// A cmWatcher is who is told of what happens to the device.
type cmWatcher struct{ sink func(rdmacm.DeviceEvent) }

func (m *cm) watch(w *cmWatcher) {
	if m.closed {
		w.sink(rdmacm.DeviceEvent{Type: rdmacm.DeviceRemoval, Err: m.why})
		return
	}
	m.watchers[w] = struct{}{}
}

func (m *cm) tell(ev rdmacm.DeviceEvent) {
	for w := range m.watchers {
		w.sink(ev)
	}
}

// hasAddr reports whether the machine has an address. A simulated network may
// know; else there is a way to ask that takes a few microseconds, unlike the
// list of all addresses.
func (d *Device) hasAddr(addr netip.Addr) bool {
	if d.cfg.Network != nil {
		n, ok := d.cfg.Network.(interface{ HasAddr(netip.Addr) bool })
		return !ok || n.HasAddr(addr)
	}
	if addr == plainAddr(d.cfg.Addr) {
		addr = d.cfg.Addr // on its interface
	}
	family, sa := unix.AF_INET, unix.Sockaddr(nil)
	if addr.Is4() {
		sa = &unix.SockaddrInet4{Addr: addr.As4()}
	} else {
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Addr: addr.As16(), ZoneId: scopeID(addr)}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return true // nothing is known
	}
	defer unix.Close(fd)
	return !errors.Is(unix.Bind(fd, sa), unix.EADDRNOTAVAIL)
}
