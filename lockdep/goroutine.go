package lockdep

import (
	"runtime"
	"sync"
)

// A goroutine is what the validator knows of one: its validator and what it
// holds. Only the goroutine itself reads or writes it; it is in the registry
// while there is something to know, so that ended goroutines leave nothing.
type goroutine struct {
	id     uint64
	v      *Validator
	scoped bool // inside Validator.Run
	held   []*hold
}

// goroutines is the registry. It is a global because a lock whose zero value
// is ready has nothing else to reach its validator by; only the calling
// goroutine's own identity leads there. Without the build tag it stays empty.
var goroutines registry

type registry [64]struct {
	mu sync.Mutex
	m  map[uint64]*goroutine
}

// get returns the calling goroutine's entry, a fresh one if it has none.
func (r *registry) get() *goroutine {
	id := GoroutineID()
	s := &r[id%uint64(len(r))]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = make(map[uint64]*goroutine)
	}
	g := s.m[id]
	if g == nil {
		g = &goroutine{id: id, v: standard}
		s.m[id] = g
	}
	return g
}

// put forgets g if there is nothing to remember.
func (r *registry) put(g *goroutine) {
	if g.scoped || len(g.held) > 0 {
		return
	}
	s := &r[g.id%uint64(len(r))]
	s.mu.Lock()
	delete(s.m, g.id)
	s.mu.Unlock()
}

// idBuffers spares GoroutineID an allocation: runtime.Stack's argument escapes.
var idBuffers = sync.Pool{New: func() any { return new([64]byte) }}

// GoroutineID returns the runtime's number of the calling goroutine: what a
// stack trace shows, unique in the process and never used again. It takes a
// microsecond or more (the runtime walks the stack to print it), so it is for
// validators and rare paths. It works in every build.
//
// The runtime has no better way to offer: profiler labels are inherited by
// children and replaced by whoever profiles, so they do not identify; the
// number in the runtime's own structure cannot be reached without assembly
// that knows its layout. The first line of a stack trace, "goroutine 39
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
