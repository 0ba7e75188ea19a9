package target_test

import (
	"errors"
	"testing"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport"
)

// cid is the command identifier of a command, also of one that has ended.
func (s *slot) cid() uint16 { return uint16(s.command[2]) | uint16(s.command[3])<<8 }

// onShard makes an I/O queue on a shard of its own.
func (h *host) onShard(qid uint16) (*queue, func()) {
	sh := shard.NewSim(shard.Config{Name: "other"})
	return h.io(qid, func(p *transport.QueueParam) { p.Shard = sh }), func() { sh.Close() }
}

// A command that waits is aborted at once, whatever it waits for and on whatever
// shard; the result says so, and the command is completed before.
func TestAbortAtOnce(t *testing.T) {
	for _, where := range []string{"the same shard", "another shard"} {
		t.Run(where, func(t *testing.T) {
			f := bdev.NewFaulty(newMemory(t, 1<<20))
			w := newWorld(t, target.Config{}, f)
			h := w.enable(nil)
			var q *queue
			if where == "the same shard" {
				q = h.io(1, nil)
				defer w.close()
			} else {
				var end func()
				q, end = h.onShard(1)
				defer end()
				defer w.close()
			}
			aborted := func(what string, s *slot) {
				t.Helper()
				if got := h.abort(1, s.cid()); got != 0 {
					t.Errorf("%s: result %d, want 0", what, got)
				}
				if s.pending() {
					t.Fatalf("%s: not completed", what)
				}
				if got := s.Completion.Status; got != nvme.AbortRequested {
					t.Errorf("%s: %v", what, got)
				}
			}
			block := make([]byte, 512)
			q.shard.Run(func() { q.late = true })
			read, write := q.send(rw(nvme.IORead, 1, 0, 0), block), q.send(rw(nvme.IOWrite, 1, 0, 0), block)
			other := q.send(rw(nvme.IORead, 1, 1, 0), make([]byte, 512))
			aborted("a read that waits for memory", read)
			aborted("a write that waits for memory", write)
			q.shard.Run(func() { q.late = false })
			q.serve()
			<-other.done

			f.Hold()
			for _, c := range []struct {
				name string
				c    nvme.Command
				data []byte
			}{
				{"a read with the device", rw(nvme.IORead, 1, 0, 0), block},
				{"a write with the device", rw(nvme.IOWrite, 1, 0, 0), block},
				{"a flush with the device", cmd(func(c nvme.Command) { c.PutFlush(1) }), nil},
				{"the second range of a deallocation", dsm(1, nvme.DSMAD), ranges(nvme.DSMRange{}, nvme.DSMRange{NLB: 1})},
				{"a verify", rw(nvme.IOVerify, 1, 0, 9), nil},
			} {
				s := q.send(c.c, c.data)
				aborted(c.name, s)
				if got := h.abort(1, s.cid()); got != 1 {
					t.Errorf("%s, again: result %d", c.name, got)
				}
			}
			if n := f.Held(); n != 0 {
				t.Errorf("the device has %d ops", n)
			}
			f.Release()
			q.ok(rw(nvme.IORead, 1, 0, 0), block)
			if s := w.sub.Stats(); s.Reads != 2 || s.Writes != 0 || s.Errors != 7 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// What has begun is not stopped: the result says so. A command that has not come
// to its device ends when it would, and one of several steps with its step.
func TestAbortLater(t *testing.T) {
	f := bdev.NewFaulty(newMemory(t, 1<<20))
	rec := &recorder{Device: f, t: t} // which gives nothing back
	w := newWorld(t, target.Config{}, rec)
	defer w.close()
	h := w.enable(nil)
	q := h.io(1, nil)
	block := make([]byte, 512)
	later := func(what string, s *slot) {
		t.Helper()
		if got := h.abort(1, s.cid()); got != 1 || !s.pending() {
			t.Errorf("%s: result %d, want 1; completed %v", what, got, !s.pending())
		}
	}
	f.Hold()
	for _, tt := range []struct {
		name string
		c    nvme.Command
		data []byte
		want nvme.Status
		ops  int
	}{
		{"a write that the device has", rw(nvme.IOWrite, 1, 0, 0), block, nvme.Success, 1},
		{"a deallocation at its first range", dsm(2, nvme.DSMAD), ranges(nvme.DSMRange{NLB: 1}, nvme.DSMRange{NLB: 1}, nvme.DSMRange{NLB: 1}), nvme.AbortRequested, 1},
		{"a deallocation at its last range", dsm(0, nvme.DSMAD), ranges(nvme.DSMRange{NLB: 1}), nvme.Success, 1},
		{"a verify at its first piece", rw(nvme.IOVerify, 1, 0, 1999), nil, nvme.AbortRequested, 1},
	} {
		s := q.send(tt.c, tt.data)
		f.WaitHeld(1)
		later(tt.name, s)
		f.Release()
		<-s.done
		if got := s.Completion.Status; got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
		if ops := rec.take(); len(ops) != tt.ops {
			t.Errorf("%s: %s", tt.name, text(ops))
		}
		f.Hold()
	}
	// Between the read of a piece of a Copy and its write.
	c, b := copyCmd(1000, nvme.CopyRange{}, nvme.CopyRange{})
	s := q.send(c, b)
	later("a copy", s)
	f.Release()
	<-s.done
	if got := s.Completion; got.Status != nvme.AbortRequested || got.Result != 0 || text(rec.take()) != "read 0+512; " {
		t.Errorf("a copy: %+v", got)
	}
	// Its data is on the way, and cannot be stopped.
	q.stubborn, q.late = true, true
	s = q.send(rw(nvme.IOWrite, 1, 0, 0), block)
	later("a write whose data is on the way", s)
	q.serve()
	<-s.done
	if got := s.Completion.Status; got != nvme.AbortRequested || len(rec.take()) != 0 {
		t.Errorf("a write whose data was on the way: %v", got)
	}
}

// Aborts that wait for another shard are bounded, as ACL says, and a host that
// leaves meanwhile takes them along.
func TestAbortLimit(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	h := w.enable(nil)
	q, end := h.onShard(1)
	defer end()
	defer w.close()
	id := parse[nvme.IdentifyController](t, h.admin.page(identify(nvme.CNSController, 0), 4096))
	var all []*slot
	abort := func() *slot { return h.admin.send(cmd(func(c nvme.Command) { c.PutAbort(1, 0xFFFF) }), nil) }
	hold, held := make(chan struct{}), make(chan struct{})
	go q.shard.Run(func() { close(held); <-hold })
	<-held
	for range int(id.ACL) + 1 {
		all = append(all, abort())
	}
	h.admin.fails(cmd(func(c nvme.Command) { c.PutAbort(1, 0xFFFF) }), nil, nvme.AbortLimitExceeded)
	for _, s := range all {
		if !s.pending() {
			t.Error("an Abort ended, and the shard of its command stands still")
		}
	}
	// Another may abort one of them, in vain.
	close(hold)
	for _, s := range all {
		<-s.done
		if s.Completion.Status != nvme.Success || s.Completion.Result != 1 {
			t.Errorf("%+v", s.Completion)
		}
	}
	<-abort().done
	hold, held = make(chan struct{}), make(chan struct{})
	go q.shard.Run(func() { close(held); <-hold })
	<-held
	s := abort()
	h.admin.shard.Run(func() { h.admin.down(errors.New("host left")) })
	if !s.pending() {
		t.Error("an Abort ended before it was done")
	}
	close(hold)
	<-s.done
	<-h.admin.gone
	<-q.gone
}
