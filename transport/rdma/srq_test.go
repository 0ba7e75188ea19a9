package rdma

import (
	"errors"
	"testing"
	"time"

	"github.com/fabrid/fabrid/nvme"
)

// Commands that stay with the core, or wait for their connection, keep nobody
// from finding a receive, whether they have data with them or not.
func TestHeldCommandsLeaveTheSRQ(t *testing.T) {
	const size, queues, depth = 16, 4, 8
	flush := func(i uint16) []byte { return command(i, opFlush, nvme.SGL{Type: nvme.SGLKeyed}) }
	write := func(i uint16) []byte {
		c := command(i, opWrite, nvme.SGL{Type: nvme.SGLOffset, Length: 4096})
		c.SetCDW(10, uint32(i)*4096)
		return append(c, pattern(4096, int(i))...)
	}
	for _, c := range []struct {
		name    string
		capsule func(i uint16) []byte
		early   bool
	}{
		{"no data", flush, false},
		{"data", write, false},
		{"data, before the connection", write, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, worldConfig{
				mod: func(c *Config) { c.UseSRQ, c.SRQSize = true, size },
				core: func(tc *testCore) {
					tc.size = depth * 4096
					tc.hold = func(cmd nvme.Command) bool { return cmd.Opcode() != opRead && !cmd.IsFabrics() }
				},
			})
			good := w.dial(9, depth).connect()
			w.net.HoldRTU(c.early)
			var hosts []*raw
			var cores []*testQueue
			for qid := range uint16(queues) {
				r, core := w.connectRaw(1+qid, depth)
				for i := range uint16(depth) {
					r.send(c.capsule(i))
				}
				for range depth {
					if wc := <-r.wcs; wc.Status != 0 { // the capsule has arrived
						t.Fatal(wc.Status)
					}
				}
				hosts, cores = append(hosts, r), append(cores, core)
			}
			for range 4 {
				good.ok(ioReq(nvme.IORead, 0, make([]byte, 1000)))
			}
			if n := w.l.Stats().SharedInUse; n >= size {
				t.Errorf("%d of %d receives are held", n, size)
			}
			w.net.HoldRTU(false)
			for i, core := range cores {
				w.until("the commands", func() bool {
					n := 0
					if err := core.p.Shard.Run(func() { n = len(core.held) }); err != nil {
						t.Fatal(err)
					}
					return n == depth
				})
				if err := core.p.Shard.Run(core.release); err != nil {
					t.Fatal(err)
				}
				for range depth {
					if r := hosts[i].response(); !r.Status.OK() {
						t.Error(r.Status)
					}
				}
				if err := core.p.Shard.Run(func() {
					for k := range depth {
						if c.capsule(uint16(k))[0] == opWrite && !same(core.store[k*4096:][:4096], pattern(4096, k)) {
							t.Errorf("queue %d: block %d was written otherwise", i, k)
						}
					}
				}); err != nil {
					t.Fatal(err)
				}
			}
			w.until("the receives to come home", func() bool { s := w.l.Stats(); return s.SharedInUse+s.Buffers == 0 })
		})
	}
}

// Where the pool has nothing for data, capsules stay in their receives, and the
// others wait; who keeps more than its share and takes nothing is given up for
// them.
func TestSRQRunsLow(t *testing.T) {
	const size, depth = 8, 8
	w := newWorld(t, worldConfig{mod: func(c *Config) {
		c.UseSRQ, c.SRQSize, c.StallTimeout, c.MaxData, c.PoolSize = true, size, 2*time.Second, 1<<20, 4<<20
	}})
	good := w.dial(9, depth).connect()
	v := w.l.vectors[0]
	var all []chunk
	good.onTarget(func() {
		for ok := true; ok; {
			all, ok = v.pool.alloc(all, largestChunk)
		}
		for ok := true; ok; {
			all, ok = v.pool.alloc(all, 1)
		}
	})
	r, core := w.connectRaw(1, depth)
	w.net.HoldAcks(true)
	write := append(command(1, opWrite, nvme.SGL{Type: nvme.SGLOffset, Length: 4096}), make([]byte, 4096)...)
	for range depth { // answered, but not acknowledged
		r.send(write)
		r.response()
	}
	for range depth {
		r.send(write)
	}
	w.until("the SRQ to run low", func() bool { return w.l.Stats().SharedInUse == depth })
	good.onTarget(func() { v.pool.free(all) })
	x := ioReq(nvme.IOFlush, 0, nil)
	good.submit(x)
	<-core.downed
	w.net.HoldAcks(false)
	good.wait(x)
	if x.Err != nil || !x.Completion.Status.OK() {
		t.Errorf("%v, %v", x.Err, x.Completion.Status)
	}
}

// As many I/O queues fit as there are receives.
func TestReservationOfAnSRQ(t *testing.T) {
	const size = 24
	w := newWorld(t, worldConfig{mod: func(c *Config) { c.UseSRQ, c.SRQSize = true, size }, core: func(c *testCore) { c.size = 4096 }})
	var cs []*client
	for i := range size {
		cs = append(cs, w.dial(uint16(1+i), 32).connect())
	}
	if _, err := w.d.Dial(wctx(t), w.param(size+1, 32)); !errors.Is(err, nvme.RDMACMNoResources) {
		t.Errorf("more queues than receives: %v", err)
	}
	w.dial(0, 32).connect() // an admin queue has its own
	for _, c := range cs {
		var rs []*req
		for i := range 32 {
			rs = append(rs, ioReq([]nvme.IOOpcode{nvme.IORead, nvme.IOWrite}[i%2], 0, make([]byte, 512)))
		}
		c.submit(rs...)
		defer c.wait(rs...)
	}
}
