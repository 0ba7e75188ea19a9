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
type engine struct {
	dev   *Device
	shard *shard.Shard
	wire  wire
	cm    *cm

	qps       qpTable
	paths     map[pathKey]*path
	batch     *txBatch
	rx        packet // the packet at hand
	flusher   shard.Flusher
	delivery  bool               // completions are being delivered
	completed []*completionQueue // with completions to deliver
	delivered []*completionQueue // scratch

	senders qpList // queue pairs with something to send

	// readBudget is how many bytes of RDMA READ responses may be on their way to
	// us: what comes unasked-for must still fit the socket's buffer.
	readBudget, readsOut int
	waiters              []*queuePair // for room in it

	gsiPSN PSN
	stats  Stats
}

// A wire carries packets to peers.
type wire interface {
	// send sends the packets of b from b.sent on, in order, and counts them in
	// b.sent. What cannot be sent now is left; the wire calls engine.writable
	// when it can. Packets that never can be sent count as sent.
	send(b *txBatch)
	close() error
}

// Stats counts what an engine has done. Drops are packets that were not for us
// to answer.
type Stats struct {
	PacketsSent, PacketsReceived uint64
	SendCalls, ReceiveCalls      uint64 // system calls that moved packets
	Trains                       uint64 // sends of more than one packet
	DropsMalformed, DropsICRC    uint64
	DropsNoQP, DropsSource       uint64
	DropsSend                    uint64 // the kernel refused them
	NAKsSent, NAKsReceived       uint64
	RNRsSent, RNRsReceived       uint64
	Duplicates                   uint64
	Retransmits, Timeouts        uint64
	SendBlocked                  uint64
	MADsSent, MADsReceived       uint64
}

// sendQuantum is how many packets a queue pair sends before others have their
// turn.
const sendQuantum = 64

func newEngine(d *Device, s *shard.Shard) *engine {
	e := &engine{dev: d, shard: s, paths: make(map[pathKey]*path), batch: newTxBatch()}
	e.flusher.Fn = e.flush
	e.qps.init()
	return e
}

// wantSend has q asked for packets at the end of the round.
func (e *engine) wantSend(q *queuePair) {
	if !q.queued {
		q.queued = true
		e.senders.push(q)
	}
	e.shard.Flush(&e.flusher)
}

// flush ends a round: completions are delivered, and what there is to send is
// sent, answers before requests, until there is no more of either.
func (e *engine) flush() {
	for {
		e.deliver()
		if !e.batch.empty() && !e.transmit() {
			return // the wire is full; it will call writable
		}
		if e.senders.first == nil {
			break
		}
		e.gather()
		if !e.transmit() {
			return
		}
	}
	e.deliver()
}

// gather asks queue pairs for packets, each for a quantum, until the batch is
// full or nobody has more.
func (e *engine) gather() {
	// Answers first, of all: a peer's timer runs.
	for q := e.senders.first; q != nil; q = q.next {
		if q.state == verbs.RTS {
			q.resp.answer(e.batch, sendQuantum)
		}
	}
	for !e.batch.full() {
		q := e.senders.pop()
		if q == nil {
			return
		}
		q.queued = false
		if q.state != verbs.RTS {
			continue
		}
		more := q.resp.answer(e.batch, sendQuantum)
		if q.state == verbs.RTS {
			more = q.req.send(e.batch, sendQuantum) || more
		}
		if more {
			e.wantSend(q)
		}
	}
}

// sendAnswers puts what q has to answer into the batch, because q is about to
// go to Err. If there is no room the peer's timer has to tell it.
func (e *engine) sendAnswers(q *queuePair) {
	q.resp.answer(e.batch, sendQuantum)
	e.shard.Flush(&e.flusher)
}

// transmit gives the batch to the wire and reports whether it is all gone.
func (e *engine) transmit() bool {
	if e.batch.empty() {
		return true
	}
	e.wire.send(e.batch)
	if !e.batch.empty() {
		e.stats.SendBlocked++
		return false
	}
	e.stats.PacketsSent += uint64(len(e.batch.pkts))
	e.batch.reset()
	return true
}

// writable is called by the wire when it takes packets again.
func (e *engine) writable() { e.shard.Flush(&e.flusher) }

// deliver calls the handlers of completion queues until nothing is left to
// tell.
func (e *engine) deliver() {
	if e.delivery {
		return // a handler led here; the loop below goes on
	}
	e.delivery = true
	for len(e.completed) > 0 {
		e.completed, e.delivered = e.delivered[:0], e.completed
		for i, c := range e.delivered {
			e.delivered[i] = nil
			c.deliver()
		}
	}
	e.delivery = false
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
	guess := uint16(hint)
	if hint < 0 && q != nil {
		guess = q.ident + 1
	}
	ident, _, ok := icrc.verify(b, guess)
	if !ok {
		e.stats.DropsICRC++
		return
	}
	if !pkeyMatch(p.pkey, defaultPKey) {
		e.stats.DropsMalformed++
		return
	}
	if p.destQP == 1 {
		e.receiveGSI(src, dst, p)
		return
	}
	if q == nil || p.opFlags&(opIsUD|opIsCNP) != 0 {
		e.stats.DropsNoQP++
		return
	}
	q.ident = ident
	if q.state != verbs.RTS {
		e.stats.DropsNoQP++
		return
	}
	if q.path.remote.Addr() != src || q.path.local.Addr() != dst {
		e.stats.DropsSource++
		return
	}
	if p.opFlags&opIsResponse != 0 {
		q.req.response(p)
	} else {
		q.resp.request(p)
	}
	return ident
}

// received ends a batch of packets.
func (e *engine) received() {
	e.deliver()
	e.shard.Flush(&e.flusher)
}

// receiveGSI takes in a packet for QP1: a management datagram.
func (e *engine) receiveGSI(src, dst netip.Addr, p *packet) {
	if p.opcode != opUDSendOnly || p.deth.qkey != gsiQKey || len(p.payload) != madLen {
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
	if e.batch.full() && !e.transmit() {
		e.stats.DropsSend++
		return
	}
	h := packet{bth: bth{opcode: opUDSendOnly, destQP: 1, psn: e.gsiPSN}, deth: deth{gsiQKey, 1}}
	e.gsiPSN = e.gsiPSN.Add(1)
	e.batch.begin(p, &h, len(mad))
	e.batch.payload(append([]byte(nil), mad...))
	e.batch.end(h.pad)
	e.stats.MADsSent++
	e.shard.Flush(&e.flusher)
}

// peerSpoke tells the connection manager that the peer of a queue pair has
// sent its first request: the connection is established, RTU or not.
func (e *engine) peerSpoke(qpn uint32) {
	if e.cm != nil {
		e.cm.commEst(qpn)
	}
}

// takeReadBudget charges n bytes to be read for q. Without room q waits, unless
// nothing else is on its way: then any READ may go.
func (e *engine) takeReadBudget(q *queuePair, n int) bool {
	if e.readsOut > 0 && n > e.readBudget-e.readsOut {
		if !q.waiting {
			q.waiting = true
			e.waiters = append(e.waiters, q)
		}
		return false
	}
	e.readsOut += n
	return true
}

func (e *engine) returnReadBudget(n int) {
	e.readsOut -= n
	if len(e.waiters) == 0 || e.readsOut > e.readBudget/2 {
		return
	}
	for i, q := range e.waiters {
		e.waiters[i] = nil
		q.waiting = false
		if q.state == verbs.RTS {
			e.wantSend(q)
		}
	}
	e.waiters = e.waiters[:0]
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
