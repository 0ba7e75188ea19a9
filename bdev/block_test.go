package bdev_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/bdev/bdevtest"
)

// fakeBlock returns a block device of so many bytes, whose bytes are in a file,
// and its path.
func fakeBlock(t *testing.T, size uint64, logical int) (*bdev.FakeBlock, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(size)); err != nil {
		t.Fatal(err)
	}
	k := &bdev.FakeBlock{Numbers: map[uint]int{unix.BLKSSZGET: logical}}
	k.Size64.Store(size)
	return k, path
}

// block returns a maker of devices on block devices.
func block(cfg bdev.FileConfig) bdevtest.Maker {
	return func(t *testing.T, size uint64, bs int) bdev.Device {
		k, path := fakeBlock(t, size, bs)
		cfg := cfg
		cfg.Path = path
		return must(k.Open(cfg))(t)
	}
}

func TestBlockGeometry(t *testing.T) {
	for _, c := range []struct {
		name    string
		numbers map[uint]int
		queue   map[string]string
		cfg     bdev.FileConfig
		want    bdev.Info
		wrong   bool
	}{
		{name: "all told", numbers: map[uint]int{unix.BLKSSZGET: 512, unix.BLKPBSZGET: 4096, unix.BLKIOMIN: 4096, unix.BLKIOOPT: 131072},
			queue: map[string]string{"write_cache": "write back", "discard_granularity": "1048576"},
			want:  bdev.Info{BlockSize: 512, Blocks: 2048, VolatileWriteCache: true, OptimalWrite: 8, OptimalIO: 256, OptimalDeallocate: 2048}},
		{name: "nothing told", numbers: map[uint]int{unix.BLKSSZGET: 4096},
			want: bdev.Info{BlockSize: 4096, Blocks: 256, VolatileWriteCache: true}},
		{name: "larger blocks than the device's", numbers: map[uint]int{unix.BLKSSZGET: 512, unix.BLKPBSZGET: 4096, unix.BLKIOOPT: 5000},
			queue: map[string]string{"write_cache": "write back", "discard_granularity": "0"}, cfg: bdev.FileConfig{BlockSize: 4096},
			want: bdev.Info{BlockSize: 4096, Blocks: 256, VolatileWriteCache: true}},
		{name: "no cache", numbers: map[uint]int{unix.BLKSSZGET: 4096}, queue: map[string]string{"write_cache": "write through"},
			want: bdev.Info{BlockSize: 4096, Blocks: 256}},
		{name: "no cache but the kernel's", numbers: map[uint]int{unix.BLKSSZGET: 4096}, queue: map[string]string{"write_cache": "write through"},
			cfg: bdev.FileConfig{Buffered: true}, want: bdev.Info{BlockSize: 4096, Blocks: 256, VolatileWriteCache: true}},
		{name: "write protected", numbers: map[uint]int{unix.BLKSSZGET: 4096, unix.BLKROGET: 1},
			want: bdev.Info{BlockSize: 4096, Blocks: 256, ReadOnly: true}},
		{name: "its beginning", numbers: map[uint]int{unix.BLKSSZGET: 512}, cfg: bdev.FileConfig{Size: 8192},
			want: bdev.Info{BlockSize: 512, Blocks: 16, VolatileWriteCache: true}},
		{name: "more than there is", numbers: map[uint]int{unix.BLKSSZGET: 512}, cfg: bdev.FileConfig{Size: 2 << 20}, wrong: true},
		{name: "smaller blocks than the device's", numbers: map[uint]int{unix.BLKSSZGET: 4096}, cfg: bdev.FileConfig{BlockSize: 512}, wrong: true},
		{name: "blocks of 520", numbers: map[uint]int{unix.BLKSSZGET: 520}, wrong: true},
		{name: "blocks of 16384", numbers: map[uint]int{unix.BLKSSZGET: 16384}, wrong: true},
		{name: "blocks of none", numbers: map[uint]int{unix.BLKSSZGET: 0}, wrong: true},
		{name: "no block size", wrong: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, path := fakeBlock(t, 1<<20+512, 512)
			k.Numbers, k.Queue = c.numbers, c.queue
			c.cfg.Path = path
			f, err := k.Open(c.cfg)
			if c.wrong {
				if err == nil {
					f.Close()
					t.Fatal("no error")
				}
				t.Log(err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			got := f.Info()
			if c.want.BlockSize == 512 && c.cfg.Size == 0 {
				c.want.Blocks++
			}
			if !f.Mode().Direct && !c.want.ReadOnly { // the file system of the temporary directory may not have it
				c.want.VolatileWriteCache = true
			}
			if got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}

func TestOpenBlockErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, os.DevNull, filepath.Dir(path), path + "no"} {
		if f, err := bdev.OpenBlock(bdev.FileConfig{Path: p, Create: true}); err == nil {
			t.Errorf("%s: no error", p)
			f.Close()
		} else {
			t.Log(err)
		}
	}
}

// Devices that cannot discard or zero are asked, and do without.
func TestBlockWithoutDiscard(t *testing.T) {
	k, path := fakeBlock(t, 1<<20, 512)
	k.Refuse = unix.EOPNOTSUPP
	b := bdevtest.NewBench(t, must(k.Open(bdev.FileConfig{Path: path}))(t))
	b.Write(0, bdevtest.Fill(1<<20, 7))
	b.OK(&bdev.Op{Kind: bdev.Deallocate, Length: 1 << 20})
	b.OK(&bdev.Op{Kind: bdev.WriteZeroes, Length: 512 << 10})
	for i, c := range b.Read(0, 1<<20) {
		if want := byte(7 * (i >> 19)); c != want {
			t.Fatalf("byte %d is %d, want %d", i, c, want)
		}
	}
	if d, z := k.Spans[0].Load(), k.Spans[1].Load(); d != 1 || z != 1 {
		t.Errorf("%d discards, %d zero-outs, want one each", d, z)
	}
	k.Refuse = unix.EIO
	for _, kind := range []bdev.Kind{bdev.Deallocate, bdev.WriteZeroes} {
		if err := b.Do(&bdev.Op{Kind: kind, Length: 4096}); !errors.Is(err, unix.EIO) {
			t.Errorf("%v: %v, want EIO", kind, err)
		}
	}
}

// A device that grows or shrinks is noticed, told of, and used to its new end.
func TestResize(t *testing.T) {
	resized := make(chan bdev.Info, 1)
	cfg := bdev.FileConfig{BlockSize: 4096, ResizePoll: time.Millisecond, Resized: func(i bdev.Info) { resized <- i }}
	run := func(t *testing.T, f *bdev.File, resize func(uint64)) {
		b := bdevtest.NewBench(t, f)
		for _, size := range []uint64{2 << 20, 512 << 10} {
			resize(size + 100) // the rest of a block does not count
			if i := <-resized; i.Size() != size || f.Info().Size() != size {
				t.Errorf("%d bytes, then %d, want %d", i.Size(), f.Info().Size(), size)
			}
			b.Write(size-4096, bdevtest.Fill(4096, 1))
			if err := b.Do(&bdev.Op{Kind: bdev.Read, Offset: size, Length: 4096, Data: [][]byte{make([]byte, 4096)}}); !errors.Is(err, bdev.ErrRange) {
				t.Errorf("read at the new end: %v, want ErrRange", err)
			}
		}
		if changed, err := f.Refresh(); changed || err != nil {
			t.Errorf("Refresh of what has not changed: %v, %v", changed, err)
		}
	}
	t.Run("block", func(t *testing.T) {
		k, path := fakeBlock(t, 1<<20, 512)
		cfg := cfg
		cfg.Path = path
		run(t, must(k.Open(cfg))(t), func(n uint64) {
			if err := os.Truncate(path, int64(n)); err != nil {
				t.Error(err)
			}
			k.Size64.Store(n)
		})
	})
	t.Run("file", func(t *testing.T) {
		_, path := fakeBlock(t, 1<<20, 512)
		cfg := cfg
		cfg.Path = path
		run(t, openFile(t, cfg), func(n uint64) {
			if err := os.Truncate(path, int64(n)); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("of a given size", func(t *testing.T) {
		k, path := fakeBlock(t, 1<<20, 512)
		f := must(k.Open(bdev.FileConfig{Path: path, Size: 64 << 10}))(t)
		defer f.Close()
		k.Size64.Store(2 << 20)
		if changed, err := f.Refresh(); changed || err != nil || f.Info().Size() != 64<<10 {
			t.Errorf("%v, %v, %d bytes", changed, err, f.Info().Size())
		}
	})
}
