package bdevtest

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/shard"
)

func checkGeometry(b *Bench) {
	i := b.Dev.Info()
	if i.Size() != Size || i.Blocks*uint64(i.BlockSize) != Size {
		b.T.Errorf("%+v: %d bytes, want %d", i, i.Size(), Size)
	}
	if err := i.Check(i.Blocks-1, 1); err != nil {
		b.T.Errorf("last block: %v", err)
	}
	for _, r := range [][2]uint64{{i.Blocks, 1}, {0, i.Blocks + 1}, {1 << 63, 1 << 63}, {^uint64(0), 2}} {
		if err := i.Check(r[0], r[1]); !errors.Is(err, bdev.ErrRange) {
			b.T.Errorf("Check(%d, %d): %v, want ErrRange", r[0], r[1], err)
		}
	}
}

func checkStartsZero(b *Bench) {
	if got := b.Read(0, Size); !bytes.Equal(got, make([]byte, Size)) {
		b.T.Error("not zero")
	}
}

func checkWriteRead(b *Bench) {
	data := Pattern(4096*100, 1)
	b.Write(4096*60, data)
	want := data
	if b.forgets {
		want = make([]byte, len(data))
	}
	if got := b.Read(4096*60, uint64(len(data))); !bytes.Equal(got, want) {
		b.T.Error("read something else than was written")
	}
	if got := b.Read(0, 4096*60); !bytes.Equal(got, make([]byte, 4096*60)) {
		b.T.Error("wrote before the range, too")
	}
	if got := b.Read(4096*160, 4096); !bytes.Equal(got, make([]byte, 4096)) {
		b.T.Error("wrote behind the range, too")
	}
}

// checkEnds uses the first and the last block.
func checkEnds(b *Bench) {
	bs := uint64(b.Dev.Info().BlockSize)
	for _, off := range []uint64{0, Size - bs} {
		data := Pattern(int(bs), off)
		b.Write(off, data)
		if got := b.Read(off, bs); !b.forgets && !bytes.Equal(got, data) {
			b.T.Errorf("block at %d: something else", off)
		}
	}
	b.OK(&bdev.Op{Kind: bdev.Read, Offset: Size}) // nothing, at the very end
}

func checkCompare(b *Bench) {
	data := make([]byte, 300<<10)
	if !b.forgets {
		data = Pattern(300<<10, 3)
	}
	off := uint64(200 << 10)
	b.Write(off, data)
	b.OK(&bdev.Op{Kind: bdev.Compare, Offset: off, Length: uint64(len(data)), Data: Cut(data)})
	for _, i := range []int{0, 56 << 10, len(data) - 1} {
		data[i] ^= 1
		op := &bdev.Op{Kind: bdev.Compare, Offset: off, Length: uint64(len(data)), Data: Cut(data)}
		if err := b.Do(op); !errors.Is(err, bdev.ErrCompare) {
			b.T.Errorf("byte %d differs: %v, want ErrCompare", i, err)
		}
		data[i] ^= 1
	}
}

func checkFlush(b *Bench) {
	b.Write(0, Fill(4096, 1))
	b.OK(&bdev.Op{Kind: bdev.Flush})
	b.OK(&bdev.Op{Kind: bdev.Write, Length: 4096, Data: Cut(Fill(4096, 2)), FUA: true})
	b.OK(&bdev.Op{Kind: bdev.WriteZeroes, Length: 4096, FUA: true, Unmap: true})
	b.OK(&bdev.Op{Kind: bdev.WriteZeroes, Length: 4096, FUA: true})
}

// checkRandom does what comes and compares with a model.
func checkRandom(b *Bench) {
	info := b.Dev.Info()
	bs := uint64(info.BlockSize)
	model := make([]byte, Size)
	r := rand.New(rand.NewPCG(11, bs))
	for i := range few(150) {
		n := bs * (1 + r.Uint64N(1+r.Uint64N(Size/bs/2)))
		off := bs * r.Uint64N((Size-n)/bs+1)
		op := &bdev.Op{Offset: off, Length: n, FUA: r.IntN(8) == 0, Unmap: r.IntN(2) == 0}
		switch k := r.IntN(10); {
		case k < 4:
			data := Pattern(int(n), uint64(i))
			op.Kind, op.Data = bdev.Write, Cut(data)
			if !b.forgets {
				copy(model[off:], data)
			}
			b.OK(op)
		case k < 5:
			op.Kind = bdev.WriteZeroes
			clear(model[off : off+n])
			b.OK(op)
		case k < 6:
			op.Kind = bdev.Deallocate
			b.OK(op)
			if info.ZeroAfterDeallocate {
				clear(model[off : off+n])
			} else {
				copy(model[off:], b.Read(off, n))
			}
		default:
			if !bytes.Equal(b.Read(off, n), model[off:off+n]) {
				b.T.Fatalf("op %d: read %d+%d differs from what was written", i, off, n)
			}
		}
	}
	if !bytes.Equal(b.Read(0, Size), model) {
		b.T.Error("the device differs from the model at the end")
	}
}

func checkRange(b *Bench) {
	bs := uint64(b.Dev.Info().BlockSize)
	for _, k := range []bdev.Kind{bdev.Read, bdev.Write, bdev.WriteZeroes, bdev.Deallocate, bdev.Compare} {
		for _, r := range [][2]uint64{
			{Size, bs}, {Size - bs, 2 * bs}, {Size + bs, 0}, {^uint64(0) - bs + 1, bs}, {bs, ^uint64(0) - bs + 1},
			{1, bs}, {0, bs - 1},
		} {
			op := &bdev.Op{Kind: k, Offset: r[0], Length: r[1], Data: [][]byte{make([]byte, 2*bs)}}
			if err := b.Do(op); !errors.Is(err, bdev.ErrRange) {
				b.T.Errorf("%v of %d+%d: %v, want ErrRange", k, r[0], r[1], err)
			}
		}
	}
}

func checkShortData(b *Bench) {
	if b.forgets {
		return // a write is dropped without a look
	}
	for _, k := range []bdev.Kind{bdev.Read, bdev.Write, bdev.Compare} {
		op := &bdev.Op{Kind: k, Length: 8192, Data: [][]byte{make([]byte, 4096)}}
		if err := b.Do(op); err == nil || errors.Is(err, bdev.ErrCompare) {
			b.T.Errorf("%v of 8192 bytes with 4096 of data: %v, want another error", k, err)
		}
	}
}

func checkUnknownKind(b *Bench) {
	if err := b.Do(&bdev.Op{Kind: 99}); err == nil {
		b.T.Error("an op of no kind succeeded")
	}
}

// checkMany has many ops under way at once.
func checkMany(b *Bench) {
	var done []<-chan struct{}
	ops := make([]bdev.Op, 128)
	for i := range ops {
		ops[i] = bdev.Op{Kind: bdev.Write, Offset: uint64(i) * 8192, Length: 8192, Data: Cut(Fill(8192, byte(i)))}
		done = append(done, b.Start(&ops[i]))
	}
	for i := range ops {
		<-done[i]
		if ops[i].Err != nil {
			b.T.Fatal(ops[i].Err)
		}
	}
	for i := range ops {
		if got := b.Read(uint64(i)*8192, 8192); !b.forgets && !bytes.Equal(got, Fill(8192, byte(i))) {
			b.T.Errorf("block %d: something else", i)
		}
	}
}

// checkAlignment reads and writes from memory at addresses of all kinds, in one
// piece, in pieces that are aligned themselves, and in more pieces than the
// kernel takes at a time.
func checkAlignment(b *Bench) {
	const n = 128 << 10
	room := make([]byte, n+8192)
	aligned := room[4096-int(addr(room))%4096:][:n]
	odd := room[4096-int(addr(room))%4096+65:][:n]
	bs := b.Dev.Info().BlockSize
	shapes := map[string]func(p []byte) [][]byte{
		"whole":  func(p []byte) [][]byte { return [][]byte{p} },
		"blocks": func(p []byte) [][]byte { return every(p, bs) },
		"crumbs": func(p []byte) [][]byte { return every(p, 64) },
		"mixed":  func(p []byte) [][]byte { return append(every(p[:n/2], bs), every(p[n/2:], 100)...) },
	}
	seed := uint64(1)
	for name, shape := range shapes {
		for where, p := range map[string][]byte{"aligned": aligned, "odd": odd} {
			for _, fua := range []bool{false, true} {
				seed++
				want := Pattern(n, seed)
				copy(p, want)
				b.OK(&bdev.Op{Kind: bdev.Write, Offset: 8192, Length: n, Data: shape(p), FUA: fua})
				clear(p)
				b.OK(&bdev.Op{Kind: bdev.Read, Offset: 8192, Length: n, Data: shape(p)})
				if b.forgets {
					clear(want)
				}
				if !bytes.Equal(p, want) {
					b.T.Errorf("%s, %s, FUA %v: read something else than was written", name, where, fua)
				}
			}
		}
	}
}

// every cuts p into pieces of n bytes.
func every(p []byte, n int) [][]byte {
	var pieces [][]byte
	for len(p) > n {
		pieces = append(pieces, p[:n:n])
		p = p[n:]
	}
	return append(pieces, p)
}

// checkNothing does ops of no bytes.
func checkNothing(b *Bench) {
	for _, k := range []bdev.Kind{bdev.Read, bdev.Write, bdev.WriteZeroes, bdev.Deallocate, bdev.Compare} {
		for _, off := range []uint64{0, 4096, Size} {
			b.OK(&bdev.Op{Kind: k, Offset: off})
		}
	}
}

// checkZeroes zeroes all, and parts that begin and end anywhere.
func checkZeroes(b *Bench) {
	info := b.Dev.Info()
	bs := uint64(info.BlockSize)
	for _, c := range []struct {
		kind      bdev.Kind
		off, n    uint64
		unmap     bool
		fua, sure bool
	}{
		{bdev.WriteZeroes, bs, bs, false, false, true},
		{bdev.WriteZeroes, bs, bs, true, true, true},
		{bdev.WriteZeroes, 3 * bs, 300 << 10, true, false, true},
		{bdev.WriteZeroes, 3 * bs, 300 << 10, false, true, true},
		{bdev.WriteZeroes, 0, Size, false, false, true},
		{bdev.WriteZeroes, 0, Size, true, false, true},
		{bdev.Deallocate, 5 * bs, 300 << 10, false, false, info.ZeroAfterDeallocate},
		{bdev.Deallocate, 0, Size, false, false, info.ZeroAfterDeallocate},
	} {
		data := Pattern(Size, 77)
		b.Write(0, data)
		b.OK(&bdev.Op{Kind: c.kind, Offset: c.off, Length: c.n, Unmap: c.unmap, FUA: c.fua})
		got := b.Read(0, Size)
		if c.sure {
			clear(data[c.off : c.off+c.n])
		} else {
			copy(data[c.off:], got[c.off:c.off+c.n])
		}
		if b.forgets {
			clear(data)
		}
		if !bytes.Equal(got, data) {
			b.T.Errorf("%v of %d+%d, unmap %v: not zero there, or not as before elsewhere", c.kind, c.off, c.n, c.unmap)
		}
	}
}

// checkAgain submits an op again when it is done, from Done, and has others of
// the shard go on meanwhile.
func checkAgain(b *Bench) {
	done := make(chan struct{})
	buf := make([]byte, 4096)
	op := &bdev.Op{Length: 4096, Data: [][]byte{buf}, Shard: b.Shard}
	n := 0
	op.Done = func(*bdev.Op) {
		if n++; n == few(100) || op.Err != nil {
			close(done)
			return
		}
		op.Kind = []bdev.Kind{bdev.Read, bdev.Write, bdev.Flush, bdev.Compare}[n%4]
		op.Offset = uint64(n) * 4096
		b.Dev.Submit(op)
	}
	if err := b.Shard.Run(func() { b.Dev.Submit(op) }); err != nil {
		b.T.Fatal(err)
	}
	if err := b.Shard.Run(func() {}); err != nil { // it has its turn
		b.T.Fatal(err)
	}
	<-done
	if op.Err != nil && !errors.Is(op.Err, bdev.ErrCompare) {
		b.T.Error(op.Err)
	}
}

// checkOverlap has writes of the same blocks under way at once, from two
// shards: what is left in a block is of one of them, and all are done.
func checkOverlap(b *Bench) {
	const ops, n = 150, 32 << 10
	benches := []*Bench{b, b.another()}
	var left atomic.Int64
	left.Store(2 * ops)
	done := make(chan struct{})
	for i, b := range benches {
		all := make([]bdev.Op, ops)
		for j := range all {
			op := &all[j]
			*op = bdev.Op{Kind: bdev.Write, Offset: uint64(j%5) * 4096, Length: n, Shard: b.Shard}
			op.Data = Cut(Fill(n, byte(1+i*100+j%100)))
			switch j % 10 {
			case 3:
				op.Kind, op.Unmap = bdev.WriteZeroes, true
			case 5:
				op.Kind = bdev.Read
			case 7:
				if j%50 == 7 {
					op.Kind, op.Data = bdev.Flush, nil
				}
			}
			op.Done = func(op *bdev.Op) {
				if op.Err != nil {
					b.T.Errorf("%v: %v", op.Kind, op.Err)
				}
				if left.Add(-1) == 0 {
					close(done)
				}
			}
		}
		if err := b.Shard.Run(func() {
			for j := range all {
				b.Dev.Submit(&all[j])
			}
		}); err != nil {
			b.T.Fatal(err)
		}
	}
	<-done
	bs := b.Dev.Info().BlockSize
	for i, got := 0, b.Read(0, n+4*4096); len(got) > 0; i, got = i+1, got[bs:] {
		if !bytes.Equal(got[:bs], Fill(bs, got[0])) {
			b.T.Errorf("block %d is of two writes", i)
		}
	}
}

// checkTorn has one shard write blocks that another reads: no read sees parts of
// two writes in a block.
func checkTorn(b *Bench) {
	if b.forgets {
		return
	}
	const n = 16 << 10
	bs := b.Dev.Info().BlockSize
	w := b.another()
	stop, stopped := make(chan struct{}), make(chan struct{})
	bufs := [2][]byte{Fill(n, 0xAA), Fill(n, 0x55)}
	var op bdev.Op
	again := shard.Task{Fn: func() { b.Dev.Submit(&op) }}
	writes := 0
	op = bdev.Op{Kind: bdev.Write, Length: n, Shard: w.Shard, Data: [][]byte{bufs[0]}, Done: func(*bdev.Op) {
		select {
		case <-stop:
			close(stopped)
			return
		default:
		}
		writes++
		op.Data = [][]byte{bufs[writes%2][:100], bufs[writes%2][100:]}
		if writes%3 == 0 {
			op.Data = [][]byte{bufs[writes%2]}
		}
		op.Kind = []bdev.Kind{bdev.Write, bdev.Write, bdev.Write, bdev.WriteZeroes}[writes%4]
		w.Shard.Post(&again)
	}}
	if err := w.Shard.Run(func() { b.Dev.Submit(&op) }); err != nil {
		b.T.Fatal(err)
	}
	for range few(200) {
		got := b.Read(0, n)
		for i := 0; i < len(got); i += bs {
			if !bytes.Equal(got[i:i+bs], Fill(bs, got[i])) {
				b.T.Errorf("block %d torn", i/bs)
			}
		}
	}
	close(stop)
	<-stopped
}

func checkCloseTwice(b *Bench) {
	b.Write(0, Fill(4096, 1))
	if err := b.Dev.Close(); err != nil {
		b.T.Error(err)
	}
	// Once more by the cleanup. What comes after must not touch memory or a
	// descriptor that is another's by now.
	err := b.Do(&bdev.Op{Kind: bdev.Write, Length: 4096, Data: Cut(Fill(4096, 1))})
	if !b.forgets && !errors.Is(err, bdev.ErrClosed) {
		b.T.Errorf("write after Close: %v, want ErrClosed", err)
	}
}

// checkCloseUnderWay closes the device with ops under way: they are done before
// Close returns, each once.
func checkCloseUnderWay(b *Bench) {
	const ops = 300 // more than a device looks at together
	var done atomic.Int64
	all := make([]bdev.Op, ops)
	kinds := []bdev.Kind{bdev.Write, bdev.Read, bdev.Write, bdev.Flush, bdev.WriteZeroes, bdev.Compare, bdev.Deallocate}
	if err := b.Shard.Run(func() {
		for i := range all {
			all[i] = bdev.Op{Kind: kinds[i%len(kinds)], Offset: uint64(i%50) * 4096, Length: 8192,
				Data: [][]byte{Fill(8192, byte(i))}, Shard: b.Shard}
			all[i].Done = func(op *bdev.Op) {
				if op.Err != nil && !errors.Is(op.Err, bdev.ErrClosed) && !errors.Is(op.Err, bdev.ErrCompare) {
					b.T.Errorf("%v: %v", op.Kind, op.Err)
				}
				done.Add(1)
			}
			if all[i].Kind == bdev.Flush && i%4 != 3 { // they cost the most
				all[i].Kind = bdev.Read
			}
			b.Dev.Submit(&all[i])
		}
	}); err != nil {
		b.T.Fatal(err)
	}
	if err := b.Dev.Close(); err != nil {
		b.T.Error(err)
	}
	if n := done.Load(); n != ops {
		b.T.Errorf("Close returned with %d of %d ops done", n, ops)
	}
}

// checkShardClosed closes the shard with ops under way, and then the device:
// it does not wait for who is not told any more.
func checkShardClosed(b *Bench) {
	o := b.another()
	all := make([]bdev.Op, 40)
	if err := o.Shard.Run(func() {
		for i := range all {
			all[i] = bdev.Op{Kind: bdev.Write, Offset: uint64(i%7) * 4096, Length: 8192, Data: [][]byte{Fill(8192, 1)},
				Shard: o.Shard, Done: func(*bdev.Op) {}}
			o.Dev.Submit(&all[i])
		}
	}); err != nil {
		b.T.Fatal(err)
	}
	if err := o.Shard.Close(); err != nil {
		b.T.Error(err)
	}
	b.OK(&bdev.Op{Kind: bdev.Write, Offset: 1 << 20, Length: 8192, Data: Cut(Fill(8192, 1))})
	if err := b.Dev.Close(); err != nil {
		b.T.Error(err)
	}
}

func addr(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// few is n, or less in a short run.
func few(n int) int {
	if testing.Short() {
		return n / 4
	}
	return n
}
