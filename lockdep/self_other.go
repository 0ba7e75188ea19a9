//go:build !lockdep || !(amd64 || arm64 || s390x)

package lockdep

// self returns what tells the calling goroutine from all others that exist.
func self() uint64 { return GoroutineID() }
