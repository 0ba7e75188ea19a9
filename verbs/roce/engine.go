package roce

import (
	"net/netip"

	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
)

// An engine is what a device does on one shard: its queue pairs, and what they
// send and receive. It is the protocol core: packets, work requests and time
// come in, packets and completions go out. It does no I/O itself. Everything
// in it belongs to the shard.
//
// Consumers' code (handlers, events, the connection manager's owners) runs in
// deliver and in receiveGSI only, and nowhere in the middle of something: it
// may post, modify and destroy whatever it likes.
type engine struct {
	dev   *Device
	shard *shard.Shard
	wire  wire
	cm    *cm

	qps     qpTable
	paths   map[pathKey]*path
	rx      packet // the packet at hand
	flusher shard.Flusher
	again   shard.Task // flush again, when others had their turn
	closed  bool       // nothing goes out any more

	flushing bool // flush runs, and sees what is wanted
	yielded  bool // consumers' flushers had their turn: flush is next
	marked   bool // what is received has seen congestion (ECN)

	// batch is what is about to be sent. It names memory of consumers only
	// between a call of gather or sendAnswers and the transmit at its end: no
	// consumer's code runs between the two.
	batch   *txBatch
	blocked bool // the wire is full, and calls writable when it is not

	delivery  bool               // consumers are being told
	completed []*completionQueue // with completions to deliver
	delivered []*completionQueue // scratch
	notices   []*queuePair       // with something to tell but completions
	noticed   []*queuePair       // scratch

	senders qpList       // queue pairs with something to send
	acking  []*queuePair // those of them with something to acknowledge
	assurer assurer

	readBudget

	spares *spares
	gsiPSN PSN
	mads   []byte // those in the batch
	stats  Stats
}

// A wire carries packets to peers.
type wire interface {
	// send sends the packets of b from b.sent on, in order, and counts them in
	// b.sent. What cannot be sent now is left; the wire calls engine.writable
	// when it can. Packets that never can be sent count as sent. It is not called
	// again before writable was.
	send(b *txBatch)
	// hearErrors says whether engine.undelivered wants to be called. A wire that
	// cannot tell never calls it.
	hearErrors(on bool)
	close() error
}

// Stats counts what an engine has done. Drops are packets that were not for us
// to answer.
type Stats struct {
	PacketsSent, PacketsReceived uint64
	SendCalls, ReceiveCalls      uint64 // system calls that moved packets
	Trains                       uint64 // sends of more than one packet
	DropsMalformed, DropsICRC    uint64
	DropsIdent                   uint64 // the ICRC was right for an IPv4 Identification that is not near
	IdentsSolved, IdentJumps     uint64 // it was not the expected one; and was not near, but good
	DropsNoQP, DropsSource       uint64
	DropsSend                    uint64 // the kernel refused them
	DropsReceive                 uint64 // the receive buffer was full
	NAKsSent, NAKsReceived       uint64
	RNRsSent, RNRsReceived       uint64
	Duplicates                   uint64
	Retransmits, Timeouts        uint64
	Probes                       uint64 // packets sent again to see what was lost
	SendBlocked                  uint64
	ECNMarked                    uint64 // packets received that saw congestion
	CNPsSent, CNPsReceived       uint64
	MADsSent, MADsReceived       uint64
	MADsStray                    uint64 // received, about no connection of their sender's
	ICMPErrors                   uint64 // that were looked at
}

const (
	// sendQuantum is how many packets a queue pair sends before others have
	// their turn.
	sendQuantum = 64
	// flushBatches is how many batches are sent before the shard looks for what
	// has come: RDMA READ responses know no window.
	flushBatches = 8
)

func newEngine(d *Device, s *shard.Shard) *engine {
	e := &engine{dev: d, shard: s, paths: make(map[pathKey]*path), batch: newTxBatch()}
	if d.cfg.Shared != nil {
		e.spares = &d.cfg.Shared.spares
	} else {
		e.spares = new(spares)
	}
	e.flusher.Fn = e.yield
	e.singles = singlesMax
	e.again.Fn = e.wantFlush
	e.assurer.eng, e.assurer.timer.Fn = e, e.assurer.expired
	e.qps.init()
	return e
}

// close ends what goes out, after what there is to say.
func (e *engine) close() error {
	e.stopCM()
	e.flush()
	e.assurer.close()
	e.closed = true
	return e.wire.close()
}

// wantFlush has flush called at the end of the round.
func (e *engine) wantFlush() {
	if !e.flushing {
		e.shard.Flush(&e.flusher)
	}
}

// wantSend has q asked for packets at the end of the round.
func (e *engine) wantSend(q *queuePair) {
	if !q.queued {
		q.queued = true
		e.senders.push(q)
	}
	e.wantFlush()
}

// wantAck is wantSend for a queue pair with something to acknowledge: such go
// first, because peers' timers run.
func (e *engine) wantAck(q *queuePair) {
	if !q.acking {
		q.acking = true
		e.acking = append(e.acking, q)
	}
	e.wantSend(q)
}

// yield lets consumers end their round before the engine does, so that what they
// post goes out with what there is to acknowledge, in one system call.
func (e *engine) yield() {
	if e.yielded = !e.yielded; e.yielded {
		e.wantFlush()
		return
	}
	e.flush()
}

// flush ends a round.
func (e *engine) flush() {
	e.flushing = true
	more := e.endRound()
	e.flushing = false
	if more {
		e.shard.Post(&e.again)
	}
}

// endRound tells consumers what there is to tell, and sends what there is to
// send, until there is no more of either, or enough for a round: then it reports
// true. What the wire does not take, writable has us come back to.
func (e *engine) endRound() (more bool) {
	for range flushBatches {
		e.deliver()
		if (e.blocked || e.batch.full()) && !e.transmit() {
			return false
		}
		if e.senders.first == nil && len(e.acking) == 0 {
			e.transmit()
			return false
		}
		// What is in the batch by now, such as MADs, goes with the rest.
		e.gather()
		if !e.transmit() {
			e.deliver()
			return false
		}
	}
	e.deliver()
	return true
}

// gather asks queue pairs for packets, each for a quantum, until the batch is
// full or nobody has more.
func (e *engine) gather() {
	for n := len(e.acking); n > 0 && !e.batch.full(); n = len(e.acking) {
		q := e.acking[n-1]
		e.acking[n-1], e.acking = nil, e.acking[:n-1]
		q.acking = false
		if q.state == verbs.RTS {
			if q.sq.brief() {
				q.req.send(e.batch, briefWRs)
			}
			if q.state == verbs.RTS {
				q.resp.acknowledge(e.batch)
			}
		}
	}
	for !e.batch.full() {
		q := e.senders.pop()
		if q == nil {
			return
		}
		q.queued = false
		more := false
		if q.state == verbs.RTS {
			more = q.resp.answer(e.batch, sendQuantum)
		}
		if q.state == verbs.RTS {
			more = q.req.send(e.batch, sendQuantum) || more
		}
		if more {
			e.wantSend(q)
		}
	}
}

// sendAnswers sends what q has to answer, because q is about to go to Err. What
// does not fit is lost, as it may be on the wire.
func (e *engine) sendAnswers(q *queuePair) {
	if e.batch.full() && !e.transmit() {
		return
	}
	q.resp.answer(e.batch, batchPackets)
	e.transmit()
}

// transmit gives the batch to the wire and reports whether it is all gone. What
// is not waits for writable, in memory of its own: what it names may be its
// owner's again by then.
func (e *engine) transmit() bool {
	if e.closed {
		e.batch.reset()
		return true
	}
	if e.batch.empty() {
		return true
	}
	if !e.blocked {
		e.wire.send(e.batch)
		if e.batch.empty() {
			e.stats.PacketsSent += uint64(len(e.batch.pkts))
			e.batch.reset()
			return true
		}
		e.blocked = true
		e.stats.SendBlocked++
	}
	e.batch.own()
	return false
}

// writable is called by the wire when it takes packets again.
func (e *engine) writable() {
	e.blocked = false
	e.wantFlush()
}

// deliver tells consumers what there is to tell, until nothing is left.
func (e *engine) deliver() {
	if e.delivery {
		return // one of them led here; the loop below goes on
	}
	e.delivery = true
	for len(e.notices) > 0 || len(e.completed) > 0 {
		e.notices, e.noticed = e.noticed[:0], e.notices
		for i, q := range e.noticed {
			e.noticed[i] = nil
			q.tell()
		}
		e.completed, e.delivered = e.delivered[:0], e.completed
		for i, c := range e.delivered {
			e.delivered[i] = nil
			c.deliver()
		}
	}
	e.delivery = false
}

// notify has q.tell called before completions are delivered the next time.
func (e *engine) notify(q *queuePair) {
	e.notices = append(e.notices, q)
	e.wantFlush()
}

// receive takes in the payload b of one UDP datagram. hint is the IPv4
// Identification that it is likely to have; -1: one more than the last from
// this peer. It returns the one that it had.
func (e *engine) receive(src, dst netip.Addr, icrc icrcPath, b []byte, hint int) (ident uint16) {
	e.stats.PacketsReceived++
	p := &e.rx
	if parsePacket(b, p) != nil {
		e.stats.DropsMalformed++
		return
	}
	q := e.qps.get(p.destQP)
	var on *path // if it comes on q's
	if q != nil && q.path != nil && q.path.remote.Addr() == src && q.path.local.Addr() == dst {
		on = q.path
	}
	guess := uint16(hint)
	if hint < 0 && on != nil {
		guess = on.idents.last + 1
	}
	ident, _, ok := icrc.verify(b, guess)
	if !ok {
		e.stats.DropsICRC++
		return
	}
	if on != nil && !icrc.v6 {
		was := q.ident
		q.ident = ident
		if ident == guess { // then all bits of the ICRC are right
			on.idents.is(ident, e.shard.Now())
		} else if !e.solved(&on.idents, ident, was) {
			return
		}
	}
	if !pkeyMatch(p.pkey, defaultPKey) {
		e.stats.DropsMalformed++
		return
	}
	if p.destQP == 1 {
		e.receiveGSI(src, dst, p)
		return
	}
	if p.opFlags&opIsCNP != 0 {
		// We send what nobody may mark, so that this is not about our packets; if
		// something is lost, our windows see it.
		e.stats.CNPsReceived++
		return
	}
	if q == nil || p.opFlags&opIsUD != 0 {
		e.stats.DropsNoQP++
		return
	}
	if q.state != verbs.RTS {
		e.stats.DropsNoQP++
		return
	}
	if on == nil {
		e.stats.DropsSource++
		return
	}
	if e.marked {
		q.congested()
	}
	if p.opFlags&opIsResponse != 0 {
		q.req.response(p)
	} else {
		q.resp.request(p)
	}
	return
}

// solved judges an Identification that was solved for.
func (e *engine) solved(t *identTrack, ident, was uint16) bool {
	e.stats.IdentsSolved++
	switch t.accept(ident, was, e.shard.Now()) {
	case identBad:
		e.stats.DropsIdent++
		return false
	case identJumped:
		e.stats.IdentJumps++
	}
	return true
}

// received ends a batch of packets.
func (e *engine) received() {
	e.deliver()
	e.wantFlush()
}

// receiveGSI takes in a packet for QP1: a management datagram.
func (e *engine) receiveGSI(src, dst netip.Addr, p *packet) {
	if e.cm == nil || p.opcode != opUDSendOnly || p.deth.qkey != gsiQKey || len(p.payload) != madLen {
		e.stats.DropsMalformed++
		return
	}
	e.stats.MADsReceived++
	e.cm.receiveMAD(dst, src, p.deth.srcQP, p.payload)
}

// sendMAD sends a management datagram to QP1 of a peer. It is lost if there is
// no room for it, as it may be on the wire.
func (e *engine) sendMAD(local, remote netip.Addr, mad []byte) {
	p, err := e.pathTo(verbs.Path{Local: local, Remote: remote})
	if err != nil {
		e.stats.DropsSend++
		return
	}
	defer e.releasePath(p)
	if e.closed || e.batch.full() && !e.transmit() {
		e.stats.DropsSend++
		return
	}
	if len(e.batch.pkts) == 0 {
		e.mads = e.mads[:0] // those that were are on the wire
	}
	e.mads = append(e.mads, mad...)
	mad = e.mads[len(e.mads)-len(mad):]
	h := packet{bth: bth{opcode: opUDSendOnly, destQP: 1, psn: e.gsiPSN}, deth: deth{gsiQKey, 1}}
	e.gsiPSN = e.gsiPSN.Add(1)
	e.batch.begin(p, &h, len(mad))
	e.batch.payload(mad)
	e.batch.end(h.pad)
	e.stats.MADsSent++
	e.wantFlush()
}

// A qpList is a list of queue pairs, each in it once at most (see
// queuePair.queued).
type qpList struct{ first, last *queuePair }

func (l *qpList) push(q *queuePair) {
	q.next = nil
	if l.last == nil {
		l.first = q
	} else {
		l.last.next = q
	}
	l.last = q
}

func (l *qpList) pop() *queuePair {
	q := l.first
	if q != nil {
		if l.first = q.next; l.first == nil {
			l.last = nil
		}
		q.next = nil
	}
	return q
}
