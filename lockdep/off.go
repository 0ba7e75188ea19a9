//go:build !lockdep

package lockdep

// Enabled tells whether the validator is built in. It is a constant, so what
// it guards costs nothing without the build tag lockdep.
const Enabled = false

// Without the tag the states are empty: a lock has the size of sync's, and a
// Map has none.
type (
	lockState struct{}
	mapState  struct{}
)

func (*lockState) setHolder(*hold)  {}
func (*lockState) getHolder() *hold { return nil }

func (*mapState) setName(string)  {}
func (*mapState) getName() string { return "" }
