//go:build interop

package interop

import (
	"fmt"
	"slices"
	"time"
)

// A linuxTarget is a guest that is a target, with its one namespace in memory.
type linuxTarget struct {
	*guest
	address string
}

// up makes the target, with a namespace of size bytes.
func (l *linuxTarget) up(size uint64) {
	l.t.Helper()
	l.must(time.Minute, fmt.Sprintf("target_up %s %d", l.address, size>>20))
}

// noControllers checks that what hosts had is gone soon: the last thing that
// the target's queues let go of is their queue pairs.
func (l *linuxTarget) noControllers() {
	l.t.Helper()
	var pairs []struct{ Type string }
	gone := eventually(10*time.Second, func() bool {
		pairs = nil
		l.mustJSON(&pairs, "rdma -j resource show qp")
		return !slices.ContainsFunc(pairs, func(p struct{ Type string }) bool { return p.Type == "RC" })
	})
	if !gone {
		l.t.Errorf("guest %s: queue pairs left: %v", l.name, pairs)
	}
	var ids []struct{ State string }
	l.mustJSON(&ids, "rdma -j resource show cm_id")
	if len(ids) != 1 || ids[0].State != "LISTEN" {
		l.t.Errorf("guest %s: connection manager IDs left: %v", l.name, ids)
	}
}
