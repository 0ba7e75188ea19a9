// Package admission is the budget of a target: how many queues and how many
// bytes may exist at once. A connection is charged before anything is
// allocated for it and gives its charge back last of all, when everything it
// held is free.
package admission

import (
	"fmt"

	"github.com/fabrid/fabrid/lockdep"
)

// Limits bounds what may exist at once. Zero means no bound.
type Limits struct {
	Queues int
	Bytes  int64
}

type budgetMu struct{} // innermost

// A Budget is what may exist. It may be used from any goroutine.
type Budget struct {
	limits Limits

	mu     lockdep.Mutex[budgetMu]
	queues int   // guarded by mu
	bytes  int64 // guarded by mu
}

// New returns a budget with nothing charged to it.
func New(l Limits) *Budget { return &Budget{limits: l} }

// An Error says which bound a charge would have passed.
type Error struct {
	What               string // "queues" or "bytes"
	Asked, Used, Limit int64
}

func (e *Error) Error() string {
	return fmt.Sprintf("admission: %d more %s on top of %d pass the limit of %d", e.Asked, e.What, e.Used, e.Limit)
}

// Take charges one queue of so many bytes, or returns an [*Error] and charges
// nothing. It panics if bytes is negative, which only a mistake in the program
// can make.
func (b *Budget) Take(bytes int64) (*Grant, error) {
	if bytes < 0 {
		panic(fmt.Sprintf("admission: take of %d bytes", bytes))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := b.limits.Queues; l > 0 && b.queues >= l {
		return nil, &Error{"queues", 1, int64(b.queues), int64(l)}
	}
	if l := b.limits.Bytes; l > 0 && bytes > l-b.bytes {
		return nil, &Error{"bytes", bytes, b.bytes, l}
	}
	b.queues++
	b.bytes += bytes
	return &Grant{b, bytes}, nil
}

// Used returns what is charged.
func (b *Budget) Used() (queues int, bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.queues, b.bytes
}

// A Grant is a charge. Its owner returns it once.
type Grant struct {
	budget *Budget
	bytes  int64
}

// Return gives the charge back. A second call panics: somebody else's charge
// would be given away.
func (g *Grant) Return() {
	b := g.budget
	if b == nil {
		panic("admission: grant returned twice")
	}
	g.budget = nil
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queues--
	b.bytes -= g.bytes
}
