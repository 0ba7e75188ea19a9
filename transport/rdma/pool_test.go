package rdma

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport/rdma/internal/fakeverbs"
	"github.com/fabrid/fabrid/verbs"
)

func newTestPool(t *testing.T, limit int64, o fakeverbs.Options) (*pool, *shard.Shard, verbs.PD) {
	t.Helper()
	s, err := shard.New(shard.Config{})
	if err != nil {
		t.Fatal(err)
	}
	var n fakeverbs.Network
	dev := n.NewDevice(targetAddr, []*shard.Shard{s}, o)
	pd, err := dev.AllocPD()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pd.Dealloc(); err != nil {
			t.Error(err)
		}
		if err := dev.Leftovers(); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return newPool(s, pd, limit), s, pd
}

// However the sizes are mixed, buffers never overlap, the bound holds, and when
// all are back any mixture fits again.
func TestPool(t *testing.T) {
	for _, o := range []fakeverbs.Options{{}, {NoDMALKey: true}} {
		const limit = 8 << 20
		p, s, _ := newTestPool(t, limit, o)
		r := rand.New(rand.NewPCG(1, 2))
		type piece struct {
			chunks []chunk
			mark   byte
		}
		if err := s.Run(func() {
			var out []piece
			refused := 0
			for i := range 20_000 {
				if len(out) > 0 && (r.IntN(2) == 0 || i > 19_000) {
					k := r.IntN(len(out))
					for _, c := range out[k].chunks {
						for _, b := range c.bytes()[:64] {
							if b != out[k].mark {
								t.Errorf("a buffer of %d was written by another", out[k].mark)
								return
							}
						}
					}
					p.free(out[k].chunks)
					out[k] = out[len(out)-1]
					out = out[:len(out)-1]
					continue
				}
				n := 1 + r.IntN([]int{4096, 16384, 70_000, 1 << 20}[r.IntN(4)])
				chunks, ok := p.alloc(nil, n)
				if !ok {
					if refused++; len(chunks) != 0 {
						t.Error("a part was taken")
					}
					continue
				}
				size := 0
				mark := byte(r.Uint32())
				for _, c := range chunks {
					size += len(c.bytes())
					for j := range c.bytes()[:64] {
						c.bytes()[j] = mark
					}
				}
				if size < n || len(chunks) > maxChunks(n) {
					t.Errorf("%d bytes in %d buffers for %d", size, len(chunks), n)
				}
				out = append(out, piece{chunks, mark})
			}
			if refused == 0 || p.bytes.Load() > limit {
				t.Errorf("%d refusals, %d bytes of at most %d", refused, p.bytes.Load(), limit)
			}
			for _, x := range out {
				p.free(x.chunks)
			}
			if n := p.inUse.Load(); n != 0 {
				t.Errorf("%d buffers in use", n)
			}
			// All of it, in one size after the other.
			for _, size := range chunkSizes {
				var all []chunk
				for ok := true; ok; {
					all, ok = p.alloc(all, size)
				}
				if len(all) != limit/size {
					t.Errorf("%d buffers of %d bytes, want %d", len(all), size, limit/size)
				}
				p.free(all)
			}
		}); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(p.deregister(), p.close()); err != nil {
			t.Error(err)
		}
		if p.bytes.Load() != 0 || p.mrs.Load() != 0 {
			t.Errorf("%d bytes and %d regions are left", p.bytes.Load(), p.mrs.Load())
		}
	}
}

func TestPoolGivesBackOnce(t *testing.T) {
	p, s, _ := newTestPool(t, 4<<20, fakeverbs.Options{})
	if err := s.Run(func() {
		c, ok := p.alloc(nil, 100)
		if !ok {
			t.Error("no buffer")
			return
		}
		other, _ := p.alloc(nil, 100)
		p.free(c)
		func() {
			defer func() {
				if recover() == nil {
					t.Error("a buffer was given back twice")
				}
			}()
			p.free(c)
		}()
		p.free(other)
	}); err != nil {
		t.Fatal(err)
	}
	if err := p.close(); err != nil {
		t.Error(err)
	}
}

func TestPoolDoesNotCloseUnderItsUsers(t *testing.T) {
	p, s, _ := newTestPool(t, 4<<20, fakeverbs.Options{NoDMALKey: true})
	var c []chunk
	run := func(fn func()) {
		if err := s.Run(fn); err != nil {
			t.Fatal(err)
		}
	}
	run(func() { c, _ = p.alloc(nil, 1<<20) })
	if err := p.deregister(); err != nil {
		t.Error(err)
	}
	if err := p.close(); err == nil {
		t.Error("closed while buffers were out")
	}
	c[0].bytes()[0] = 1 // still there
	run(func() { p.free(c) })
	if err := p.close(); err != nil {
		t.Error(err)
	}
}

func BenchmarkPool(b *testing.B) {
	s, err := shard.New(shard.Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	var n fakeverbs.Network
	pd, err := n.NewDevice(targetAddr, []*shard.Shard{s}, fakeverbs.Options{}).AllocPD()
	if err != nil {
		b.Fatal(err)
	}
	p := newPool(s, pd, 16<<20)
	b.ReportAllocs()
	if err := s.Run(func() {
		c := make([]chunk, 0, 8)
		for b.Loop() {
			c, _ = p.alloc(c[:0], 4096)
			p.free(c)
		}
	}); err != nil {
		b.Fatal(err)
	}
}
