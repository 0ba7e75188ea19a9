package target_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/target"
)

// aliveFor returns after how long the controller's admin queue is told to go.
func aliveFor(h *host, start time.Time) time.Duration {
	<-h.admin.left
	return time.Since(start)
}

// The shard's clock stands still within a round, and a timer is never early.
func TestKeepAliveExpires(t *testing.T) {
	tests := []struct {
		name string
		kato uint32
		nqn  string
		want time.Duration
	}{
		{"two seconds", 2000, subNQN, 2 * time.Second},
		{"rounded up", 2001, subNQN, 3 * time.Second},
		{"a millisecond", 1, subNQN, time.Second},
		{"discovery without one", 0, nvme.DiscoveryNQN, 2 * time.Minute},
		{"discovery with one", 7000, nvme.DiscoveryNQN, 7 * time.Second},
		{"half an hour", 1800000, subNQN, 30 * time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var removed error
				w := newWorld(t, target.Config{Events: target.Events{
					ControllerRemoved: func(_ target.ControllerInfo, cause error) { removed = cause },
				}}, nil)
				defer w.close()
				start := time.Now()
				h := w.enable(func(a *connectArgs) { a.KATO, a.SUBNQN = tt.kato, tt.nqn })
				// The Connect itself was traffic, which is found when the timer fires:
				// it gives one more period.
				if got, want := aliveFor(h, start), 2*tt.want; got != want {
					t.Errorf("alive for %v, want %v", got, want)
				}
				if !errors.Is(h.admin.cause, target.ErrKeepAlive) {
					t.Errorf("cause %v", h.admin.cause)
				}
				<-h.admin.gone
				synctest.Wait()
				if !errors.Is(removed, target.ErrKeepAlive) {
					t.Errorf("removed for %v", removed)
				}
			})
		})
	}
}

// Traffic on any queue counts for a keep alive, and all queues go down when
// there is none.
func TestKeepAliveTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, target.Config{}, nil)
		defer w.close()
		start := time.Now()
		h := w.enable(func(a *connectArgs) { a.KATO = 2000 })
		io := h.io(1, nil)
		aer := h.aer()
		for range 10 { // reads only, each in another period
			time.Sleep(1900 * time.Millisecond)
			io.ok(rw(nvme.IORead, 1, 0, 0), make([]byte, 512))
		}
		// The last read is at 19 s. At 20 s it is found, at 22 s nothing is.
		if got, want := aliveFor(h, start), 22*time.Second; got != want {
			t.Errorf("alive for %v, want %v", got, want)
		}
		<-io.left
		if !errors.Is(io.cause, target.ErrKeepAlive) {
			t.Errorf("I/O queue: cause %v", io.cause)
		}
		<-aer.done
		<-h.admin.gone
		<-io.gone
	})
}

func TestKeepAliveCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, target.Config{}, nil)
		defer w.close()
		start := time.Now()
		h := w.enable(func(a *connectArgs) { a.KATO = 2000 })
		for range 5 {
			time.Sleep(1500 * time.Millisecond)
			h.admin.ok(cmd(nvme.Command.PutKeepAlive), nil)
		}
		// A Keep Alive starts the period anew, and was traffic.
		if got, want := aliveFor(h, start), 7500*time.Millisecond+4*time.Second; got != want {
			t.Errorf("alive for %v, want %v", got, want)
		}
		<-h.admin.gone
	})
}

// Set Features changes the timeout, and zero turns it off.
func TestKeepAliveFeature(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, target.Config{}, nil)
		defer w.close()
		h := w.enable(nil)
		h.admin.fails(cmd(nvme.Command.PutKeepAlive), nil, nvme.KeepAliveInvalid.WithDNR())
		time.Sleep(time.Hour)
		if got := h.admin.ok(setFeature(nvme.FeatureKeepAliveTimer, 2500), nil).Result; got != 3000 {
			t.Errorf("set to 2500: %d", got)
		}
		if got := h.admin.ok(getFeature(nvme.FeatureKeepAliveTimer, 0), nil).Result; got != 3000 {
			t.Errorf("is %d", got)
		}
		h.admin.ok(cmd(nvme.Command.PutKeepAlive), nil)
		if i := w.sub.Controllers()[0]; i.KATO != 3*time.Second {
			t.Errorf("%+v", i)
		}
		h.admin.ok(setFeature(nvme.FeatureKeepAliveTimer, 0), nil)
		time.Sleep(time.Hour)
		start := time.Now()
		h.admin.ok(setFeature(nvme.FeatureKeepAliveTimer, 1000), nil)
		if got := aliveFor(h, start); got != 2*time.Second {
			t.Errorf("alive for %v", got)
		}
		<-h.admin.gone
	})
}

// A queue on which no Connect comes, or only bad ones, is reaped.
func TestConnectTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, target.Config{ConnectTimeout: 7 * time.Second}, nil)
		defer w.close()
		start := time.Now()
		q := w.open(nil)
		connected := w.enable(nil)
		time.Sleep(5 * time.Second)
		q.fails(identify(nvme.CNSController, 0), make([]byte, 4096), nvme.InvalidOpcode.WithDNR())
		<-q.left
		if got := time.Since(start); got != 7*time.Second || !errors.Is(q.cause, target.ErrNoConnect) {
			t.Errorf("after %v: %v", got, q.cause)
		}
		<-q.gone
		time.Sleep(time.Minute)
		connected.csts() // is alive
	})
}
