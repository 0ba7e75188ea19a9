package roce

import (
	"net/netip"
	"testing"
	"time"

	"github.com/fabrid/fabrid/shard"
)

// What devices that share send in a round is one system call, from the address of
// each, also when the one whose socket it was is closed.
func TestSharedDevicesSendTogether(t *testing.T) {
	open := func(last byte, s *shard.Shard, shared *Shared) *Device {
		t.Helper()
		d, err := Open(Config{Shard: s, Addr: netip.AddrFrom4([4]byte{127, 42, 9, last}), Shared: shared})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	newShard := func() *shard.Shard {
		s, err := shard.New(shard.Config{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s
	}
	peer := open(1, newShard(), nil)
	s, shared := newShard(), new(Shared)
	devices := []*Device{open(2, s, shared), open(3, s, shared), open(4, s, shared)}
	defer func() {
		for _, d := range append(devices, peer) {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
		if len(shared.sockets) != 0 || shared.rx.mem != nil {
			t.Errorf("%d sockets are left", len(shared.sockets))
		}
	}()

	// The peer takes what has come only if its ICRC covers the addresses.
	round := func(want uint64, devices ...*Device) {
		t.Helper()
		before := peer.Stats().MADsReceived
		var calls uint64
		if err := s.Run(func() {
			for _, d := range devices {
				calls -= d.eng.stats.SendCalls
				d.eng.sendMAD(d.cfg.Addr, peer.cfg.Addr, make([]byte, madLen))
			}
		}); err != nil {
			t.Fatal(err)
		}
		limit := time.After(5 * time.Second)
		for got := uint64(0); got < want; got = peer.Stats().MADsReceived - before {
			select {
			case <-limit:
				t.Fatalf("%d of %d came: %+v", got, want, peer.Stats())
			default:
			}
		}
		for _, d := range devices {
			calls += d.Stats().SendCalls
		}
		if calls != 1 {
			t.Errorf("%d devices made %d system calls to send", len(devices), calls)
		}
	}
	round(3, devices...)
	if err := devices[0].Close(); err != nil {
		t.Fatal(err)
	}
	devices = devices[1:]
	round(2, devices...)
	if err := s.Run(func() { devices[0].Silence(true) }); err != nil {
		t.Fatal(err)
	}
	round(1, devices...)
	if err := s.Run(func() { devices[0].Silence(false) }); err != nil {
		t.Fatal(err)
	}
	round(2, devices...)
}
