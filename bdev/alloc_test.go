package bdev_test

import (
	"fmt"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/bdev/bdevtest"
	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/shard"
)

// pages returns aligned buffers of n bytes.
func pages(tb testing.TB, count, n int) [][]byte {
	tb.Helper()
	mem, err := unix.Mmap(-1, 0, count*n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { unix.Munmap(mem) })
	var all [][]byte
	for i := range count {
		all = append(all, mem[i*n:][:n:n])
	}
	return all
}

// The path of an I/O allocates nothing, whoever carries it out.
func TestFileDoesNotAllocate(t *testing.T) {
	if lockdep.Enabled {
		return // the lock-order validator allocates
	}
	for _, cfg := range []bdev.FileConfig{{}, {Buffered: true}, {NoURing: true}, {NoURing: true, Buffered: true}} {
		for _, odd := range []int{0, 1} {
			cfg.Path, cfg.Create, cfg.Size = filepath.Join(t.TempDir(), "disk"), true, 1<<20
			t.Run(fmt.Sprintf("buffered %v, workers %v, odd %v", cfg.Buffered, cfg.NoURing, odd), func(t *testing.T) {
				b := bdevtest.NewBench(t, openFile(t, cfg))
				b.Write(0, bdevtest.Fill(1<<20, 1))
				const depth = 16
				done := make(chan struct{}, 1)
				left := 0
				ops := make([]bdev.Op, depth)
				for i, buf := range pages(t, depth, 8192) {
					data := buf[odd:][:4096]
					ops[i] = bdev.Op{Offset: uint64(i/2*2) * 4096, Length: 4096, Data: [][]byte{data[:1024], data[1024:]}, Shard: b.Shard,
						Kind: []bdev.Kind{bdev.Read, bdev.Write, bdev.Write}[i%3], FUA: i == 2}
					ops[i].Done = func(op *bdev.Op) {
						if op.Err != nil {
							t.Error(op.Err)
						}
						if left--; left == 0 {
							done <- struct{}{}
						}
					}
				}
				task := shard.Task{Fn: func() {
					left = depth
					for i := range ops {
						b.Dev.Submit(&ops[i])
					}
				}}
				run := func() { b.Shard.Post(&task); <-done }
				// The runtime makes threads for system calls that block, now and then, and
				// remembers them in memory: that is no allocation of each I/O.
				for range 20 {
					run()
				}
				if n := testing.AllocsPerRun(25, run); n != 0 {
					t.Errorf("%v allocations in %d I/Os, want 0", n, depth)
				}
			})
		}
	}
}

const (
	benchDepth = 32
	benchSize  = 256 << 20
)

// benchFile returns a file whose blocks are all there.
func benchFile(b *testing.B) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "disk")
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(fd)
	chunk := bdevtest.Pattern(1<<20, 1)
	for off := int64(0); off < benchSize; off += int64(len(chunk)) {
		if _, err := unix.Pwrite(fd, chunk, off); err != nil {
			b.Fatal(err)
		}
	}
	if err := unix.Fsync(fd); err != nil {
		b.Fatal(err)
	}
	return path
}

// An lcg makes offsets, the same for all.
type lcg uint64

func (l *lcg) next() uint64 {
	*l = *l*6364136223846793005 + 1442695040888963407
	return uint64(*l>>33) % (benchSize / 4096) * 4096
}

// BenchmarkFile is 4 KiB at random, 32 at a time, through a device and, raw,
// past it.
func BenchmarkFile(b *testing.B) {
	path := benchFile(b)
	for _, buffered := range []bool{true, false} { // direct writes empty the cache
		for _, kind := range []bdev.Kind{bdev.Read, bdev.Write} {
			cache := map[bool]string{false: "direct", true: "buffered"}[buffered]
			b.Run(fmt.Sprintf("%s/%v/device-uring", cache, kind), func(b *testing.B) {
				benchDevice(b, bdev.FileConfig{Path: path, Buffered: buffered}, kind)
			})
			b.Run(fmt.Sprintf("%s/%v/device-workers", cache, kind), func(b *testing.B) {
				benchDevice(b, bdev.FileConfig{Path: path, Buffered: buffered, NoURing: true, Workers: benchDepth}, kind)
			})
			b.Run(fmt.Sprintf("%s/%v/raw-uring", cache, kind), func(b *testing.B) { benchRaw(b, path, buffered, kind, true) })
			b.Run(fmt.Sprintf("%s/%v/raw-pread", cache, kind), func(b *testing.B) { benchRaw(b, path, buffered, kind, false) })
		}
	}
}

func benchDevice(b *testing.B, cfg bdev.FileConfig, kind bdev.Kind) {
	f, err := bdev.OpenFile(cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if m := f.Mode(); m.Direct == cfg.Buffered || m.URing == cfg.NoURing {
		b.Fatalf("%+v", m)
	}
	s, err := shard.New(shard.Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	ops := make([]bdev.Op, benchDepth)
	bufs := pages(b, benchDepth, 4096)
	done := make(chan struct{})
	left, running := b.N, 0
	off := lcg(1)
	next := func(op *bdev.Op) {
		if op.Err != nil {
			b.Error(op.Err)
		}
		if left > 0 {
			left--
			op.Offset = off.next()
			f.Submit(op)
		} else if running--; running == 0 {
			close(done)
		}
	}
	for i := range ops {
		ops[i] = bdev.Op{Kind: kind, Length: 4096, Data: [][]byte{bufs[i]}, Shard: s, Done: next}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	b.ResetTimer()
	task := shard.Task{Fn: func() {
		running = benchDepth
		for i := range ops {
			next(&ops[i])
		}
	}}
	s.Post(&task)
	<-done
	b.StopTimer()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(b.N), "mallocs/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e3, "kIOPS")
}

// benchRaw does the same with the system calls alone: a ring that is filled up
// as it empties, or goroutines that each read or write.
func benchRaw(b *testing.B, path string, buffered bool, kind bdev.Kind, ring bool) {
	flags := unix.O_RDWR | unix.O_CLOEXEC
	if !buffered {
		flags |= unix.O_DIRECT
	}
	fd, err := unix.Open(path, flags, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(fd)
	bufs := pages(b, benchDepth, 4096)
	if ring {
		err = bdev.RawURing(fd, kind, bufs, b.N, new(lcg).next)
	} else {
		errs := make(chan error, benchDepth)
		for i, buf := range bufs {
			n, off := (b.N+i)/benchDepth, lcg(i)
			go func() {
				var err error
				for range n {
					if kind == bdev.Read {
						_, err = unix.Pread(fd, buf, int64(off.next()))
					} else {
						_, err = unix.Pwrite(fd, buf, int64(off.next()))
					}
				}
				errs <- err
			}()
		}
		for range bufs {
			if e := <-errs; e != nil {
				err = e
			}
		}
	}
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e3, "kIOPS")
}
