package host_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport"
)

// The commands of a connect are those of a Linux host, in its order.
func TestConnectSequence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true, target.SubsystemConfig{})
		defer w.close()
		var got []string
		w.dialer.watch = func(qid uint16, c nvme.Command) {
			name := nvme.AdminOpcode(c.Opcode()).String()
			if c.IsFabrics() {
				name = c.FCTYPE().String()
			}
			w.dialer.set(func() { got = append(got, name) })
		}
		c := w.connect(w.config())
		synctest.Wait()
		want := []string{
			"Connect", "Property Get", "Property Set", "Property Get", "Property Set", "Property Get", "Property Get",
			"Identify", "Set Features", "Connect", "Connect", "Set Features",
			"Asynchronous Event Request", "Identify", "Identify", "Identify",
		}
		if !slices.Equal(got, want) {
			t.Errorf("commands\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		info := c.Info()
		if info.CNTLID == 0 || info.Queues != 2 || info.QueueSize != 32 || info.MaxData != 64<<10 || info.VS < nvme.Version1_3 {
			t.Errorf("info: CNTLID %d, %d queues of %d, %d bytes, version %v", info.CNTLID, info.Queues, info.QueueSize, info.MaxData, info.VS)
		}
		if c.State() != host.Live || len(c.Queues()) != 2 || c.Cause() != nil {
			t.Errorf("state %v, %d queues, cause %v", c.State(), len(c.Queues()), c.Cause())
		}
		n := w.namespace(c)
		got = nil
		w.disconnect(c)
		if len(got) < 2 || got[0] != "Property Set" || got[1] != "Property Get" {
			t.Errorf("commands of the disconnect: %q", got)
		}
		w.disconnect(c) // again
		if _, err := c.Identify(context.Background(), nvme.IdentifyCommand{CNS: nvme.CNSController}); !errors.Is(err, host.ErrClosed) {
			t.Errorf("Identify on a dead controller: %v", err)
		}
		if err := n.Flush(context.Background()); !errors.Is(err, host.ErrClosed) {
			t.Errorf("Flush on a dead controller: %v", err)
		}
	})
}

func TestReadWrite(t *testing.T) {
	w := newWorld(t, false, target.SubsystemConfig{})
	defer w.close()
	c := w.connect(w.config())
	defer w.disconnect(c)
	n := w.namespace(c)
	ctx := context.Background()
	if n.BlockSize() != 512 || n.Size() != 1<<20 || n.Blocks() != 2048 || n.MaxData() != 64<<10 || n.NSID() != 1 {
		t.Fatalf("namespace %d: %d blocks of %d, %d bytes at once", n.NSID(), n.Blocks(), n.BlockSize(), n.MaxData())
	}
	if i := n.Info(); i.UUID.IsZero() && i.NGUID.IsZero() || i.Size() != 1<<20 {
		t.Errorf("info %+v", i)
	}

	r := rand.New(rand.NewPCG(1, 2))
	model := make([]byte, 1<<20)
	for range 200 {
		lba := r.Uint64N(2048)
		blocks := 1 + r.Uint64N(min(2048-lba, 700)) // up to several commands
		at := model[lba*512:][:blocks*512]
		switch r.IntN(5) {
		case 0, 1:
			for i := range at {
				at[i] = byte(r.Uint32())
			}
			w.must(n.Write(ctx, lba, at))
		case 2:
			w.must(n.WriteZeroes(ctx, lba, blocks, r.IntN(2) == 0))
			clear(at)
		case 3:
			w.must(n.Compare(ctx, lba, at))
		case 4:
			got := make([]byte, len(at))
			w.must(n.Read(ctx, lba, got))
			if !bytes.Equal(got, at) {
				t.Fatalf("read of blocks %d+%d differs", lba, blocks)
			}
		}
	}
	w.must(n.Flush(ctx))
	w.must(n.Deallocate(ctx, 0, 2048))
	if n.Info().ReadsZeroes {
		clear(model)
	}

	// The interfaces of package io, with any offset for reads.
	if k, err := n.WriteAt(bytes.Repeat([]byte("abcd"), 1<<15), 1024); k != 1<<17 || err != nil {
		t.Fatalf("WriteAt: %d, %v", k, err)
	}
	copy(model[1024:], bytes.Repeat([]byte("abcd"), 1<<15))
	got, err := io.ReadAll(io.NewSectionReader(n, 0, n.Size()))
	if err != nil || !bytes.Equal(got, model) {
		t.Errorf("reading it all: %v, equal %v", err, bytes.Equal(got, model))
	}
	for range 50 {
		off := r.IntN(1 << 20)
		p := make([]byte, r.IntN(100_000))
		k, err := n.ReadAt(p, int64(off))
		want := model[off:]
		if len(p) <= len(want) {
			want = want[:len(p)]
			if err != nil {
				t.Fatal(err)
			}
		} else if err != io.EOF {
			t.Fatalf("read over the end: %v", err)
		}
		if k != len(want) || !bytes.Equal(p[:k], want) {
			t.Fatalf("ReadAt(%d, %d): %d bytes, equal %v", len(p), off, k, bytes.Equal(p[:k], want))
		}
	}
	if k, err := n.ReadAt(make([]byte, 1), 1<<20); k != 0 || err != io.EOF {
		t.Errorf("read at the end: %d, %v", k, err)
	}
}

func TestMisuseIsRefused(t *testing.T) {
	w := newWorld(t, false, target.SubsystemConfig{})
	defer w.close()
	c := w.connect(w.config())
	defer w.disconnect(c)
	n := w.namespace(c)
	ctx := context.Background()
	block := make([]byte, 512)
	for _, x := range []struct {
		what string
		err  error
		want string
	}{
		{"read beyond the end", n.Read(ctx, 2048, block), "host: Read of namespace 1: blocks 2048+1 of 2048: LBA out of range (0x0080)"},
		{"read far beyond", n.Read(ctx, 1<<63, block), "host: Read of namespace 1: blocks 9223372036854775808+1 of 2048: LBA out of range (0x0080)"},
		{"part of a block", n.Write(ctx, 0, block[:511]), "host: Write of namespace 1: 511 bytes are not whole blocks of 512"},
		{"compare", n.Compare(ctx, 0, bytes.Repeat([]byte{1}, 512)), "host: Compare of namespace 1, 1 blocks from 0: compare failure (status"},
		{"write beyond the end", second(n.WriteAt(block, 1<<20-100)), "host: write of namespace 1: 512 bytes at offset 1048476 of 1048576: "},
		{"read before the beginning", second(n.ReadAt(block, -1)), "host: read of namespace 1: offset -1"},
	} {
		if x.err == nil || !strings.HasPrefix(x.err.Error(), x.want) {
			t.Errorf("%s: %v, want %s", x.what, x.err, x.want)
		}
	}
	var ce *host.CommandError
	if err := n.Compare(ctx, 0, bytes.Repeat([]byte{1}, 512)); !errors.As(err, &ce) || !errors.Is(err, nvme.CompareFailure) || ce.NSID != 1 {
		t.Errorf("compare: %#v", err)
	}
	if _, err := c.Namespace(7); err == nil {
		t.Error("there is a namespace 7")
	}
	if _, err := c.Identify(ctx, nvme.IdentifyCommand{CNS: 0xF0}); !errors.Is(err, nvme.InvalidField) {
		t.Errorf("Identify F0h: %v", err)
	}
}

func second(_ int, err error) error { return err }

func TestConnectErrors(t *testing.T) {
	w := newWorld(t, false, target.SubsystemConfig{NQN: subNQN, Hosts: []string{hostNQN}})
	defer w.close()
	ctx := context.Background()
	expect := func(what string, cfg host.Config, parts ...string) error {
		t.Helper()
		c, err := host.Connect(ctx, cfg)
		if err == nil {
			w.disconnect(c)
			t.Errorf("%s: connected", what)
			return nil
		}
		for _, p := range parts {
			if !strings.Contains(err.Error(), p) {
				t.Errorf("%s: %q does not say %q", what, err, p)
			}
		}
		return err
	}
	cfg := w.config()
	cfg.NQN = "nqn.2025-01.example:other"
	err := expect("unknown subsystem", cfg,
		"host: connect nqn.2025-01.example:other at 192.0.2.1:4420: Connect of queue 0", "SUBNQN", "run discovery")
	var ce *host.ConnectError
	if !errors.Is(err, nvme.ConnectInvalidParameters) || !host.DNR(err) || !errors.As(err, &ce) || ce.Step != "Connect of queue 0" {
		t.Errorf("unknown subsystem: %#v", err)
	}
	cfg = w.config()
	cfg.HostNQN = "nqn.2025-01.example:stranger"
	if err := expect("host not allowed", cfg, "connect invalid host", "does not admit host nqn.2025-01.example:stranger"); !errors.Is(err, nvme.ConnectInvalidHost) {
		t.Errorf("host not allowed: %#v", err)
	}
	cfg = w.config()
	cfg.Remote = netip.MustParseAddrPort("192.0.2.1:4421")
	var refused *transport.RefusedError
	if err := expect("nobody listens", cfg, "nobody listens at 192.0.2.1:4421", "check address and port"); !errors.As(err, &refused) || refused.Listening {
		t.Errorf("nobody listens: %#v", err)
	}

	for _, x := range []struct {
		what string
		edit func(*host.Config)
		want string
	}{
		{"no dialer", func(c *host.Config) { c.Dialer = nil }, "no Dialer"},
		{"no remote", func(c *host.Config) { c.Remote = netip.AddrPort{} }, "no Remote"},
		{"no NQN", func(c *host.Config) { c.NQN = "" }, "NQN"},
		{"bad host NQN", func(c *host.Config) { c.HostNQN = "me" }, "HostNQN"},
		{"queue size", func(c *host.Config) { c.QueueSize = 15 }, "QueueSize 15, want 16 to 1024"},
		{"queues", func(c *host.Config) { c.NrIOQueues = -1 }, "NrIOQueues -1"},
		{"KATO", func(c *host.Config) { c.KATO = time.Microsecond }, "KATO 1µs"},
		{"loss", func(c *host.Config) { c.CtrlLossTMO = -5 }, "CtrlLossTMO"},
		{"data", func(c *host.Config) { c.MaxData = 512 }, "MaxData 512"},
	} {
		cfg := w.config()
		x.edit(&cfg)
		expect(x.what, cfg, "host: config", x.want)
	}
}

// What a controller must not say fails the connect, with its reason.
func TestConnectRefusesOddControllers(t *testing.T) {
	w := newWorld(t, false, target.SubsystemConfig{})
	defer w.close()
	identify := func(edit func(*nvme.IdentifyController)) func(uint16, *transport.HostRequest) {
		return func(_ uint16, r *transport.HostRequest) {
			c := nvme.Command(r.Command[:])
			if c.IsFabrics() || c.Opcode() != uint8(nvme.AdminIdentify) || c.CNS() != nvme.CNSController {
				return
			}
			var id nvme.IdentifyController
			if err := id.Parse(r.Data); err != nil {
				t.Error(err)
			}
			edit(&id)
			copy(r.Data, id.AppendTo(nil))
		}
	}
	property := func(p nvme.Property, v uint64) func(uint16, *transport.HostRequest) {
		return func(_ uint16, r *transport.HostRequest) {
			c := nvme.Command(r.Command[:])
			if c.IsFabrics() && c.FCTYPE() == nvme.FabricsPropertyGet && c.Property().Offset == p {
				r.Completion.Result = v
			}
		}
	}
	for _, x := range []struct {
		want   string
		mangle func(uint16, *transport.HostRequest)
	}{
		{"CNTLID 9, Connect said", identify(func(id *nvme.IdentifyController) { id.CNTLID = 9 })},
		{"KAS 0", identify(func(id *nvme.IdentifyController) { id.KAS = 0 })},
		{"IOCCSZ 3", identify(func(id *nvme.IdentifyController) { id.IOCCSZ = 3 })},
		{"IORCSZ 0", identify(func(id *nvme.IdentifyController) { id.IORCSZ = 0 })},
		{"ICDOFF 1", identify(func(id *nvme.IdentifyController) { id.ICDOFF = 1 })},
		{"controller fatal status", property(nvme.PropertyCSTS, 2)},
		{"the controller is gone", property(nvme.PropertyCSTS, 0xFFFFFFFF)},
		{"CAP.MPSMIN 1", property(nvme.PropertyCAP, uint64(nvme.CAP(0).WithMPSMIN(1)))},
		{"command interrupted", func(_ uint16, r *transport.HostRequest) {
			if c := nvme.Command(r.Command[:]); !c.IsFabrics() && c.Opcode() == uint8(nvme.AdminSetFeatures) {
				r.Completion.Status = nvme.CommandInterrupted
			}
		}},
	} {
		w.dialer.set(func() { w.dialer.mangle = x.mangle })
		c, err := host.Connect(context.Background(), w.config())
		if err == nil {
			w.disconnect(c)
			t.Errorf("%s: connected", x.want)
		} else if !strings.Contains(err.Error(), x.want) {
			t.Errorf("error %q does not say %q", err, x.want)
		}
	}
}

// A controller that is not ready in CAP.TO fails the connect then.
func TestConnectWaitsForReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true, target.SubsystemConfig{})
		defer w.close()
		late := func(d time.Duration) {
			w.readyLate(d, func(c nvme.CAP) nvme.CAP { return c.WithTO(9) }, 0)
		}
		late(3 * time.Second)
		start := time.Now()
		c := w.connect(w.config())
		if d := time.Since(start); d < 3*time.Second || d > 3*time.Second+130*time.Millisecond {
			t.Errorf("connected after %v", d)
		}
		w.disconnect(c)
		late(time.Hour)
		start = time.Now()
		_, err := host.Connect(context.Background(), w.config())
		if err == nil || !strings.Contains(err.Error(), "not ready within 5s") {
			t.Errorf("error %v", err)
		}
		if d := time.Since(start); d < 5*time.Second || d > 5*time.Second+130*time.Millisecond {
			t.Errorf("failed after %v", d)
		}
	})
}

// A dial or command without an answer ends with ctx, or the admin timeout.
func TestConnectGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true, target.SubsystemConfig{})
		defer w.close()
		for _, qid := range []uint16{0, 2} {
			w.dialer.set(func() {
				w.dialer.swallow = func(q uint16, c nvme.Command) bool {
					return q == qid && c.IsFabrics() && c.FCTYPE() == nvme.FabricsConnect
				}
			})
			ctx, cancel := context.WithTimeout(context.Background(), 7*time.Second)
			start := time.Now()
			_, err := host.Connect(ctx, w.config())
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 7*time.Second {
				t.Errorf("queue %d: %v after %v", qid, err, time.Since(start))
			}
			start = time.Now()
			cfg := w.config()
			cfg.AdminTimeout = 9 * time.Second
			_, err = host.Connect(context.Background(), cfg)
			if err == nil || time.Since(start) != 9*time.Second {
				t.Errorf("queue %d: %v after %v", qid, err, time.Since(start))
			}
		}
	})
}

func TestDiscover(t *testing.T) {
	w := newWorld(t, false, target.SubsystemConfig{})
	defer w.close()
	for _, nqn := range []string{"nqn.2025-01.example:a", "nqn.2025-01.example:b"} {
		s, err := w.target.AddSubsystem(target.SubsystemConfig{NQN: nqn, AllowAnyHost: true})
		w.must(err)
		w.must(w.port.Link(s))
	}
	cfg := w.config()
	cfg.NQN = ""
	cfg.MaxData = 4096 // several reads of the page
	log, err := host.Discover(context.Background(), cfg)
	w.must(err)
	var names []string
	for _, e := range log.Entries {
		if e.TRADDR != "192.0.2.1" || e.TRSVCID != "4420" || e.TRTYPE != nvme.TransportLoop {
			t.Errorf("entry %+v", e)
		}
		if e.SUBTYPE == nvme.SubsystemNVM {
			names = append(names, e.SUBNQN)
		}
	}
	slices.Sort(names)
	if want := []string{"nqn.2025-01.example:a", "nqn.2025-01.example:b", subNQN}; !slices.Equal(names, want) {
		t.Errorf("names %q, want %q", names, want)
	}

	// Somebody changes the log while it is read: it is read again.
	changes, reads := 2, 0
	w.dialer.set(func() {
		w.dialer.mangle = func(_ uint16, r *transport.HostRequest) {
			c := nvme.Command(r.Command[:])
			if c.IsFabrics() || c.Opcode() != uint8(nvme.AdminGetLogPage) {
				return
			}
			if g := c.GetLogPage(); g.LPO == 0 && g.RAE {
				if reads++; changes > 0 {
					changes--
					w.port.SetAddresses(w.port.Config().Addresses)
				}
			}
		}
	})
	again, err := host.Discover(context.Background(), cfg)
	w.must(err)
	if reads != 3 || again.GENCTR != log.GENCTR+2 || len(again.Entries) != len(log.Entries) {
		t.Errorf("%d reads, GENCTR %d after %d, %d entries", reads, again.GENCTR, log.GENCTR, len(again.Entries))
	}
	w.dialer.set(func() { changes = 100 })
	if _, err := host.Discover(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), "GENCTR changed 10 times") {
		t.Errorf("a log that always changes: %v", err)
	}
}

// A discovery controller stays connected on wish, and tells of changes.
func TestDiscoveryController(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true, target.SubsystemConfig{})
		defer w.close()
		cfg := w.config()
		cfg.NQN, cfg.KATO = nvme.DiscoveryNQN, 10*time.Second
		c, l := w.connectLogged(cfg)
		if len(c.Queues()) != 0 || len(c.Namespaces()) != 0 {
			t.Errorf("%d queues, %d namespaces", len(c.Queues()), len(c.Namespaces()))
		}
		for range 3 {
			before, err := c.DiscoveryLog(context.Background())
			w.must(err)
			time.Sleep(time.Minute) // kept alive
			w.port.SetAddresses(w.port.Config().Addresses)
			l.wait(t, "discovery changed")
			after, err := c.DiscoveryLog(context.Background())
			w.must(err)
			if after.GENCTR != before.GENCTR+1 {
				t.Errorf("GENCTR %d, then %d", before.GENCTR, after.GENCTR)
			}
		}
		w.disconnect(c)
	})
}

// A Connect of an I/O queue that is refused says why, as one of the admin queue
// does, and a controller whose refusal has DNR is given up.
func TestIOQueueRefused(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		c, l := w.connectLogged(w.config())
		w.refuse(2, nvme.ConnectInvalidHost.WithDNR())
		w.cut(adminQueue)
		l.wait(t, "connect failed")
		l.wait(t, "dead")
		if err := c.Cause(); !errors.Is(err, host.ErrLost) || !errors.Is(err, nvme.ConnectInvalidHost) || !host.DNR(err) {
			t.Errorf("cause %v", err)
		}
		w.disconnect(c)
		_, err := host.Connect(context.Background(), w.config())
		var ce *host.ConnectError
		if !errors.As(err, &ce) || ce.Step != "Connect of queue 1" || !errors.Is(err, nvme.ConnectInvalidHost) || !host.DNR(err) || ce.Hint == "" {
			t.Errorf("first connect: %v", err)
		}
	})
}
