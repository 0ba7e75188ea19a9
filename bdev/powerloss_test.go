package bdev_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/bdev/bdevtest"
	"github.com/fabrid/fabrid/shard"
)

// stamp fills a block with a value, so that a block of two values shows.
func stamp(block []byte, value uint64) {
	for i := 0; i < len(block); i += 8 {
		binary.LittleEndian.PutUint64(block[i:], value)
	}
}

// A lossModel knows what a block may hold after a loss of power: what it had
// when it was last made safe, or any later write.
type lossModel struct {
	may [][]uint64 // by block: oldest first
}

func (m *lossModel) write(block, value uint64, safe bool) {
	if safe {
		m.may[block] = m.may[block][:0]
	}
	m.may[block] = append(m.may[block], value)
}

// After each cut everything that was flushed, or written with FUA, is there, and
// each block is as it was or as it was written later, never a mix. Ops are under
// way when the power goes.
func TestPowerLoss(t *testing.T) {
	behind := map[string]func(t *testing.T, size uint64, bs int) bdev.Device{"memory": makeMemory, "file": file(bdev.FileConfig{})}
	for name, mk := range behind {
		for seed := range uint64(2 + few(8)) {
			t.Run(fmt.Sprint(name, seed), func(t *testing.T) {
				losePower(t, mk, seed, few(40))
			})
		}
	}
}

func few(n int) int {
	if testing.Short() {
		return n / 4
	}
	return n
}

func losePower(t *testing.T, mk bdevtest.Maker, seed uint64, cuts int) {
	const blocks = 48
	bs := []int{512, 4096}[seed%2]
	p := bdev.NewPowerLoss(mk(t, blocks*uint64(bs), bs), seed)
	b := bdevtest.NewBench(t, p)
	r := rand.New(rand.NewPCG(seed, 1))
	m := lossModel{may: make([][]uint64, blocks)}
	for i := range m.may {
		m.may[i] = []uint64{0}
	}
	value := uint64(0)
	var old, newest, between int // what cuts have left where there was a choice

	// An op of a batch, with what it writes.
	type step struct {
		op    bdev.Op
		from  uint64
		value uint64
		had   []int // of a flush: how many values each block may have had when it was submitted
	}
	for range cuts {
		steps := make([]*step, 20+r.IntN(60))
		for i := range steps {
			s := &step{}
			s.op.Shard = b.Shard
			switch k := r.IntN(20); {
			case k == 0:
				s.op.Kind = bdev.Flush
			default:
				n := 1 + r.Uint64N(8)
				s.from = r.Uint64N(blocks - n + 1)
				s.op.Kind, s.op.Offset, s.op.Length = bdev.Write, s.from*uint64(bs), n*uint64(bs)
				s.op.FUA = k == 1
				value++
				if s.value = value; k == 2 {
					s.op.Kind, s.value = bdev.WriteZeroes, 0
				}
				data := make([]byte, s.op.Length)
				stamp(data, s.value)
				s.op.Data = bdevtest.Cut(data)
			}
			steps[i] = s
		}
		// All of them in one go, in two, or one by one; the cut comes while the last
		// are under way.
		left := len(steps)
		ended := make(chan struct{})
		for _, s := range steps {
			s.op.Done = func(*bdev.Op) {
				if left--; left == 0 {
					close(ended)
				}
			}
		}
		half := r.IntN(len(steps))
		submit := func(some []*step) {
			if err := b.Shard.Run(func() {
				for _, s := range some {
					p.Submit(&s.op)
				}
			}); err != nil {
				t.Fatal(err)
			}
		}
		submit(steps[:half])
		var task shard.Task
		rest := steps[half:]
		task.Fn = func() {
			for _, s := range rest {
				p.Submit(&s.op)
			}
		}
		b.Shard.Post(&task)
		p.Cut()
		<-ended
		if err := b.Do(&bdev.Op{Kind: bdev.Read, Length: uint64(bs), Data: [][]byte{make([]byte, bs)}}); !errors.Is(err, bdev.ErrPowerLoss) {
			t.Fatalf("read without power: %v", err)
		}
		p.Restore()

		// What was submitted before something that made it safe, and had ended, is
		// safe: a cached write ends within Submit.
		for _, s := range steps {
			s.had = make([]int, blocks)
			for i := range m.may {
				s.had[i] = len(m.may[i])
			}
			switch {
			case s.op.Kind == bdev.Flush:
			case s.op.Err != nil && !errors.Is(s.op.Err, bdev.ErrPowerLoss):
				t.Fatalf("%v: %v", s.op.Kind, s.op.Err)
			default:
				for i := range s.op.Length / uint64(bs) {
					m.write(s.from+i, s.value, false)
				}
			}
		}
		floor := make([]int, blocks) // index of the oldest that may be left
		for _, s := range steps {
			if s.op.Err != nil {
				continue
			}
			for i := range floor {
				switch {
				case s.op.Kind == bdev.Flush:
					floor[i] = max(floor[i], s.had[i]-1)
				case s.op.FUA && s.from <= uint64(i) && uint64(i) < s.from+s.op.Length/uint64(bs):
					floor[i] = max(floor[i], s.had[i])
				}
			}
		}
		got := b.Read(0, blocks*uint64(bs))
		for i := range m.may {
			block := got[i*bs:][:bs]
			v := binary.LittleEndian.Uint64(block)
			want := make([]byte, bs)
			stamp(want, v)
			may := m.may[i][floor[i]:]
			switch at := slices.Index(may, v); {
			case !bytes.Equal(block, want):
				t.Fatalf("block %d is torn", i)
			case at < 0:
				t.Fatalf("block %d holds %d after the cut, want one of %v; before the last flush it had %v", i, v, may, m.may[i])
			case len(may) == 1:
			case at == 0:
				old++
			case at == len(may)-1:
				newest++
			default:
				between++
			}
			m.may[i] = []uint64{v}
		}
	}
	if old == 0 || newest == 0 || between == 0 {
		t.Errorf("of the blocks that were not safe %d were left old, %d new, %d between: want some of each", old, newest, between)
	}
}

// Without a flush what was written is in the cache alone; a flush brings it
// behind.
func TestPowerLossFlushes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	p := bdev.NewPowerLoss(openFile(t, bdev.FileConfig{Path: path, Size: 1 << 20, Create: true}), 1)
	b := bdevtest.NewBench(t, p)
	if i := p.Info(); !i.VolatileWriteCache {
		t.Errorf("%+v, want a volatile write cache", i)
	}
	b.Write(0, bdevtest.Fill(8192, 1))
	b.Flush()
	b.Write(4096, bdevtest.Fill(8192, 2))
	b.OK(&bdev.Op{Kind: bdev.Write, Offset: 16384, Length: 4096, Data: bdevtest.Cut(bdevtest.Fill(4096, 3)), FUA: true})
	if err := p.Close(); err != nil { // with what is in its cache
		t.Fatal(err)
	}
	again := bdevtest.NewBench(t, openFile(t, bdev.FileConfig{Path: path}))
	want := slices.Concat(bdevtest.Fill(8192, 1), make([]byte, 8192), bdevtest.Fill(4096, 3))
	if got := again.Read(0, 20480); !bytes.Equal(got, want) {
		t.Error("behind there is something else than what was flushed or written with FUA")
	}
}

// The same seed keeps the same.
func TestPowerLossSeed(t *testing.T) {
	run := func(seed uint64) []byte {
		p := bdev.NewPowerLoss(makeMemory(t, 1<<18, 512), seed)
		b := bdevtest.NewBench(t, p)
		for i := range byte(4) {
			b.Write(0, bdevtest.Fill(1<<18, i+1))
		}
		p.Cut()
		p.Restore()
		return b.Read(0, 1<<18)
	}
	first, again, other := run(1), run(1), run(2)
	if !bytes.Equal(first, again) || bytes.Equal(first, other) {
		t.Errorf("the same: %v with one seed, %v with another", bytes.Equal(first, again), bytes.Equal(first, other))
	}
}
