package rdma

import (
	"errors"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/transport/rdma/internal/fakeverbs"
	"github.com/fabrid/fabrid/verbs"
)

func command(cid uint16, op uint8, sgl nvme.SGL) nvme.Command {
	c := nvme.NewCommand()
	c.SetOpcode(op)
	c.SetCID(cid)
	c.SetSGL(sgl)
	return c
}

const (
	opFlush = uint8(nvme.IOFlush)
	opRead  = uint8(nvme.IORead)
	opWrite = uint8(nvme.IOWrite)
)

// fastReg registers memory for invalidation by the peer.
func (r *raw) fastReg(buf []byte, iova uint64) uint32 {
	r.t.Helper()
	m, err := r.pd.AllocMR(len(buf))
	if err != nil {
		r.t.Fatal(err)
	}
	r.mrs = append(r.mrs, m)
	key := m.RKey()&^0xff | 0x42
	r.on(func() error {
		return r.qp.PostSend([]verbs.SendWR{{WRID: 99, Opcode: verbs.WRRegMR, MR: m, Buf: buf, IOVA: iova, RKey: key,
			Access: verbs.AccessLocalWrite | verbs.AccessRemoteRead | verbs.AccessRemoteWrite}})
	})
	return key
}

// valid reports whether a key still grants access, by trying to invalidate it.
func (r *raw) valid(key uint32) bool {
	r.t.Helper()
	r.on(func() error {
		return r.qp.PostSend([]verbs.SendWR{{WRID: 77, Opcode: verbs.WRLocalInv, RKey: key}})
	})
	for wc := range r.wcs {
		if wc.WRID == 77 {
			return wc.Status == verbs.WCSuccess
		}
	}
	return false
}

// What a host gets for an SGL that is wrong, and what becomes of its key.
func TestBadSGLs(t *testing.T) {
	const iova = 0xff11000007c4c050
	for _, c := range []struct {
		name    string
		op      uint8
		psdt    uint8
		sgl     nvme.SGL // Key is set if keyed
		status  nvme.Status
		invalid bool // the response invalidates the key
	}{
		{"good", opRead, nvme.PSDTSGL, nvme.SGL{Type: 0x4F, Address: iova, Length: 512}, nvme.Success, true},
		{"good without invalidate", opRead, nvme.PSDTSGL, nvme.SGL{Type: 0x40, Address: iova, Length: 512}, nvme.Success, false},
		{"too long", opRead, nvme.PSDTSGL, nvme.SGL{Type: 0x4F, Address: iova, Length: 1<<20 + 1}, nvme.InvalidField, true},
		{"wraps", opWrite, nvme.PSDTSGL, nvme.SGL{Type: 0x4F, Address: math.MaxUint64, Length: 2}, nvme.SGLInvalidDataLength, true},
		{"no such subtype", opRead, nvme.PSDTSGL, nvme.SGL{Type: 0x4E, Address: iova, Length: 512}, nvme.SGLInvalidType, false},
		{"PRP", opRead, nvme.PSDTPRP, nvme.SGL{Type: 0x4F, Address: iova, Length: 512}, nvme.InvalidField, false},
		{"not in the capsule", opWrite, nvme.PSDTSGL, nvme.SGL{Type: 0x01, Length: 512}, nvme.SGLInvalidOffset, false},
		{"read into the capsule", opRead, nvme.PSDTSGL, nvme.SGL{Type: 0x01, Length: 512}, nvme.InvalidField, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, worldConfig{})
			r, _ := w.connectRaw(1, 8)
			buf := make([]byte, 512)
			key := r.fastReg(buf, iova)
			c.sgl.Key = key
			if c.sgl.Type>>4 != nvme.SGLTypeKeyed {
				c.sgl.Key = 0
			}
			cmd := command(9, c.op, c.sgl)
			cmd.SetFlags(c.psdt)
			r.send(cmd)
			if got := r.response(); got.CID != 9 || got.Status.Base() != c.status || !c.status.OK() && !got.Status.DNR() {
				t.Errorf("CID %d, %v, want %v", got.CID, got.Status, c.status)
			}
			if r.valid(key) == c.invalid {
				t.Errorf("the key is valid: %t", !c.invalid)
			}
		})
	}
}

// In-capsule data may begin anywhere behind the command.
func TestInCapsuleOffset(t *testing.T) {
	w := newWorld(t, worldConfig{})
	r, core := w.connectRaw(1, 8)
	data := pattern(4096, 3)
	capsule := append(command(1, opWrite, nvme.SGL{Type: nvme.SGLOffset, Address: 96, Length: 4000}), data...)
	r.send(capsule)
	if c := r.response(); !c.Status.OK() {
		t.Fatal(c.Status)
	}
	if err := core.p.Shard.Run(func() {
		if !same(core.store[:4000], data[96:]) || core.store[4000] != 0 {
			t.Error("other data were written")
		}
	}); err != nil {
		t.Fatal(err)
	}
}

// What ends a queue.
func TestBadHosts(t *testing.T) {
	srq := worldConfig{mod: func(c *Config) { c.UseSRQ, c.SRQSize = true, 64 }}
	hold := worldConfig{mod: srq.mod, core: func(c *testCore) { c.hold = func(nvme.Command) bool { return true } }}
	flush := func(i int) []byte { return command(uint16(i), opFlush, nvme.SGL{Type: nvme.SGLKeyed}) }
	for _, c := range []struct {
		name string
		wc   worldConfig
		qid  uint16
		bad  func(r *raw)
	}{
		{"a short capsule", worldConfig{}, 1, func(r *raw) { r.send(flush(1)[:63]) }},
		{"an empty capsule", worldConfig{}, 1, func(r *raw) { r.send(nil) }},
		{"a long capsule", worldConfig{}, 1, func(r *raw) { r.send(make([]byte, 64+4096+1)) }},
		{"data in an admin capsule", worldConfig{}, 0, func(r *raw) { r.send(make([]byte, 65)) }},
		{"data in an admin capsule, with an SRQ", srq, 0, func(r *raw) { r.send(make([]byte, 65)) }},
		{"a short capsule, with an SRQ", srq, 1, func(r *raw) { r.send(flush(1)[:63]) }},
		{"more commands than the queue is deep, with an SRQ", hold, 1, func(r *raw) {
			var all [][]byte
			for i := range 17 { // 8 at the core, 8 parked, and one more
				all = append(all, flush(i))
			}
			r.send(all...)
		}},
		{"a key that is none", worldConfig{}, 1, func(r *raw) {
			r.send(command(1, opWrite, nvme.SGL{Type: nvme.SGLKeyed, Address: 1, Length: 100_000, Key: 0xabcdef}))
		}},
		{"a key that is none, for a read", worldConfig{}, 1, func(r *raw) {
			r.send(command(1, opRead, nvme.SGL{Type: nvme.SGLKeyed, Address: 1, Length: 100_000, Key: 0xabcdef}))
		}},
		{"a key to invalidate that is none", worldConfig{}, 1, func(r *raw) {
			r.send(command(1, opFlush, nvme.SGL{Type: nvme.SGLKeyedInvalidate, Key: 0xabcdef}))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.wc)
			r, core := w.connectRaw(c.qid, 8)
			c.bad(r)
			select {
			case <-core.downed:
			case <-time.After(20 * time.Second):
				t.Fatal("the queue is still up")
			}
			if err := core.p.Shard.Run(func() {
				core.release() // what the core held
				if core.cause == nil {
					t.Error("no cause")
				}
			}); err != nil {
				t.Fatal(err)
			}
			r.event(rdmacm.Disconnected)
		})
	}
}

// With receives of its own a queue takes as many commands as it is deep; the
// next waits at the host.
func TestMoreCommandsThanReceives(t *testing.T) {
	w := newWorld(t, worldConfig{core: func(c *testCore) { c.hold = func(nvme.Command) bool { return true } }})
	r, core := w.connectRaw(1, 4)
	var all [][]byte
	for i := range 12 {
		all = append(all, command(uint16(i), opFlush, nvme.SGL{Type: nvme.SGLKeyed}))
	}
	r.send(all...)
	seen := map[uint16]bool{}
	for len(seen) < 12 {
		n := 0
		if err := core.p.Shard.Run(func() {
			n = len(core.held)
			core.release()
		}); err != nil {
			t.Fatal(err)
		}
		if n > 4 {
			t.Fatalf("the core holds %d of 4 requests", n)
		}
		for range n {
			seen[r.response().CID] = true
		}
	}
}

// Capsules that arrive while all requests wait for the ACKs of their responses
// are parked: the host has the responses and may go on.
func TestParkedForRequests(t *testing.T) {
	for _, name := range []string{"plain", "SRQ"} {
		t.Run(name, func(t *testing.T) {
			const depth = 4
			w := newWorld(t, variants[name])
			r, core := w.connectRaw(1, depth)
			flush := func(cid uint16) []byte { return command(cid, opFlush, nvme.SGL{Type: nvme.SGLKeyed}) }
			w.net.HoldAcks(true)
			for cid := range uint16(depth) {
				r.send(flush(cid))
				if c := r.response(); c.CID != cid {
					t.Errorf("response to %d, want %d", c.CID, cid)
				}
			}
			for cid := range uint16(depth) {
				r.send(flush(100 + cid))
			}
			q := w.l.all()[0]
			w.until("the capsules to be parked", func() bool {
				n := 0
				if err := core.p.Shard.Run(func() { n = q.rx.parked.len }); err != nil {
					t.Fatal(err)
				}
				return n == depth
			})
			w.net.HoldAcks(false)
			for cid := range uint16(depth) {
				if c := r.response(); c.CID != 100+cid {
					t.Errorf("response to %d, want %d", c.CID, 100+cid)
				}
			}
		})
	}
}

// Capsules that arrive before the connection is established wait for it.
func TestEarlyCapsules(t *testing.T) {
	w := newWorld(t, worldConfig{})
	w.net.HoldRTU(true)
	r, core := w.connectRaw(1, 4)
	for i := range uint16(4) {
		r.send(command(i, opFlush, nvme.SGL{Type: nvme.SGLKeyed}))
	}
	for range 4 {
		if wc := <-r.wcs; wc.Status != verbs.WCSuccess { // the SENDs have arrived
			t.Fatal(wc.Status)
		}
	}
	if err := core.p.Shard.Run(func() {
		if core.received != 0 {
			t.Errorf("%d commands came before the connection", core.received)
		}
	}); err != nil {
		t.Fatal(err)
	}
	w.net.HoldRTU(false)
	for i := range uint16(4) {
		if c := r.response(); c.CID != i || !c.Status.OK() {
			t.Errorf("response %+v, want CID %d", c, i)
		}
	}
}

// Only a successful Connect command makes a queue stay; only an established
// connection gets the time for one.
func TestSilentHosts(t *testing.T) {
	const short, long = 40 * time.Millisecond, time.Minute
	for _, c := range []struct {
		name               string
		establish, connect time.Duration
		rtu                bool
		say                func(r *raw)
		want               error
	}{
		{"never established", short, long, false, func(*raw) {}, errNotEstablished},
		{"says nothing", long, short, true, func(*raw) {}, errNoConnect},
		{"says something else", long, short, true, func(r *raw) {
			r.send(command(1, opFlush, nvme.SGL{Type: nvme.SGLKeyed}))
		}, errNoConnect},
		{"its Connect fails", long, short, true, func(r *raw) {
			cmd := command(1, 0, nvme.SGL{Type: 0x99})
			cmd.PutConnect(nvme.ConnectCommand{SQSize: 3})
			r.send(cmd)
		}, errNoConnect},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, worldConfig{mod: func(cfg *Config) { cfg.EstablishTimeout, cfg.ConnectTimeout = c.establish, c.connect }})
			w.net.HoldRTU(!c.rtu)
			r, core := w.connectRaw(1, 4)
			c.say(r)
			<-core.downed
			if err := core.p.Shard.Run(func() {
				if !errors.Is(core.cause, c.want) {
					t.Errorf("down: %v, want %v", core.cause, c.want)
				}
			}); err != nil {
				t.Fatal(err)
			}
		})
	}
	const enough = 500 * time.Millisecond
	w := newWorld(t, worldConfig{mod: func(cfg *Config) { cfg.EstablishTimeout, cfg.ConnectTimeout = enough, enough }})
	c := w.dial(0, 8).connect()
	<-shortTimer(c.core.p.Shard, 2*enough)
	c.ok(ioReq(nvme.IOFlush, 0, nil))
}

// A host that takes nothing any more is taken down, with what it holds.
func TestStalledHost(t *testing.T) {
	w := newWorld(t, worldConfig{mod: func(c *Config) { c.StallTimeout = 300 * time.Millisecond }})
	r, core := w.connectRaw(1, 8)
	m := r.reg(make([]byte, 4096), 0)
	read := command(1, opRead, nvme.SGL{Type: nvme.SGLKeyed, Length: 4096, Key: m.RKey()})
	r.send(read)
	r.response()
	<-shortTimer(core.p.Shard, 600*time.Millisecond) // idle is not stalled
	r.send(read)
	r.response()
	w.net.HoldAcks(true)
	r.send(read)
	<-core.downed
	if err := core.p.Shard.Run(func() {
		if !errors.Is(core.cause, errStalled) {
			t.Error(core.cause)
		}
	}); err != nil {
		t.Fatal(err)
	}
	w.net.HoldAcks(false)
}

// hoard connects a raw host that takes all the buffers that it can get, and its
// data never.
func (w *world) hoard(dev *fakeverbs.Device, addr netip.Addr, qid uint16) *testQueue {
	w.Helper()
	r, core := w.connectRawOf(dev, addr, qid, 128)
	r.on(func() error { r.keep = true; return nil })
	for range rawReceives {
		r.send(command(1, opFlush, nvme.SGL{Type: nvme.SGLKeyed}))
		r.response()
	}
	m := r.reg(make([]byte, 128<<10), 0)
	var all [][]byte
	for i := range uint16(128) {
		all = append(all, command(i, opRead, nvme.SGL{Type: nvme.SGLKeyed, Length: 128 << 10, Key: m.RKey()}))
	}
	r.send(all...)
	w.until("the reads", func() bool {
		n := 0
		if err := core.p.Shard.Run(func() { n = core.received }); err != nil {
			w.Fatal(err)
		}
		return n == rawReceives+128
	})
	return core
}

// Hosts that together hold all the buffers, and take nothing, are given up
// sooner when another host misses them, and only then.
func TestHoards(t *testing.T) {
	const timeout = 3 * time.Second
	w := newWorld(t, worldConfig{mod: func(c *Config) { c.StallTimeout = timeout }})
	var hoards []*testQueue
	start := time.Now()
	for range hostShare {
		dev, addr := w.otherHost()
		for qid := range uint16(poolShare / hostShare) {
			hoards = append(hoards, w.hoard(dev, addr, 1+qid))
		}
	}
	<-shortTimer(hoards[0].p.Shard, timeout/pressedStall)
	for i, h := range hoards {
		select {
		case <-h.downed:
			t.Errorf("hoard %d is down, and nobody misses its buffers", i)
		default:
		}
	}
	w.dial(9, 8).ok(ioReq(nvme.IORead, 0, make([]byte, 4096)))
	if d := time.Since(start); d >= timeout {
		t.Errorf("a read has waited %v", d)
	}
	given := 0
	for _, h := range hoards {
		if err := h.p.Shard.Run(func() {
			if errors.Is(h.cause, errStalled) {
				given++
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	if given == 0 {
		t.Error("none was given up")
	}
}

// A host that withholds its receives holds no more than its queue's share of
// the buffers, and others go on.
func TestShareOfThePool(t *testing.T) {
	w := newWorld(t, worldConfig{})
	w.hoard(w.hostDev, hostAddr, 1)
	const share = (8 << 20) / (128 << 10) / poolShare
	if n := w.l.Stats().Buffers; n != share {
		t.Errorf("%d buffers in use, want %d", n, share)
	}
	c := w.dial(2, 8).connect()
	for i := range 8 {
		c.ok(ioReq(nvme.IORead, i, make([]byte, 1<<20)))
	}
}

// However many queues a host has, together they hold no more than its share of
// the buffers, and another host finds the rest.
func TestHostsShareOfThePool(t *testing.T) {
	w := newWorld(t, worldConfig{mod: func(c *Config) { c.StallTimeout = time.Hour }})
	dev, addr := w.otherHost()
	for qid := range uint16(poolShare) {
		w.hoard(dev, addr, 1+qid)
	}
	const share = (8 << 20) / (128 << 10) / hostShare
	if n := w.l.Stats().Buffers; n != share {
		t.Errorf("%d buffers in use, want %d", n, share)
	}
	c := w.dial(9, 8).connect()
	for i := range 8 {
		c.ok(ioReq(nvme.IORead, i, make([]byte, 1<<20)))
	}
	c.onTarget(func() {
		if n := len(w.l.vectors[0].pool.hosts); n != 2 {
			t.Errorf("%d hosts", n)
		}
	})
	w.l.DisconnectAll(errTest)
	w.settle()
	c.onTarget(func() {
		if n := len(w.l.vectors[0].pool.hosts); n != 0 {
			t.Errorf("%d hosts are left", n)
		}
	})
}
