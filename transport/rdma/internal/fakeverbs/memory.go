package fakeverbs

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/fabrid/fabrid/verbs"
)

const localDMALKey = 0xD0A

// A pd is a protection domain.
type pd struct {
	dev   *Device
	users atomic.Int64
}

func (p *pd) LocalDMALKey() (uint32, bool) {
	if p.dev.dma {
		return localDMALKey, true
	}
	return 0, false
}

func (p *pd) Dealloc() error {
	if n := p.users.Load(); n != 0 {
		return fmt.Errorf("verbs: deallocate PD: %d things are left in it", n)
	}
	p.dev.PDs.Add(-1)
	return nil
}

// An mr is a memory region. Its index and limit do not change, the rest is
// guarded by the device's keysMu.
type mr struct {
	pd     *pd
	index  uint32
	fast   bool
	maxLen int

	gone   bool
	valid  bool
	key    uint32
	buf    []byte
	iova   uint64
	access verbs.Access
}

func (p *pd) RegMR(buf []byte, iova uint64, access verbs.Access) (verbs.MR, error) {
	if len(buf) == 0 || iova+uint64(len(buf)) < iova {
		return nil, fmt.Errorf("verbs: register %d bytes at %#x", len(buf), iova)
	}
	return p.newMR(&mr{pd: p, valid: true, buf: buf, iova: iova, access: access}), nil
}

func (p *pd) AllocMR(maxLen int) (verbs.MR, error) {
	if maxLen <= 0 || maxLen > p.dev.attr.MaxFastRegLen {
		return nil, fmt.Errorf("verbs: allocate a region of %d bytes", maxLen)
	}
	return p.newMR(&mr{pd: p, fast: true, maxLen: maxLen}), nil
}

func (p *pd) newMR(m *mr) *mr {
	d := p.dev
	d.keysMu.Lock()
	defer d.keysMu.Unlock()
	d.lastKey++
	m.index = d.lastKey
	m.key = m.index << 8
	d.keys[m.index] = m
	d.MRs.Add(1)
	p.users.Add(1)
	return m
}

func (m *mr) LKey() uint32 { return m.RKey() }

func (m *mr) RKey() uint32 {
	m.pd.dev.keysMu.RLock()
	defer m.pd.dev.keysMu.RUnlock()
	return m.key
}

func (m *mr) Dereg() error {
	d := m.pd.dev
	d.keysMu.Lock()
	defer d.keysMu.Unlock()
	if m.gone {
		return errors.New("verbs: region deregistered twice")
	}
	m.gone = true
	delete(d.keys, m.index)
	d.MRs.Add(-1)
	m.pd.users.Add(-1)
	return nil
}

// lookupLocked returns the valid region that key names in p.
func (p *pd) lookupLocked(key uint32) *mr {
	m := p.dev.keys[key>>8]
	if m == nil || m.pd != p || !m.valid || m.key != key {
		return nil
	}
	return m
}

// remote calls fn with the memory that a peer names, if it may access it so.
// Nobody deregisters it meanwhile.
func (p *pd) remote(key uint32, va uint64, n int, need verbs.Access, fn func(b []byte)) bool {
	p.dev.keysMu.RLock()
	defer p.dev.keysMu.RUnlock()
	m := p.lookupLocked(key)
	if m == nil || m.access&need != need {
		return false
	}
	size := uint64(len(m.buf))
	if va < m.iova || uint64(n) > size || va-m.iova > size-uint64(n) {
		return false
	}
	off := va - m.iova
	fn(m.buf[off : off+uint64(n)])
	return true
}

// local reports whether the elements may be accessed under their keys.
func (p *pd) local(sg []verbs.SGE, need verbs.Access) bool {
	p.dev.keysMu.RLock()
	defer p.dev.keysMu.RUnlock()
	for _, s := range sg {
		if len(s.Buf) == 0 || p.dev.dma && s.LKey == localDMALKey {
			continue
		}
		m := p.lookupLocked(s.LKey)
		if m == nil || m.access&need != need || !within(m.buf, s.Buf) {
			return false
		}
	}
	return true
}

func within(outer, inner []byte) bool {
	lo := uintptr(unsafe.Pointer(unsafe.SliceData(outer)))
	at := uintptr(unsafe.Pointer(unsafe.SliceData(inner)))
	return at >= lo && at-lo <= uintptr(len(outer)) && uintptr(len(inner)) <= uintptr(len(outer))-(at-lo)
}

// register carries out a WRRegMR.
func (p *pd) register(wr *verbs.SendWR) bool {
	m, ok := wr.MR.(*mr)
	if !ok {
		return false
	}
	p.dev.keysMu.Lock()
	defer p.dev.keysMu.Unlock()
	if m.gone || m.pd != p || !m.fast || m.valid || len(wr.Buf) == 0 || len(wr.Buf) > m.maxLen ||
		wr.RKey>>8 != m.index || wr.IOVA+uint64(len(wr.Buf)) < wr.IOVA {
		return false
	}
	m.valid, m.key, m.buf, m.iova, m.access = true, wr.RKey, wr.Buf, wr.IOVA, wr.Access
	return true
}

// invalidate ends a fast registration.
func (p *pd) invalidate(key uint32) bool {
	p.dev.keysMu.Lock()
	defer p.dev.keysMu.Unlock()
	m := p.lookupLocked(key)
	if m == nil || !m.fast {
		return false
	}
	m.valid, m.buf = false, nil
	return true
}
