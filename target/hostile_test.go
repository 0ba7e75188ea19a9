package target_test

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/target"
)

// The longest keep alive timeout is not rounded beyond what can be reported.
func TestLongestKATO(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, target.Config{}, nil)
		defer w.close()
		const most = math.MaxUint32 / 1000 * 1000
		h := w.enable(func(a *connectArgs) { a.KATO = math.MaxUint32 })
		if got := h.admin.ok(getFeature(nvme.FeatureKeepAliveTimer, 0), nil).Result; got != most {
			t.Errorf("connected with the longest: %d, want %d", got, most)
		}
		if got := h.admin.ok(setFeature(nvme.FeatureKeepAliveTimer, math.MaxUint32), nil).Result; got != most {
			t.Errorf("set to the longest: %d, want %d", got, most)
		}
		if i := w.sub.Controllers()[0]; i.KATO != most*time.Millisecond {
			t.Errorf("%+v", i)
		}
	})
}

// Number of Queues cannot be set when there are queues
// [Base, Set Features command].
func TestQueuesAreCountedFirst(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	defer w.close()
	h := w.enable(nil)
	h.admin.ok(setFeature(nvme.FeatureNumberOfQueues, 1|1<<16), nil)
	q := h.io(1, nil)
	h.admin.fails(setFeature(nvme.FeatureNumberOfQueues, 0), nil, nvme.CommandSequenceError.WithDNR())
	if got := h.admin.ok(getFeature(nvme.FeatureNumberOfQueues, 0), nil).Result; got != 1|1<<16 {
		t.Errorf("Number of Queues: %#x", got)
	}
	q.hangUp()
	h.admin.ok(setFeature(nvme.FeatureNumberOfQueues, 0), nil)
}

// A controller without an Error Information log does not refer to it.
func TestMoreOfDiscovery(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	defer w.close()
	h := w.enable(func(a *connectArgs) { a.SUBNQN = nvme.DiscoveryNQN })
	got := h.admin.do(identify(nvme.CNSActiveNamespaces, 0), make([]byte, 4096))
	if got.Status != nvme.InvalidField.WithDNR() {
		t.Errorf("%v, More %v", got.Status, got.Status.More())
	}
}
