package target_test

import (
	"fmt"
	"testing"

	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport"
)

// The words for ends that come from the target: dashboards know them.
func TestWordsOfCauses(t *testing.T) {
	for want, err := range map[string]error{
		"keep_alive":          target.ErrKeepAlive,
		"no_connect":          target.ErrNoConnect,
		"controller_reset":    target.ErrReset,
		"controller_shutdown": target.ErrShutdown,
		"removed":             target.ErrRemoved,
		"target_closed":       target.ErrClosed,
		"admin_queue_down":    fmt.Errorf("target: %w: %w", target.ErrAssociated, target.ErrKeepAlive),
	} {
		if got := transport.Reason(fmt.Errorf("target: controller 7: %w", err)); got != want {
			t.Errorf("%v is %q, want %q", err, got, want)
		}
	}
}
