//go:build lockdep

package lockdep

import "sync/atomic"

// Enabled tells whether the validator is built in. It is a constant, so what
// it guards costs nothing without the build tag lockdep.
const Enabled = true

// A lockState is what a lock keeps for the validator: who holds it exclusively,
// so that an unlock by somebody else can name the owner.
type lockState struct {
	holder atomic.Pointer[hold]
}

func (s *lockState) setHolder(h *hold) { s.holder.Store(h) }
func (s *lockState) getHolder() *hold  { return s.holder.Load() }

// A mapState is what a Map keeps for the validator. It is not of size zero
// because its address is the identity of the Map.
type mapState struct {
	name string
}

func (s *mapState) setName(name string) { s.name = name }
func (s *mapState) getName() string     { return s.name }
