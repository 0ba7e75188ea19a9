package rdma

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/verbs"
)

// dialRaw connects our host to a raw target.
func (w *world) dialRaw(depth int) (*client, *raw) {
	w.Helper()
	got := w.rawTarget(4421, nil)
	c := &client{w: w, down: make(chan error, 4)}
	p := w.param(1, depth)
	p.Remote = withPort(portal, 4421)
	p.Down = func(cause error) { c.down <- cause }
	q, err := w.d.Dial(wctx(w.TB), p)
	if err != nil {
		w.Fatal(err)
	}
	c.q = q
	w.Cleanup(q.Disconnect)
	return c, <-got
}

// command is the next command that a raw target got.
func (r *raw) command() nvme.Command {
	r.t.Helper()
	select {
	case b := <-r.recvd:
		c, err := nvme.ParseCommand(b)
		if err != nil {
			r.t.Fatal(err)
		}
		return c
	case <-time.After(20 * time.Second):
		r.t.Fatal("no command")
		return nil
	}
}

func completion(cid uint16) []byte { return nvme.Completion{CID: cid}.AppendTo(nil) }

// sendInv posts a SEND with invalidate.
func (r *raw) sendInv(b []byte, key uint32) {
	r.t.Helper()
	r.on(func() error {
		return r.qp.PostSend([]verbs.SendWR{{Opcode: verbs.WRSendWithInv, RKey: key, SG: []verbs.SGE{{Buf: b, LKey: r.lkey}}}})
	})
}

// A target that does not invalidate is legal: the host does it itself, and only
// then is the request done.
func TestLocalInvalidate(t *testing.T) {
	w := newWorld(t, worldConfig{})
	c, r := w.dialRaw(4)
	keys := map[uint32]bool{}
	for i := range 20 {
		q := ioReq(nvme.IORead, i, make([]byte, 10_000))
		c.submit(q)
		cmd := r.command()
		sgl := cmd.SGL()
		if sgl.Type != nvme.SGLKeyedInvalidate || sgl.Length != 10_000 || cmd.PSDT() != nvme.PSDTSGL {
			t.Fatalf("%v, PSDT %#x", sgl, cmd.PSDT())
		}
		if keys[sgl.Key] {
			t.Errorf("key %#x comes again", sgl.Key)
		}
		keys[sgl.Key] = true
		data := pattern(10_000, i)
		r.on(func() error {
			return r.qp.PostSend([]verbs.SendWR{
				{Opcode: verbs.WRRDMAWrite, RemoteAddr: sgl.Address, RKey: sgl.Key, SG: []verbs.SGE{{Buf: data, LKey: r.lkey}}},
				{Opcode: verbs.WRSend, SG: []verbs.SGE{{Buf: completion(cmd.CID()), LKey: r.lkey}}},
			})
		})
		c.wait(q)
		if q.Err != nil || !same(q.Data, data) {
			t.Fatalf("request %d: %v", i, q.Err)
		}
	}
	// What was invalidated is out of reach.
	last := ioReq(nvme.IORead, 0, make([]byte, 10))
	c.submit(last)
	sgl := r.command().SGL()
	for key := range keys {
		if key != sgl.Key {
			r.on(func() error {
				return r.qp.PostSend([]verbs.SendWR{{WRID: 7, Opcode: verbs.WRRDMAWrite, RemoteAddr: sgl.Address, RKey: key, SG: []verbs.SGE{{Buf: make([]byte, 1), LKey: r.lkey}}}})
			})
			break
		}
	}
	c.wait(last)
	if !errors.Is(last.Err, transport.ErrQueueDown) {
		t.Errorf("after a write under an old key: %v", last.Err)
	}
}

// Reads grant writing alone, writes reading alone.
func TestLeastAccess(t *testing.T) {
	for _, op := range []nvme.IOOpcode{nvme.IORead, nvme.IOWrite} {
		w := newWorld(t, worldConfig{})
		c, r := w.dialRaw(4)
		q := ioReq(op, 0, make([]byte, 10_000))
		c.submit(q)
		sgl := r.command().SGL()
		bad := verbs.WRRDMARead
		if op == nvme.IOWrite {
			bad = verbs.WRRDMAWrite
		}
		r.on(func() error {
			return r.qp.PostSend([]verbs.SendWR{{Opcode: bad, RemoteAddr: sgl.Address, RKey: sgl.Key, SG: []verbs.SGE{{Buf: make([]byte, 1), LKey: r.lkey}}}})
		})
		if wc := <-r.wcs; wc.Status != verbs.WCRemAccessErr && wc.Status != verbs.WCLocQPOpErr {
			t.Errorf("%v: %v", op, wc.Status)
		}
		c.wait(q)
		if !errors.Is(q.Err, transport.ErrQueueDown) {
			t.Errorf("%v: %v", op, q.Err)
		}
	}
}

// A target that lies loses the queue, and every request ends with an error.
func TestBadResponses(t *testing.T) {
	for _, c := range []struct {
		name string
		want string
		lie  func(r *raw, a, b nvme.Command)
	}{
		{"short", "completion: 15 bytes", func(r *raw, a, _ nvme.Command) { r.send(completion(a.CID())[:15]) }},
		{"long", "local length error", func(r *raw, a, _ nvme.Command) { r.send(append(completion(a.CID()), 0)) }},
		{"slot of nobody", "slot 5 of 5", func(r *raw, a, _ nvme.Command) { r.send(completion(5)) }},
		{"slot beyond", "slot 7 of 5", func(r *raw, a, _ nvme.Command) { r.send(completion(a.CID() | 7)) }},
		{"free slot", "not outstanding", func(r *raw, a, _ nvme.Command) { r.send(completion(a.CID()&^7 | 4)) }},
		{"other generation", "not outstanding", func(r *raw, a, _ nvme.Command) { r.send(completion(a.CID() ^ 0x8000)) }},
		{"twice", "not outstanding", func(r *raw, a, _ nvme.Command) {
			// Both are there before the first is local-invalidated and done.
			r.send(completion(a.CID()), completion(a.CID()))
		}},
		{"another command's key", "bogus remote invalidation", func(r *raw, a, b nvme.Command) { r.sendInv(completion(a.CID()), b.SGL().Key) }},
		{"no such key", "", func(r *raw, a, b nvme.Command) { r.sendInv(completion(a.CID()), 0x1234) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, worldConfig{})
			cl, r := w.dialRaw(5)
			reqs := []*req{ioReq(nvme.IORead, 0, make([]byte, 5000)), ioReq(nvme.IOWrite, 0, make([]byte, 5000))}
			cl.submit(reqs...)
			a, b := r.command(), r.command()
			c.lie(r, a, b)
			cl.wait(reqs[1])
			cause := <-cl.down
			if !errors.Is(cause, transport.ErrQueueDown) || !strings.Contains(cause.Error(), c.want) {
				t.Errorf("down: %v, want %q", cause, c.want)
			}
			cl.wait(reqs[0])
			if !errors.Is(reqs[1].Err, transport.ErrQueueDown) {
				t.Errorf("request: %v", reqs[1].Err)
			}
			if err := cl.q.Shard().Run(func() {
				if err := cl.q.Submit(&reqs[0].HostRequest); !errors.Is(err, transport.ErrQueueDown) {
					t.Errorf("Submit: %v", err)
				}
			}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A response may overtake the ACK of its command; the request is not done
// before both are there, because the SEND may still read its memory.
func TestResponseBeforeAck(t *testing.T) {
	w := newWorld(t, worldConfig{})
	c, r := w.dialRaw(4)
	w.net.HoldAcks(true)
	q := ioReq(nvme.IOFlush, 0, nil)
	c.submit(q)
	r.send(completion(r.command().CID()))
	states := make(chan uint8, 1)
	hq := c.q.(*hostQueue)
	for state := uint8(0); state&slotAnswered == 0; {
		if err := hq.shard.Run(func() { states <- hq.slots[0].state }); err != nil {
			t.Fatal(err)
		}
		state = <-states
	}
	select {
	case <-q.done:
		t.Error("done before its SEND was acknowledged")
	default:
	}
	w.net.HoldAcks(false)
	c.wait(q)
	if q.Err != nil {
		t.Error(q.Err)
	}
}

func TestTargetLeaves(t *testing.T) {
	w := newWorld(t, worldConfig{})
	c, r := w.dialRaw(4)
	reqs := []*req{ioReq(nvme.IORead, 0, make([]byte, 5000)), ioReq(nvme.IOFlush, 0, nil)}
	c.submit(reqs...)
	r.command()
	if err := r.id.Disconnect(); err != nil {
		t.Fatal(err)
	}
	c.wait(reqs...)
	for _, q := range reqs {
		if !errors.Is(q.Err, transport.ErrQueueDown) {
			t.Error(q.Err)
		}
	}
	if cause := <-c.down; !strings.Contains(cause.Error(), "disconnected") {
		t.Error(cause)
	}
}

// A provider that never flushes holds nobody up for long.
func TestHostForcedDown(t *testing.T) {
	w := newWorld(t, worldConfig{})
	w.d.cfg.FlushTimeout = 50 * time.Millisecond
	c, r := w.dialRaw(4)
	q := ioReq(nvme.IORead, 0, make([]byte, 5000))
	c.submit(q)
	r.command()
	w.net.HoldFlushes(true)
	c.q.Disconnect()
	select {
	case <-q.done:
	default:
		t.Error("Disconnect has returned with a request outstanding")
	}
	if !errors.Is(q.Err, transport.ErrQueueDown) {
		t.Error(q.Err)
	}
	select {
	case cause := <-c.down:
		t.Errorf("Down after Disconnect: %v", cause)
	default:
	}
	w.net.HoldFlushes(false)
}

func TestDialGivesUp(t *testing.T) {
	w := newWorld(t, worldConfig{})
	got := w.rawTarget(4421, func(*raw, *rdmacm.Event) error { return nil }) // silence
	ctx, cancel := context.WithCancel(context.Background())
	failed := make(chan error)
	go func() {
		p := w.param(1, 8)
		p.Remote = withPort(portal, 4421)
		_, err := w.d.Dial(ctx, p)
		failed <- err
	}()
	r := <-got
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	r.event(rdmacm.Rejected) // the target learns it
}

func TestRejectWithoutWord(t *testing.T) {
	w := newWorld(t, worldConfig{})
	w.rawTarget(4421, func(_ *raw, ev *rdmacm.Event) error { return errors.New("destroys the ID") })
	p := w.param(1, 8)
	p.Remote = withPort(portal, 4421)
	_, err := w.d.Dial(wctx(t), p)
	var refused *transport.RefusedError
	if !errors.As(err, &refused) || !refused.Busy || !refused.Listening {
		t.Error(err)
	}
}

// A poorPD has no memory regions left.
type poorPD struct{ verbs.PD }

func (poorPD) AllocMR(int) (verbs.MR, error) { return nil, errors.New("none left") }

// A request that Submit refuses stays its owner's: it does not end as well when
// the queue does.
func TestRefusedSubmitIsOver(t *testing.T) {
	w := newWorld(t, worldConfig{})
	c, _ := w.dialRaw(5)
	q := c.q.(*hostQueue)
	req := ioReq(nvme.IORead, 0, make([]byte, 512))
	ended := 0
	req.Done = func(*transport.HostRequest) { ended++ }
	if err := q.Shard().Run(func() {
		q.pd = poorPD{q.pd}
		if err := q.Submit(&req.HostRequest); err == nil || errors.Is(err, transport.ErrQueueFull) {
			t.Errorf("submit without a region: %v", err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	q.Disconnect()
	if ended != 0 {
		t.Errorf("a request that was refused has ended %d times", ended)
	}
}
