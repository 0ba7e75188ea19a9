package roce

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
)

var _ rdmacm.Watcher = (*Device)(nil)

// engineLink is the engine as its connection manager sees it.
type engineLink struct{ *engine }

func (l engineLink) pathMTU(local netip.Addr) int { return l.dev.pathMTU(local) }
func (l engineLink) isLocal(addr netip.Addr) bool { return l.dev.isLocal(addr) }
func (l engineLink) holdPath(local, remote netip.Addr) bool {
	_, err := l.pathTo(verbs.Path{Local: local, Remote: remote})
	return err == nil
}
func (l engineLink) dropPath(local, remote netip.Addr) {
	l.releasePath(l.paths[pathKey{plainAddr(local), remote.Unmap()}])
}
func (l engineLink) hearErrors(on bool)                            { l.wire.hearErrors(on) }
func (l engineLink) hasAddr(addr netip.Addr) bool                  { return l.dev.hasAddr(addr) }
func (l engineLink) routeTo(remote netip.Addr) (netip.Addr, error) { return l.dev.routeTo(remote) }

// startCM makes the engine's connection manager, on the shard.
func (e *engine) startCM() {
	e.cm = newCM(cmConfig{
		shard:     e.shard,
		link:      engineLink{e},
		guid:      e.dev.guid,
		maxRdAtom: maxRdAtom,
		maxInitRd: maxRdAtom,
	})
}

// stopCM ends it, on the shard.
func (e *engine) stopCM() { e.cm.close() }

// Remove takes the device away from those who use it, as if it were unplugged:
// nothing is listened to any more, connections are taken leave of, and whoever
// watches, or has a connection, is told DeviceRemoval, with the cause. The
// device stays open until Close, for which its users have to let go of it: see
// [rdmacm.CM.RemoveDevice]. Remove must not be called on a shard.
func (d *Device) Remove(cause error) error {
	err := d.cfg.Shard.Run(func() { d.eng.cm.remove(cause) })
	if err != nil {
		return fmt.Errorf("roce: remove device: %w", err)
	}
	return nil
}

// Watch implements [rdmacm.Watcher]. An address is missed within seconds.
func (d *Device) Watch(sink func(rdmacm.DeviceEvent)) (stop func()) {
	m, w := d.eng.cm, &cmWatcher{sink}
	if !d.cfg.Shard.Post(&shard.Task{Fn: func() { m.watch(w) }}) {
		sink(rdmacm.DeviceEvent{Type: rdmacm.DeviceRemoval, Err: errCMClosed})
	}
	return func() { d.cfg.Shard.Post(&shard.Task{Fn: func() { delete(m.watchers, w) }}) }
}

// Device implements [rdmacm.Provider].
func (d *Device) Device() verbs.Device { return d }

// Listen implements [rdmacm.Provider].
func (d *Device) Listen(addr netip.AddrPort, request func(rdmacm.Conn, rdmacm.ConnParam)) (func() error, error) {
	m, s := d.eng.cm, d.cfg.Shard
	var key netip.AddrPort
	var err error
	if runErr := s.Run(func() { key, err = m.listen(addr, request) }); runErr != nil {
		err = runErr
	}
	if err != nil {
		return nil, err
	}
	return func() error {
		err := s.Run(func() { m.unlisten(key) })
		if errors.Is(err, shard.ErrClosed) {
			return nil // nobody asks any more either
		}
		if err != nil {
			return fmt.Errorf("roce: end listening at %v: %w", addr, err)
		}
		return nil
	}, nil
}

// Open implements [rdmacm.Provider].
func (d *Device) Open(local netip.Addr, remote netip.AddrPort) (rdmacm.Conn, error) {
	if d.cfg.Network == nil {
		to, err := toPeer(d.cfg.Addr, remote.Addr())
		if err != nil {
			return nil, fmt.Errorf("roce: cm: open: %w", err)
		}
		if local, err = numbered(local); err != nil {
			return nil, fmt.Errorf("roce: cm: open: %w", err)
		}
		remote = netip.AddrPortFrom(to, remote.Port())
	}
	c, err := d.eng.cm.open(local, remote)
	if err != nil {
		return nil, err
	}
	return c, nil
}
