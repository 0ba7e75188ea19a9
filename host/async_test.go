package host_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/target"
)

// A load keeps IOs outstanding on a queue: each is submitted again when it is
// done, until as many as wanted have been.
type load struct {
	t       testing.TB
	q       *host.Queue
	ios     []host.IO
	total   int // to be submitted; changed on the shard
	running int
	next    uint64
	idle    chan struct{}
}

func newLoad(t testing.TB, q *host.Queue, n *host.Namespace, depth, bytes int) *load {
	l := &load{t: t, q: q, ios: make([]host.IO, depth), idle: make(chan struct{}, 1)}
	for i := range l.ios {
		io := &l.ios[i]
		io.Namespace, io.Data, io.Done = n, make([]byte, bytes), l.done
		io.Op = nvme.IORead
		if i%2 == 0 {
			io.Op = nvme.IOWrite
		}
	}
	return l
}

func (l *load) submit(io *host.IO) bool {
	if l.total == 0 {
		return false
	}
	l.total--
	blocks := uint64(len(io.Data) / 512)
	io.LBA = l.next % (2048 / blocks) * blocks
	l.next += 7
	if err := l.q.Submit(io); err != nil {
		l.t.Error(err)
		return false
	}
	return true
}

func (l *load) done(io *host.IO) {
	if io.Err != nil {
		l.t.Error(io.Err)
	}
	if l.submit(io) {
		return
	}
	if l.running--; l.running == 0 {
		l.idle <- struct{}{}
	}
}

// start submits the first of total IOs. On the shard.
func (l *load) start(total int) {
	l.total = total
	for i := range l.ios {
		if l.submit(&l.ios[i]) {
			l.running++
		}
	}
}

func TestSubmit(t *testing.T) {
	w := newWorld(t, false, target.SubsystemConfig{})
	defer w.close()
	c := w.connect(w.config())
	defer w.disconnect(c)
	n := w.namespace(c)
	for _, depth := range []int{1, 31, 100} { // more than the queue has room for wait
		for _, q := range c.Queues() {
			l := newLoad(t, q, n, depth, 4096)
			w.must(q.Shard().Run(func() { l.start(5000) }))
			<-l.idle
			if l.total != 0 {
				t.Errorf("%d of the IOs were not submitted", l.total)
			}
		}
	}
}

// plain adds namespace 2, on a device without faults and their cost.
func (w *world) plain() func(*host.Controller) *host.Namespace {
	mem, err := bdev.NewMemory(bdev.MemoryConfig{Size: 1 << 20, BlockSize: 512})
	w.must(err)
	_, err = w.sub.AddNamespace(target.NamespaceConfig{NSID: 2, Device: mem})
	w.must(err)
	return func(c *host.Controller) *host.Namespace {
		n, err := c.Namespace(2)
		w.must(err)
		return n
	}
}

// In steady state an IO allocates nothing, at either end.
func TestSubmitDoesNotAllocate(t *testing.T) {
	if lockdep.Enabled {
		t.Skip("the validator allocates")
	}
	w := newWorld(t, false, target.SubsystemConfig{})
	defer w.close()
	n := w.plain()
	cfg := w.config()
	cfg.Dialer = w.dialer.inner
	c := w.connect(cfg)
	defer w.disconnect(c)
	q := c.Queues()[0]
	l := newLoad(t, q, n(c), 16, 4096)
	start := func() { l.start(500) }
	round := func() {
		if err := q.Shard().Run(start); err != nil {
			t.Error(err)
		}
		<-l.idle
	}
	for range 20 {
		round()
	}
	// What Run itself allocates, divided by the IOs of a round, is not one.
	empty := testing.AllocsPerRun(50, func() { _ = q.Shard().Run(func() {}) })
	if k := testing.AllocsPerRun(50, round); k > empty+1 {
		t.Errorf("%v allocations for 500 IOs, %v for none", k, empty)
	}
}

func TestSubmitRefusesMisuse(t *testing.T) {
	w := newWorld(t, false, target.SubsystemConfig{})
	defer w.close()
	c := w.connect(w.config())
	n := w.namespace(c)
	q := c.Queues()[0]
	submit := func(io *host.IO) (err error) {
		w.must(q.Shard().Run(func() { err = q.Submit(io) }))
		return err
	}
	nothing := func(*host.IO) {}
	for name, io := range map[string]*host.IO{
		"no namespace":       {Op: nvme.IOFlush, Done: nothing},
		"no Done":            {Op: nvme.IOFlush, Namespace: n},
		"no data":            {Op: nvme.IORead, Namespace: n, Done: nothing},
		"odd data":           {Op: nvme.IORead, Namespace: n, Done: nothing, Data: make([]byte, 513)},
		"too much data":      {Op: nvme.IORead, Namespace: n, Done: nothing, Data: make([]byte, 65<<10)},
		"beyond the end":     {Op: nvme.IOWrite, Namespace: n, Done: nothing, Data: make([]byte, 1024), LBA: 2047},
		"an overflow":        {Op: nvme.IOWrite, Namespace: n, Done: nothing, Data: make([]byte, 1024), LBA: 1<<64 - 1},
		"no blocks":          {Op: nvme.IOWriteZeroes, Namespace: n, Done: nothing},
		"too many blocks":    {Op: nvme.IOWriteZeroes, Namespace: n, Done: nothing, Blocks: 1<<16 + 1},
		"far too many":       {Op: nvme.IODatasetManagement, Namespace: n, Done: nothing, Blocks: 1 << 32},
		"an unknown command": {Op: nvme.IOReservAcquire, Namespace: n, Done: nothing},
	} {
		if err := submit(io); err == nil {
			t.Errorf("%s: submitted", name)
		}
	}
	done := make(chan error, 1)
	io := &host.IO{Op: nvme.IODatasetManagement, Namespace: n, Blocks: 8, Done: func(io *host.IO) { done <- io.Err }}
	var twice error
	w.must(q.Shard().Run(func() {
		if err := q.Submit(io); err != nil {
			t.Error(err) // Fatal would end the shard
		}
		twice = q.Submit(io)
	}))
	w.must(<-done)
	if twice == nil {
		t.Error("an IO that is outstanding was submitted")
	}
	w.disconnect(c)
	if err := submit(io); !errors.Is(err, host.ErrClosed) {
		t.Errorf("submit after Disconnect: %v", err)
	}
}

// IOs that a loss interrupts go on when the controller is back.
func TestSubmitOverALoss(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c := w.connect(w.config())
		n := w.namespace(c)
		var loads []*load
		for _, q := range c.Queues() {
			l := newLoad(t, q, n, 40, 4096)
			loads = append(loads, l)
			w.must(q.Shard().Run(func() { l.start(20000) }))
		}
		w.unplug()
		time.Sleep(15 * time.Second)
		w.listen()
		for _, l := range loads {
			<-l.idle
		}
		if c.Reconnects() != 1 {
			t.Errorf("%d reconnects", c.Reconnects())
		}
		w.disconnect(c)
	})
}

type users struct{}

// Many goroutines read and write regions of their own, by blocking calls, while
// loads run by Submit and the connection is lost again and again. Every byte
// read is the last one written.
func TestConcurrent(t *testing.T) {
	w := newWorld(t, false, target.SubsystemConfig{})
	defer w.close()
	l := newEventLog()
	cfg := w.config()
	cfg.ReconnectDelay, cfg.KATO, cfg.Events = 5*time.Millisecond, time.Second, l.events()
	cfg.Events.Warning = func(error) {} // the loss of the connection during a rescan
	c := w.connect(cfg)
	n := w.namespace(c)

	const workers, region, losses = 8, 256, 5 // blocks
	stop := make(chan struct{})
	var wg lockdep.WaitGroup[users]
	for i := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 3))
			model := make([]byte, region*512)
			first := uint64(i * region)
			w.must(n.Write(context.Background(), first, model))
			for round := uint64(1); ; round++ {
				select {
				case <-stop:
					return
				default:
				}
				lba := r.Uint64N(region)
				k := 1 + r.Uint64N(region-lba)
				at := model[lba*512:][:k*512]
				if r.IntN(2) == 0 {
					for b := range k {
						binary.LittleEndian.PutUint64(at[b*512:], round<<32|b)
					}
					if err := n.Write(context.Background(), first+lba, at); err != nil {
						t.Error(err)
						return
					}
					continue
				}
				got := make([]byte, len(at))
				if err := n.Read(context.Background(), first+lba, got); err != nil || !bytes.Equal(got, at) {
					t.Errorf("worker %d round %d: %v, equal %v", i, round, err, bytes.Equal(got, at))
					return
				}
			}
		})
	}
	for i := range losses {
		if i == 0 {
			w.unplug()
			w.listen()
		} else { // the controller still answers
			w.cut(ioQueue)
		}
		l.wait(t, "reconnected")
		for range 20 {
			w.must(n.Flush(context.Background()))
		}
	}
	close(stop)
	wg.Wait()
	if c.Reconnects() != losses {
		t.Errorf("%d reconnects, want %d", c.Reconnects(), losses)
	}
	w.disconnect(c)
}

// Disconnect and a loss race.
func TestDisconnectRaces(t *testing.T) {
	w := newWorld(t, false, target.SubsystemConfig{})
	defer w.close()
	for round := range 30 {
		cfg := w.config()
		cfg.ReconnectDelay = time.Microsecond
		c := w.connect(cfg)
		n := w.namespace(c)
		var wg lockdep.WaitGroup[users]
		for range 4 {
			wg.Go(func() {
				for {
					err := n.Write(context.Background(), 0, make([]byte, 4096))
					if errors.Is(err, host.ErrClosed) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		if round%3 > 0 {
			w.listener.DisconnectAll()
		}
		if round%3 == 2 {
			_, _ = c.Identify(context.Background(), nvme.IdentifyCommand{CNS: nvme.CNSController})
		}
		for range 2 {
			// An error says that the loss was first.
			wg.Go(func() { _ = c.Disconnect(context.Background()) })
		}
		wg.Wait()
		if c.State() != host.Dead {
			t.Fatalf("state %v", c.State())
		}
	}
}

func BenchmarkSubmit(b *testing.B) {
	for _, bytes := range []int{512, 4096, 65536} {
		b.Run(fmt.Sprint(bytes), func(b *testing.B) {
			w := newWorld(b, false, target.SubsystemConfig{})
			n := w.plain()
			cfg := w.config()
			cfg.Dialer = w.dialer.inner
			c := w.connect(cfg)
			q := c.Queues()[0]
			l := newLoad(b, q, n(c), 31, bytes)
			b.SetBytes(int64(bytes))
			b.ReportAllocs()
			b.ResetTimer()
			if err := q.Shard().Run(func() { l.start(b.N) }); err != nil {
				b.Fatal(err)
			}
			<-l.idle
			b.StopTimer()
			w.disconnect(c)
			w.close()
		})
	}
}
