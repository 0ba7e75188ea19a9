package lockdep

import (
	"runtime"
	"sync"
)

// A goroutine is what the validator knows of one: its validator and what it
// holds. Only the goroutine itself reads or writes it; it is in the registry
// while there is something to know, so that ended goroutines leave nothing.
type goroutine struct {
	key    uint64 // see self
	v      *Validator
	scoped bool // inside Validator.Run
	held   []*hold
}

// goroutines is the registry. It is a global because a lock whose zero value
// is ready has nothing else to reach its validator by; only the calling
// goroutine's own identity leads there. Without the build tag it stays empty.
//
// The key is the address of the runtime's own structure, its g, because the
// goroutine's number is dear: see [GoroutineID]. A g never moves and is never
// freed, but another goroutine gets it when the first has ended. That is safe
// because an entry lives only while its goroutine holds something or is inside
// Run, and Run's end is deferred. A goroutine that ends while it holds a lock,
// which is a mistake, leaves what it holds to the next of its g: a report of
// that one's then shows the stack of the one that ended. Inside Run, and so in
// what begins by Go, nothing is inherited.
var goroutines registry

type registry [64]struct {
	mu sync.Mutex
	m  map[uint64]*goroutine
}

// get returns the calling goroutine's entry, a fresh one if it has none.
func (r *registry) get() *goroutine {
	key := self()
	s := &r[shardOf(key)]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = make(map[uint64]*goroutine)
	}
	g := s.m[key]
	if g == nil {
		g = &goroutine{key: key, v: standard}
		s.m[key] = g
	}
	return g
}

// put forgets g if there is nothing to remember.
func (r *registry) put(g *goroutine) {
	if g.scoped || len(g.held) > 0 {
		return
	}
	s := &r[shardOf(g.key)]
	s.mu.Lock()
	delete(s.m, g.key)
	s.mu.Unlock()
}

// shardOf spreads keys, whose low bits are those of an address.
func shardOf(key uint64) uint64 {
	return key * 0x9e3779b97f4a7c15 >> 58
}

// idBuffers spares GoroutineID an allocation: runtime.Stack's argument escapes.
var idBuffers = sync.Pool{New: func() any { return new([64]byte) }}

// GoroutineID returns the runtime's number of the calling goroutine: what a
// stack trace shows, unique in the process and never used again. It takes
// microseconds, more on a deep stack (the runtime walks it to print it), so it
// is for reports and rare paths. It works in every build.
//
// The runtime has no better way to offer: profiler labels are inherited by
// children and replaced by whoever profiles, so they do not identify; the
// number in the runtime's own structure cannot be reached without assembly
// that knows its layout. (The structure itself can: the validator goes by that.) The first line of a stack trace, "goroutine 39
// [running]:", has been stable since Go 1.0.
func GoroutineID() uint64 {
	buf := idBuffers.Get().(*[64]byte)
	n := runtime.Stack(buf[:], false)
	const prefix = "goroutine "
	var id uint64
	for _, c := range buf[min(len(prefix), n):n] {
		if c < '0' || c > '9' {
			break
		}
		id = id*10 + uint64(c-'0')
	}
	idBuffers.Put(buf)
	if id == 0 {
		panic("lockdep: goroutine id: stack trace does not begin with one")
	}
	return id
}
