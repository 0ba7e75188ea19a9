package target_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport"
)

// held is a world whose device keeps what it gets.
func heldWorld(t *testing.T, cfg target.Config) (*world, *bdev.Faulty) {
	f := bdev.NewFaulty(newMemory(t, 1<<20))
	return newWorld(t, cfg, f), f
}

// A queue that is down waits for its device, and what comes back too late comes
// home all the same.
func TestOrphans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, dev := heldWorld(t, target.Config{})
		defer w.close()
		h := w.enable(nil)
		q := h.io(1, nil)
		q.quiet = 3 * time.Second
		dev.Hold()
		read := q.send(rw(nvme.IORead, 1, 0, 0), make([]byte, 512))
		discard := q.send(dsm(1, 4), ranges(nvme.DSMRange{NLB: 1}, nvme.DSMRange{NLB: 1}))
		dev.WaitHeld(2)
		start := time.Now()
		q.hangUp()
		if got := time.Since(start); got != 3*time.Second || q.orphan.Load() != 2 {
			t.Errorf("gone after %v with %d orphans, want 3s and 2", got, q.orphan.Load())
		}
		if !read.pending() || !discard.pending() {
			t.Error("orphans were completed before the device was done with their memory")
		}
		dev.Release()
		<-read.done
		<-discard.done
		if discard.Completion.Status.OK() {
			t.Error("a command of a queue that is down went on to its next range")
		}
		h.csts() // the controller has not noticed
	})
}

// A queue that is down and whose device answers in time has no orphans.
func TestQuiesceWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, dev := heldWorld(t, target.Config{})
		defer w.close()
		q := w.enable(nil).io(1, nil)
		dev.Hold()
		q.send(rw(nvme.IORead, 1, 0, 0), make([]byte, 512))
		q.late = true
		q.send(rw(nvme.IOWrite, 1, 0, 0), make([]byte, 512)) // waits for its data, which never comes
		dev.WaitHeld(1)
		time.AfterFunc(time.Second, dev.Release)
		start := time.Now()
		q.hangUp()
		if got := time.Since(start); got != time.Second || q.orphan.Load() != 0 {
			t.Errorf("gone after %v with %d orphans, want 1s and none", got, q.orphan.Load())
		}
	})
}

// Data that arrives when the queue is down is not written: who waits for the
// queue's end waits for what is with the device by then.
func TestDataAfterDown(t *testing.T) {
	rec := &recorder{Device: newMemory(t, 1<<20), t: t}
	w := newWorld(t, target.Config{}, rec)
	defer w.close()
	q := w.enable(nil).io(1, nil)
	q.late, q.always = true, true
	s := q.send(rw(nvme.IOWrite, 1, 0, 0), make([]byte, 512))
	q.hangUp()
	<-s.done
	if ops := rec.take(); len(ops) != 0 {
		t.Errorf("the device did %s", text(ops))
	}
}

// A reset or shutdown is complete when no command of the I/O queues is with a
// device any more, and not before.
func TestResetWaitsForIO(t *testing.T) {
	for _, tt := range []struct {
		name         string
		cc           uint64
		during, then nvme.CSTS
		cause        error
	}{
		{"reset", ccDisabled, 1, 0, target.ErrReset},
		{"shutdown", ccShutdown, nvme.CSTS(0).WithSHST(nvme.SHSTInProgress), nvme.CSTS(0).WithSHST(nvme.SHSTComplete), target.ErrShutdown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, dev := heldWorld(t, target.Config{})
				defer w.close()
				h := w.enable(nil)
				idle, q := h.io(1, nil), h.io(2, nil)
				dev.Hold(bdev.Write)
				s := q.send(rw(nvme.IOWrite, 1, 0, 0), make([]byte, 512))
				dev.WaitHeld(1)
				aer := h.aer()
				h.admin.ok(propSet(nvme.PropertyCC, tt.cc), nil)
				<-aer.done
				<-idle.gone // had nothing to wait for
				if got := h.csts(); got != tt.during {
					t.Errorf("CSTS %#x with a write under way, want %#x", uint32(got), uint32(tt.during))
				}
				h.admin.fails(identify(1, 0), make([]byte, 4096), nvme.CommandSequenceError.WithDNR())
				dev.Release()
				<-s.done
				if s.Completion.Status != nvme.Success {
					t.Errorf("the write: %v", s.Completion.Status) // it was answered before the connection went
				}
				<-q.gone
				if !errors.Is(q.cause, tt.cause) || !errors.Is(idle.cause, tt.cause) {
					t.Errorf("causes %v and %v", q.cause, idle.cause)
				}
				if got := h.csts(); got != tt.then {
					t.Errorf("CSTS %#x, want %#x", uint32(got), uint32(tt.then))
				}
				// The controller can be enabled again, and takes its queues again.
				h.admin.ok(propSet(nvme.PropertyCC, ccDisabled), nil)
				h.admin.ok(propSet(nvme.PropertyCC, ccEnabled), nil)
				if got := h.csts(); got != 1 {
					t.Errorf("CSTS %#x after it was enabled again", uint32(got))
				}
				h.io(2, nil).ok(rw(nvme.IORead, 1, 0, 0), make([]byte, 512))
			})
		})
	}
}

// When the admin queue goes, all go, and the identifier is free when the last
// has gone.
func TestAdminQueueGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, dev := heldWorld(t, target.Config{})
		defer w.close()
		h := w.enable(nil)
		q := h.io(1, nil)
		h.aer()
		dev.Hold()
		q.send(rw(nvme.IORead, 1, 0, 0), make([]byte, 512))
		dev.WaitHeld(1)
		h.admin.hangUp()
		<-q.left
		if !errors.Is(q.cause, target.ErrAssociated) {
			t.Errorf("cause %v", q.cause)
		}
		if c := w.target.Counts(); c.Controllers != 1 || c.Queues != 1 {
			t.Errorf("%+v with an I/O queue left", c)
		}
		// Its identifier leads nowhere.
		late := w.open(nil)
		if cqe := late.connect(ioConnect(h.cntlid, 2)); cqe.Status != 0x4182 {
			t.Errorf("Connect to a controller that is going: %v", cqe.Status)
		}
		late.hangUp()
		dev.Release()
		<-q.gone
		if c := w.target.Counts(); c.Controllers != 0 || c.Queues != 0 {
			t.Errorf("%+v", c)
		}
		if next := w.enable(nil); next.cntlid == h.cntlid {
			t.Errorf("controller identifier %d given again at once", next.cntlid)
		}
	})
}

// Closing a target completes the AERs, lets I/O that is under way finish, does
// not answer what comes later, and is bounded.
func TestCloseInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, dev := heldWorld(t, target.Config{})
		h := w.enable(nil)
		q := h.io(1, nil)
		disc := w.connect(func(a *connectArgs) { a.SUBNQN = nvme.DiscoveryNQN })
		silent := w.open(nil)
		aer := h.aer()
		dev.Hold()
		s := q.send(rw(nvme.IORead, 1, 0, 0), make([]byte, 512))
		dev.WaitHeld(1)

		closed := make(chan error)
		go func() { closed <- w.target.Close() }()
		synctest.Wait()
		if !w.port.Removed() {
			t.Error("the port takes new queues")
		}
		if _, err := w.tryOpen(nil); !errors.Is(err, target.ErrClosed) {
			t.Errorf("Open: %v", err)
		}
		late := q.send(rw(nvme.IORead, 1, 0, 0), make([]byte, 512))
		lateBad := q.send(rw(nvme.IORead, 99, 0, 0), make([]byte, 512))
		if !late.pending() || !lateBad.pending() {
			t.Error("a command that came too late was answered: the host would try again at once and give up")
		}
		if !aer.pending() {
			t.Error("the admin queue went before the I/O queue")
		}
		time.Sleep(time.Second / 2)
		dev.Release()
		<-s.done
		if s.Completion.Status != nvme.Success {
			t.Errorf("command under way: %v", s.Completion.Status)
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
		<-late.done
		<-aer.done
		for _, q := range []*queue{h.admin, q, disc.admin, silent} {
			<-q.gone
			if !errors.Is(q.cause, target.ErrClosed) {
				t.Errorf("cause %v", q.cause)
			}
		}
		if _, err := w.target.AddSubsystem(target.SubsystemConfig{NQN: subNQN}); !errors.Is(err, target.ErrClosed) {
			t.Errorf("AddSubsystem: %v", err)
		}
		if _, err := w.target.AddPort(target.PortConfig{ID: 9}); !errors.Is(err, target.ErrClosed) {
			t.Errorf("AddPort: %v", err)
		}
		w.close()
	})
}

// A device that does not answer does not keep a queue from leaving.
func TestLeaveIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, dev := heldWorld(t, target.Config{LeaveTimeout: 2 * time.Second})
		defer w.close()
		h := w.enable(nil)
		q := h.io(1, nil)
		dev.Hold()
		q.send(rw(nvme.IORead, 1, 0, 0), make([]byte, 512))
		dev.WaitHeld(1)
		start := time.Now()
		if err := w.port.Unlink(w.sub); err != nil {
			t.Fatal(err)
		}
		<-h.admin.gone
		<-q.left
		if got := time.Since(start); got != 2*time.Second || !errors.Is(q.cause, target.ErrRemoved) {
			t.Errorf("told to leave after %v, %v", got, q.cause)
		}
		dev.Release()
		<-q.gone
		h2 := w.open(nil)
		if cqe := h2.connect(adminConnect()); cqe.Status != 0x4182 {
			t.Errorf("Connect to a subsystem that is not linked: %v", cqe.Status)
		}
	})
}

// A Close that cannot end says what is left, and can be called again.
func TestCloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, dev := heldWorld(t, target.Config{CloseTimeout: 4 * time.Second})
		q := w.enable(nil).io(1, nil)
		q.quiet = time.Hour
		dev.Hold()
		q.send(rw(nvme.IORead, 1, 0, 0), make([]byte, 512))
		dev.WaitHeld(1)
		start := time.Now()
		err := w.target.Close()
		if err == nil || !strings.Contains(err.Error(), "1 queues left") || time.Since(start) != 4*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		dev.Release()
		w.close()
	})
}

// Removing and changing things while hosts use them.
func TestRemoval(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	defer w.close()
	second := newMemory(t, 1<<20)
	s2 := w.subsystem(target.SubsystemConfig{NQN: subNQN + "-2", Hosts: []string{hostNQN, otherNQN}})
	if err := w.port.Link(s2); err != nil {
		t.Fatal(err)
	}
	if _, err := s2.AddNamespace(target.NamespaceConfig{Device: second}); err != nil {
		t.Fatal(err)
	}
	first := w.enable(nil)
	a := w.enable(func(a *connectArgs) { a.SUBNQN = s2.NQN() })
	b := w.enable(func(a *connectArgs) { a.SUBNQN, a.HOSTNQN = s2.NQN(), otherNQN })

	// A host that is no longer allowed goes, and the others stay.
	s2.SetHosts(false, []string{hostNQN})
	<-b.admin.gone
	if !errors.Is(b.admin.cause, target.ErrRemoved) {
		t.Errorf("cause %v", b.admin.cause)
	}
	a.csts()

	// A namespace goes while a command waits for its data.
	q := w.open(nil)
	c := ioConnect(a.cntlid, 1)
	c.SUBNQN = s2.NQN()
	if cqe := q.connect(c); !cqe.Status.OK() {
		t.Fatal(cqe.Status)
	}
	q.late = true
	s := q.send(rw(nvme.IOWrite, 1, 0, 0), make([]byte, 512))
	if err := s2.RemoveNamespace(1); err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	q.serve()
	<-s.done
	if got := s.Completion.Status.Base(); got != nvme.InvalidNamespace {
		t.Errorf("write to a namespace that is gone: %v", got)
	}
	if err := s2.RemoveNamespace(1); !errors.Is(err, target.ErrNotFound) {
		t.Errorf("twice: %v", err)
	}

	if err := s2.Remove(); err != nil {
		t.Fatal(err)
	}
	<-a.admin.gone
	<-q.gone
	if err := s2.Remove(); !errors.Is(err, target.ErrNotFound) {
		t.Errorf("twice: %v", err)
	}
	if err := w.target.Discovery().Remove(); !errors.Is(err, target.ErrNotFound) {
		t.Errorf("of the discovery subsystem: %v", err)
	}
	if _, err := s2.AddNamespace(target.NamespaceConfig{Device: second}); !errors.Is(err, target.ErrNotFound) {
		t.Errorf("namespace of a subsystem that is gone: %v", err)
	}
	if err := w.port.Link(s2); !errors.Is(err, target.ErrNotFound) {
		t.Errorf("link with a subsystem that is gone: %v", err)
	}
	first.csts()

	w.port.Remove()
	w.port.Remove()
	<-first.admin.gone
	if !w.port.Removed() {
		t.Error("not removed")
	}
	if _, err := w.tryOpen(nil); !errors.Is(err, target.ErrRemoved) {
		t.Errorf("Open: %v", err)
	}
	if err := w.port.Link(w.sub); !errors.Is(err, target.ErrRemoved) {
		t.Errorf("Link: %v", err)
	}
}

// A device that has grown is seen to have, after the host has been told.
func TestRefresh(t *testing.T) {
	blocks := uint64(1024)
	rec := &recorder{Device: newMemory(t, 1<<20), t: t, info: func(i *bdev.Info) { i.Blocks = blocks }}
	w := newWorld(t, target.Config{}, rec)
	defer w.close()
	h := w.enable(nil)
	q := h.io(1, nil)
	q.fails(rw(nvme.IORead, 1, 1024, 0), make([]byte, 512), nvme.LBAOutOfRange.WithDNR())
	blocks = 2048
	if _, err := w.sub.RefreshNamespace(1); err != nil {
		t.Fatal(err)
	}
	if id := parse[nvme.IdentifyNamespace](t, h.admin.page(identify(0, 1), 4096)); id.NSZE != 2048 {
		t.Errorf("NSZE %d", id.NSZE)
	}
	q.ok(rw(nvme.IORead, 1, 1024, 0), make([]byte, 512))
	if _, err := w.sub.RefreshNamespace(2); !errors.Is(err, target.ErrNotFound) {
		t.Errorf("of a namespace that is not there: %v", err)
	}
}

// Queues of one controller on several shards, with everything going on at
// once.
func TestTwoShards(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	defer w.close()
	other := shard.NewSim(shard.Config{})
	defer other.Close()
	h := w.enable(nil)
	h.admin.ok(setFeature(nvme.FeatureAsyncEventConfig, 0x100), nil)
	var ios []*queue
	for i := range 4 {
		ios = append(ios, h.io(uint16(i+1), func(p *transport.QueueParam) {
			if i%2 == 1 {
				p.Shard = other
			}
		}))
	}
	var wg sync.WaitGroup
	for i, q := range ios {
		wg.Go(func() {
			for n := range 50 {
				q.do(rw([]nvme.IOOpcode{nvme.IORead, nvme.IOWrite}[n%2], uint32(1+n%3), uint64(i), 0), make([]byte, 512))
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			if _, err := w.sub.AddNamespace(target.NamespaceConfig{NSID: 2, Device: w.dev}); err != nil {
				t.Error(err)
			}
			if err := w.sub.RemoveNamespace(2); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Go(func() {
		for range 20 {
			h.admin.page(getLog(nvme.LogSMART, 512, nil), 512)
			h.admin.page(getLog(nvme.LogChangedNamespaces, 4096, nil), 4096)
			w.target.Counts()
			w.sub.Controllers()
			w.sub.Stats()
		}
	})
	wg.Wait()
	i := w.sub.Controllers()[0]
	if i.Queues != 5 || !i.Ready || i.HostNQN != hostNQN || i.Remote.Port() != 1024 || i.PortID != 1 {
		t.Errorf("%+v", i)
	}
	if s := w.sub.Stats(); s.Reads+s.Writes+s.Errors < 200 || s.Reads == 0 || s.Writes == 0 {
		t.Errorf("%+v", s)
	}
	h.admin.hangUp()
	for _, q := range ios {
		<-q.gone
	}
}

// Hosts come and go at once, on two shards.
func TestConnectStorm(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	defer w.close()
	other := shard.NewSim(shard.Config{})
	defer other.Close()
	var opening sync.Mutex // of w.queues
	open := func(change func(*transport.QueueParam)) *queue {
		opening.Lock()
		defer opening.Unlock()
		return w.open(change)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 20 {
				q := open(nil)
				cqe := q.connect(adminConnect())
				q.do(propSet(nvme.PropertyCC, ccEnabled), nil)
				io := open(func(p *transport.QueueParam) { p.Shard = other })
				if s := io.connect(ioConnect(uint16(cqe.Result), 1)).Status; s != nvme.Success {
					t.Error(s)
				}
				q.send(cmd(nvme.Command.PutAsyncEventRequest), nil)
				q.hangUp()
				<-io.gone
			}
		})
	}
	wg.Wait()
	if c := w.target.Counts(); c.Controllers != 0 || c.Queues != 0 {
		t.Errorf("%+v", c)
	}
}

// The events tell what happens.
func TestEvents(t *testing.T) {
	var mu sync.Mutex
	var got []string
	note := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, s)
	}
	w := newWorld(t, target.Config{Events: target.Events{
		ControllerCreated: func(i target.ControllerInfo) { note("created " + i.HostNQN[len(i.HostNQN)-1:]) },
		ControllerRemoved: func(i target.ControllerInfo, cause error) {
			note("removed " + i.HostNQN[len(i.HostNQN)-1:])
			if cause == nil {
				t.Error("no cause")
			}
		},
		ConnectRefused: func(i target.ControllerInfo, qid uint16, err error) {
			if qid != 0 || nvme.StatusOf(err) != 0x4182 || i.Remote.Port() != 1024 {
				t.Errorf("refused %+v, %d, %v", i, qid, err)
			}
			note("refused " + i.SubsystemNQN)
		},
	}}, nil)
	h := w.enable(nil)
	w.open(nil).connect(connectArgs{nvme.ConnectCommand{SQSize: 31}, nvme.ConnectData{CNTLID: 0xFFFF, SUBNQN: "nqn.x", HOSTNQN: hostNQN}})
	h.admin.hangUp()
	w.close()
	if s := strings.Join(got, ", "); s != "created 1, refused nqn.x, removed 1" {
		t.Error(s)
	}
}

// What has been done does not become less while queues come and go.
func TestStatsOnlyGrow(t *testing.T) {
	w := newWorld(t, target.Config{}, nil)
	defer w.close()
	h := w.enable(nil)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range 200 {
			q := h.io(1, nil)
			q.do(cmd(func(c nvme.Command) { c.PutFlush(1) }), nil)
			q.hangUp()
			<-q.gone
		}
	}()
	for last, reading := uint64(0), true; reading; {
		n := w.sub.Stats().Others
		if n < last {
			t.Errorf("%d commands, before %d", n, last)
		}
		last = n
		select {
		case <-ended:
			reading = false
		default:
		}
	}
}
