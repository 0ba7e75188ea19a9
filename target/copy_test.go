package target_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport"
)

// copyCmd is a Copy to a block, with the data of its source ranges.
func copyCmd(to uint64, rs ...nvme.CopyRange) (nvme.Command, []byte) {
	var b []byte
	for _, r := range rs {
		b = r.AppendTo(b)
	}
	return cmd(func(c nvme.Command) {
		c.PutCopy(nvme.CopyCommand{NSID: 1, SDLBA: to, NR: uint8(len(rs) - 1)})
	}), b
}

// numbered is n bytes of blocks that say which they are.
func numbered(n, blockSize int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += blockSize {
		binary.LittleEndian.PutUint64(b[i:], uint64(i/blockSize)+1)
		copy(b[i+blockSize-8:], b[i:i+8])
	}
	return b
}

// Blocks are copied as if by a read of all and a write of all, in the order of the
// ranges.
func TestCopy(t *testing.T) {
	for _, blockSize := range []int{512, 4096} {
		t.Run(fmt.Sprint(blockSize), func(t *testing.T) {
			n := map[int]uint64{512: 100, 4096: 25}[blockSize]
			blocks := int(6 * n)
			dev, err := bdev.NewMemory(bdev.MemoryConfig{Size: uint64(blocks * blockSize), BlockSize: blockSize})
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld(t, target.Config{}, dev)
			defer w.close()
			h := w.enable(nil)
			q := h.io(1, nil)
			id := parse[nvme.IdentifyNamespace](t, h.admin.page(identify(nvme.CNSNamespace, 1), 4096))
			if most := 8 << 20 / blockSize; int(id.MSSRL) != most || int(id.MCL) != most || id.MSRC != 127 {
				t.Errorf("MSSRL %d, MCL %d, MSRC %d, want %d blocks", id.MSSRL, id.MCL, id.MSRC, most)
			}
			if got := id.Format().BlockSize(); got != uint64(blockSize) || id.NSZE != 6*n || id.NLBAF != 0 || id.FLBAS != 0 {
				t.Errorf("%d blocks of %d, NLBAF %d, FLBAS %d", id.NSZE, got, id.NLBAF, id.FLBAS)
			}
			disk := func(kind bdev.Kind, data []byte) {
				op := &bdev.Op{Kind: kind, Length: uint64(len(data)), Data: [][]byte{data}, Shard: w.shard, Done: func(op *bdev.Op) {
					if op.Err != nil {
						t.Error(op.Err)
					}
				}}
				w.shard.Run(func() { dev.Submit(op) })
			}
			now := func() []byte {
				got := make([]byte, blocks*blockSize)
				disk(bdev.Read, got)
				return got
			}
			for _, tt := range []struct {
				to uint64
				rs []nvme.CopyRange
			}{
				{n, []nvme.CopyRange{{SLBA: 0}}},
				{6*n - 1, []nvme.CopyRange{{SLBA: 6*n - 2}}},
				{3 * n, []nvme.CopyRange{{SLBA: 0, NLB: uint16(3*n - 1)}}},
				{4 * n, []nvme.CopyRange{{SLBA: 10, NLB: 2}, {SLBA: 6*n - 6, NLB: 5}, {SLBA: 0, NLB: 0}}},
				{1, []nvme.CopyRange{{SLBA: 0, NLB: uint16(6*n - 2)}}},                                  // overlap, forwards
				{0, []nvme.CopyRange{{SLBA: 1, NLB: uint16(6*n - 2)}}},                                  // and backwards
				{7, []nvme.CopyRange{{SLBA: 7, NLB: uint16(5*n - 1)}}},                                  // itself
				{n, []nvme.CopyRange{{SLBA: 0, NLB: uint16(n - 1)}, {SLBA: 2 * n, NLB: uint16(n - 1)}}}, // side by side
			} {
				data := numbered(blocks*blockSize, blockSize)
				disk(bdev.Write, data)
				c, b := copyCmd(tt.to, tt.rs...)
				if got := q.ok(c, b).Result; got != 0 {
					t.Errorf("%+v: result %d", tt.rs, got)
				}
				var all []byte
				for _, r := range tt.rs {
					all = append(all, data[int(r.SLBA)*blockSize:][:int(r.Blocks())*blockSize]...)
				}
				copy(data[int(tt.to)*blockSize:], all)
				if !bytes.Equal(now(), data) {
					t.Errorf("to %d: %+v: other data", tt.to, tt.rs)
				}
			}
			// As many ranges as there can be, and as many blocks.
			rs := make([]nvme.CopyRange, 128)
			for i := range rs {
				rs[i] = nvme.CopyRange{SLBA: uint64(i) % n}
			}
			c, b := copyCmd(6*n-128, rs...)
			q.ok(c, b)
			if s := w.sub.Stats(); s.Copies != 9 || s.CopiedBytes == 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestCopyAndVerifyOps(t *testing.T) {
	rec := &recorder{Device: newMemory(t, 4<<20), t: t}
	w := newWorld(t, target.Config{}, rec)
	defer w.close()
	q := w.enable(nil).io(1, nil)
	fua, b := copyCmd(1000, nvme.CopyRange{SLBA: 8, NLB: 255}, nvme.CopyRange{SLBA: 0, NLB: 0})
	fua[nvme.OffControl+1] |= nvme.ControlFUA >> 8
	q.ok(fua, append(b, make([]byte, 4096-len(b))...)) // with more memory than ranges
	const want = "read 4096+131072; write 512000+131072 FUA; read 0+512; write 643072+512 FUA; "
	if got := text(rec.take()); got != want {
		t.Errorf("copy: %s", got)
	}
	q.ok(rw(nvme.IOVerify, 1, 1, 600), nil)
	if got := text(rec.take()); got != "read 512+131072; read 131584+131072; read 262656+45568; " {
		t.Errorf("verify: %s", got)
	}
}

func TestCopyErrors(t *testing.T) {
	f := bdev.NewFaulty(newMemory(t, 16<<20))
	rec := &recorder{Device: f, t: t}
	w := newWorld(t, target.Config{}, rec)
	defer w.close()
	if _, err := w.sub.AddNamespace(target.NamespaceConfig{NSID: 5, Device: w.dev, ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	q := w.enable(nil).io(1, func(p *transport.QueueParam) { p.Depth = 64 })
	one := nvme.CopyRange{}.AppendTo(nil)
	put := func(f nvme.CopyCommand) nvme.Command { return cmd(func(c nvme.Command) { c.PutCopy(f) }) }
	var (
		size  = nvme.CommandSizeLimitExceeded.WithDNR()
		lba   = nvme.LBAOutOfRange.WithDNR()
		field = nvme.InvalidField.WithDNR()
		ns    = nvme.InvalidNamespace.WithDNR()
	)
	long := func(to uint64, rs ...nvme.CopyRange) (c nvme.Command, b []byte) { return copyCmd(to, rs...) }
	for _, tt := range []struct {
		name string
		c    nvme.Command
		data []byte
		want nvme.Status
	}{
		{"NSID 0", put(nvme.CopyCommand{}), one, ns},
		{"all namespaces", put(nvme.CopyCommand{NSID: nvme.NSIDBroadcast}), one, ns},
		{"read-only", put(nvme.CopyCommand{NSID: 5}), one, nvme.NamespaceWriteProtected.WithDNR()},
		{"format 1", put(nvme.CopyCommand{NSID: 1, DESFMT: 1}), one, field},
		{"format 15", put(nvme.CopyCommand{NSID: 1, DESFMT: 15}), one, field},
		{"129 ranges", put(nvme.CopyCommand{NSID: 1, NR: 128}), make([]byte, 129*32), size},
		{"256 ranges", put(nvme.CopyCommand{NSID: 1, NR: 255}), make([]byte, 256*32), size},
		{"less data than ranges", put(nvme.CopyCommand{NSID: 1, NR: 1}), one, nvme.SGLInvalidDataLength.WithDNR()},
		{"no data", put(nvme.CopyCommand{NSID: 1}), nil, nvme.SGLInvalidDataLength.WithDNR()},
		{"more than a page", put(nvme.CopyCommand{NSID: 1}), make([]byte, 4097), nvme.SGLInvalidDataLength.WithDNR()},
		{"destination beyond the end", put(nvme.CopyCommand{NSID: 1, SDLBA: 32768}), one, lba},
		{"destination that wraps", put(nvme.CopyCommand{NSID: 1, SDLBA: 1<<64 - 1}), one, lba},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.t = t
			q.fails(tt.c, tt.data, tt.want)
		})
	}
	for _, tt := range []struct {
		name string
		to   uint64
		rs   []nvme.CopyRange
		want nvme.Status
	}{
		{"a range over MSSRL", 0, []nvme.CopyRange{{}, {SLBA: 0, NLB: 16384}}, size},
		{"ranges over MCL", 0, []nvme.CopyRange{{NLB: 9000}, {NLB: 9000}}, size},
		{"source beyond the end", 0, []nvme.CopyRange{{}, {SLBA: 32768}}, lba},
		{"source across the end", 0, []nvme.CopyRange{{SLBA: 32767, NLB: 1}}, lba},
		{"source that wraps", 0, []nvme.CopyRange{{SLBA: 1<<64 - 1, NLB: 1}}, lba},
		{"destination across the end", 32766, []nvme.CopyRange{{NLB: 1}, {NLB: 0}}, lba},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.t = t
			c, b := long(tt.to, tt.rs...)
			if got := q.fails(c, b, tt.want); got.Result != 0 {
				t.Errorf("result %d, and nothing was copied", got.Result)
			}
		})
	}
	w.t = t
	if ops := rec.take(); len(ops) != 0 {
		t.Errorf("and the device did %s", text(ops))
	}

	// The result is the first range that was not copied.
	broken := errors.New("broken")
	rs := []nvme.CopyRange{{SLBA: 1}, {SLBA: 2, NLB: 299}, {SLBA: 3}}
	for _, tt := range []struct {
		good int // ops that go well
		kind bdev.Kind
		want nvme.Status
		done uint64
	}{
		{0, bdev.Read, nvme.UnrecoveredReadError, 0},
		{0, bdev.Write, nvme.WriteFault, 0},
		{1, bdev.Read, nvme.UnrecoveredReadError, 1},
		{1, bdev.Write, nvme.WriteFault, 1},
		{2, bdev.Write, nvme.WriteFault, 1}, // the second piece of the second range
		{3, bdev.Read, nvme.UnrecoveredReadError, 2},
	} {
		rec.fail = func(k bdev.Kind) error {
			if k == tt.kind {
				if tt.good--; tt.good < 0 {
					return broken
				}
			}
			return nil
		}
		c, b := long(1000, rs...)
		if got := q.fails(c, b, tt.want); got.Result != tt.done {
			t.Errorf("%v fails: result %d, want %d", tt.kind, got.Result, tt.done)
		}
	}
	rec.fail = nil
	// What failed has given its memory back.
	for range 5 {
		c, b := long(1000, rs...)
		q.ok(c, b)
	}
}

// Copies and Verifies share the memory of a namespace, piece by piece, and who
// waits for it can leave: by Abort, or with its queue.
func TestCopiesTakeTurns(t *testing.T) {
	f := bdev.NewFaulty(newMemory(t, 16<<20))
	w := newWorld(t, target.Config{}, f)
	defer w.close()
	h := w.enable(nil)
	a, b := h.io(1, nil), h.io(2, nil)
	f.Hold(bdev.Read)
	var all []*slot
	for i := range 5 {
		c, data := copyCmd(uint64(8000+i*1000), nvme.CopyRange{SLBA: uint64(i * 1000), NLB: 999})
		all = append(all, a.send(c, data), b.send(rw(nvme.IOVerify, 1, 0, 999), nil))
	}
	f.WaitHeld(2)
	if n := f.Held(); n != 2 {
		t.Errorf("%d reads at once, want 2", n)
	}
	// One in the line, in its midst; the last; and one that the device has.
	for _, i := range []int{4, 8, 0} {
		cid := all[i].command[2:4]
		if got := h.abort(1, uint16(cid[0])|uint16(cid[1])<<8); got != 0 {
			t.Errorf("command %d: result %d", i, got)
		}
		<-all[i].done
		if got := all[i].Completion.Status; got != nvme.AbortRequested {
			t.Errorf("command %d: %v", i, got)
		}
	}
	b.shard.Run(func() { b.down(errors.New("host left")) })
	for _, i := range []int{3, 5, 7, 9} { // in the line
		<-all[i].done
		if got := all[i].Completion.Status; got != nvme.AbortedSQDeletion {
			t.Errorf("command %d: %v", i, got)
		}
	}
	f.Release()
	<-b.gone
	for _, i := range []int{2, 6} {
		<-all[i].done
		if got := all[i].Completion.Status; got != nvme.Success {
			t.Errorf("command %d: %v", i, got)
		}
	}
	// All of the memory is there again.
	f.Hold(bdev.Read)
	v1, v2 := a.send(rw(nvme.IOVerify, 1, 0, 0), nil), a.send(rw(nvme.IOVerify, 1, 1, 0), nil)
	f.WaitHeld(2)
	f.Release()
	<-v1.done
	<-v2.done
}

// A namespace that goes while commands wait for its memory ends them.
func TestRemovedWhileInLine(t *testing.T) {
	f := bdev.NewFaulty(newMemory(t, 1<<20))
	w := newWorld(t, target.Config{}, f)
	defer w.close()
	q := w.enable(nil).io(1, nil)
	f.Hold(bdev.Read)
	var all []*slot
	for range 4 {
		all = append(all, q.send(rw(nvme.IOVerify, 1, 0, 999), nil))
	}
	f.WaitHeld(2)
	if err := w.sub.RemoveNamespace(1); err != nil {
		t.Fatal(err)
	}
	f.Release()
	for i, s := range all {
		<-s.done
		if got := s.Completion.Status; got.Base() != nvme.InvalidNamespace {
			t.Errorf("command %d: %v", i, got)
		}
	}
}

// What Write Uncorrectable has marked cannot be read until it is written.
func TestWriteUncorrectable(t *testing.T) {
	rec := &recorder{Device: newMemory(t, 1<<20), t: t}
	w := newWorld(t, target.Config{}, rec)
	defer w.close()
	for _, cfg := range []target.NamespaceConfig{{NSID: 2, Device: rec}, {NSID: 3, Device: rec, ReadOnly: true}} {
		if _, err := w.sub.AddNamespace(cfg); err != nil {
			t.Fatal(err)
		}
	}
	h := w.enable(nil)
	q := h.io(1, nil)
	wu := func(nsid uint32, lba uint64, nlb uint16) nvme.Command {
		return rw(nvme.IOWriteUncorrectable, nsid, lba, nlb)
	}
	bad := nvme.UnrecoveredReadError.WithDNR()
	mark := func() { t.Helper(); q.ok(wu(1, 100, 9), nil) }
	mark()
	if ops := rec.take(); len(ops) != 0 {
		t.Errorf("the device did %s", text(ops))
	}
	big := make([]byte, 32*512)
	for _, tt := range []struct {
		name string
		c    nvme.Command
		data []byte
		lba  uint64
	}{
		{"read of it", rw(nvme.IORead, 1, 100, 9), big[:10*512], 100},
		{"read of the last", rw(nvme.IORead, 1, 109, 0), big[:512], 109},
		{"read across the beginning", rw(nvme.IORead, 1, 90, 31), big, 100},
		{"read across the end", rw(nvme.IORead, 1, 105, 15), big[:16*512], 105},
		{"compare", rw(nvme.IOCompare, 1, 99, 1), big[:1024], 100},
		{"verify", rw(nvme.IOVerify, 1, 0, 1000), nil, 100},
	} {
		q.fails(tt.c, tt.data, bad)
		e := parse[nvme.ErrorLogEntry](t, h.admin.page(getLog(nvme.LogError, 64, nil), 64))
		if e.LBA != tt.lba || e.Status.Base() != nvme.UnrecoveredReadError || e.Location != nvme.NoParameterError || e.NSID != 1 || e.SQID != 1 {
			t.Errorf("%s: %+v, want block %d", tt.name, e, tt.lba)
		}
	}
	c, b := copyCmd(500, nvme.CopyRange{SLBA: 0}, nvme.CopyRange{SLBA: 98, NLB: 5})
	if got := q.fails(c, b, bad); got.Result != 1 {
		t.Errorf("copy: range %d", got.Result)
	}
	if ops := text(rec.take()); ops != "read 0+512; write 256000+512; " {
		t.Errorf("the device did %s", ops)
	}
	for _, ok := range []struct {
		c    nvme.Command
		data []byte
	}{
		{rw(nvme.IORead, 1, 99, 0), big[:512]}, {rw(nvme.IORead, 1, 110, 0), big[:512]}, {rw(nvme.IORead, 2, 100, 9), big[:10*512]},
	} {
		q.ok(ok.c, ok.data)
	}
	if s := w.sub.Stats(); s.MediaErrors != 7 {
		t.Errorf("%d media errors, want 7", s.MediaErrors)
	}

	// Each way to write it, in part; the device that is read again knows it still.
	if _, err := w.sub.RefreshNamespace(1); err != nil {
		t.Fatal(err)
	}
	read := func(lba uint64) nvme.Status { return q.do(rw(nvme.IORead, 1, lba, 0), big[:512]).Status.Base() }
	for name, write := range map[string]func(){
		"write":        func() { q.ok(rw(nvme.IOWrite, 1, 102, 1), big[:1024]) },
		"write zeroes": func() { q.ok(rw(nvme.IOWriteZeroes, 1, 102, 1), nil) },
		"copy":         func() { c, b := copyCmd(102, nvme.CopyRange{NLB: 1}); q.ok(c, b) },
	} {
		mark()
		write()
		for lba := uint64(99); lba <= 110; lba++ {
			want := nvme.UnrecoveredReadError
			if lba < 100 || lba == 102 || lba == 103 || lba > 109 {
				want = nvme.Success
			}
			if got := read(lba); got != want {
				t.Errorf("%s: block %d: %v, want %v", name, lba, got, want)
			}
		}
	}
	// A deallocation is a hint, and no write.
	mark()
	q.ok(dsm(0, nvme.DSMAD), ranges(nvme.DSMRange{SLBA: 100, NLB: 10}))
	if got := read(105); got != nvme.UnrecoveredReadError {
		t.Errorf("deallocated: %v", got)
	}
	// A write that fails is none.
	rec.fail = func(bdev.Kind) error { return errors.New("broken") }
	q.fails(rw(nvme.IOWrite, 1, 100, 9), big[:10*512], nvme.WriteFault)
	rec.fail = nil
	if got := read(105); got != nvme.UnrecoveredReadError {
		t.Errorf("after a write that failed: %v", got)
	}
	q.ok(rw(nvme.IOWrite, 1, 100, 9), big[:10*512])
	if got := read(105); got != nvme.Success {
		t.Errorf("written: %v", got)
	}

	q.fails(wu(3, 0, 0), nil, nvme.NamespaceWriteProtected.WithDNR())
	q.fails(wu(4, 0, 0), nil, nvme.InvalidNamespace.WithDNR())
	q.fails(wu(1, 2047, 1), nil, nvme.LBAOutOfRange.WithDNR())
	q.fails(wu(1, 1<<64-1, 1), nil, nvme.LBAOutOfRange.WithDNR())
	q.fails(wu(1, 0, 0), big[:512], nvme.SGLInvalidDataLength.WithDNR())
	// The most that one command can mark, twice: it stays one range.
	for range 2 {
		q.ok(wu(1, 0, 2047), nil)
	}
	if got := read(2047); got != nvme.UnrecoveredReadError {
		t.Errorf("everything marked: %v", got)
	}
}

// Who has had a piece and waits for the next leaves without what is another's by
// now.
func TestAbortInLineAgain(t *testing.T) {
	f := bdev.NewFaulty(newMemory(t, 1<<20))
	w := newWorld(t, target.Config{}, f)
	defer w.close()
	h := w.enable(nil)
	q := h.io(1, nil)
	verify := func() *slot { return q.send(rw(nvme.IOVerify, 1, 0, 999), nil) }
	f.Hold(bdev.Read)
	v := []*slot{verify(), verify(), verify()}
	f.WaitHeld(2)
	q.shard.Run(func() { // one piece of the first two, and no more
		f.Release()
		f.Hold(bdev.Read)
	})
	f.WaitHeld(2) // the third, and the first again
	if got := h.abort(1, v[1].cid()); got != 0 {
		t.Errorf("result %d", got)
	}
	<-v[1].done
	v = append(v, verify(), verify())
	if n := f.Held(); n != 2 {
		t.Errorf("%d reads at once, want 2", n)
	}
	f.Release()
	for i, s := range v {
		<-s.done
		if got := s.Completion.Status; got != nvme.Success && i != 1 {
			t.Errorf("command %d: %v", i, got)
		}
	}
}

// Copies of several hosts at once, through the same memory, do not mix.
func TestCopiesDoNotMix(t *testing.T) {
	const n, blocks = 6, 600
	dev := newMemory(t, 2*n*blocks*512)
	w := newWorld(t, target.Config{}, dev)
	h := w.enable(nil)
	here := h.io(1, nil)
	there, end := h.onShard(2)
	defer end()
	defer w.close()
	want := numbered(n*blocks*512, 512)
	for i := range n {
		here.ok(rw(nvme.IOWrite, 1, uint64(i*blocks), blocks-1), want[i*blocks*512:][:blocks*512])
	}
	for range 3 {
		var all []*slot
		for i := range n {
			c, b := copyCmd(uint64((n+i)*blocks), nvme.CopyRange{SLBA: uint64(i * blocks), NLB: blocks - 1})
			all = append(all, []*queue{here, there}[i%2].send(c, b))
		}
		for _, s := range all {
			<-s.done
			if s.Completion.Status != nvme.Success {
				t.Error(s.Completion.Status)
			}
		}
		for i := range n {
			got := make([]byte, blocks*512)
			here.ok(rw(nvme.IORead, 1, uint64((n+i)*blocks), blocks-1), got)
			if !bytes.Equal(got, want[i*blocks*512:][:blocks*512]) {
				t.Errorf("copy %d: other data", i)
			}
		}
		here.ok(rw(nvme.IOWriteZeroes, 1, n*blocks, n*blocks-1), nil)
	}
}

// A long command does not keep the memory until it has ended.
func TestPiecesTakeTurns(t *testing.T) {
	rec := &recorder{Device: newMemory(t, 1<<20), t: t}
	f := bdev.NewFaulty(rec)
	w := newWorld(t, target.Config{}, f)
	defer w.close()
	q := w.enable(nil).io(1, nil)
	f.Hold(bdev.Read)
	var all []*slot
	for i := range uint64(3) {
		all = append(all, q.send(rw(nvme.IOVerify, 1, i, 599), nil))
	}
	f.Release()
	for _, s := range all {
		<-s.done
	}
	const want = "read 0+131072; read 512+131072; read 1024+131072; " +
		"read 131072+131072; read 131584+131072; read 132096+131072; " +
		"read 262144+45056; read 262656+45056; read 263168+45056; "
	if got := text(rec.take()); got != want {
		t.Errorf("%s", got)
	}
}
