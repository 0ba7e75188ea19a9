package target_test

import (
	"bytes"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
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

// The Discovery log reads the same in parts of any size and place.
func TestDiscoveryInParts(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	defer w.close()
	for i := range 5 {
		if err := w.port.Link(w.subsystem(target.SubsystemConfig{NQN: fmt.Sprintf("nqn.2025-01.example:many-%d", i), AllowAnyHost: true})); err != nil {
			t.Fatal(err)
		}
	}
	h := w.enable(func(a *connectArgs) { a.SUBNQN = nvme.DiscoveryNQN })
	read := func(off, n int) []byte {
		return h.admin.page(getLog(nvme.LogDiscovery, n, func(g *nvme.GetLogPageCommand) { g.LPO = uint64(off) }), n)
	}
	const size = 1024 * 8 // header, discovery, 6 subsystems
	whole := read(0, size)
	if log := parse[nvme.DiscoveryLog](t, whole); len(log.Entries) != 7 || log.Entries[6].SUBNQN == "" {
		t.Fatalf("%+v", log.Entries)
	}
	for _, step := range []int{4, 1020, 1024, 1028, 4096} {
		var parts []byte
		for off := 0; off < size; off += step {
			parts = append(parts, read(off, min(step, size-off))...)
		}
		if !bytes.Equal(parts, whole) {
			t.Errorf("in parts of %d bytes it reads otherwise", step)
		}
	}
	if got := read(size-4, 1024); !bytes.Equal(got[:4], whole[size-4:]) || !bytes.Equal(got[4:], make([]byte, 1020)) {
		t.Error("across the end")
	}
}

// A roundCounter is a device that tells if it is asked for more than one
// deallocation in a round of the shard.
type roundCounter struct {
	bdev.Device
	t     *testing.T
	total int
	now   int // in this round
	end   shard.Flusher
}

func (d *roundCounter) Submit(op *bdev.Op) {
	if op.Kind == bdev.Deallocate {
		d.end.Fn = func() { d.now = 0 }
		op.Shard.Flush(&d.end)
		d.total++
		if d.now++; d.now == 2 {
			d.t.Errorf("range %d in the round of the one before", d.total)
		}
	}
	d.Device.Submit(op)
}

// The ranges of a Dataset Management take turns with all else on the shard.
func TestRangesTakeTurns(t *testing.T) {
	d := &roundCounter{Device: newMemory(t, 1<<20), t: t}
	w := newWorld(t, target.Config{}, d)
	defer w.close()
	q := w.enable(nil).io(1, nil)
	var ranges []byte
	for i := range 256 {
		n := uint32(8)
		if i%16 == 15 {
			n = 0 // is skipped
		}
		ranges = nvme.DSMRange{SLBA: uint64(i), NLB: n}.AppendTo(ranges)
	}
	q.ok(cmd(func(c nvme.Command) { c.PutDSM(1, 255, nvme.DSMAD) }), ranges)
	if d.total != 240 {
		t.Errorf("%d ranges deallocated", d.total)
	}
}

// What a host can ask for again and again must be cheap: it is the shard's
// time, and everybody's.
func BenchmarkDiscoveryLog(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			w := newWorld(b, target.Config{}, nil)
			defer w.close()
			for i := range n {
				if err := w.port.Link(w.subsystem(target.SubsystemConfig{NQN: fmt.Sprintf("nqn.2025-01.example:many-%d", i), AllowAnyHost: true})); err != nil {
					b.Fatal(err)
				}
			}
			h := w.enable(func(a *connectArgs) { a.SUBNQN = nvme.DiscoveryNQN })
			for b.Loop() {
				h.admin.ok(getLog(nvme.LogDiscovery, 4, nil), make([]byte, 4))
			}
		})
	}
}
