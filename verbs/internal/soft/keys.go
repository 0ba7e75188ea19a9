package soft

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"unsafe"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/verbs"
)

// LocalDMALKey is the local key that covers all of the process's memory. It
// grants nothing to a peer.
const LocalDMALKey uint32 = 1

// A key is an index into the table and 8 bits that vary, so that a key of the
// past does not name the region of the present.
const (
	keyBits    = 8
	maxRegions = 1 << (32 - keyBits)
)

type keysMu struct{} // innermost

// Keys is the table of a device's memory regions. Regions are made and removed
// by any goroutine and looked up by the device's loops without a lock.
type Keys struct {
	slots atomic.Pointer[[]atomic.Pointer[Region]] // never shrinks; index 0 is nobody's

	mu    lockdep.Mutex[keysMu]
	free  []uint32 // guarded by mu: indices, the one free for the longest first
	next  uint32   // guarded by mu: lowest index never used
	count int      // guarded by mu
}

// A Region is a memory region. Its domain, index and length limit do not
// change; the rest is changed on the loop of the queue pair that registers it,
// or not at all.
type Region struct {
	domain any
	index  uint32
	fast   bool // for fast registration
	maxLen int

	valid  bool
	key    uint32
	buf    []byte
	iova   uint64
	access verbs.Access
}

// A Fault says why memory may not be accessed.
type Fault uint8

// Faults.
const (
	OK     Fault = iota
	BadKey       // no such region, or none of that domain
	Range        // beyond its bounds
	Denied       // it does not allow that access
)

func (f Fault) String() string {
	return [...]string{"ok", "no such key", "out of bounds", "access denied"}[f]
}

// Register makes a region of buf at address iova.
func (k *Keys) Register(domain any, buf []byte, iova uint64, access verbs.Access) (*Region, error) {
	if len(buf) == 0 || iova+uint64(len(buf)) < iova {
		return nil, fmt.Errorf("verbs: register %d bytes at %#x: not a region", len(buf), iova)
	}
	r := &Region{domain: domain, valid: true, buf: buf, iova: iova, access: access}
	return r, k.insert(r)
}

// Alloc makes a region for fast registration.
func (k *Keys) Alloc(domain any, maxLen int) (*Region, error) {
	if maxLen <= 0 {
		return nil, fmt.Errorf("verbs: allocate a region of %d bytes", maxLen)
	}
	r := &Region{domain: domain, fast: true, maxLen: maxLen}
	return r, k.insert(r)
}

func (k *Keys) insert(r *Region) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	// Indices rest before they are used again.
	const rest = 64
	if len(k.free) > rest {
		r.index = k.free[0]
		k.free = k.free[1:]
	} else {
		if k.next == 0 {
			k.next = 1
		}
		if k.next >= maxRegions {
			return fmt.Errorf("verbs: all %d memory keys are in use", maxRegions)
		}
		r.index = k.next
		k.next++
	}
	r.key = r.index<<keyBits | rand.Uint32N(1<<keyBits)
	k.grow(int(r.index) + 1)
	(*k.slots.Load())[r.index].Store(r)
	k.count++
	return nil
}

func (k *Keys) grow(n int) {
	old := k.slots.Load()
	if old != nil && n <= len(*old) {
		return
	}
	size := 256
	if old != nil {
		size = 2 * len(*old)
	}
	slots := make([]atomic.Pointer[Region], max(size, n))
	if old != nil {
		for i := range *old {
			slots[i].Store((*old)[i].Load())
		}
	}
	k.slots.Store(&slots)
}

// Remove ends a region's life. A loop may still use what it looked up before;
// the caller waits for that.
func (k *Keys) Remove(r *Region) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !(*k.slots.Load())[r.index].CompareAndSwap(r, nil) {
		return fmt.Errorf("verbs: region %#x deregistered twice", r.index<<keyBits)
	}
	k.free = append(k.free, r.index)
	k.count--
	return nil
}

// Count returns how many regions there are.
func (k *Keys) Count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.count
}

// lookup returns the region that key names in a domain, nil if there is none.
func (k *Keys) lookup(domain any, key uint32) *Region {
	slots := k.slots.Load()
	i := key >> keyBits
	if slots == nil || uint64(i) >= uint64(len(*slots)) {
		return nil
	}
	r := (*slots)[i].Load()
	if r == nil || r.domain != domain || !r.valid || r.key != key {
		return nil
	}
	return r
}

// Remote returns the n bytes at address va of the region rkey, if a peer may
// access them so. The slice is good until the loop returns to its events: it
// is looked up again for the next packet.
func (k *Keys) Remote(domain any, rkey uint32, va uint64, n uint64, need verbs.Access) ([]byte, Fault) {
	r := k.lookup(domain, rkey)
	if r == nil {
		return nil, BadKey
	}
	if r.access&need != need {
		return nil, Denied
	}
	size := uint64(len(r.buf))
	if va < r.iova || n > size || va-r.iova > size-n {
		return nil, Range
	}
	off := va - r.iova
	return r.buf[off : off+n : off+n], OK
}

// Local reports whether the elements of sg may be accessed under their keys.
func (k *Keys) Local(domain any, sg []verbs.SGE, need verbs.Access) Fault {
	for i := range sg {
		s := &sg[i]
		if s.LKey == LocalDMALKey || len(s.Buf) == 0 {
			continue
		}
		r := k.lookup(domain, s.LKey)
		if r == nil {
			return BadKey
		}
		if r.access&need != need {
			return Denied
		}
		lo, at := addr(r.buf), addr(s.Buf)
		if at < lo || at-lo > uintptr(len(r.buf)) || uintptr(len(s.Buf)) > uintptr(len(r.buf))-(at-lo) {
			return Range
		}
	}
	return OK
}

func addr(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// FastRegister makes r valid for buf at iova under key, which differs from
// r's in its low 8 bits at most. On the loop.
func (k *Keys) FastRegister(r *Region, domain any, buf []byte, iova uint64, access verbs.Access, key uint32) bool {
	if !r.fast || r.valid || r.domain != domain || len(buf) == 0 || len(buf) > r.maxLen ||
		key>>keyBits != r.index || iova+uint64(len(buf)) < iova {
		return false
	}
	r.buf, r.iova, r.access, r.key, r.valid = buf, iova, access, key, true
	return true
}

// Invalidate ends a fast registration and reports whether key named one, in
// that domain. On the loop.
func (k *Keys) Invalidate(domain any, key uint32) bool {
	r := k.lookup(domain, key)
	if r == nil || !r.fast {
		return false
	}
	r.valid, r.buf = false, nil
	return true
}

// LKey returns the region's local key.
func (r *Region) LKey() uint32 { return r.key }

// RKey returns the region's remote key.
func (r *Region) RKey() uint32 { return r.key }
