package roce

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
	"github.com/fabrid/fabrid/verbs/internal/soft"
)

// FuzzEngine has two engines, two connections between them, and somebody who
// decides about everything: what is posted, which packet comes next, again or
// never, when wires are full, what time it is, when queue pairs fail, are reset
// and are destroyed, from where and from within handlers. On one of the
// connections packets are forged too.
//
// Nothing panics; no byte is written that neither a registration nor a posted
// work request allows; what is posted completes once, in order; messages of the
// connection that nobody forges for arrive once, in order and whole, and once
// the network is good everything on it ends; at the end nothing is left.
func FuzzEngine(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		b := make([]byte, 100+r.IntN(900))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		inShard(t, func(t *testing.T, s *shard.Shard) {
			w := &fuzzWorld{t: t, shard: s, in: script}
			w.run(w.begin)
			for more := true; more && !t.Failed(); {
				var sleep time.Duration
				w.run(func() {
					for len(w.in) > 0 && w.sleep == 0 && !t.Failed() {
						w.step()
					}
					more, sleep, w.sleep = len(w.in) > 0, w.sleep, 0
				})
				time.Sleep(sleep)
			}
			if !t.Failed() {
				w.settle()
			}
			w.run(w.end)
		})
	})
}

const fuzzMTU = 256

// Where things are in a station's memory. What lies between is nobody's.
const (
	arenaSize            = 48 << 10
	rwOff, rwLen         = 1000, 3000
	roOff, roLen         = 5000, 3000
	fastOff, fastLen     = 9000, 1000
	outOff, outLen       = 11000, 2048
	sinkOff, sinkStride  = 14000, 800
	recvOff, recvStride  = 27000, 640
	sinks, recvs         = 16, 32
	sinkLen, recvLen     = 768, 600
	fuzzCQ               = 256
	rwVA, roVA, fastVA   = 0x10000, 0x20000, 0x30000
	canary, fuzzQueueLen = 0xcc, 12
)

type fuzzWorld struct {
	t     *testing.T
	shard *shard.Shard
	in    []byte
	sleep time.Duration
	good  bool // the network loses nothing any more, and nothing is made up

	st     [2]*fuzzStation
	ends   [2][2]*fuzzQP // by connection and station; the second is forged for
	flight []frame

	attr  verbs.QPAttr
	srq   bool
	small bool // path windows
}

type fuzzStation struct {
	*bare
	w     *fuzzWorld
	n     int
	arena []byte
	was   []byte // the arena when it was last looked at
	cq    verbs.CQ
	srq   verbs.SRQ

	rw, ro, fast *soft.Region
	byNum        map[uint32]*fuzzQP
	justGone     map[uint32]bool // destroyed while a handler runs
	handling     bool
	handlerDoes  byte
	handlerLeft  int // how often

	sinkUsed, recvUsed [32]bool // by what is posted
	touched            []span   // what has been posted since was
	onSRQ              map[uint64]int
	registering        int
	posted             int // and not completed
}

type span struct{ from, to int }

type fuzzQP struct {
	st    *fuzzStation
	conn  int
	qp    *queuePair
	sends []fuzzSend
	recvs []fuzzRecv
	// What was sent to it and has not arrived, of a connection without forgery.
	inbound []fuzzMessage
}

type fuzzSend struct {
	wrid   uint64
	silent bool
	sink   int // one more than the slot
	off, n int // what an RDMA READ reads of the peer's
	reg    bool
}

type fuzzRecv struct {
	wrid uint64
	slot int
}

// A fuzzMessage is outLen bytes from off, or an RDMA WRITE's immediate data.
type fuzzMessage struct {
	off, n int
	write  bool
}

var fuzzAddrs = [2]netip.Addr{playAddr, playPeer}

func (w *fuzzWorld) run(fn func()) {
	if err := w.shard.Run(fn); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
}

func (w *fuzzWorld) byte() byte {
	if len(w.in) == 0 {
		return 0
	}
	b := w.in[0]
	w.in = w.in[1:]
	return b
}

// pick returns a number below n.
func (w *fuzzWorld) pick(n int) int { return int(w.byte()) % n }

func choose[T any](w *fuzzWorld, of ...T) T { return of[w.pick(len(of))] }

func (w *fuzzWorld) begin() {
	budget := choose(w, 0, 600, 2000, 1<<20)
	flags := w.byte()
	w.srq, w.small = flags&1 != 0, flags&2 != 0
	w.attr = verbs.QPAttr{
		Path:        verbs.Path{MTU: fuzzMTU},
		MaxRdAtomic: w.pick(4), MaxDestRd: w.pick(4), RetryCnt: w.pick(8), RNRRetry: w.pick(8),
		Timeout: 14, MinRNRTimer: 1,
		RemoteAccess: verbs.AccessLocalWrite | verbs.AccessRemoteRead | verbs.AccessRemoteWrite,
	}
	w.attr.MaxDestRd += w.attr.MaxRdAtomic // no less than the peer has outstanding
	for i := range w.st {
		st := &fuzzStation{
			bare: newBare(w.shard, fuzzAddrs[i], budget), w: w, n: i, arena: bytes.Repeat([]byte{canary}, arenaSize),
			byNum: map[uint32]*fuzzQP{}, justGone: map[uint32]bool{}, onSRQ: map[uint64]int{},
		}
		for j := range outLen {
			st.arena[outOff+j] = byte(j*7 + i)
		}
		for j := range roLen {
			st.arena[roOff+j] = byte(j*11 + j>>8)
		}
		st.was = slices.Clone(st.arena)
		w.st[i] = st
		var err [5]error
		st.rw, err[0] = st.keys.Register(st.pd, st.arena[rwOff:rwOff+rwLen], rwVA, 7)
		st.ro, err[1] = st.keys.Register(st.pd, st.arena[roOff:roOff+roLen], roVA, verbs.AccessRemoteRead)
		st.fast, err[2] = st.keys.Alloc(st.pd, fastLen)
		st.cq, err[3] = st.pd.CreateCQ(verbs.CQAttr{Size: fuzzCQ, Handler: st.completed})
		st.srq, err[4] = st.pd.CreateSRQ(verbs.SRQAttr{MaxWR: recvs, MaxSGE: 2})
		for _, e := range err {
			if e != nil {
				w.t.Fatal(e)
			}
		}
	}
	for conn := range w.ends {
		for i := range w.st {
			w.create(conn, i)
		}
		w.connect(conn)
	}
}

func (w *fuzzWorld) create(conn, i int) {
	st := w.st[i]
	attr := verbs.QPInitAttr{
		SendCQ: st.cq, RecvCQ: st.cq, MaxSendWR: fuzzQueueLen, MaxRecvWR: fuzzQueueLen, MaxSendSGE: 2, MaxRecvSGE: 2,
	}
	if w.srq {
		attr.SRQ = st.srq
	}
	q := &fuzzQP{st: st, conn: conn}
	attr.Event = func(error) {
		if w.ends[conn][i] != q {
			w.t.Errorf("event of a destroyed QP")
		}
		st.act(q)
	}
	qp, err := st.pd.CreateQP(attr)
	if err != nil {
		w.t.Fatal(err)
	}
	q.qp = qp.(*queuePair)
	st.byNum[q.qp.num] = q
	w.ends[conn][i] = q
}

// connect connects both ends, from whatever state.
func (w *fuzzWorld) connect(conn int) {
	for _, q := range w.ends[conn] {
		w.reset(q)
	}
	if conn == 0 {
		// They rest until nothing is on its way any more, as TIMEWAIT sees to.
		for _, st := range w.st {
			room := st.wire.room
			st.wire.room = -1
			st.eng.blocked = false
			st.eng.transmit()
			w.take(st)
			st.wire.room = room
		}
		w.flight = slices.DeleteFunc(w.flight, func(f frame) bool {
			var p packet
			return parsePacket(f.b, &p) == nil && (p.destQP == w.ends[0][0].qp.num || p.destQP == w.ends[0][1].qp.num)
		})
	}
	psn := [2]uint32{choose[uint32](w, 100, 1<<24-3, 1<<23-2), choose[uint32](w, 100, 1<<24-3, 1<<23-2)}
	for i, q := range w.ends[conn] {
		attr := w.attr
		attr.Path.Local, attr.Path.Remote = fuzzAddrs[i], fuzzAddrs[1-i]
		attr.DestQPN = w.ends[conn][1-i].qp.num
		attr.SQPSN, attr.RQPSN = psn[i], psn[1-i]
		for _, err := range []error{q.qp.Modify(verbs.Init), q.qp.Connect(attr)} {
			if err != nil {
				w.t.Error(err)
			}
		}
		if w.small {
			q.qp.path.window = windowMin
		}
	}
}

func (w *fuzzWorld) reset(q *fuzzQP) {
	if err := q.qp.Modify(verbs.Reset); err != nil {
		w.t.Error(err)
	}
	q.forget()
}

func (w *fuzzWorld) destroy(q *fuzzQP) {
	if err := q.qp.Destroy(); err != nil {
		w.t.Error(err)
	}
	if q.qp.Destroy() == nil {
		w.t.Error("destroyed twice")
	}
	q.forget()
	delete(q.st.byNum, q.qp.num)
	if q.st.handling {
		q.st.justGone[q.qp.num] = true
	}
}

// forget takes note that nothing is posted any more.
func (q *fuzzQP) forget() {
	for _, s := range q.sends {
		q.over(s)
	}
	for _, r := range q.recvs {
		q.st.recvUsed[r.slot] = false
		q.st.posted--
	}
	q.sends, q.recvs, q.inbound = nil, nil, nil
	if q.st.handling {
		q.st.justGone[q.qp.num] = true // the batch at hand may name it
	}
}

func (q *fuzzQP) over(s fuzzSend) {
	if s.sink > 0 {
		q.st.sinkUsed[s.sink-1] = false
	}
	if s.reg {
		q.st.registering--
	}
	q.st.posted--
}

// step does one thing.
func (w *fuzzWorld) step() {
	switch op := w.pick(20); op {
	case 0, 1, 2:
		w.post(w.end1())
	case 3, 4:
		w.postRecv(w.end1())
	case 5, 6:
		w.round()
	case 7, 8:
		w.round()
		w.deliverAll()
	case 9, 10:
		w.deliver(w.pick(256), false)
	case 11:
		w.deliver(w.pick(256), true)
	case 12:
		if n := len(w.flight); n > 0 {
			i := w.pick(n)
			w.flight = slices.Delete(w.flight, i, i+1)
		}
	case 13, 14, 15:
		w.forge()
	case 16:
		w.sleep = choose(w, time.Microsecond, time.Millisecond, 50*time.Millisecond, 300*time.Millisecond, 5*time.Second)
	case 17:
		w.disturb()
	case 18:
		st := w.st[w.pick(2)]
		st.wire.room = choose(w, -1, 0, 1, 3, 30)
		if st.wire.room != 0 && st.eng.blocked {
			st.eng.writable()
		}
	case 19:
		st := w.st[w.pick(2)]
		st.handlerDoes = w.byte()
		st.handlerLeft = int(st.handlerDoes>>3) + 1
	}
	w.look()
}

func (w *fuzzWorld) end1() *fuzzQP { b := w.byte(); return w.ends[b&1][b>>1&1] }

func (w *fuzzWorld) disturb() {
	q := w.end1()
	switch w.pick(5) {
	case 0:
		if q.qp.State() != verbs.Reset {
			if err := q.qp.Modify(verbs.Err); err != nil {
				w.t.Error(err)
			}
		}
	case 1:
		w.connect(q.conn)
	case 2:
		w.destroy(q)
		w.create(q.conn, q.st.n)
		w.connect(q.conn)
	case 3:
		if q.conn == 1 { // one end alone
			w.reset(q)
		}
	case 4: // the memory goes, and comes back under another key
		st := q.st
		if err := st.keys.Remove(st.rw); err != nil {
			w.t.Error(err)
		}
		var err error
		if st.rw, err = st.keys.Register(st.pd, st.arena[rwOff:rwOff+rwLen], rwVA, 7); err != nil {
			w.t.Error(err)
		}
	}
}

// round ends a round of both engines.
func (w *fuzzWorld) round() {
	for again := true; again; { // what a handler does may be for the other station
		again = false
		for _, st := range w.st {
			st.eng.flush()
			w.take(st)
		}
		for _, st := range w.st {
			e := st.eng
			again = again || len(e.notices)+len(e.completed) > 0 || !e.blocked && (e.senders.first != nil || len(e.acking) > 0) ||
				e.blocked && e.batch.owned != len(e.batch.pkts)
		}
	}
	for _, st := range w.st {
		if err := st.eng.audit(); err != nil {
			w.t.Errorf("station %d: %v", st.n, err)
		}
		for _, q := range st.byNum {
			q.check()
		}
	}
}

func (w *fuzzWorld) take(st *fuzzStation) {
	w.flight = append(w.flight, st.wire.out...)
	st.wire.out = st.wire.out[:0]
	if n := len(w.flight) - 1000; n > 0 {
		w.flight = slices.Delete(w.flight, 0, n) // a queue on the way overflows
	}
}

// check looks at a queue pair at the end of a round.
func (q *fuzzQP) check() {
	if q.qp.state != verbs.Err {
		return
	}
	for _, s := range q.sends {
		if !s.silent {
			q.st.w.t.Errorf("QP %#x in Err: send %d has not completed", q.qp.num, s.wrid)
		}
	}
	if len(q.recvs) > 0 {
		q.st.w.t.Errorf("QP %#x in Err: %d receives have not completed", q.qp.num, len(q.recvs))
	}
}

func (w *fuzzWorld) deliverAll() {
	all := slices.Clone(w.flight)
	w.flight = w.flight[:0]
	for _, f := range all {
		w.station(f).receive(f)
	}
}

func (w *fuzzWorld) deliver(i int, again bool) {
	if len(w.flight) == 0 {
		return
	}
	i %= len(w.flight)
	f := w.flight[i]
	if !again {
		w.flight = slices.Delete(w.flight, i, i+1)
	}
	w.station(f).receive(f)
}

func (w *fuzzWorld) station(f frame) *fuzzStation {
	if f.dst == fuzzAddrs[0] {
		return w.st[0]
	}
	return w.st[1]
}

// forge makes up a packet for the second connection: one that fits, but for a
// few things perhaps.
func (w *fuzzWorld) forge() {
	i := w.pick(2)
	q, peer := w.ends[1][i], w.st[1-i]
	if q.qp.state != verbs.RTS {
		return
	}
	st, r := q.st, &q.qp.req
	b := w.byte()
	h := packet{bth: bth{destQP: q.qp.num, ackReq: b&1 != 0, se: b&2 != 0}, imm: uint32(b)}
	h.opcode = choose(w, opSendOnly, opWriteOnly, opWriteOnly, opWriteFirst, opWriteMiddle, opWriteLast, opWriteOnlyImm,
		opSendFirst, opSendMiddle, opSendLast, opSendOnlyInv, opReadRequest, opReadRequest,
		opReadRespFirst, opReadRespMid, opReadRespOnly, opAcknowledge, opAcknowledge, opCompareSwap, opAtomicAck, opCNP)
	flags := opcodes[h.opcode].flags
	n := 0
	if flags&opHasPayload != 0 {
		n = fuzzMTU
		if flags&opEnds != 0 {
			n = choose(w, fuzzMTU, 0, 1, 5, int(q.qp.resp.write.length%(fuzzMTU+1)))
		}
	}
	h.reth = reth{va: rwVA + uint64(w.byte()), rkey: st.rw.RKey(), length: uint32(n)}
	switch {
	case flags&opIsWrite != 0 && flags&opIsFirst != 0:
		h.reth.length = fuzzMTU + 1 + uint32(w.pick(256)*2)
	case flags&opIsReadReq != 0:
		h.reth.length = uint32(w.pick(256) * 4)
	}
	h.psn = r.una
	if flags&opIsRequest != 0 {
		h.psn = q.qp.resp.psn
	}
	h.aeth.syndrome, h.ieth = synAck, st.fast.RKey()
	for range w.pick(3) {
		switch w.pick(10) {
		case 0:
			h.psn = h.psn.Add(choose(w, 1, -1, 2, -2, 3, -5, 1<<22, -1<<22))
		case 1:
			h.psn = choose(w, r.sent, r.next, r.cursor(), PSN(w.byte()))
		case 2:
			h.aeth.syndrome = choose(w, 0, synRNR(1), synRNR(0), synNAKSequence, synNAKInvalid, synNAKAccess, synNAKOperational, 0x7f, 0x45, 0xff)
		case 3:
			h.reth.va = choose[uint64](w, rwVA+rwLen-uint64(h.reth.length), rwVA-1, roVA, fastVA, 0, 1<<64-1, rwVA+rwLen) + uint64(w.pick(2))
		case 4:
			h.reth.rkey = choose(w, st.ro.RKey(), st.fast.RKey(), 0, 1, uint32(w.byte())<<8)
		case 5:
			h.reth.length = choose[uint32](w, h.reth.length+1, h.reth.length-1, 0, 1<<31, 1<<31+1, 1<<32-1)
		case 6:
			h.ieth = choose(w, st.fast.RKey()^1, st.rw.RKey(), 0)
		case 7:
			if flags&opHasPayload != 0 {
				n = choose(w, n+1, max(n-1, 0), 0, fuzzMTU+1, 1, 2*fuzzMTU)
			}
		case 8:
			h.destQP = choose(w, w.ends[1][1-i].qp.num, h.destQP^1<<16, 1, 0, uint32(w.byte()))
			if q := w.ends[0][i].qp; h.destQP == q.num {
				return // that one is not forged for
			}
		case 9:
			for h.opcode = w.byte() % 0x18; !opcodes[h.opcode].valid; h.opcode-- {
			}
			if opcodes[h.opcode].flags&opHasPayload == 0 {
				n = 0
			}
		}
	}
	h.payload = bytes.Repeat([]byte{0xf0 | byte(i)}, n)
	ident := uint16(0)
	if b&0xf0 == 0 {
		ident = uint16(w.byte()) << 8
	}
	st.eng.marked = b&0x0f == 0
	st.receive(forgeIdent(peer.addr, st.addr, &h, ident))
	st.eng.marked = false
}

// post posts work requests, if there is room.
func (w *fuzzWorld) post(q *fuzzQP) {
	st, peer := q.st, w.st[1-q.st.n]
	var wrs []verbs.SendWR
	var sends []fuzzSend
	var messages []fuzzMessage
	for range 1 + w.pick(4) {
		b := w.byte()
		s := fuzzSend{wrid: uint64(b) | uint64(len(w.in))<<8, silent: b&1 != 0}
		wr := verbs.SendWR{WRID: s.wrid, RKey: peer.rw.RKey(), RemoteAddr: rwVA + uint64(b), Imm: uint32(b)}
		if !s.silent {
			wr.Flags = verbs.SendSignaled
		}
		if b&6 == 0 {
			wr.Flags |= verbs.SendFence
		}
		off, n := int(w.byte()), choose(w, 0, 1, 10, fuzzMTU, fuzzMTU+1, 2*fuzzMTU, 600)
		wr.SG = []verbs.SGE{
			{Buf: st.arena[outOff+off : outOff+off+n/3], LKey: soft.LocalDMALKey},
			{Buf: st.arena[outOff+off+n/3 : outOff+off+n], LKey: soft.LocalDMALKey},
		}
		switch w.pick(10) {
		case 0, 1, 2:
			messages = append(messages, fuzzMessage{off, n, false})
		case 3:
			wr.Opcode, wr.RKey = verbs.WRSendWithInv, choose(w, peer.fast.RKey(), 0)
			messages = append(messages, fuzzMessage{off, n, false})
		case 4:
			wr.Opcode = verbs.WRRDMAWrite
		case 5:
			wr.Opcode = verbs.WRRDMAWriteWithImm
			messages = append(messages, fuzzMessage{off, n, true})
		case 6, 7:
			slot := slices.Index(st.sinkUsed[:sinks], false)
			if slot < 0 {
				continue
			}
			st.sinkUsed[slot] = true
			at := sinkOff + slot*sinkStride
			st.touched = append(st.touched, span{at, at + sinkLen})
			wr.Opcode, wr.SG = verbs.WRRDMARead, []verbs.SGE{{Buf: st.arena[at : at+n : at+n], LKey: soft.LocalDMALKey}}
			wr.RKey, wr.RemoteAddr = choose(w, peer.ro.RKey(), peer.ro.RKey(), peer.ro.RKey(), 7), roVA+uint64(off)
			s.sink, s.off, s.n = slot+1, off, n
		case 8:
			wr.Opcode, wr.MR = verbs.WRRegMR, &memoryRegion{st.fast, st.pd}
			wr.Buf, wr.IOVA, wr.Access = st.arena[fastOff:fastOff+fastLen], fastVA, 7
			wr.RKey = st.fast.RKey()&^3 | uint32(w.byte()&3)
			s.reg = true
			st.registering++
		case 9:
			wr.Opcode, wr.RKey = verbs.WRLocalInv, choose(w, st.fast.RKey(), st.rw.RKey())
			if b < 200 { // else it may be wrong, which fails the QP
				wr.Opcode = verbs.WRSend
				messages = append(messages, fuzzMessage{off, n, false})
			}
		}
		wrs, sends = append(wrs, wr), append(sends, s)
		st.posted++
	}
	err := error(verbs.ErrQueueFull)
	if st.posted < fuzzCQ {
		err = q.qp.PostSend(wrs)
	}
	if err != nil {
		for _, s := range sends {
			q.over(s)
		}
		return
	}
	q.sends = append(q.sends, sends...)
	if other := w.ends[q.conn][1-q.st.n]; q.conn == 0 {
		other.inbound = append(other.inbound, messages...)
	}
}

func (w *fuzzWorld) postRecv(q *fuzzQP) {
	st := q.st
	slot := slices.Index(st.recvUsed[:], false)
	if slot < 0 || st.posted >= fuzzCQ {
		return
	}
	n := choose(w, recvLen, recvLen, recvLen, recvLen, recvLen, 10, 0)
	if w.good {
		n = recvLen
	}
	at := recvOff + slot*recvStride
	wr := verbs.RecvWR{WRID: uint64(slot) | uint64(len(w.in))<<8, SG: []verbs.SGE{
		{Buf: st.arena[at : at+n/2 : at+n/2], LKey: soft.LocalDMALKey}, {Buf: st.arena[at+n/2 : at+n : at+n], LKey: soft.LocalDMALKey},
	}}
	if w.srq {
		if st.srq.PostRecv([]verbs.RecvWR{wr}) != nil {
			return
		}
		st.onSRQ[wr.WRID] = slot
	} else {
		if q.qp.PostRecv([]verbs.RecvWR{wr}) != nil {
			return
		}
		q.recvs = append(q.recvs, fuzzRecv{wr.WRID, slot})
	}
	st.recvUsed[slot] = true
	st.posted++
	st.touched = append(st.touched, span{at, at + n})
}

// completed is the handler of a station's CQ.
func (st *fuzzStation) completed(wcs []verbs.WC) {
	if st.handling {
		st.w.t.Error("a handler within a handler")
	}
	st.handling = true
	for _, wc := range wcs {
		if q := st.byNum[wc.QPN]; q != nil && !st.justGone[wc.QPN] {
			st.complete(q, wc)
			st.act(q)
		} else if !st.justGone[wc.QPN] {
			st.w.t.Errorf("completion %+v of a QP that is gone", wc)
		}
	}
	st.handling = false
	clear(st.justGone)
}

func (st *fuzzStation) complete(q *fuzzQP, wc verbs.WC) {
	t := st.w.t
	if wc.Opcode != verbs.WCRecv {
		for len(q.sends) > 0 && q.sends[0].wrid != wc.WRID {
			if !q.sends[0].silent {
				t.Errorf("send %d completed, and %d before it had not", wc.WRID, q.sends[0].wrid)
			}
			st.wasRead(q, q.sends[0])
			q.over(q.sends[0])
			q.sends = q.sends[1:]
		}
		if len(q.sends) == 0 {
			t.Errorf("completion %+v of what is not posted", wc)
			return
		}
		if q.sends[0].silent && wc.Status == verbs.WCSuccess {
			t.Errorf("send %d completed, which is not signaled", wc.WRID)
		}
		if wc.Status == verbs.WCSuccess {
			st.wasRead(q, q.sends[0])
		}
		if st.w.good && q.conn == 0 && (wc.Status == verbs.WCRetryExcErr || wc.Status == verbs.WCRNRRetryExcErr) && st.w.ends[0][1-st.n].qp.state == verbs.RTS {
			t.Errorf("send %d: %v, on a good network", wc.WRID, wc.Status)
		}
		q.over(q.sends[0])
		q.sends = q.sends[1:]
		return
	}
	slot, ok := 0, false
	if st.w.srq {
		slot, ok = st.onSRQ[wc.WRID]
		delete(st.onSRQ, wc.WRID)
	} else if ok = len(q.recvs) > 0 && q.recvs[0].wrid == wc.WRID; ok {
		slot = q.recvs[0].slot
		q.recvs = q.recvs[1:]
	}
	if !ok {
		t.Errorf("completion %+v of a receive that is not posted, or not the first", wc)
		return
	}
	st.recvUsed[slot] = false
	st.posted--
	if wc.Status == verbs.WCSuccess && q.conn == 0 {
		if err := st.arrived(q, wc, slot); err != nil {
			t.Errorf("QP %#x: %v", wc.QPN, err)
		}
	}
}

// wasRead checks what an RDMA READ has brought, if s is one.
func (st *fuzzStation) wasRead(q *fuzzQP, s fuzzSend) {
	if s.sink == 0 || q.conn != 0 {
		return
	}
	at, from := sinkOff+(s.sink-1)*sinkStride, roOff+s.off
	if got, want := st.arena[at:at+s.n], st.w.st[1-st.n].arena[from:from+s.n]; !bytes.Equal(got, want) {
		st.w.t.Errorf("QP %#x: READ %d of %d bytes brought %v..., want %v...", q.qp.num, s.wrid, s.n, got[:min(8, s.n)], want[:min(8, s.n)])
	}
}

// arrived checks that a message is the next that was sent.
func (st *fuzzStation) arrived(q *fuzzQP, wc verbs.WC, slot int) error {
	if len(q.inbound) == 0 {
		return fmt.Errorf("received %+v, and nothing was sent", wc)
	}
	m := q.inbound[0]
	q.inbound = q.inbound[1:]
	if int(wc.ByteLen) != m.n {
		return fmt.Errorf("received %d bytes of %+v", wc.ByteLen, m)
	}
	at := recvOff + slot*recvStride
	from := outOff + m.off
	if got, want := st.arena[at:at+m.n], st.w.st[1-st.n].arena[from:from+m.n]; !m.write && !bytes.Equal(got, want) {
		return fmt.Errorf("received %v..., want %v...", got[:min(8, m.n)], want[:min(8, m.n)])
	}
	return nil
}

// act does what a consumer may do within a handler.
func (st *fuzzStation) act(q *fuzzQP) {
	w := st.w
	does := st.handlerDoes
	if w.good || st.handlerLeft == 0 || st.byNum[q.qp.num] != q {
		return
	}
	st.handlerLeft--
	switch does & 7 {
	case 0, 1:
		w.post(q)
	case 2, 3:
		w.postRecv(q)
	case 4:
		w.destroy(q)
		w.create(q.conn, st.n)
		if w.st[1-st.n].handling {
			return
		}
		w.connect(q.conn)
	case 5:
		if q.qp.State() != verbs.Reset {
			_ = q.qp.Modify(verbs.Err)
		}
	case 6:
		w.reset(q)
	case 7:
		w.post(w.ends[1-q.conn][st.n]) // another
	}
}

// look checks that nothing was written that nobody allowed.
func (w *fuzzWorld) look() {
	for _, st := range w.st {
		may := append(st.touched, span{rwOff, rwOff + rwLen})
		if st.registering > 0 || w.fastValid(st) {
			may = append(may, span{fastOff, fastOff + fastLen})
		}
		for i, used := range st.sinkUsed[:sinks] {
			if used {
				may = append(may, span{sinkOff + i*sinkStride, sinkOff + i*sinkStride + sinkLen})
			}
		}
		for i, used := range st.recvUsed {
			if used {
				may = append(may, span{recvOff + i*recvStride, recvOff + i*recvStride + recvLen})
			}
		}
		for _, s := range may {
			copy(st.was[s.from:s.to], st.arena[s.from:s.to])
		}
		if !bytes.Equal(st.was, st.arena) {
			for i := range st.was {
				if st.was[i] != st.arena[i] {
					w.t.Errorf("station %d: byte %d was %#x and is %#x", st.n, i, st.was[i], st.arena[i])
					break
				}
			}
		}
		st.touched = st.touched[:0]
		// What is in use now may be written until the next look, and be over by then.
		for i, used := range st.sinkUsed[:sinks] {
			if used {
				st.touched = append(st.touched, span{sinkOff + i*sinkStride, sinkOff + i*sinkStride + sinkLen})
			}
		}
		for i, used := range st.recvUsed {
			if used {
				st.touched = append(st.touched, span{recvOff + i*recvStride, recvOff + i*recvStride + recvLen})
			}
		}
		if w.fastValid(st) || st.registering > 0 {
			st.touched = append(st.touched, span{fastOff, fastOff + fastLen})
		}
	}
}

func (w *fuzzWorld) fastValid(st *fuzzStation) bool {
	_, f := st.keys.Remote(st.pd, st.fast.RKey(), fastVA, 1, 0)
	return f == soft.OK
}

// settle makes the network good, and waits until the connection that nobody
// forges for has nothing more to do.
func (w *fuzzWorld) settle() {
	begin := time.Now()
	w.run(func() {
		w.good = true
		for _, q := range w.ends[0] {
			q.qp.attr.RetryCnt, q.qp.attr.RNRRetry = 7, 7
			q.qp.req.retries, q.qp.req.rnrRetries = 7, 7
		}
	})
	for time.Since(begin) < 2*time.Minute {
		idle := true
		w.run(func() {
			for _, st := range w.st {
				st.wire.room = -1
				if st.eng.blocked {
					st.eng.writable()
				}
			}
			for range 50 {
				for _, st := range w.st {
					st.eng.flush()
					w.take(st)
				}
				if len(w.flight) == 0 {
					break
				}
				w.deliverAll()
				for _, q := range w.ends[0] {
					if q.qp.state == verbs.RTS && (w.srq && q.st.srq.Posted() == 0 || !w.srq && len(q.recvs) == 0) {
						w.postRecv(q)
					}
				}
			}
			w.round()
			w.look()
			for _, q := range w.ends[0] {
				idle = idle && (q.qp.state != verbs.RTS || q.qp.sq.head == q.qp.sq.tail)
			}
		})
		if idle || w.t.Failed() {
			return
		}
		time.Sleep(time.Millisecond + time.Since(begin)/10)
	}
	w.run(func() {
		for _, q := range w.ends[0] {
			r, sq := &q.qp.req, &q.qp.sq
			w.t.Errorf("station %d, in %v: work requests %d, %d, %d do not end: una %#x, cursor %#x, next %#x, %d in flight of %d, %d READs",
				q.st.n, q.qp.state, sq.head, sq.cur, sq.tail, r.una, r.cursor(), r.next, r.inflight, r.window, len(r.reads))
		}
	})
}

// end destroys everything and checks that nothing is left.
func (w *fuzzWorld) end() {
	w.good = true
	for _, ends := range w.ends {
		for _, q := range ends {
			w.destroy(q)
		}
	}
	for _, st := range w.st {
		e := st.eng
		st.wire.room = -1
		if e.blocked {
			e.writable()
		}
		e.flush()
		for _, err := range []error{
			e.audit(), e.auditBatch(), st.cq.Destroy(), st.srq.Destroy(),
			st.keys.Remove(st.rw), st.keys.Remove(st.ro), st.keys.Remove(st.fast), st.pd.Dealloc(),
		} {
			if err != nil {
				w.t.Errorf("station %d: %v", st.n, err)
			}
		}
		if e.qps.count != 0 || len(e.paths) != 0 || e.out != 0 || len(e.waiters) != 0 || st.keys.Count() != 0 || st.pds.Load() != 0 {
			w.t.Errorf("station %d: left are %d QPs, %d paths, %d bytes of READs, %d waiters, %d keys, %d domains",
				st.n, e.qps.count, len(e.paths), e.out, len(e.waiters), st.keys.Count(), st.pds.Load())
		}
		if e.senders.first != nil || len(e.acking) != 0 {
			w.t.Errorf("station %d: destroyed QPs want to send", st.n)
		}
		if st.posted-len(st.onSRQ) != 0 {
			w.t.Errorf("station %d: %d posted at the end", st.n, st.posted)
		}
	}
}
