//go:build soak

package rdma

import (
	"testing"
	"time"
)

// 96 queues, 12,288 commands at once, 1,024 receives.
func TestSoakSRQUnderPressure(t *testing.T) {
	pressure{controllers: 6, queues: 16, depth: 128, readSize: 1 << 20, srqSize: 1024, runtime: time.Minute}.run(t)
}
