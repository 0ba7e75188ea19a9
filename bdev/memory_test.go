package bdev_test

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/bdev/bdevtest"
	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/shard"
)

func TestMemoryDoesNotAllocate(t *testing.T) {
	if lockdep.Enabled {
		return // the lock-order validator allocates
	}
	b := bdevtest.NewBench(t, must(bdev.NewMemory(bdev.MemoryConfig{Size: 8 << 20}))(t))
	op := bdev.Op{Shard: b.Shard, Data: [][]byte{make([]byte, 1000), make([]byte, 4096-1000)}, Length: 4096}
	done := 0
	op.Done = func(*bdev.Op) { done++ }
	for _, k := range []bdev.Kind{bdev.Read, bdev.Write, bdev.Compare, bdev.Flush, bdev.WriteZeroes, bdev.Deallocate} {
		err := b.Shard.Run(func() {
			if n := testing.AllocsPerRun(100, func() {
				op.Kind = k
				op.Offset = uint64(done) % 1000 * 4096
				b.Dev.Submit(&op)
			}); n != 0 {
				t.Errorf("%v: %v allocations, want 0", k, n)
			}
		})
		if err != nil || op.Err != nil {
			t.Error(k, err, op.Err)
		}
	}
	if done != 6*101 {
		t.Errorf("%d ops done, want %d", done, 6*101)
	}
}

// A deallocation of gigabytes does not keep the shard from other things.
func TestMemoryLongOpYields(t *testing.T) {
	const size = 1 << 30 // sparse: nothing is touched
	b := bdevtest.NewBench(t, must(bdev.NewMemory(bdev.MemoryConfig{Size: size}))(t))
	ends := []uint64{0, size/2 - 4096, size - 4096}
	for _, off := range ends {
		b.Write(off, bdevtest.Fill(4096, 7))
	}
	for _, k := range []bdev.Kind{bdev.Deallocate, bdev.WriteZeroes} {
		done := make(chan struct{})
		op := &bdev.Op{Kind: k, Length: size - 4096, Shard: b.Shard}
		ended, between := false, false
		op.Done = func(*bdev.Op) { ended = true; close(done) }
		other := shard.Task{Fn: func() { between = !ended }}
		if err := b.Shard.Run(func() {
			b.Dev.Submit(op)
			if ended {
				t.Errorf("%v of %d bytes ended within Submit", k, op.Length)
			}
			b.Shard.Post(&other)
		}); err != nil {
			t.Fatal(err)
		}
		<-done
		if op.Err != nil || !between {
			t.Errorf("%v: %v; other task ran in between: %v", k, op.Err, between)
		}
		for _, off := range ends[:2] {
			if !bytes.Equal(b.Read(off, 4096), make([]byte, 4096)) {
				t.Errorf("%v: block at %d is not zero", k, off)
			}
			b.Write(off, bdevtest.Fill(4096, 7))
		}
		if !bytes.Equal(b.Read(size-4096, 4096), bdevtest.Fill(4096, 7)) {
			t.Errorf("%v reached behind its range", k)
		}
	}
}

// A host may have many Write Zeroes of the largest size outstanding: none of them
// is done at once.
func TestMemoryBatchYields(t *testing.T) {
	b := bdevtest.NewBench(t, must(bdev.NewMemory(bdev.MemoryConfig{Size: 64 << 20, BlockSize: 512}))(t))
	b.Write(32<<20-4096, bdevtest.Fill(4096, 7))
	ops := make([]bdev.Op, 127)
	left, done := len(ops), make(chan struct{})
	if err := b.Shard.Run(func() {
		for i := range ops {
			ops[i] = bdev.Op{Kind: bdev.WriteZeroes, Length: 1 << 16 * 512, Shard: b.Shard, Done: func(*bdev.Op) {
				if left--; left == 0 {
					close(done)
				}
			}}
			b.Dev.Submit(&ops[i])
		}
		if left != len(ops) {
			t.Errorf("%d of %d ended within Submit", len(ops)-left, len(ops))
		}
	}); err != nil {
		t.Fatal(err)
	}
	<-done
	if !bytes.Equal(b.Read(32<<20-4096, 4096), make([]byte, 4096)) {
		t.Error("not zero")
	}
}

func TestMemoryConfig(t *testing.T) {
	for _, c := range []bdev.MemoryConfig{
		{}, {Size: 4095}, {Size: 4096, BlockSize: 1024}, {Size: 512, BlockSize: 513}, {Size: math.MaxUint64 - 4095},
		{Size: 1 << 62}, // more than there are addresses
	} {
		if d, err := bdev.NewMemory(c); err == nil {
			t.Errorf("%+v: no error", c)
			d.Close()
		}
		if c.Size == 1<<62 {
			continue
		}
		if _, err := bdev.NewNull(bdev.NullConfig(c)); err == nil {
			t.Errorf("null %+v: no error", c)
		}
	}
}

func TestFaulty(t *testing.T) {
	f := bdev.NewFaulty(must(bdev.NewMemory(bdev.MemoryConfig{Size: 1 << 20}))(t))
	b := bdevtest.NewBench(t, f)
	boom := errors.New("boom")

	f.Fail(2, boom, bdev.Write)
	for i, want := range []error{boom, boom, nil} {
		if err := b.Do(&bdev.Op{Kind: bdev.Write, Length: 4096, Data: bdevtest.Cut(bdevtest.Fill(4096, 9))}); !errors.Is(err, want) {
			t.Errorf("write %d: %v, want %v", i, err, want)
		}
		b.Read(0, 4096) // not concerned
	}

	f.Hold(bdev.Read)
	buf := make([]byte, 4096)
	op := &bdev.Op{Kind: bdev.Read, Length: 4096, Data: [][]byte{buf}}
	done := b.Start(op)
	f.WaitHeld(1)
	b.OK(&bdev.Op{Kind: bdev.Flush})
	select {
	case <-done:
		t.Error("a held op ended")
	default:
	}
	f.Release()
	<-done
	if op.Err != nil || f.Held() != 0 || !bytes.Equal(buf, bdevtest.Fill(4096, 9)) {
		t.Errorf("after Release: %v, %d held", op.Err, f.Held())
	}

	// Close waits for what is held, having let it go.
	f.Hold()
	done = b.Start(&bdev.Op{Kind: bdev.Flush})
	f.WaitHeld(1)
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	select {
	case <-done:
	default:
		t.Error("Close returned before the op was done")
	}
}
