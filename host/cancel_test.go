package host_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/target"
)

// When its context is done a command is aborted, and waited for.
func TestCancelAborts(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		cfg := w.config()
		cfg.NrIOQueues = 1
		c := w.connect(cfg)
		n := w.namespace(c)
		const reads, answerAfter = 5, 100 * time.Millisecond
		w.swallow(reads, nvme.IORead)
		swallow := w.dialer.swallow
		running, most := 0, 0
		named := make(map[uint16]bool)
		w.dialer.set(func() {
			w.dialer.swallow = func(qid uint16, c nvme.Command) bool {
				if qid != 0 || c.IsFabrics() || c.Opcode() != uint8(nvme.AdminAbort) {
					return swallow(qid, c)
				}
				sqid, cid := c.Abort()
				if sqid != 1 || named[cid] {
					t.Errorf("Abort of command %d of queue %d", cid, sqid)
				}
				named[cid] = true
				running++
				most = max(most, running)
				admin, io := w.dialer.admin, w.dialer.io
				go func() {
					time.Sleep(answerAfter)
					_ = io.Shard().Run(func() {
						for i, r := range io.swallowed {
							if nvme.Command(r.Command[:]).CID() == cid {
								io.swallowed = append(io.swallowed[:i:i], io.swallowed[i+1:]...)
								r.Err, r.Completion = nil, nvme.Completion{Status: nvme.AbortRequested.WithDNR()}
								r.Done(r)
								break
							}
						}
					})
					_ = admin.Shard().Run(func() {
						running--
						admin.answer(nvme.Success)
					})
				}()
				return true
			}
		})
		// A CID of its own for each: they are not submitted, but swallowed.
		next := uint16(100)
		w.dialer.set(func() {
			w.dialer.watch = func(qid uint16, c nvme.Command) {
				if qid == 1 && !c.IsFabrics() {
					next++
					c.SetCID(next)
				}
			}
		})
		start := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		var all []<-chan error
		for range reads {
			all = append(all, async(func() error { return n.Read(ctx, 0, make([]byte, 512)) }))
		}
		for _, r := range all {
			if err := <-r; !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		}
		if d := time.Since(start); d != time.Second+reads*answerAfter || len(named) != reads || most != 1 {
			t.Errorf("after %v: %d aborts, %d at once", d, len(named), most)
		}
		w.dialer.set(func() { w.dialer.swallow, w.dialer.watch = nil, nil })
		w.must(n.Read(context.Background(), 0, make([]byte, 512)))
		w.disconnect(c)
	})
}

// A command that the controller neither ends nor aborts ends with the connection,
// and is not sent again. Nothing touches its memory after that.
func TestCancelStuck(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c, l := w.connectLogged(w.config())
		n := w.namespace(c)
		w.dev.Hold()
		writes := w.sent(nvme.IORead)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		start := time.Now()
		buf := make([]byte, 512)
		read := async(func() error { return n.Read(ctx, 0, buf) })
		l.wait(t, "lost")
		go func() { // the release of its queue waits for it
			time.Sleep(time.Second)
			w.dev.Release()
		}()
		if err := <-read; !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != host.DefaultIOTimeout {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		copy(buf, "mine")
		l.wait(t, "reconnected")
		if k := len(writes()); k != 1 || !bytes.HasPrefix(buf, []byte("mine\x00")) {
			t.Errorf("sent %d times; the buffer begins with %q", k, buf[:8])
		}
		w.disconnect(c)
	})
}

// A command that the device has not begun is aborted, whatever shard it is on, and
// the connection stays.
func TestCancelWaiting(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		_, err := w.sub.AddNamespace(target.NamespaceConfig{NSID: 2, Device: w.dev})
		w.must(err)
		c := w.connect(w.config())
		n, err := c.Namespace(2)
		w.must(err)
		w.dev.Hold()
		const reads = 4 // on several queues
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		start := time.Now()
		var all []<-chan error
		for range reads {
			all = append(all, async(func() error { return n.Read(ctx, 0, make([]byte, 512)) }))
		}
		for _, r := range all {
			if err := <-r; !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		}
		if d := time.Since(start); d != time.Second || w.dev.Held() != 0 {
			t.Errorf("after %v, and the device holds %d", d, w.dev.Held())
		}
		w.dev.Release()
		w.must(n.Read(context.Background(), 0, make([]byte, 512)))
		w.disconnect(c)
	})
}

// A command that is aborted without its owner's wish is sent again.
func TestStrayAbort(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c := w.connect(w.config())
		n := w.namespace(c)
		tries := w.refuse(2, nvme.AbortRequested.WithDNR())
		w.must(n.Write(context.Background(), 0, make([]byte, 512)))
		if tries.Load() != 3 {
			t.Errorf("%d tries", tries.Load())
		}
		w.dialer.set(func() { w.dialer.mangle = nil })
		w.disconnect(c)
	})
}

// An admin command that is not waited for leaves its caller's memory alone.
func TestCancelAdmin(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c := w.connect(w.config())
		w.dialer.set(func() {
			w.dialer.swallow = func(qid uint16, c nvme.Command) bool {
				if qid == 0 && !c.IsFabrics() && (c.Opcode() == uint8(nvme.AdminGetLogPage) || c.Opcode() == uint8(nvme.AdminIdentify)) {
					return true
				}
				return false
			}
		})
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		log, id := make([]byte, 512), make([]byte, nvme.IdentifySize)
		if err := c.GetLogPage(ctx, nvme.GetLogPageCommand{LID: nvme.LogSMART}, log); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if _, err := c.Admin(ctx, func(c nvme.Command) { c.PutIdentify(nvme.IdentifyCommand{CNS: nvme.CNSController}) }, id); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		q := w.dialer.admin
		w.must(q.Shard().Run(func() {
			for _, r := range q.swallowed {
				for i := range r.Data {
					r.Data[i] = 0xEE
				}
			}
			q.answer(nvme.Success)
		}))
		synctest.Wait()
		if log[0] != 0 || id[0] != 0 {
			t.Error("written after the call has returned")
		}
		w.dialer.set(func() { w.dialer.swallow = nil })
		w.must(c.GetLogPage(context.Background(), nvme.GetLogPageCommand{LID: nvme.LogSMART}, log))
		if bytes.Equal(log, make([]byte, len(log))) {
			t.Errorf("SMART log % x", log[:8])
		}
		w.disconnect(c)
	})
}
