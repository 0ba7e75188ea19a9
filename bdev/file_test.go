package bdev_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/bdev/bdevtest"
)

func openFile(t *testing.T, cfg bdev.FileConfig) *bdev.File {
	t.Helper()
	return must(bdev.OpenFile(cfg))(t)
}

// What was written is there when the file is opened again, at the same place.
func TestFileKeeps(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	f := openFile(t, bdev.FileConfig{Path: path, Size: 1 << 20, Create: true})
	if i := f.Info(); !i.VolatileWriteCache || i.ReadOnly {
		t.Errorf("%+v, want a volatile write cache, not read-only", i)
	}
	b := bdevtest.NewBench(t, f)
	data := bdevtest.Pattern(12288, 5)
	b.Write(8192, data)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil || len(raw) != 1<<20 || !bytes.Equal(raw[8192:8192+12288], data) {
		t.Errorf("the file has %d bytes, or others, %v", len(raw), err)
	}

	again := openFile(t, bdev.FileConfig{Path: path, BlockSize: 512, ReadOnly: true})
	r := bdevtest.NewBench(t, again)
	if got := r.Read(8192, 12288); !bytes.Equal(got, data) {
		t.Error("read something else than was written")
	}
	if i := again.Info(); !i.ReadOnly || i.VolatileWriteCache || i.Size() != 1<<20 {
		t.Errorf("%+v, want read-only, no cache, %d bytes", i, 1<<20)
	}
	for _, k := range []bdev.Kind{bdev.Write, bdev.WriteZeroes, bdev.Deallocate} {
		if err := r.Do(&bdev.Op{Kind: k, Length: 512, Data: bdevtest.Cut(bdevtest.Fill(512, 1))}); !errors.Is(err, bdev.ErrReadOnly) {
			t.Errorf("%v: %v, want ErrReadOnly", k, err)
		}
	}
	r.OK(&bdev.Op{Kind: bdev.Flush})
}

func TestFileOpenErrors(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "disk")
	small := filepath.Join(dir, "small")
	if err := os.WriteFile(small, make([]byte, 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []bdev.FileConfig{
		{Path: path},                              // does not exist
		{Path: path, Create: true},                // of no size
		{Path: dir},                               // not a file
		{Path: os.DevNull, Size: 4096},            // not a regular file
		{Path: small, Size: 8192, ReadOnly: true}, // would have to grow
		{Path: small, Size: 4097},                 // not in blocks
		{Path: small, BlockSize: 520},             // not a block size
		{Path: filepath.Join(dir, "no", "directory"), Create: true, Size: 4096},
	} {
		if f, err := bdev.OpenFile(c); err == nil {
			t.Errorf("%+v: no error", c)
			f.Close()
		} else {
			t.Log(err)
		}
	}
	f := openFile(t, bdev.FileConfig{Path: small})
	if i := f.Info(); i.Blocks != 1 {
		t.Errorf("a file of 5000 bytes has %d blocks of %d", i.Blocks, i.BlockSize)
	}
	// One user at a time.
	if g, err := bdev.OpenFile(bdev.FileConfig{Path: small, ReadOnly: true}); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("second open: %v, want EWOULDBLOCK", err)
		if err == nil {
			g.Close()
		}
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

// A file that somebody cuts short gives errors, not zeros and not a hang.
func TestFileCutShort(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	b := bdevtest.NewBench(t, openFile(t, bdev.FileConfig{Path: path, Size: 1 << 20, Create: true}))
	if err := os.Truncate(path, 4096); err != nil {
		t.Fatal(err)
	}
	for _, k := range []bdev.Kind{bdev.Read, bdev.Compare} {
		if err := b.Do(&bdev.Op{Kind: k, Length: 8192, Data: bdevtest.Cut(make([]byte, 8192))}); err == nil {
			t.Errorf("%v beyond the end of the file succeeded", k)
		}
	}
}

// Deallocating gives space back where the file system can.
func TestFileDeallocateFrees(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	f := openFile(t, bdev.FileConfig{Path: path, Size: 8 << 20, Create: true})
	b := bdevtest.NewBench(t, f)
	b.Write(0, bdevtest.Pattern(8<<20, 1))
	b.OK(&bdev.Op{Kind: bdev.Flush})
	blocks := func() int64 {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks
	}
	full := blocks()
	b.OK(&bdev.Op{Kind: bdev.Deallocate, Length: 6 << 20}) // long: in one step
	b.OK(&bdev.Op{Kind: bdev.WriteZeroes, Offset: 6 << 20, Length: 1 << 20, Unmap: true})
	if !f.Info().ZeroAfterDeallocate {
		t.Log("the file system of the temporary directory cannot punch holes")
		return
	}
	if left := blocks(); left > full/2 {
		t.Errorf("%d of %d blocks left", left, full)
	}
	if got := b.Read(0, 7<<20); !bytes.Equal(got, make([]byte, 7<<20)) {
		t.Error("not zero where deallocated")
	}
	if got := b.Read(7<<20, 1<<20); !bytes.Equal(got, bdevtest.Pattern(8<<20, 1)[7<<20:]) {
		t.Error("lost what was not deallocated")
	}
}
