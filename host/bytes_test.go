package host_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport"
)

// Any offset and any length, against a model.
func TestReadWriteAt(t *testing.T) {
	w := newWorld(t, false, target.SubsystemConfig{})
	defer w.close()
	c := w.connect(w.config())
	defer w.disconnect(c)
	n := w.namespace(c)
	r := rand.New(rand.NewPCG(1, 2))
	model := make([]byte, 1<<20)
	for i := range 300 {
		off := r.IntN(len(model))
		length := 1 + r.IntN(min(len(model)-off, 1<<uint(r.IntN(18))))
		if i%10 == 0 {
			off = len(model) - length // to the end
		}
		if r.IntN(2) == 0 {
			for j := range length {
				model[off+j] = byte(r.Uint32())
			}
			if k, err := n.WriteAt(model[off:off+length], int64(off)); k != length || err != nil {
				t.Fatalf("WriteAt(%d, %d): %d, %v", length, off, k, err)
			}
			continue
		}
		got := make([]byte, length)
		if k, err := n.ReadAt(got, int64(off)); k != length || err != nil {
			t.Fatalf("ReadAt(%d, %d): %d, %v", length, off, k, err)
		}
		if !bytes.Equal(got, model[off:off+length]) {
			t.Fatalf("ReadAt(%d, %d): wrong data", length, off)
		}
	}
	got, err := io.ReadAll(io.NewSectionReader(n, 0, n.Size()+1))
	w.must(err)
	if !bytes.Equal(got, model) {
		t.Error("the whole differs")
	}
}

// Calls that do not overlap may share a block.
func TestWriteAtSharesBlocks(t *testing.T) {
	w := newWorld(t, false, target.SubsystemConfig{})
	defer w.close()
	c := w.connect(w.config())
	defer w.disconnect(c)
	n := w.namespace(c)
	const writers, each = 8, 40 // bytes: all within three blocks, about
	var wg lockdep.WaitGroup[users]
	for i := range writers {
		wg.Go(func() {
			for round := range 20 {
				p := bytes.Repeat([]byte{byte(i*20 + round)}, each)
				if _, err := n.WriteAt(p, int64(400+i*each)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got := make([]byte, writers*each)
	_, err := n.ReadAt(got, 400)
	w.must(err)
	for i := range writers {
		if want := bytes.Repeat([]byte{byte(i*20 + 19)}, each); !bytes.Equal(got[i*each:(i+1)*each], want) {
			t.Errorf("writer %d's bytes are %v", i, got[i*each:(i+1)*each])
		}
	}
}

func TestWriteAtFails(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c := w.connect(w.config())
		n := w.namespace(c)
		if k, err := n.WriteAt(make([]byte, 10), n.Size()-9); k != 0 || !errors.Is(err, nvme.LBAOutOfRange) {
			t.Errorf("beyond the end: %d, %v", k, err)
		}
		w.must(second(n.WriteAt(make([]byte, 9), n.Size()-9)))
		w.dev.Hold(bdev.Read)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		start := time.Now()
		first := async(func() error { return second(n.WriteAt(make([]byte, 9), 5)) })
		synctest.Wait()
		if k, err := n.WriteAtContext(ctx, make([]byte, 9), 5); k != 0 || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("behind another: %d, %v after %v", k, err, time.Since(start))
		}
		w.dev.Release()
		w.must(<-first)
		w.refuse(4, nvme.WriteFault.WithDNR()) // the second is the write of the first block
		if k, err := n.WriteAt(make([]byte, 1536), 500); k != 0 || !errors.Is(err, nvme.WriteFault) {
			t.Errorf("what fails from the first block on: %d, %v", k, err)
		}
		w.dialer.set(func() { w.dialer.mangle = nil })
		w.dialer.set(func() {
			w.dialer.mangle = func(qid uint16, r *transport.HostRequest) {
				if c := nvme.Command(r.Command[:]); qid != 0 && c.Opcode() == uint8(nvme.IOWrite) && len(r.Data) > 512 {
					r.Completion.Status = nvme.WriteFault.WithDNR()
				}
			}
		})
		if k, err := n.WriteAt(make([]byte, 1536), 500); k != 12 || !errors.Is(err, nvme.WriteFault) {
			t.Errorf("what fails after the first block: %d, %v", k, err)
		}
		w.dialer.set(func() { w.dialer.mangle = nil })
		w.disconnect(c)
	})
}
