package bdev_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/shard"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// size is that of the devices in the suite: not a multiple of anything that a
// device divides itself by.
const size = 5<<20 + 3*4096

// A maker makes a device of so many bytes.
type maker func(t *testing.T, size uint64, blockSize int) bdev.Device

// devices is every device there is. Null keeps nothing.
var devices = []struct {
	name  string
	keeps bool
	make  maker
}{
	{"memory", true, func(t *testing.T, size uint64, bs int) bdev.Device {
		return must(bdev.NewMemory(bdev.MemoryConfig{Size: size, BlockSize: bs}))(t)
	}},
	{"file", true, func(t *testing.T, size uint64, bs int) bdev.Device {
		path := filepath.Join(t.TempDir(), "disk")
		return must(bdev.OpenFile(bdev.FileConfig{Path: path, Size: size, BlockSize: bs, Create: true, Workers: 3}))(t)
	}},
	{"faulty", true, func(t *testing.T, size uint64, bs int) bdev.Device {
		return bdev.NewFaulty(must(bdev.NewMemory(bdev.MemoryConfig{Size: size, BlockSize: bs}))(t))
	}},
	{"null", false, func(t *testing.T, size uint64, bs int) bdev.Device {
		return must(bdev.NewNull(bdev.NullConfig{Size: size, BlockSize: bs}))(t)
	}},
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// A bench is a device and a shard to use it from.
type bench struct {
	t     *testing.T
	dev   bdev.Device
	shard *shard.Shard
	id    uint64 // of the shard's goroutine
	keeps bool
}

func newShard(t *testing.T) *shard.Shard {
	t.Helper()
	return must(shard.New(shard.Config{Name: t.Name()}))(t)
}

func newBench(t *testing.T, dev bdev.Device) *bench {
	b := &bench{t: t, dev: dev, shard: newShard(t)}
	if err := b.shard.Run(func() { b.id = lockdep.GoroutineID() }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		b.shard.Close()
	})
	return b
}

// start submits op on the shard and returns a channel that is closed when it
// is done.
func (b *bench) start(op *bdev.Op) <-chan struct{} {
	done := make(chan struct{})
	op.Shard = b.shard
	op.Done = func(got *bdev.Op) {
		if got != op {
			b.t.Errorf("Done of %v with another op", op.Kind)
		}
		if id := lockdep.GoroutineID(); id != b.id {
			b.t.Errorf("Done of %v on goroutine %d, want the shard's, %d", op.Kind, id, b.id)
		}
		close(done) // panics if called twice
	}
	if err := b.shard.Run(func() { b.dev.Submit(op) }); err != nil {
		b.t.Fatal(err)
	}
	return done
}

func (b *bench) do(op *bdev.Op) error {
	<-b.start(op)
	return op.Err
}

func (b *bench) ok(op *bdev.Op) {
	b.t.Helper()
	if err := b.do(op); err != nil {
		b.t.Fatalf("%v %d+%d: %v", op.Kind, op.Offset, op.Length, err)
	}
}

func (b *bench) read(off, n uint64) []byte {
	b.t.Helper()
	buf := bytes.Repeat([]byte{0xCC}, int(n))
	b.ok(&bdev.Op{Kind: bdev.Read, Offset: off, Length: n, Data: cut(buf)})
	return buf
}

func (b *bench) write(off uint64, data []byte) {
	b.t.Helper()
	b.ok(&bdev.Op{Kind: bdev.Write, Offset: off, Length: uint64(len(data)), Data: cut(data)})
}

// cut splits b into pieces of odd sizes, with an empty one among them.
func cut(b []byte) [][]byte {
	var pieces [][]byte
	for n := 1; len(b) > n; n = n*5 + 2 {
		pieces = append(pieces, b[:n])
		b = b[n:]
	}
	return append(pieces, nil, b)
}

func fill(n int, c byte) []byte { return bytes.Repeat([]byte{c}, n) }

func TestConformance(t *testing.T) {
	checks := []struct {
		name string
		run  func(*bench)
	}{
		{"Geometry", checkGeometry},
		{"StartsZero", checkStartsZero},
		{"WriteRead", checkWriteRead},
		{"Ends", checkEnds},
		{"Compare", checkCompare},
		{"Flush", checkFlush},
		{"Random", checkRandom},
		{"Range", checkRange},
		{"ShortData", checkShortData},
		{"UnknownKind", checkUnknownKind},
		{"Many", checkMany},
		{"CloseTwice", checkCloseTwice},
	}
	for _, d := range devices {
		for _, bs := range []int{512, 4096} {
			t.Run(fmt.Sprint(d.name, bs), func(t *testing.T) {
				if testing.Short() && (bs != 512 || d.name == "faulty") {
					t.Skip("long")
				}
				for _, c := range checks {
					t.Run(c.name, func(t *testing.T) {
						b := newBench(t, d.make(t, size, bs))
						b.keeps = d.keeps
						if got := b.dev.Info().BlockSize; got != bs {
							t.Fatalf("BlockSize %d, want %d", got, bs)
						}
						c.run(b)
					})
				}
			})
		}
	}
}

func checkGeometry(b *bench) {
	i := b.dev.Info()
	if i.Size() != size || i.Blocks*uint64(i.BlockSize) != size {
		b.t.Errorf("%+v: %d bytes, want %d", i, i.Size(), size)
	}
	if err := i.Check(i.Blocks-1, 1); err != nil {
		b.t.Errorf("last block: %v", err)
	}
	for _, r := range [][2]uint64{{i.Blocks, 1}, {0, i.Blocks + 1}, {1 << 63, 1 << 63}, {^uint64(0), 2}} {
		if err := i.Check(r[0], r[1]); !errors.Is(err, bdev.ErrRange) {
			b.t.Errorf("Check(%d, %d): %v, want ErrRange", r[0], r[1], err)
		}
	}
}

func checkStartsZero(b *bench) {
	if got := b.read(0, size); !bytes.Equal(got, make([]byte, size)) {
		b.t.Error("not zero")
	}
}

func checkWriteRead(b *bench) {
	data := pattern(4096*100, 1)
	b.write(4096*60, data)
	want := data
	if !b.keeps {
		want = make([]byte, len(data))
	}
	if got := b.read(4096*60, uint64(len(data))); !bytes.Equal(got, want) {
		b.t.Error("read something else than was written")
	}
	if got := b.read(0, 4096*60); !bytes.Equal(got, make([]byte, 4096*60)) {
		b.t.Error("wrote before the range, too")
	}
	if got := b.read(4096*160, 4096); !bytes.Equal(got, make([]byte, 4096)) {
		b.t.Error("wrote behind the range, too")
	}
}

func pattern(n int, seed uint64) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(p)
	return p
}

// checkEnds uses the first and the last block.
func checkEnds(b *bench) {
	bs := uint64(b.dev.Info().BlockSize)
	for _, off := range []uint64{0, size - bs} {
		data := pattern(int(bs), off)
		b.write(off, data)
		if got := b.read(off, bs); b.keeps && !bytes.Equal(got, data) {
			b.t.Errorf("block at %d: something else", off)
		}
	}
	b.ok(&bdev.Op{Kind: bdev.Read, Offset: size}) // nothing, at the very end
}

func checkCompare(b *bench) {
	data := make([]byte, 300<<10)
	if b.keeps {
		data = pattern(300<<10, 3)
	}
	off := uint64(200 << 10)
	b.write(off, data)
	b.ok(&bdev.Op{Kind: bdev.Compare, Offset: off, Length: uint64(len(data)), Data: cut(data)})
	for _, i := range []int{0, 56 << 10, len(data) - 1} {
		data[i] ^= 1
		op := &bdev.Op{Kind: bdev.Compare, Offset: off, Length: uint64(len(data)), Data: cut(data)}
		if err := b.do(op); !errors.Is(err, bdev.ErrCompare) {
			b.t.Errorf("byte %d differs: %v, want ErrCompare", i, err)
		}
		data[i] ^= 1
	}
}

func checkFlush(b *bench) {
	b.write(0, fill(4096, 1))
	b.ok(&bdev.Op{Kind: bdev.Flush})
	b.ok(&bdev.Op{Kind: bdev.Write, Length: 4096, Data: cut(fill(4096, 2)), FUA: true})
	b.ok(&bdev.Op{Kind: bdev.WriteZeroes, Length: 4096, FUA: true, Unmap: true})
	b.ok(&bdev.Op{Kind: bdev.WriteZeroes, Length: 4096, FUA: true})
}

// checkRandom does what comes and compares with a model.
func checkRandom(b *bench) {
	info := b.dev.Info()
	bs := uint64(info.BlockSize)
	model := make([]byte, size)
	r := rand.New(rand.NewPCG(11, bs))
	for i := range 150 {
		n := bs * (1 + r.Uint64N(1+r.Uint64N(size/bs/2)))
		off := bs * r.Uint64N((size-n)/bs+1)
		op := &bdev.Op{Offset: off, Length: n, FUA: r.IntN(8) == 0, Unmap: r.IntN(2) == 0}
		switch k := r.IntN(10); {
		case k < 4:
			data := pattern(int(n), uint64(i))
			op.Kind, op.Data = bdev.Write, cut(data)
			if b.keeps {
				copy(model[off:], data)
			}
			b.ok(op)
		case k < 5:
			op.Kind = bdev.WriteZeroes
			clear(model[off : off+n])
			b.ok(op)
		case k < 6:
			op.Kind = bdev.Deallocate
			b.ok(op)
			if info.ZeroAfterDeallocate {
				clear(model[off : off+n])
			} else {
				copy(model[off:], b.read(off, n))
			}
		default:
			if !bytes.Equal(b.read(off, n), model[off:off+n]) {
				b.t.Fatalf("op %d: read %d+%d differs from what was written", i, off, n)
			}
		}
	}
	if !bytes.Equal(b.read(0, size), model) {
		b.t.Error("the device differs from the model at the end")
	}
}

func checkRange(b *bench) {
	bs := uint64(b.dev.Info().BlockSize)
	for _, k := range []bdev.Kind{bdev.Read, bdev.Write, bdev.WriteZeroes, bdev.Deallocate, bdev.Compare} {
		for _, r := range [][2]uint64{
			{size, bs}, {size - bs, 2 * bs}, {size + bs, 0}, {^uint64(0) - bs + 1, bs}, {bs, ^uint64(0) - bs + 1},
			{1, bs}, {0, bs - 1},
		} {
			op := &bdev.Op{Kind: k, Offset: r[0], Length: r[1], Data: [][]byte{make([]byte, 2*bs)}}
			if err := b.do(op); !errors.Is(err, bdev.ErrRange) {
				b.t.Errorf("%v of %d+%d: %v, want ErrRange", k, r[0], r[1], err)
			}
		}
	}
}

func checkShortData(b *bench) {
	if !b.keeps {
		return // a write is dropped without a look
	}
	for _, k := range []bdev.Kind{bdev.Read, bdev.Write, bdev.Compare} {
		op := &bdev.Op{Kind: k, Length: 8192, Data: [][]byte{make([]byte, 4096)}}
		if err := b.do(op); err == nil || errors.Is(err, bdev.ErrCompare) {
			b.t.Errorf("%v of 8192 bytes with 4096 of data: %v, want another error", k, err)
		}
	}
}

func checkUnknownKind(b *bench) {
	if err := b.do(&bdev.Op{Kind: 99}); err == nil {
		b.t.Error("an op of no kind succeeded")
	}
}

// checkMany has many ops under way at once.
func checkMany(b *bench) {
	var done []<-chan struct{}
	ops := make([]bdev.Op, 200)
	for i := range ops {
		ops[i] = bdev.Op{Kind: bdev.Write, Offset: uint64(i) * 8192, Length: 8192, Data: cut(fill(8192, byte(i)))}
		done = append(done, b.start(&ops[i]))
	}
	for i := range ops {
		<-done[i]
		if ops[i].Err != nil {
			b.t.Fatal(ops[i].Err)
		}
	}
	for i := range ops {
		if got := b.read(uint64(i)*8192, 8192); b.keeps && !bytes.Equal(got, fill(8192, byte(i))) {
			b.t.Errorf("block %d: something else", i)
		}
	}
}

func checkCloseTwice(b *bench) {
	b.write(0, fill(4096, 1))
	if err := b.dev.Close(); err != nil {
		b.t.Error(err)
	}
	// Once more by the cleanup. What comes after must not touch memory or a
	// descriptor that is another's by now.
	err := b.do(&bdev.Op{Kind: bdev.Write, Length: 4096, Data: cut(fill(4096, 1))})
	if b.keeps && !errors.Is(err, bdev.ErrClosed) {
		b.t.Errorf("write after Close: %v, want ErrClosed", err)
	}
}

// Two shards write and read the same blocks: no read sees parts of two writes.
func TestBlocksAreNeverTorn(t *testing.T) {
	for _, d := range devices {
		if !d.keeps {
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			b := newBench(t, d.make(t, 1<<20, 4096))
			stop, stopped := make(chan struct{}), make(chan struct{})
			writer := newShard(t)
			defer writer.Close()
			bufs := [2][]byte{fill(16<<10, 0xAA), fill(16<<10, 0x55)}
			var op bdev.Op
			again := shard.Task{Fn: func() { b.dev.Submit(&op) }}
			writes := 0
			op = bdev.Op{Kind: bdev.Write, Length: 16 << 10, Shard: writer, Done: func(*bdev.Op) {
				select {
				case <-stop:
					close(stopped)
					return
				default:
				}
				writes++
				op.Data = [][]byte{bufs[writes%2][:100], bufs[writes%2][100:]}
				op.Kind = []bdev.Kind{bdev.Write, bdev.Write, bdev.Write, bdev.WriteZeroes}[writes%4]
				writer.Post(&again)
			}}
			op.Data = [][]byte{bufs[0]}
			if err := writer.Run(func() { b.dev.Submit(&op) }); err != nil {
				t.Fatal(err)
			}
			for range 500 {
				got := b.read(0, 16<<10)
				for i := 0; i < len(got); i += 4096 {
					if !bytes.Equal(got[i:i+4096], fill(4096, got[i])) {
						t.Errorf("block %d torn", i/4096)
					}
				}
			}
			close(stop)
			<-stopped
		})
	}
}
