package roce

import (
	"net/netip"
	"testing"
	"time"

	"github.com/fabrid/fabrid/shard"
)

// What devices that share send in a round is one system call, a train of each,
// from the address of each, also when the one whose socket it was is closed.
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

	const each = 3 // MADs of a device
	// The peer takes what has come only if its ICRC covers the addresses.
	round := func(want uint64, devices ...*Device) {
		t.Helper()
		before := peer.Stats().MADsReceived
		var calls, trains uint64
		if err := s.Run(func() {
			for _, d := range devices {
				calls -= d.eng.stats.SendCalls
				trains -= d.eng.stats.Trains
				l := engineLink{d.eng}
				l.holdPath(d.cfg.Addr, peer.cfg.Addr) // as a connection does
				for range each {
					d.eng.sendMAD(d.cfg.Addr, peer.cfg.Addr, make([]byte, madLen))
				}
				l.dropPath(d.cfg.Addr, peer.cfg.Addr)
			}
		}); err != nil {
			t.Fatal(err)
		}
		limit := time.After(5 * time.Second)
		for got := uint64(0); got < each*want; got = peer.Stats().MADsReceived - before {
			select {
			case <-limit:
				t.Fatalf("%d of %d came: %+v", got, each*want, peer.Stats())
			default:
			}
		}
		for _, d := range devices {
			st := d.Stats()
			calls += st.SendCalls
			trains += st.Trains
		}
		if calls != 1 || trains != want {
			t.Errorf("%d devices made %d system calls to send %d trains, want 1 and %d", len(devices), calls, trains, want)
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

// A path on which the kernel takes no trains stays one, whatever else is wrong
// with it later.
func TestSharedPathWithoutTrains(t *testing.T) {
	s, shared := newShard(t, "shared"), new(Shared)
	d := openDevice(t, Config{Shard: s, Addr: netip.AddrFrom4([4]byte{127, 42, 10, 1}), Shared: shared})
	nobody := netip.MustParseAddr("192.0.2.1") // to whom nothing leads from there
	l := engineLink{d.eng}
	var p *path
	if err := s.Run(func() {
		l.holdPath(d.cfg.Addr, nobody)
		p = d.eng.paths[pathKey{d.cfg.Addr, nobody}]
		p.noTrains = true
		d.eng.sendMAD(d.cfg.Addr, nobody, make([]byte, madLen))
	}); err != nil {
		t.Fatal(err)
	}
	if st := d.Stats(); st.DropsSend != 1 {
		t.Errorf("%d packets were refused, want 1", st.DropsSend)
	}
	if err := s.Run(func() {
		if !p.noTrains {
			t.Error("trains are tried again")
		}
		l.dropPath(d.cfg.Addr, nobody)
	}); err != nil {
		t.Fatal(err)
	}
}
