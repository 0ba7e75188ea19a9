package roce

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
)

// A bare is a device without a network and without a connection manager: its
// packets go to a heldWire, and a test hands it others'. All of it is on one
// simulated shard, in a bubble.
type bare struct {
	*Device
	addr netip.Addr
	wire *heldWire
	pd   *protectionDomain
}

// A frame is a packet between two bares.
type frame struct {
	src, dst netip.Addr
	b        []byte
}

// A heldWire keeps what is sent. It takes room packets, then it is full; less
// than zero is no bound.
type heldWire struct {
	room int
	out  []frame
}

func (w *heldWire) send(b *txBatch) {
	for ; !b.empty() && w.room != 0; b.sent++ {
		p := b.pkts[b.sent].path
		b.seal(b.sent, 0)
		w.out = append(w.out, frame{p.local.Addr(), p.remote.Addr(), b.bytes(b.sent, nil)})
		w.room--
	}
}

func (w *heldWire) hearErrors(bool) {}
func (w *heldWire) close() error    { return nil }

// newBare makes a bare device with a protection domain, on the shard.
func newBare(s *shard.Shard, addr netip.Addr, readBudget int) *bare {
	d := &Device{cfg: Config{Shard: s, Addr: addr}, port: Port}
	w := &heldWire{room: -1}
	d.eng = newEngine(d, s)
	d.eng.wire, d.eng.budget = w, readBudget
	pd := &protectionDomain{dev: d}
	d.pds.Add(1)
	return &bare{d, addr, w, pd}
}

// receive hands d a frame as the socket does.
func (d *bare) receive(g frame) {
	src, dst := netip.AddrPortFrom(g.src, Port), netip.AddrPortFrom(g.dst, Port)
	d.eng.receive(g.src, g.dst, newICRCPath(src, dst), slices.Clone(g.b), -1)
}

// forge makes a frame of a packet, with a good ICRC.
func forge(src, dst netip.Addr, p *packet) frame {
	p.pad = padLen(len(p.payload))
	p.pkey = defaultPKey
	b := append(p.appendHeaders(nil), p.payload...)
	b = append(b, make([]byte, p.pad)...)
	icrc := newICRCPath(netip.AddrPortFrom(src, Port), netip.AddrPortFrom(dst, Port)).sum(b, 0)
	b = append(b, 0, 0, 0, 0)
	putICRC(b[len(b)-icrcLen:], icrc)
	return frame{src, dst, b}
}

// inShard runs fn in a bubble with a simulated shard.
func inShard(t *testing.T, fn func(t *testing.T, s *shard.Shard)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := shard.NewSim(shard.Config{})
		fn(t, s)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// audit checks what must hold of an engine at the end of each round.
func (e *engine) audit() error {
	if len(e.notices)+len(e.completed) > 0 {
		return fmt.Errorf("%d notices and completions of %d queues wait", len(e.notices), len(e.completed))
	}
	if !e.blocked && (!e.batch.empty() || e.senders.first != nil || len(e.acking) > 0) {
		return fmt.Errorf("a batch of %d, senders %v, %d to acknowledge, and the wire is not full", len(e.batch.pkts), e.senders.first != nil, len(e.acking))
	}
	if !e.batch.empty() && e.batch.owned != len(e.batch.pkts) {
		return fmt.Errorf("of a batch of %d packets that waits, %d are its own", len(e.batch.pkts), e.batch.owned)
	}
	inflight, refs := map[*path]int{}, map[*path]int{}
	charged := 0
	for _, q := range e.qps.slots {
		if q == nil {
			continue
		}
		if err := q.audit(); err != nil {
			return fmt.Errorf("QP %#x in %v: %w", q.num, q.state, err)
		}
		if q.path != nil {
			inflight[q.path] += q.req.inflight + q.req.awaited
			refs[q.path]++
		}
		for i := range q.sq.ring {
			charged += q.sq.ring[i].charged
		}
	}
	if charged != e.out {
		return fmt.Errorf("%d bytes of READs are charged, %d to queue pairs", e.out, charged)
	}
	for _, p := range e.paths {
		if p.inflight != inflight[p] || p.refs != refs[p] || p.refs == 0 {
			return fmt.Errorf("a path with %d packets in flight of %d QPs, not %d of %d", p.inflight, p.refs, inflight[p], refs[p])
		}
	}
	if len(refs) > len(e.paths) {
		return fmt.Errorf("%d paths in use, %d known", len(refs), len(e.paths))
	}
	return nil
}

// auditBatch checks that an empty batch names nothing.
func (e *engine) auditBatch() error {
	for i, s := range e.batch.segs[:cap(e.batch.segs)] {
		if s != nil {
			return fmt.Errorf("segment %d of an empty batch names %d bytes", i, len(s))
		}
	}
	return nil
}

func (q *queuePair) audit() error {
	r, sq := &q.req, &q.sq
	if q.state != verbs.RTS {
		if q.path != nil || q.timer.Armed() || q.blocked || q.waiting {
			return fmt.Errorf("path %v, timer armed %v, blocked %v, waiting %v", q.path, q.timer.Armed(), q.blocked, q.waiting)
		}
		if sq.head != sq.tail && q.state != verbs.Init {
			return fmt.Errorf("%d work requests", sq.tail-sq.head)
		}
		return q.auditMemory()
	}
	if sq.head > sq.cur || sq.cur > sq.tail || int(sq.tail-sq.head) > len(sq.ring) {
		return fmt.Errorf("send queue %d, %d, %d", sq.head, sq.cur, sq.tail)
	}
	if r.sent.Sub(r.una) < 0 || r.next.Sub(r.sent) < 0 || r.cursor().Sub(r.una) < 0 || r.cursor().Sub(r.next) > 0 {
		return fmt.Errorf("una %#x, sent %#x, next %#x, cursor %#x", r.una, r.sent, r.next, r.cursor())
	}
	if r.inflight < 0 || r.inflight > r.cursor().Sub(r.una) {
		return fmt.Errorf("%d in flight between %#x and %#x", r.inflight, r.una, r.cursor())
	}
	if r.outstanding() && !q.timer.Armed() {
		return fmt.Errorf("una %#x, cursor %#x, and no timer", r.una, r.cursor())
	}
	if r.outstanding() && r.sinceAck != 0 && !q.eng.blocked {
		return fmt.Errorf("%d packets sent since an ACK was asked for, and it waits", r.sinceAck)
	}
	awaited := 0
	for i, p := range r.reads {
		w, from := sq.at(p.wqe), 0
		if i == 0 {
			from = w.got
		} else if r.reads[i-1].wqe == p.wqe {
			from = r.reads[i-1].end
		}
		if w.op != verbs.WRRDMARead || from >= p.end || p.end > w.packets || p.end-from > q.readPackets {
			return fmt.Errorf("of a READ of %d packets, %d to %d are asked for", w.packets, from, p.end)
		}
		awaited += p.end - from
	}
	if awaited != r.awaited {
		return fmt.Errorf("%d packets of READ responses are to come, not %d", awaited, r.awaited)
	}
	if len(r.reads) > q.attr.MaxRdAtomic {
		return fmt.Errorf("%d READs outstanding of %d", len(r.reads), q.attr.MaxRdAtomic)
	}
	if q.blocked != slices.Contains(q.path.blocked, q) || q.waiting != slices.Contains(q.eng.waiters, q) {
		return fmt.Errorf("blocked %v, waiting %v, but not so listed", q.blocked, q.waiting)
	}
	if q.waiting && q.eng.out == 0 {
		return fmt.Errorf("waits for the READ budget, of which nothing is in use")
	}
	if !q.eng.blocked && sq.head != sq.tail && !r.outstanding() && !q.waiting && !q.blocked && (r.rnrUntil == 0 || !q.timer.Armed()) {
		return fmt.Errorf("%d work requests, and nothing that would wake it", sq.tail-sq.head)
	}
	if q.blocked && q.path.inflight < q.path.window {
		return fmt.Errorf("waits for the path, with %d in flight of %d", q.path.inflight, q.path.window)
	}
	return q.auditMemory()
}

// auditMemory checks that nothing is named that is not posted.
func (q *queuePair) auditMemory() error {
	for i := range q.sq.ring {
		w := &q.sq.ring[i]
		posted := (uint64(i)+uint64(len(q.sq.ring))-q.sq.head%uint64(len(q.sq.ring)))%uint64(len(q.sq.ring)) < q.sq.tail-q.sq.head
		if posted {
			continue
		}
		if w.buf != nil || w.region != nil {
			return fmt.Errorf("a work request that is over names a region")
		}
		for _, s := range q.sq.sges[i*q.sq.maxSGE : (i+1)*q.sq.maxSGE] {
			if s.Buf != nil {
				return fmt.Errorf("a work request that is over names memory")
			}
		}
	}
	if q.resp.inMessage != opIsSend {
		for _, s := range q.resp.recvSG {
			if s.Buf != nil {
				return fmt.Errorf("a receive that is over names memory")
			}
		}
	}
	return nil
}
