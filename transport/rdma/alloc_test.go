package rdma

import (
	"testing"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/transport/rdma/internal/fakeverbs"
)

// Steady I/O allocates nothing, at either end.
func TestSteadyIODoesNotAllocate(t *testing.T) {
	if lockdep.Enabled {
		t.Skip("the lock-order validator allocates")
	}
	if testing.Short() {
		t.Skip("long")
	}
	for name, wc := range map[string]worldConfig{
		"plain":      {},
		"SRQ":        variants["SRQ"],
		"no DMA key": {options: fakeverbs.Options{NoDMALKey: true}},
	} {
		for _, io := range []struct {
			name string
			op   nvme.IOOpcode
			size int
		}{
			{"read 4 KiB", nvme.IORead, 4096},
			{"read 1 MiB", nvme.IORead, 1 << 20},
			{"write in capsule", nvme.IOWrite, 4096},
			{"write 64 KiB", nvme.IOWrite, 65536},
			{"write 1 MiB", nvme.IOWrite, 1 << 20},
			{"flush", nvme.IOFlush, 0},
		} {
			t.Run(name+"/"+io.name, func(t *testing.T) {
				w := newWorld(t, wc)
				c := w.dial(1, 8).connect()
				done := make(chan struct{}, 1)
				left := 0
				reqs := make([]*req, 4)
				for i := range reqs {
					reqs[i] = ioReq(io.op, 0, make([]byte, io.size))
					reqs[i].Done = func(r *transport.HostRequest) {
						if r.Err != nil || !r.Completion.Status.OK() {
							t.Errorf("%v, %v", r.Err, r.Completion.Status)
						}
						if left--; left == 0 {
							done <- struct{}{}
						}
					}
				}
				round := func() {
					left = len(reqs)
					for _, r := range reqs {
						if err := c.q.Submit(&r.HostRequest); err != nil {
							t.Error(err)
						}
					}
				}
				task := postable(c.q.Shard(), round)
				once := func() { task(); <-done }
				for range 20 { // slices of the fakes grow to what they need
					once()
				}
				if n := testing.AllocsPerRun(100, once); n != 0 {
					t.Errorf("%v allocations per round of %d", n, len(reqs))
				}
			})
		}
	}
}

func BenchmarkRead4K(b *testing.B) { benchmark(b, nvme.IORead, 4096) }

func BenchmarkWrite4K(b *testing.B) { benchmark(b, nvme.IOWrite, 4096) }

// benchmark keeps a queue of depth 32 busy: the cost of both ends and of the
// fake between them.
func benchmark(b *testing.B, op nvme.IOOpcode, size int) {
	w := newWorld(b, worldConfig{})
	c := w.dial(1, 32).connect()
	done := make(chan struct{})
	n, out := 0, 0
	var reqs []*req
	for range 32 {
		r := ioReq(op, 0, make([]byte, size))
		r.Done = func(h *transport.HostRequest) {
			if n--; n > 0 {
				if err := c.q.Submit(h); err != nil {
					b.Error(err)
				}
				return
			}
			if out--; out == 0 {
				close(done)
			}
		}
		reqs = append(reqs, r)
	}
	b.ReportAllocs()
	b.ResetTimer()
	_ = c.q.Shard().Run(func() {
		n, out = b.N, len(reqs)
		for _, r := range reqs {
			if err := c.q.Submit(&r.HostRequest); err != nil {
				b.Error(err)
			}
		}
	})
	<-done
}
