package rdma

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/transport/rdma/internal/fakeverbs"
)

// variants are ways to run the same I/O.
var variants = map[string]worldConfig{
	"plain":          {},
	"two shards":     {shards: 2},
	"no DMA key":     {options: fakeverbs.Options{NoDMALKey: true}},
	"one SGE":        {options: fakeverbs.Options{MaxSGE: 2}},
	"one READ":       {options: fakeverbs.Options{MaxQPRdAtom: 1}},
	"small READs":    {mod: func(c *Config) { c.MaxReadSize = 4096 }},
	"SRQ":            {mod: func(c *Config) { c.UseSRQ, c.SRQSize = true, 64 }},
	"small SRQ":      {mod: func(c *Config) { c.UseSRQ, c.SRQSize = true, 4 }},
	"no inline data": {mod: func(c *Config) { c.InlineDataSize = -1 }},
	"small pool":     {mod: func(c *Config) { c.PoolSize = 4 << 20 }},
	"lent":           {core: func(c *testCore) { c.lend = 1 }},
	"lent in pieces": {core: func(c *testCore) { c.lend = 7 }},
	"lent in shreds": {core: func(c *testCore) { c.lend = 4096 }},
	"lent, no key":   {options: fakeverbs.Options{NoDMALKey: true}, core: func(c *testCore) { c.lend = 5 }},
}

func TestData(t *testing.T) {
	for name, wc := range variants {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && !slices.Contains([]string{"two shards", "small READs", "no inline data", "lent, no key"}, name) {
				t.Skip("long")
			}
			w := newWorld(t, wc)
			w.dial(0, 32).connect()
			p := w.param(1, 64)
			p.InCapsule = w.l.cfg.InlineDataSize
			c := w.dialParam(p).connect()
			sizes := []int{1, 16, 511, 512, 4095, 4096, 4097, 8192, 16384, 16385, 65536, 100_000, 131_072, 131_073, 500_001, 1 << 20}
			for i, n := range sizes {
				want := pattern(n, i)
				c.ok(ioReq(nvme.IOWrite, 3*i, want))
				got := make([]byte, n)
				c.ok(ioReq(nvme.IORead, 3*i, got))
				if !same(got, want) {
					t.Fatalf("%d bytes came back otherwise", n)
				}
			}
			c.ok(ioReq(nvme.IOFlush, 0, nil))
		})
	}
}

// Batches as deep as the queue, mixed, several rounds.
func TestDepth(t *testing.T) {
	for name, wc := range variants {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && name != "two shards" && (raceEnabled || name != "small SRQ" && name != "lent in pieces") {
				t.Skip("long")
			}
			w := newWorld(t, wc)
			p := w.param(1, 32)
			p.InCapsule = w.l.cfg.InlineDataSize
			c := w.dialParam(p).connect()
			const n = 32
			for round := range 4 {
				size := []int{512, 4096, 20_000, 300_000}[round]
				const stride = 300_000
				var writes, reads []*req
				for i := range n {
					writes = append(writes, ioReq(nvme.IOWrite, i*stride, pattern(size, round*n+i)))
					reads = append(reads, ioReq(nvme.IORead, i*stride, make([]byte, size)))
				}
				c.ok(writes...)
				c.ok(reads...)
				for i := range n {
					if !same(reads[i].Data, writes[i].Data) {
						t.Fatalf("round %d: block %d came back otherwise", round, i)
					}
				}
			}
		})
	}
}

func TestSubmitErrors(t *testing.T) {
	w := newWorld(t, worldConfig{core: func(c *testCore) {
		c.hold = func(cmd nvme.Command) bool { return cmd.Opcode() == uint8(nvme.IOFlush) }
	}})
	c := w.dial(1, 4).connect()
	var held []*req
	for range 4 {
		held = append(held, ioReq(nvme.IOFlush, 0, nil))
	}
	c.submit(held...)
	check := func(r *req, want string) {
		t.Helper()
		var err error
		if e := c.q.Shard().Run(func() { err = c.q.Submit(&r.HostRequest) }); e != nil {
			t.Fatal(e)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Submit: %v, want %q", err, want)
		}
	}
	check(ioReq(nvme.IOFlush, 0, nil), transport.ErrQueueFull.Error())
	check(ioReq(nvme.IOFlush, 0, make([]byte, 1)), "direction no data")
	check(ioReq(nvme.IORead, 0, make([]byte, 1<<20+1)), "at most 1048576")
	// The commands arrive at the target before the release does: Run returns
	// when the host's shard has posted them, and an I/O behind them is done
	// after they were received.
	for {
		n := 0
		c.onTarget(func() { n = len(c.core.held) })
		if n == 4 {
			break
		}
	}
	c.onTarget(c.core.release)
	c.wait(held...)
	c.ok(ioReq(nvme.IORead, 0, make([]byte, 100)))
}

// A command with an error status gets no data, and its key is invalidated all
// the same.
func TestErrorStatus(t *testing.T) {
	w := newWorld(t, worldConfig{})
	c := w.dial(1, 8).connect()
	buf := pattern(8192, 1)
	r := ioReq(nvme.IORead, 0, buf)
	nvme.Command(r.Command[:]).SetCDW(12, 1)
	c.do(r)
	if r.Err != nil || !errors.Is(r.Completion.Status, nvme.InternalError) {
		t.Errorf("%v, %v", r.Err, r.Completion.Status)
	}
	if !same(buf, pattern(8192, 1)) {
		t.Error("data was written")
	}
	c.ok(ioReq(nvme.IORead, 0, make([]byte, 8192)))
}

// Requests end although ACKs come late, at both ends.
func TestLateAcks(t *testing.T) {
	for _, name := range []string{"plain", "SRQ"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, variants[name])
			c := w.dial(1, 4).connect()
			for round := range 3 {
				w.net.HoldAcks(true)
				var rs []*req
				for i := range 4 {
					rs = append(rs, ioReq(nvme.IORead, i, make([]byte, 5000)))
				}
				c.submit(rs...)
				w.net.HoldAcks(false)
				c.wait(rs...)
				for _, r := range rs {
					if r.Err != nil {
						t.Fatalf("round %d: %v", round, r.Err)
					}
				}
			}
		})
	}
}

func TestManyQueues(t *testing.T) {
	for _, n := range []int{1, 2} {
		t.Run(fmt.Sprint(n, " shards"), func(t *testing.T) {
			w := newWorld(t, worldConfig{shards: n})
			var cs []*client
			for i := range 8 {
				cs = append(cs, w.dial(uint16(i), 16).connect())
			}
			for i, c := range cs {
				c.ok(ioReq(nvme.IORead, i, make([]byte, 10_000)))
			}
			if got := w.queues.Counts(); got.Live != 8 {
				t.Errorf("%+v, want 8 live", got)
			}
			if got := w.l.Stats(); got.Queues != 8 {
				t.Errorf("%+v, want 8 queues", got)
			}
			for _, c := range cs {
				c.q.Disconnect()
				c.q.Disconnect()
			}
		})
	}
}
