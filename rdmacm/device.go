package rdmacm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// ErrDeviceRemoved is returned by calls that want a device which is being
// removed.
var ErrDeviceRemoved = errors.New("the device is being removed")

// A Watcher is a [Provider] that can tell when its device goes away, or an
// address of it.
type Watcher interface {
	Provider

	// Watch has sink told of what happens to the device: DeviceRemoval, after
	// which there is nothing more to tell, and AddrChange for each address that
	// somebody listens at and that is gone. Of a device that is gone already it
	// is told at once. sink does not block, and is called on any goroutine. stop
	// ends it; a call of sink that is under way is not waited for.
	Watch(sink func(DeviceEvent)) (stop func())
}

// A DeviceEvent is something that happened to a device. The connection manager
// makes events of its IDs of it.
type DeviceEvent struct {
	Type EventType  // DeviceRemoval or AddrChange
	Addr netip.Addr // that is gone, for AddrChange
	Err  error      // why
}

// RemoveDevice tells every ID of p that its device goes away and waits until
// they have been destroyed, or ctx is done: then it returns an error with how
// many are left. Meanwhile there are no new ones. An ID is told once, whoever
// else says so too. RemoveDevice must not be called from a handler or on a
// device's loop.
func (cm *CM) RemoveDevice(ctx context.Context, p Provider) error {
	cm.mu.Lock()
	cm.removing[p]++
	cm.mu.Unlock()
	defer func() {
		cm.mu.Lock()
		defer cm.mu.Unlock()
		if cm.removing[p]--; cm.removing[p] == 0 {
			delete(cm.removing, p)
		}
	}()
	left := cm.idsOf(p)
	for _, id := range left {
		id.notify(Event{Type: DeviceRemoval})
	}
	for i, id := range left {
		select {
		case <-id.destroyed.Done():
		case <-ctx.Done():
			return fmt.Errorf("rdmacm: remove device: up to %d IDs left, the first is %v: %w",
				len(left)-i, id, context.Cause(ctx))
		}
	}
	return nil
}

// idsOf returns the IDs of a provider, oldest first.
func (cm *CM) idsOf(p Provider) []*ID {
	cm.mu.Lock()
	ids := cm.snapshotLocked()
	cm.mu.Unlock()
	// Their locks are outside the list's.
	return slices.DeleteFunc(ids, func(id *ID) bool { return !id.boundTo(p) })
}

// snapshotLocked returns the IDs, oldest first.
func (cm *CM) snapshotLocked() []*ID {
	return slices.SortedFunc(maps.Keys(cm.ids), func(a, b *ID) int { return cmp.Compare(a.num, b.num) })
}

// isRemoving reports whether p's device is being removed. An ID asks, with its
// lock held, in the step in which it takes p: so RemoveDevice, which looks at
// all IDs after it said so, misses none.
func (cm *CM) isRemoving(p Provider) bool {
	cm.mu.Lock()
	defer cm.mu.Unlock()
	return cm.removing[p] > 0
}

// watch has the CM told of what happens to p's device, from the first ID on
// that takes p. No lock is held.
func (cm *CM) watch(p Provider) {
	w, ok := p.(Watcher)
	if !ok {
		return
	}
	cm.mu.Lock()
	_, watched := cm.watched[p]
	if cm.closed || watched {
		cm.mu.Unlock()
		return
	}
	cm.watched[p] = nil
	cm.mu.Unlock()
	stop := w.Watch(func(ev DeviceEvent) { cm.deviceEvent(p, ev) })
	cm.mu.Lock()
	_, watched = cm.watched[p] // not if the device is gone, or the CM is
	if watched {
		cm.watched[p] = stop
	}
	cm.mu.Unlock()
	if !watched {
		stop()
	}
}

// deviceEvent tells those IDs of p that it concerns.
func (cm *CM) deviceEvent(p Provider, dev DeviceEvent) {
	if dev.Type == DeviceRemoval {
		cm.mu.Lock()
		stop := cm.watched[p]
		delete(cm.watched, p)
		cm.mu.Unlock()
		if stop != nil {
			stop()
		}
	}
	for _, id := range cm.idsOf(p) {
		// Connections over an address that is gone are left to their timers: it
		// may come back, and their peers do not know.
		if dev.Type == DeviceRemoval || id.listensAt(dev.Addr) {
			id.notify(Event{Type: dev.Type, Err: dev.Err})
		}
	}
}

// stopWatching ends all that watch began.
func (cm *CM) stopWatching() {
	cm.mu.Lock()
	watched := cm.watched
	cm.watched = nil
	cm.mu.Unlock()
	for _, stop := range watched {
		if stop != nil {
			stop()
		}
	}
}
