//go:build interop

package bdev_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/bdev/bdevtest"
)

// A loopDevice is a block device of the kernel's that keeps its bytes in a file. It
// needs root:
//
//	go test -tags interop -run Loop ./bdev
type loopDevice struct {
	path, backing string
	dev           *os.File
}

func newLoop(t *testing.T, size int64, blockSize int) *loopDevice {
	t.Helper()
	backing := must(os.Create(filepath.Join(t.TempDir(), "backing")))(t)
	defer backing.Close()
	if err := backing.Truncate(size); err != nil {
		t.Fatal(err)
	}
	control := must(os.OpenFile("/dev/loop-control", os.O_RDWR, 0))(t)
	defer control.Close()
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Fatal(err)
		}
		l := &loopDevice{path: fmt.Sprintf("/dev/loop%d", n), backing: backing.Name()}
		l.dev = must(os.OpenFile(l.path, os.O_RDWR, 0))(t)
		err = unix.IoctlLoopConfigure(int(l.dev.Fd()), &unix.LoopConfig{Fd: uint32(backing.Fd()), Size: uint32(blockSize)})
		if errors.Is(err, unix.EBUSY) { // somebody was faster
			l.dev.Close()
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.IoctlSetInt(int(l.dev.Fd()), unix.LOOP_CLR_FD, 0); err != nil {
				t.Error(err)
			}
			l.dev.Close()
		})
		return l
	}
}

// flushes is how often the device has been told to flush.
func (l *loopDevice) flushes(t *testing.T) int {
	t.Helper()
	text := must(os.ReadFile("/sys/block/" + filepath.Base(l.path) + "/stat"))(t)
	fields := strings.Fields(string(text))
	if len(fields) < 16 {
		t.Fatalf("stat: %s", text)
	}
	return must(strconv.Atoi(fields[15]))(t)
}

func TestLoopConformance(t *testing.T) {
	for _, cfg := range []bdev.FileConfig{{}, {NoURing: true}, {Buffered: true}, {Buffered: true, NoURing: true}} {
		t.Run(fmt.Sprintf("buffered %v, workers %v", cfg.Buffered, cfg.NoURing), func(t *testing.T) {
			bdevtest.Run(t, bdevtest.Config{Make: func(t *testing.T, size uint64, bs int) bdev.Device {
				cfg := cfg
				cfg.Path = newLoop(t, int64(size), bs).path
				f := must(bdev.OpenBlock(cfg))(t)
				if m := f.Mode(); m.Direct == cfg.Buffered || m.URing == cfg.NoURing {
					t.Errorf("%+v", m)
				}
				return f
			}})
		})
	}
}

// A flush reaches the device, and so does FUA; a write alone does not have it
// flush.
func TestLoopFlush(t *testing.T) {
	for _, cfg := range []bdev.FileConfig{{}, {NoURing: true}, {Buffered: true}, {Buffered: true, NoURing: true}} {
		l := newLoop(t, 16<<20, 512)
		cfg.Path = l.path
		f := must(bdev.OpenBlock(cfg))(t)
		t.Logf("%+v %+v", f.Mode(), f.Info())
		b := bdevtest.NewBench(t, f)
		data := pages(t, 1, 4096)
		for _, c := range []struct {
			op   *bdev.Op
			want int
		}{
			{&bdev.Op{Kind: bdev.Write, Length: 4096, Data: data}, 0},
			{&bdev.Op{Kind: bdev.Flush}, 1},
			{&bdev.Op{Kind: bdev.Write, Length: 4096, Data: data, FUA: true}, 1},
			{&bdev.Op{Kind: bdev.WriteZeroes, Length: 4096, FUA: true}, 1},
			{&bdev.Op{Kind: bdev.Read, Length: 4096, Data: data}, 0},
		} {
			before := l.flushes(t)
			b.OK(c.op)
			if n := l.flushes(t) - before; n < c.want || c.want == 0 && n > 0 {
				t.Errorf("%+v: %v, FUA %v: %d flushes, want %d", f.Mode(), c.op.Kind, c.op.FUA, n, c.want)
			}
		}
	}
}

func TestLoopLife(t *testing.T) {
	l := newLoop(t, 16<<20, 512)
	resized := make(chan bdev.Info, 1)
	f := must(bdev.OpenBlock(bdev.FileConfig{Path: l.path, ResizePoll: time.Millisecond, Resized: func(i bdev.Info) { resized <- i }}))(t)
	b := bdevtest.NewBench(t, f)

	if other, err := bdev.OpenBlock(bdev.FileConfig{Path: l.path}); !errors.Is(err, unix.EBUSY) {
		t.Errorf("second open: %v, want EBUSY", err)
		if err == nil {
			other.Close()
		}
	}

	// What is discarded goes from the file behind.
	allocated := func() int64 {
		var st unix.Stat_t
		if err := unix.Stat(l.backing, &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks
	}
	b.Write(0, bdevtest.Pattern(16<<20, 1))
	b.Flush()
	full := allocated()
	b.OK(&bdev.Op{Kind: bdev.Deallocate, Length: 8 << 20})
	b.OK(&bdev.Op{Kind: bdev.WriteZeroes, Offset: 8 << 20, Length: 4 << 20, Unmap: true})
	b.Flush()
	if n := allocated(); n > full/2 {
		t.Errorf("%d of %d blocks left", n, full)
	}
	if !bytes.Equal(b.Read(8<<20, 4<<20), make([]byte, 4<<20)) {
		t.Error("not zero where zeroed")
	}

	for _, size := range []uint64{32 << 20, 8 << 20} {
		if err := os.Truncate(l.backing, int64(size)); err != nil {
			t.Fatal(err)
		}
		if err := unix.IoctlSetInt(int(l.dev.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
			t.Fatal(err)
		}
		if i := <-resized; i.Size() != size {
			t.Errorf("resized to %d, want %d", i.Size(), size)
		}
		b.Write(size-4096, bdevtest.Fill(4096, 1))
	}
}
