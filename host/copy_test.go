package host_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/target"
)

func TestCopy(t *testing.T) {
	w := newWorld(t, false, target.SubsystemConfig{})
	defer w.close()
	c := w.connect(w.config())
	defer w.disconnect(c)
	n := w.namespace(c)
	ctx := context.Background()
	r := rand.New(rand.NewPCG(5, 6))
	model := make([]byte, 1<<20)
	for range 12 {
		cfg := host.CopyConfig{Depth: 1 + r.IntN(9), Bytes: 2048 << r.IntN(8)}
		off := r.IntN(len(model))
		length := r.IntN(len(model) - off + 1)
		told := int64(0)
		cfg.Progress = func(done int64) { told = done }
		data := make([]byte, length)
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		// An input that is longer, and one that ends.
		input, limit := io.Reader(bytes.NewReader(append(data, 1, 2, 3))), int64(length)
		if r.IntN(2) == 0 {
			input, limit = iotest.HalfReader(bytes.NewReader(data)), int64(len(model)-off)
		}
		if k, err := n.CopyFrom(ctx, input, int64(off), limit, cfg); k != int64(length) || err != nil || told != k {
			t.Fatalf("CopyFrom(%d, %d) %+v: %d, told %d, %v", off, limit, cfg, k, told, err)
		}
		copy(model[off:], data)
		var got bytes.Buffer
		told = 0
		if k, err := n.CopyTo(ctx, &got, int64(off/2), int64(length), cfg); k != int64(length) || err != nil || told != k {
			t.Fatalf("CopyTo(%d, %d) %+v: %d, told %d, %v", off/2, length, cfg, k, told, err)
		}
		if !bytes.Equal(got.Bytes(), model[off/2:][:length]) {
			t.Fatalf("CopyTo(%d, %d) %+v: wrong data", off/2, length, cfg)
		}
	}
	for _, x := range []struct {
		off, length int64
		cfg         host.CopyConfig
	}{{-1, 1, host.CopyConfig{}}, {0, -1, host.CopyConfig{}}, {1, 1 << 20, host.CopyConfig{}}, {1 << 62, 1 << 62, host.CopyConfig{}},
		{0, 1, host.CopyConfig{Bytes: 100}}, {0, 1, host.CopyConfig{Depth: -1}}} {
		if k, err := n.CopyTo(ctx, io.Discard, x.off, x.length, x.cfg); k != 0 || err == nil {
			t.Errorf("CopyTo(%d, %d) %+v: %d, %v", x.off, x.length, x.cfg, k, err)
		}
	}
}

type fullAfter int

func (f *fullAfter) Write(p []byte) (int, error) {
	k := min(len(p), int(*f))
	*f -= fullAfter(k)
	if k < len(p) {
		return k, errors.New("full")
	}
	return k, nil
}

// What fails is told with what had succeeded before, and nothing is under way
// afterwards.
func TestCopyFails(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c := w.connect(w.config())
		n := w.namespace(c)
		ctx := context.Background()
		cfg := host.CopyConfig{Bytes: 4096}
		full := fullAfter(10000)
		if k, err := n.CopyTo(ctx, &full, 100, 50000, cfg); k != 10000 || err == nil || err.Error() != "full" {
			t.Errorf("to a full disk: %d, %v", k, err)
		}
		broken := io.MultiReader(bytes.NewReader(make([]byte, 9000)), iotest.ErrReader(errors.New("broken")))
		if k, err := n.CopyFrom(ctx, broken, 100, 50000, cfg); k != 9000 || err == nil || err.Error() != "broken" {
			t.Errorf("from a broken disk: %d, %v", k, err)
		}
		w.refuse(1000, nvme.WriteFault.WithDNR())
		if k, err := n.CopyFrom(ctx, bytes.NewReader(make([]byte, 50000)), 0, 50000, cfg); k != 0 || !errors.Is(err, nvme.WriteFault) {
			t.Errorf("to a broken namespace: %d, %v", k, err)
		}
		w.dialer.set(func() { w.dialer.mangle = nil })

		w.dev.Hold()
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		start := time.Now()
		go func() {
			time.Sleep(2 * time.Second)
			w.dev.Release()
		}()
		if k, err := n.CopyTo(ctx, io.Discard, 0, 1<<20, cfg); k > 40*4096 || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 2*time.Second {
			t.Errorf("interrupted: %d, %v after %v", k, err, time.Since(start))
		}
		w.disconnect(c)
	})
}

// A copy goes on after a loss.
func TestCopyOverALoss(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c := w.connect(w.config())
		n := w.namespace(c)
		data := make([]byte, 1<<20)
		for i := range data {
			data[i] = byte(i >> 9)
		}
		losses := 0
		cfg := host.CopyConfig{Bytes: 8192, Progress: func(done int64) {
			if done == 1<<19 && losses < 2 {
				losses++
				w.unplug()
				w.listen()
			}
		}}
		if k, err := n.CopyFrom(context.Background(), bytes.NewReader(data), 0, 1<<20, cfg); k != 1<<20 || err != nil {
			t.Errorf("CopyFrom: %d, %v", k, err)
		}
		var got bytes.Buffer
		if k, err := n.CopyTo(context.Background(), &got, 0, 1<<20, cfg); k != 1<<20 || err != nil {
			t.Errorf("CopyTo: %d, %v", k, err)
		}
		synctest.Wait()
		if losses != 2 || c.Reconnects() != 2 || !bytes.Equal(got.Bytes(), data) {
			t.Errorf("%d losses, %d reconnects, equal %v", losses, c.Reconnects(), bytes.Equal(got.Bytes(), data))
		}
		w.disconnect(c)
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// An output that fails while the connection is lost ends a copy at once: it does
// not wait for the rest.
func TestCopyFailsWhileLost(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c, l := w.connectLogged(w.config())
		n := w.namespace(c)
		w.dialer.set(func() {
			w.dialer.swallow = func(qid uint16, c nvme.Command) bool {
				return qid != 0 && !c.IsFabrics() && c.Opcode() == uint8(nvme.IORead) && c.SLBA() > 0
			}
		})
		broken := errors.New("broken")
		out := writerFunc(func([]byte) (int, error) {
			w.unplug()
			l.wait(t, "lost")
			return 0, broken
		})
		start := time.Now()
		k, err := n.CopyTo(context.Background(), out, 0, n.Size(), host.CopyConfig{Depth: 2, Bytes: 4096})
		if d := time.Since(start); k != 0 || !errors.Is(err, broken) || d > time.Second {
			t.Errorf("%d bytes, %v after %v", k, err, d)
		}
		w.listen()
		l.wait(t, "reconnected")
		w.disconnect(c)
	})
}
