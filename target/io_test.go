package target_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport"
)

// ranges is the data of a Dataset Management.
func ranges(rs ...nvme.DSMRange) []byte {
	var b []byte
	for _, r := range rs {
		b = r.AppendTo(b)
	}
	return b
}

func dsm(nr uint8, attributes uint32) nvme.Command {
	return cmd(func(c nvme.Command) { c.PutDSM(1, nr, attributes) })
}

func text(ops []record) string {
	s := ""
	for _, op := range ops {
		s += fmt.Sprintf("%v %d+%d", op.Kind, op.Offset, op.Length)
		if op.FUA {
			s += " FUA"
		}
		if op.Unmap {
			s += " unmap"
		}
		s += "; "
	}
	return s
}

// What each command asks of the device.
func TestIOCommands(t *testing.T) {
	rec := &recorder{Device: newMemory(t, 1<<20), t: t}
	w := newWorld(t, target.Config{}, rec)
	defer w.close()
	q := w.enable(nil).io(1, func(p *transport.QueueParam) { p.Depth = 64 })
	fua := func(c nvme.Command, control uint16) nvme.Command {
		c[nvme.OffControl], c[nvme.OffControl+1] = byte(control), byte(control>>8)
		return c
	}
	full := make([]byte, 4096)
	copy(full, ranges(nvme.DSMRange{SLBA: 4, NLB: 2}))
	tests := []struct {
		name string
		c    nvme.Command
		data []byte
		want string
	}{
		{"read", rw(nvme.IORead, 1, 3, 1), make([]byte, 1024), "read 1536+1024; "},
		{"read of the last block", rw(nvme.IORead, 1, 2047, 0), make([]byte, 512), "read 1048064+512; "},
		{"read of everything", rw(nvme.IORead, 1, 0, 2047), make([]byte, 1<<20), "read 0+1048576; "},
		{"limited retry", fua(rw(nvme.IORead, 1, 0, 0), nvme.ControlLR|nvme.ControlFUA), make([]byte, 512), "read 0+512; "},
		{"protection information, and there is none", fua(rw(nvme.IORead, 1, 0, 0), nvme.ControlPRINFO), make([]byte, 512), "read 0+512; "},
		{"write", rw(nvme.IOWrite, 1, 8, 7), make([]byte, 4096), "write 4096+4096; "},
		{"write with FUA", fua(rw(nvme.IOWrite, 1, 8, 0), nvme.ControlFUA), make([]byte, 512), "write 4096+512 FUA; "},
		{"compare", rw(nvme.IOCompare, 1, 8, 0), make([]byte, 512), "compare 4096+512; "},
		{"flush", cmd(func(c nvme.Command) { c.PutFlush(1) }), nil, "flush 0+0; "},
		{"flush of all", cmd(func(c nvme.Command) { c.PutFlush(nvme.NSIDBroadcast) }), nil, "flush 0+0; "},
		{"write zeroes", rw(nvme.IOWriteZeroes, 1, 1, 2), nil, "write zeroes 512+1536; "},
		{"write zeroes with DEAC and FUA", fua(rw(nvme.IOWriteZeroes, 1, 1, 2), nvme.ControlDEAC|nvme.ControlFUA), nil, "write zeroes 512+1536 FUA unmap; "},
		{"write zeroes beyond MDTS", rw(nvme.IOWriteZeroes, 1, 0, 2047), nil, "write zeroes 0+1048576; "},
		{"deallocate", dsm(1, nvme.DSMAD), ranges(nvme.DSMRange{SLBA: 2047, NLB: 1}, nvme.DSMRange{SLBA: 0, NLB: 2}),
			"deallocate 1048064+512; deallocate 0+1024; "},
		{"deallocate, as Linux sends it", dsm(0, nvme.DSMAD), full, "deallocate 2048+1024; "},
		{"empty ranges", dsm(2, nvme.DSMAD), ranges(nvme.DSMRange{}, nvme.DSMRange{SLBA: 2048}, nvme.DSMRange{}), ""},
		{"hints", dsm(0, nvme.DSMIDR|nvme.DSMIDW), ranges(nvme.DSMRange{SLBA: 1, NLB: 1}), ""},
	}
	for _, parts := range []int{1, 3} {
		q.parts = parts
		for _, tt := range tests {
			rec.take()
			q.ok(tt.c, tt.data)
			if got := text(rec.take()); got != tt.want {
				t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
			}
		}
	}
	// As many ranges as there can be.
	var all []nvme.DSMRange
	for i := range 256 {
		all = append(all, nvme.DSMRange{SLBA: uint64(i), NLB: 1})
	}
	q.ok(dsm(255, nvme.DSMAD), ranges(all...))
	if n := len(rec.take()); n != 256 {
		t.Errorf("%d ops for 256 ranges", n)
	}
}

func TestIOErrors(t *testing.T) {
	rec := &recorder{Device: newMemory(t, 1<<20), t: t}
	w := newWorld(t, target.Config{}, rec)
	defer w.close()
	if _, err := w.sub.AddNamespace(target.NamespaceConfig{NSID: 5, Device: w.dev, ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	h := w.enable(nil)
	q := h.io(1, func(p *transport.QueueParam) { p.Limits.MaxData = 64 << 10 })
	var (
		ns      = nvme.InvalidNamespace.WithDNR()
		lba     = nvme.LBAOutOfRange.WithDNR()
		length  = nvme.SGLInvalidDataLength.WithDNR()
		field   = nvme.InvalidField.WithDNR()
		opcode  = nvme.InvalidOpcode.WithDNR()
		protect = nvme.NamespaceWriteProtected.WithDNR()
		block   = make([]byte, 512)
	)
	with := func(c nvme.Command, f func(nvme.Command)) nvme.Command { f(c); return c }
	tests := []struct {
		name string
		c    nvme.Command
		data []byte
		want nvme.Status
	}{
		{"opcode", with(rw(nvme.IORead, 1, 0, 0), func(c nvme.Command) { c.SetOpcode(0x0D) }), nil, opcode},
		{"Identify on an I/O queue", identify(1, 0), make([]byte, 4096), opcode},
		{"Property Get on an I/O queue", propGet(0), nil, opcode},
		{"fused", with(rw(nvme.IOCompare, 1, 0, 0), func(c nvme.Command) { c.SetFlags(0x41) }), block, field},
		{"PRP", with(rw(nvme.IORead, 1, 0, 0), func(c nvme.Command) { c.SetFlags(0) }), block, field},

		{"read: NSID 0", rw(nvme.IORead, 0, 0, 0), block, ns},
		{"read: inactive", rw(nvme.IORead, 2, 0, 0), block, ns},
		{"read: beyond all", rw(nvme.IORead, 1025, 0, 0), block, ns},
		{"read: all namespaces", rw(nvme.IORead, nvme.NSIDBroadcast, 0, 0), block, ns},
		{"read: beyond the end", rw(nvme.IORead, 1, 2048, 0), block, lba},
		{"read: across the end", rw(nvme.IORead, 1, 2047, 1), make([]byte, 1024), lba},
		{"read: the last LBA that there is", rw(nvme.IORead, 1, 1<<64-1, 0), block, lba},
		{"read: LBA wraps", rw(nvme.IORead, 1, 1<<64-1, 1), make([]byte, 1024), lba},
		{"read: bytes wrap", rw(nvme.IORead, 1, 1<<55, 0), block, lba},
		{"read: too little room", rw(nvme.IORead, 1, 0, 1), block, length},
		{"read: too much room", rw(nvme.IORead, 1, 0, 0), make([]byte, 1024), length},
		{"read: no room", rw(nvme.IORead, 1, 0, 0), nil, length},
		{"read: beyond the fabric's most", rw(nvme.IORead, 1, 0, 128), make([]byte, 129*512), field},

		{"write: inactive", rw(nvme.IOWrite, 2, 0, 0), block, ns},
		{"write: beyond the end", rw(nvme.IOWrite, 1, 2048, 0), block, lba},
		{"write: too little", rw(nvme.IOWrite, 1, 0, 1), block, length},
		{"write: nothing", rw(nvme.IOWrite, 1, 0, 1), nil, length},
		{"write: read-only", rw(nvme.IOWrite, 5, 0, 0), block, protect},
		{"write zeroes: read-only", rw(nvme.IOWriteZeroes, 5, 0, 0), nil, protect},
		{"write zeroes: beyond the end", rw(nvme.IOWriteZeroes, 1, 2047, 1), nil, lba},
		{"write zeroes: inactive", rw(nvme.IOWriteZeroes, 2, 0, 0), nil, ns},
		{"write zeroes: data", rw(nvme.IOWriteZeroes, 1, 0, 0), block, length},
		{"compare: mismatch", rw(nvme.IOCompare, 1, 0, 0), bytes.Repeat([]byte{1}, 512), nvme.CompareFailure.WithDNR()},
		{"compare: beyond the end", rw(nvme.IOCompare, 1, 2048, 0), block, lba},
		{"flush: inactive", cmd(func(c nvme.Command) { c.PutFlush(2) }), nil, ns},
		{"flush: NSID 0", cmd(func(c nvme.Command) { c.PutFlush(0) }), nil, ns},
		{"flush: data", cmd(func(c nvme.Command) { c.PutFlush(1) }), block, length},

		{"deallocate: inactive", with(dsm(0, 4), func(c nvme.Command) { c.SetNSID(2) }), ranges(nvme.DSMRange{}), ns},
		{"deallocate: read-only", with(dsm(0, 4), func(c nvme.Command) { c.SetNSID(5) }), ranges(nvme.DSMRange{}), protect},
		{"deallocate: second range", dsm(1, 4), ranges(nvme.DSMRange{NLB: 1}, nvme.DSMRange{SLBA: 2047, NLB: 2}), lba},
		{"deallocate: range wraps", dsm(0, 4), ranges(nvme.DSMRange{SLBA: 1<<64 - 1, NLB: 2}), lba},
		{"deallocate: less data than ranges", dsm(1, 4), ranges(nvme.DSMRange{}), length},
		{"deallocate: no data", dsm(0, 4), nil, length},
		{"deallocate: more than a page", dsm(0, 4), make([]byte, 4097), length},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w.t = t
			rec.take()
			q.fails(tt.c, tt.data, tt.want)
			if ops := rec.take(); len(ops) != 0 && tt.want != nvme.CompareFailure.WithDNR() {
				t.Errorf("and the device did %s", text(ops))
			}
		})
	}
	w.t = t
	if !w.sub.Namespaces()[1].Config().ReadOnly {
		t.Error("namespace 5 is not read-only")
	}
	id := parse[nvme.IdentifyNamespace](t, h.admin.page(identify(nvme.CNSNamespace, 5), 4096))
	if id.NSATTR != nvme.NSATTRWriteProtected {
		t.Errorf("NSATTR %#x of a read-only namespace", id.NSATTR)
	}
}

// What a device's errors become.
func TestDeviceErrors(t *testing.T) {
	f := bdev.NewFaulty(newMemory(t, 1<<20))
	w := newWorld(t, target.Config{}, f)
	defer w.close()
	q := w.enable(nil).io(1, nil)
	block := make([]byte, 512)
	other := errors.New("broken")
	flush := func() nvme.Command { return cmd(func(c nvme.Command) { c.PutFlush(1) }) }
	for _, tt := range []struct {
		c    nvme.Command
		data []byte
		err  error
		want nvme.Status
	}{
		{rw(nvme.IORead, 1, 0, 0), block, other, nvme.UnrecoveredReadError},
		{rw(nvme.IOCompare, 1, 0, 0), block, other, nvme.UnrecoveredReadError},
		{rw(nvme.IOWrite, 1, 0, 0), block, other, nvme.WriteFault},
		{rw(nvme.IOWriteZeroes, 1, 0, 0), nil, other, nvme.WriteFault},
		{flush(), nil, other, nvme.WriteFault},
		{dsm(0, 4), ranges(nvme.DSMRange{NLB: 1}), other, nvme.InternalError},
		{rw(nvme.IORead, 1, 0, 0), block, bdev.ErrRange, nvme.LBAOutOfRange.WithDNR()},
		{rw(nvme.IOWrite, 1, 0, 0), block, bdev.ErrReadOnly, nvme.NamespaceWriteProtected.WithDNR()},
		{rw(nvme.IOWrite, 1, 0, 0), block, fmt.Errorf("file: %w", bdev.ErrNoSpace), nvme.CapacityExceeded.WithDNR()},
		{rw(nvme.IOWrite, 1, 0, 0), block, bdev.ErrClosed, nvme.NamespaceNotReady},
		{rw(nvme.IORead, 1, 0, 0), block, nvme.CommandInterrupted, nvme.UnrecoveredReadError},
	} {
		f.Fail(1, tt.err)
		q.fails(tt.c, tt.data, tt.want)
	}
	// A failed range ends the command.
	f.Fail(1, other, bdev.Deallocate)
	q.fails(dsm(1, 4), ranges(nvme.DSMRange{NLB: 1}, nvme.DSMRange{NLB: 1}), nvme.InternalError)
	q.ok(dsm(1, 4), ranges(nvme.DSMRange{NLB: 1}, nvme.DSMRange{NLB: 1}))
}

// What was written is what is read, however the fabric cuts its memory and
// whenever it has some.
func TestDataPath(t *testing.T) {
	for _, parts := range []int{1, 2, 7} {
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d parts, late %v", parts, late), func(t *testing.T) {
				w := newWorld(t, target.Config{}, nil)
				defer w.close()
				q := w.enable(nil).io(1, nil)
				q.parts, q.late = parts, late
				run := func(c nvme.Command, data []byte) nvme.Status {
					s := q.send(c, data)
					if late {
						if !s.pending() {
							t.Error("ended without its data")
						}
						q.serve()
					}
					<-s.done
					return s.Completion.Status
				}
				want := bytes.Repeat([]byte("0123456789abcdef!"), 4096)[:64<<10]
				if s := run(rw(nvme.IOWrite, 1, 100, 127), want); s != nvme.Success {
					t.Fatal(s)
				}
				got := make([]byte, 64<<10)
				if s := run(rw(nvme.IORead, 1, 100, 127), got); s != nvme.Success || !bytes.Equal(got, want) {
					t.Errorf("%v, or other data", s)
				}
				if s := run(rw(nvme.IOCompare, 1, 100, 127), want); s != nvme.Success {
					t.Error(s)
				}
				want[40000]++
				if s := run(rw(nvme.IOCompare, 1, 100, 127), want); s.Base() != nvme.CompareFailure {
					t.Error(s)
				}

				q.dataErr = errors.New("no data")
				if s := run(rw(nvme.IOWrite, 1, 100, 0), want[:512]); s != nvme.DataTransferError {
					t.Errorf("write without its data: %v", s)
				}
				q.dataErr = nvme.TransientTransportError
				if s := run(rw(nvme.IORead, 1, 100, 0), want[:512]); s != nvme.TransientTransportError {
					t.Errorf("read without memory: %v", s)
				}
				q.dataErr = nil
			})
		}
	}
}

// A host that was told that there is no volatile write cache gets durable
// writes from a namespace that comes later and has one.
func TestHiddenWriteCache(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	defer w.close()
	h := w.enable(nil)
	q := h.io(1, nil)
	vwc := func(h *host) uint8 {
		return parse[nvme.IdentifyController](t, h.admin.page(identify(nvme.CNSController, 0), 4096)).VWC
	}
	if v := vwc(h); v != nvme.VWCFlushBroadcast {
		t.Errorf("VWC %#x without a cache", v)
	}
	rec := &recorder{Device: newMemory(t, 1<<20), t: t, info: func(i *bdev.Info) {
		i.VolatileWriteCache, i.OptimalWrite, i.OptimalIO, i.OptimalDeallocate = true, 8, 256, 1<<20
	}}
	defer rec.Close()
	if _, err := w.sub.AddNamespace(target.NamespaceConfig{NSID: 2, Device: rec}); err != nil {
		t.Fatal(err)
	}
	q.ok(rw(nvme.IOWrite, 2, 0, 0), make([]byte, 512))
	if got := text(rec.take()); got != "write 0+512 FUA; " {
		t.Errorf("%q", got)
	}
	if v := vwc(h); v != nvme.VWCFlushBroadcast|nvme.VWCPresent {
		t.Errorf("VWC %#x with a cache", v)
	}
	q.ok(rw(nvme.IOWrite, 2, 0, 0), make([]byte, 512)) // it knows now
	if got := text(rec.take()); got != "write 0+512; " {
		t.Errorf("%q", got)
	}
	q.ok(cmd(func(c nvme.Command) { c.PutFlush(nvme.NSIDBroadcast) }), nil)
	if got := text(rec.take()); got != "flush 0+0; " {
		t.Errorf("%q", got)
	}
	if got := h.admin.ok(getFeature(nvme.FeatureVolatileWriteCache, 0), nil).Result; got != 1 {
		t.Errorf("Volatile Write Cache %d", got)
	}
	h.admin.ok(setFeature(nvme.FeatureVolatileWriteCache, 1), nil)
	h.admin.fails(setFeature(nvme.FeatureVolatileWriteCache, 0), nil, nvme.FeatureNotChangeable.WithDNR())
	id := parse[nvme.IdentifyNamespace](t, h.admin.page(identify(nvme.CNSNamespace, 2), 4096))
	if id.NSFEAT != nvme.NSFEATOPTPERF || id.NPWG != 7 || id.NPWA != 7 || id.NOWS != 255 || id.NPDG != 0xFFFF || id.NPDA != 0xFFFF {
		t.Errorf("NSFEAT %#x, NPWG %d, NPWA %d, NOWS %d, NPDG %d, NPDA %d", id.NSFEAT, id.NPWG, id.NPWA, id.NOWS, id.NPDG, id.NPDA)
	}
	if err := w.sub.RemoveNamespace(2); err != nil {
		t.Fatal(err)
	}
}

// A null fabric, for counting: everything is there at once.
type quick struct {
	core transport.Queue
	data [][]byte
	last nvme.Status
}

func (f *quick) Reserve(r *transport.Request, _ int) bool { r.Data = f.data; return true }
func (f *quick) Pull(r *transport.Request)                { r.Data = f.data; f.core.DataReady(r, nil) }
func (f *quick) Complete(r *transport.Request)            { f.last = r.Completion.Status; f.core.Sent(r) }
func (f *quick) Cancel(*transport.Request) bool           { return false }
func (f *quick) Disconnect(error)                         {}

// quickQueue is an I/O queue of h on a quick fabric.
func quickQueue(t testing.TB, h *host) (*quick, *transport.Request, func()) {
	f := &quick{data: [][]byte{make([]byte, 1024)}}
	a := ioConnect(h.cntlid, 1)
	a.ConnectData.AppendTo(f.data[0][:0])
	r := &transport.Request{Command: a.command(), Length: 1024, Index: 3}
	err := h.shard.Run(func() {
		var err error
		if f.core, err = h.port.Open(f, transport.QueueParam{Shard: h.shard, QID: 1, Depth: 128, Limits: limits}); err != nil {
			t.Error(err)
			return
		}
		f.core.Receive([]*transport.Request{r})
	})
	if err != nil || f.last != nvme.Success {
		t.Fatal(err, f.last)
	}
	f.data = [][]byte{make([]byte, 1000), make([]byte, 3096)}
	r.Length = 4096
	return f, r, func() {
		h.shard.Run(func() { f.core.Down(errors.New("the end")) })
		f.core.Quiesce(farFuture)
		f.core.Destroy()
	}
}

func TestIODoesNotAllocate(t *testing.T) {
	if lockdep.Enabled {
		t.Skip("the lock-order validator allocates")
	}
	w := newWorld(t, target.Config{}, nil)
	defer w.close()
	f, r, end := quickQueue(t, w.enable(nil))
	defer end()
	batch := []*transport.Request{r}
	for _, op := range []nvme.IOOpcode{nvme.IORead, nvme.IOWrite, nvme.IOCompare} {
		r.Command = rw(op, 1, 40, 7)
		w.shard.Run(func() {
			if n := testing.AllocsPerRun(100, func() { f.core.Receive(batch) }); n != 0 || f.last != nvme.Success {
				t.Errorf("%v: %v allocations, want 0; %v", op, n, f.last)
			}
		})
	}
	copyOne, copyRanges := copyCmd(100, nvme.CopyRange{NLB: 7})
	deallocate := ranges(nvme.DSMRange{SLBA: 5, NLB: 1})
	for _, c := range []struct {
		name string
		c    nvme.Command
		data []byte
	}{
		{"flush", cmd(func(c nvme.Command) { c.PutFlush(1) }), nil},
		{"flush of all", cmd(func(c nvme.Command) { c.PutFlush(nvme.NSIDBroadcast) }), nil},
		{"write zeroes", rw(nvme.IOWriteZeroes, 1, 40, 7), nil},
		{"write uncorrectable", rw(nvme.IOWriteUncorrectable, 1, 1000, 7), nil},
		{"verify", rw(nvme.IOVerify, 1, 40, 7), nil},
		{"copy", copyOne, copyRanges},
		{"deallocate", dsm(0, nvme.DSMAD), deallocate},
	} {
		r.Command, r.Length, f.data = c.c, len(c.data), [][]byte{c.data}
		w.shard.Run(func() {
			if n := testing.AllocsPerRun(100, func() { f.core.Receive(batch) }); n != 0 || f.last != nvme.Success {
				t.Errorf("%s: %v allocations, want 0; %v", c.name, n, f.last)
			}
		})
	}
}

// benchIO measures an I/O command of 4 KiB at the core.
func benchIO(b *testing.B, c nvme.Command) {
	w := newWorld(b, target.Config{}, nil)
	defer w.close()
	f, r, end := quickQueue(b, w.enable(nil))
	defer end()
	r.Command = c
	batch := []*transport.Request{r}
	b.ReportAllocs()
	w.shard.Run(func() {
		for b.Loop() {
			f.core.Receive(batch)
		}
	})
}

func BenchmarkRead4K(b *testing.B)  { benchIO(b, rw(nvme.IORead, 1, 40, 7)) }
func BenchmarkWrite4K(b *testing.B) { benchIO(b, rw(nvme.IOWrite, 1, 40, 7)) }
