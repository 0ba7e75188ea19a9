//go:build lockdep && (amd64 || arm64 || s390x)

package lockdep

// self returns what tells the calling goroutine from all others that exist: the
// address of the runtime's g.
func self() uint64
