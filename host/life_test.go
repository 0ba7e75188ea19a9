package host_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport"
)

func TestContext(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		cfg := w.config()
		cfg.NrIOQueues, cfg.QueueSize = 1, 16
		c := w.connect(cfg)
		n := w.namespace(c)
		done, cancel := context.WithCancel(context.Background())
		cancel()
		if err := n.Flush(done); !errors.Is(err, context.Canceled) {
			t.Errorf("a context that is done: %v", err)
		}

		w.dev.Hold()
		var held []<-chan error
		for range 15 { // the queue is full: one entry stays free
			held = append(held, async(func() error { return n.Read(context.Background(), 0, make([]byte, 512)) }))
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		start := time.Now()
		if err := n.Read(ctx, 0, make([]byte, 512)); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 3*time.Second {
			t.Errorf("waiting for room: %v after %v", err, time.Since(start))
		}
		if k := w.dev.Held(); k != 15 {
			t.Errorf("%d commands at the device", k)
		}
		w.dev.Release()
		for _, h := range held {
			w.must(<-h)
		}

		w.dev.Hold(bdev.Read)
		ctx, cancel = context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		start = time.Now()
		read := async(func() error { return n.Read(ctx, 0, make([]byte, 512)) })
		time.Sleep(2 * time.Second)
		w.dev.Release()
		w.must(<-read)
		if d := time.Since(start); d != 2*time.Second {
			t.Errorf("a read that the controller has ended after %v", d)
		}

		w.unplug()
		ctx, cancel = context.WithTimeout(context.Background(), 4*time.Second)
		defer cancel()
		start = time.Now()
		if err := n.Read(ctx, 0, make([]byte, 512)); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 4*time.Second {
			t.Errorf("waiting for the connection: %v after %v", err, time.Since(start))
		}
		if _, err := c.Identify(ctx, nvme.IdentifyCommand{CNS: nvme.CNSController}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Identify: %v", err)
		}
		w.disconnect(c)
	})
}

func TestDisconnectInOrder(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c := w.connect(w.config())
		n := w.namespace(c)
		w.dev.Hold()
		write := async(func() error { return n.Write(context.Background(), 0, make([]byte, 512)) })
		synctest.Wait()
		end := async(func() error { return c.Disconnect(context.Background()) })
		time.Sleep(2 * time.Second)
		if s := c.State(); s != host.Deleting {
			t.Errorf("state %v", s)
		}
		if err := n.Flush(context.Background()); !errors.Is(err, host.ErrClosed) {
			t.Errorf("a command during Disconnect: %v", err)
		}
		w.dev.Release()
		w.must(<-write)
		w.must(<-end)
		if c.State() != host.Dead {
			t.Errorf("state %v", c.State())
		}

		c = w.connect(w.config())
		n = w.namespace(c)
		w.dev.Hold()
		write = async(func() error { return n.Write(context.Background(), 0, make([]byte, 512)) })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		start := time.Now()
		if err := c.Disconnect(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 3*time.Second {
			t.Errorf("a disconnect that cannot wait: %v after %v", err, time.Since(start))
		}
		if err := <-write; !errors.Is(err, host.ErrClosed) {
			t.Errorf("the write: %v", err)
		}
		w.dev.Release()
	})
}

func TestNamespaceEvents(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c, l := w.connectLogged(w.config())
		n := w.namespace(c)
		mem, err := bdev.NewMemory(bdev.MemoryConfig{Size: 1 << 16, BlockSize: 4096})
		w.must(err)
		_, err = w.sub.AddNamespace(target.NamespaceConfig{NSID: 5, Device: mem})
		w.must(err)
		l.wait(t, "namespaces changed")
		all := c.Namespaces()
		if len(all) != 2 || all[0] != n || all[1].NSID() != 5 || all[1].BlockSize() != 4096 {
			t.Errorf("namespaces %v", all)
		}
		w.must(all[1].Write(context.Background(), 15, make([]byte, 4096)))
		w.must(w.sub.RemoveNamespace(5))
		l.wait(t, "namespaces changed")
		if err := all[1].Write(context.Background(), 0, make([]byte, 4096)); !errors.Is(err, host.ErrNamespaceGone) {
			t.Errorf("a write to what is gone: %v", err)
		}
		w.must(n.Flush(context.Background()))
		w.disconnect(c)
		w.must(mem.Close())
	})
}

func TestReplacedNamespace(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c, l := w.connectLogged(w.config())
		n := w.namespace(c)
		w.unplug()
		l.wait(t, "lost")
		write := async(func() error { return n.Write(context.Background(), 0, bytes.Repeat([]byte{1}, 512)) })
		synctest.Wait()
		w.must(w.sub.RemoveNamespace(1))
		mem, err := bdev.NewMemory(bdev.MemoryConfig{Size: 1 << 20, BlockSize: 512})
		w.must(err)
		_, err = w.sub.AddNamespace(target.NamespaceConfig{NSID: 1, Device: mem, UUID: nvme.UUID{1, 2, 3}})
		w.must(err)
		w.listen()
		l.wait(t, "namespaces changed")
		if err := <-write; !errors.Is(err, host.ErrNamespaceGone) {
			t.Errorf("the write: %v", err)
		}
		fresh := w.namespace(c)
		if fresh == n {
			t.Error("the same object for another namespace")
		}
		w.must(fresh.Compare(context.Background(), 0, make([]byte, 512)))
		w.disconnect(c)
		w.must(mem.Close())
	})
}

func TestFewerQueues(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		cfg := w.config()
		cfg.NrIOQueues = 3
		c, l := w.connectLogged(cfg)
		n := w.namespace(c)
		w.unplug()
		l.wait(t, "lost")
		var reads []<-chan error
		for range 9 {
			reads = append(reads, async(func() error { return n.Read(context.Background(), 0, make([]byte, 512)) }))
		}
		synctest.Wait()
		grant := uint64(0)
		w.dialer.set(func() {
			w.dialer.mangle = func(_ uint16, r *transport.HostRequest) {
				c := nvme.Command(r.Command[:])
				if !c.IsFabrics() && c.Opcode() == uint8(nvme.AdminSetFeatures) && c.FID() == nvme.FeatureNumberOfQueues {
					r.Completion.Result = grant | grant<<16
				}
			}
		})
		w.listen()
		for _, r := range reads {
			w.must(<-r)
		}
		l.wait(t, "reconnected")
		if c.Info().Queues != 1 || len(c.Queues()) != 3 {
			t.Errorf("%d queues granted, %d in all", c.Info().Queues, len(c.Queues()))
		}
		for range 6 {
			w.must(n.Flush(context.Background()))
		}
		q := c.Queues()[2]
		io := &host.IO{Op: nvme.IOFlush, Namespace: n, Done: func(*host.IO) {}}
		w.must(q.Shard().Run(func() {
			if err := q.Submit(io); !errors.Is(err, host.ErrQueueGone) {
				t.Errorf("submit to queue 3: %v", err)
			}
		}))
		grant = 2 // and back
		w.unplug()
		w.listen()
		l.wait(t, "reconnected")
		var submitted error
		w.must(q.Shard().Run(func() { submitted = q.Submit(io) }))
		w.must(submitted)
		w.disconnect(c)
	})
}

// All queues are closed before any is waited for.
func TestDisconnectClosesAllQueues(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c := w.connect(w.config())
		n := w.namespace(c)
		w.dev.Hold(bdev.Write)
		var writes []<-chan error
		for range c.Queues() { // one on each
			writes = append(writes, async(func() error { return n.Write(context.Background(), 0, make([]byte, 512)) }))
			synctest.Wait()
		}
		end := async(func() error { return c.Disconnect(context.Background()) })
		synctest.Wait()
		for _, q := range c.Queues() {
			io := &host.IO{Op: nvme.IOFlush, Namespace: n, Done: func(*host.IO) {}}
			w.must(q.Shard().Run(func() {
				if err := q.Submit(io); !errors.Is(err, host.ErrClosed) {
					t.Errorf("submit to queue %d: %v", q.ID(), err)
				}
			}))
		}
		w.dev.Release()
		for _, x := range writes {
			w.must(<-x)
		}
		w.must(<-end)
	})
}

// A Disconnect that is not to wait finds no session, because a reconnect is just
// making one.
func TestDisconnectDuringReconnect(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c, l := w.connectLogged(w.config())
		n := w.namespace(c)
		w.unplug()
		l.wait(t, "lost")
		flush := async(func() error { return n.Flush(context.Background()) })
		synctest.Wait()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		var start time.Time
		ended := make(chan error, 1)
		w.dialer.set(func() {
			w.dialer.swallow = func(qid uint16, c2 nvme.Command) bool {
				if qid == 0 || c2.IsFabrics() {
					return false
				}
				// What waited is sent: the session is there, and not yet live.
				start = time.Now()
				go func() { ended <- c.Disconnect(ctx) }()
				synctest.Wait()
				return true
			}
		})
		w.listen()
		<-ended
		if d := time.Since(start); d != 0 {
			t.Errorf("disconnected after %v", d)
		}
		if err := <-flush; !errors.Is(err, host.ErrClosed) {
			t.Errorf("what was sent ended with %v", err)
		}
	})
}
