package rdma

import (
	"testing"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport/rdma/internal/fakeverbs"
)

// What a queue leaves the next of its shape takes, unless a device knows it or
// storage has part of it; and what is kept is bounded.
func TestSpares(t *testing.T) {
	held := func(w *world) (n, bytes int) {
		w.l.spares.mu.Lock()
		defer w.l.spares.mu.Unlock()
		return len(w.l.spares.list), w.l.spares.bytes
	}
	cycle := func(w *world, depth int) *body {
		c := w.dial(1, depth).connect()
		b := w.l.all()[0].body
		data := pattern(3000, depth)
		c.ok(ioReq(nvme.IOWrite, 0, data), ioReq(nvme.IOWrite, 5000, make([]byte, 100_000)))
		got := make([]byte, len(data))
		if c.ok(ioReq(nvme.IORead, 0, got)); !same(got, data) {
			t.Error("the data came back otherwise")
		}
		c.q.Disconnect()
		w.settle()
		return b
	}
	for _, name := range []string{"plain", "SRQ"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, variants[name])
			first := cycle(w, 8)
			if cycle(w, 8) != first {
				t.Error("the memory was not used again")
			}
			if cycle(w, 16) == first {
				t.Error("the memory of another shape was used")
			}
			if n, bytes := held(w); n != 2 || bytes == 0 || bytes > spareBytes {
				t.Errorf("%d bodies of %d bytes", n, bytes)
			}
		})
	}
	t.Run("registered", func(t *testing.T) {
		w := newWorld(t, worldConfig{options: fakeverbs.Options{NoDMALKey: true}})
		cycle(w, 8)
		if n, _ := held(w); n != 0 {
			t.Error("memory that the device knows was kept")
		}
	})
	t.Run("orphans", func(t *testing.T) {
		w := newWorld(t, orphaning(nil))
		answer := w.orphan()
		if n, _ := held(w); n != 0 {
			t.Error("memory that storage has was kept")
		}
		answer()
	})
	t.Run("bound", func(t *testing.T) {
		var s spares
		sh := shape{depth: 128, capsule: 64 + 4096}
		const size = 1 << 20
		for range 100 {
			s.put(&body{shape: sh, mem: memory{buf: make([]byte, size)}})
		}
		if n := len(s.list); n != spareBytes/size || s.bytes != spareBytes {
			t.Errorf("%d bodies of %d bytes", n, s.bytes)
		}
		if s.take(shape{depth: 127, capsule: sh.capsule}) != nil || s.take(sh) == nil {
			t.Error("another shape, or none")
		}
	})
}
