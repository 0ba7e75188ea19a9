package host_test

import (
	"testing"
	"time"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
)

// The longest time that CRTO can say is long, and not none.
func TestLongestReadyTimeout(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		ready := time.Now().Add(3 * time.Second)
		w.dialer.mangle = func(_ uint16, r *transport.HostRequest) {
			c := nvme.Command(r.Command[:])
			if !c.IsFabrics() || c.FCTYPE() != nvme.FabricsPropertyGet {
				return
			}
			switch c.Property().Offset {
			case nvme.PropertyCSTS:
				if time.Now().Before(ready) {
					r.Completion.Result = 0
				}
			case nvme.PropertyCAP:
				r.Completion.Result = uint64(nvme.CAP(r.Completion.Result).WithCRWMS(true).WithTO(1))
			case nvme.PropertyCRTO:
				r.Completion.Status, r.Completion.Result = nvme.Success, 0xFFFF
			}
		}
		start := time.Now()
		c := w.connect(w.config())
		if d := time.Since(start); d < 3*time.Second {
			t.Errorf("connected after %v", d)
		}
		w.disconnect(c)
	})
}
