package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
	"github.com/fabrid/fabrid/verbs/roce"
)

// hostIOVA is where a host's memory is for the target.
const hostIOVA = 1 << 32

// An rdmaHost is the end of a peer that is made of verbs. Everything but its
// script's calls is on its shard.
type rdmaHost struct {
	*peer
	shard  *shard.Shard
	dev    *roce.Device
	pd     verbs.PD
	mr     verbs.MR // of mem; nil once it is forgotten
	rkey   uint32
	cq     verbs.CQ
	queues []*rdmaQueue // that have not been freed
	last   *rdmaQueue   // that was dialed

	freeing sync.WaitGroup
}

// An rdmaQueue is one connection of an rdmaHost.
type rdmaQueue struct {
	p      *rdmaHost
	qid    uint16
	qp     verbs.QP
	conn   rdmacm.Conn
	dialed chan struct{} // closed when the connection is made, or never will be
	up     bool
	over   bool // it was, and is not any more, or it failed
	why    error
	closed bool

	cmds, cqes []byte
	lkey       uint32
	mr         verbs.MR
	slots      [queueDepth]*ioCommand
}

func (w *world) newRDMAHost(peer *peer) (*rdmaHost, error) {
	p := &rdmaHost{peer: peer, shard: shard.NewSim(shard.Config{Name: peer.name})}
	var err error
	if p.dev, err = roce.Open(roce.Config{Shard: p.shard, Addr: peer.addr, Network: w.net, NodeGUID: uint64(peer.hostID[15]) << 8}); err != nil {
		return nil, err
	}
	if p.pd, err = p.dev.AllocPD(); err != nil {
		return nil, err
	}
	if p.mr, err = p.pd.RegMR(p.mem, hostIOVA, verbs.AccessLocalWrite|verbs.AccessRemoteRead|verbs.AccessRemoteWrite); err != nil {
		return nil, err
	}
	p.rkey = p.mr.RKey()
	p.run(func() {
		p.cq, err = p.pd.CreateCQ(verbs.CQAttr{Size: 1024, Handler: p.completed})
	})
	return p, err
}

// run runs fn on the peer's shard.
func (p *rdmaHost) run(fn func()) {
	p.w.t.Helper()
	if err := p.shard.Run(fn); err != nil {
		p.w.t.Fatal(err)
	}
}

func (p *rdmaHost) close() error {
	p.run(func() {
		for _, q := range p.queues {
			q.close()
		}
	})
	for deadline := time.Now().Add(time.Minute); p.held() > 0 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	p.freeing.Wait()
	var errs []error
	if n := p.held(); n > 0 {
		errs = append(errs, fmt.Errorf("%s: %d queues left", p.name, n))
	}
	p.run(func() { errs = append(errs, p.cq.Destroy()) })
	if p.mr != nil {
		errs = append(errs, p.mr.Dereg())
	}
	return errors.Join(append(errs, p.pd.Dealloc(), p.dev.Close(), p.shard.Close())...)
}

func (p *rdmaHost) held() (n int) {
	p.run(func() { n = len(p.queues) })
	return n
}

func (p *rdmaHost) dial(qid uint16) (peerQueue, error) {
	q := &rdmaQueue{p: p, qid: qid, dialed: make(chan struct{})}
	mem := make([]byte, queueDepth*(nvme.CommandSize+nvme.CompletionSize))
	q.cmds, q.cqes = mem[:queueDepth*nvme.CommandSize], mem[queueDepth*nvme.CommandSize:]
	var err error
	if q.mr, err = p.pd.RegMR(mem, 0, verbs.AccessLocalWrite); err != nil {
		return nil, err
	}
	q.lkey = q.mr.LKey()
	p.run(func() { err = q.open() })
	return q, err
}

func (q *rdmaQueue) open() (err error) {
	p := q.p
	if q.qp, err = p.pd.CreateQP(verbs.QPInitAttr{
		SendCQ: p.cq, RecvCQ: p.cq,
		MaxSendWR: queueDepth + 1, MaxRecvWR: queueDepth, MaxSendSGE: 1, MaxRecvSGE: 1,
	}); err != nil {
		return err
	}
	if err := q.qp.Modify(verbs.Init); err != nil {
		return err
	}
	for i := range queueDepth {
		if err := q.postRecv(i); err != nil {
			return err
		}
	}
	if q.conn, err = p.dev.Open(netip.Addr{}, p.w.remote); err != nil {
		return err
	}
	p.queues = append(p.queues, q)
	p.last = q
	q.conn.Notify(func(ev rdmacm.Event) {
		p.shard.Post(&shard.Task{Fn: func() { q.event(ev) }})
	})
	q.conn.Connect(q.qp, rdmacm.ConnParam{
		PrivateData:        nvme.RDMACMRequest{QID: q.qid, HRQSIZE: queueDepth, HSQSIZE: queueDepth - 1, CNTLID: p.cntlidOf(q.qid)}.AppendTo(nil),
		ResponderResources: 16,
		FlowControl:        true,
		RetryCount:         7,
		RNRRetryCount:      7,
		QPN:                q.qp.Num(),
	})
	return nil
}

func (q *rdmaQueue) postRecv(slot int) error {
	return q.qp.PostRecv([]verbs.RecvWR{{
		WRID: uint64(slot), SG: []verbs.SGE{{Buf: q.cqes[slot*nvme.CompletionSize:][:nvme.CompletionSize], LKey: q.lkey}},
	}})
}

// event takes an event of the connection. A connection that is over is closed.
func (q *rdmaQueue) event(ev rdmacm.Event) {
	switch {
	case q.closed || ev.Type == rdmacm.TimewaitExit:
	case ev.Type == rdmacm.Established:
		q.up = true
		close(q.dialed)
	default:
		err := errors.Join(errors.New(ev.Type.String()), ev.Err)
		if ev.Type == rdmacm.Rejected {
			var r nvme.RDMACMReject
			if ev.Status == rdmacm.RejConsumerDefined && r.Parse(ev.Param.PrivateData) == nil && r.Status != 0 {
				err = r.Status
			}
		}
		q.lost(err)
		q.close()
	}
}

// lost ends what waits for the queue.
func (q *rdmaQueue) lost(why error) {
	if q.over {
		return
	}
	q.over, q.why = true, why
	if !q.up {
		close(q.dialed)
	}
	for i, c := range q.slots {
		if c != nil {
			q.slots[i] = nil
			c.err = why
			close(c.done)
		}
	}
}

func (p *rdmaHost) hangUp() {
	p.run(func() {
		for _, q := range p.queues {
			q.hangUp()
		}
	})
}

// hangUp takes leave: of a connection that is being made, too.
func (q *rdmaQueue) hangUp() {
	if q.over || q.closed {
		return
	}
	q.lost(errLeft)
	if q.up {
		q.conn.Disconnect() // Disconnected follows
	} else {
		q.close()
	}
}

func (q *rdmaQueue) close() {
	if q.closed {
		return
	}
	q.closed = true
	q.lost(errLeft)
	q.conn.Close(func() {
		_ = q.qp.Destroy()
		p := q.p
		for i := range p.queues {
			if p.queues[i] == q {
				p.queues = append(p.queues[:i], p.queues[i+1:]...)
				break
			}
		}
		p.freeing.Go(func() { _ = q.mr.Dereg() }) // which is not for shards
	})
}

func (q *rdmaQueue) send(put func(nvme.Command), at, n int) *ioCommand {
	c := &ioCommand{done: make(chan struct{})}
	q.p.run(func() {
		slot := -1
		for i := range q.slots {
			if q.slots[i] == nil {
				slot = i
				break
			}
		}
		if q.over || slot < 0 {
			c.err = fmt.Errorf("%s: queue %d: nothing can be sent: %w", q.p.name, q.qid, q.why)
			close(c.done)
			return
		}
		b := q.cmds[slot*nvme.CommandSize:][:nvme.CommandSize]
		cmd := nvme.MakeCommand(b)
		put(cmd)
		sgl := nvme.SGL{Type: nvme.SGLKeyed}
		if n > 0 {
			sgl = nvme.SGL{Type: nvme.SGLKeyed, Address: hostIOVA + uint64(at), Length: uint32(n), Key: q.p.rkey}
		}
		cmd.SetSGL(sgl)
		cmd.SetCID(uint16(slot))
		q.slots[slot] = c
		if err := q.qp.PostSend([]verbs.SendWR{{
			Opcode: verbs.WRSend, Flags: verbs.SendSignaled, SG: []verbs.SGE{{Buf: b, LKey: q.lkey}},
		}}); err != nil {
			q.slots[slot] = nil
			c.err = err
			close(c.done)
		}
	})
	return c
}

func (p *rdmaHost) completed(wcs []verbs.WC) {
	for _, wc := range wcs {
		for _, q := range p.queues {
			if q.qp.Num() == wc.QPN {
				q.completed(wc)
				break
			}
		}
	}
}

func (q *rdmaQueue) completed(wc verbs.WC) {
	switch {
	case q.over || wc.Status == verbs.WCWRFlushErr:
	case wc.Status != verbs.WCSuccess:
		q.lost(fmt.Errorf("%v", wc.Status))
		q.conn.Disconnect() // as hosts do
	case wc.Opcode == verbs.WCRecv:
		var cqe nvme.Completion
		slot := int(wc.WRID)
		if err := cqe.Parse(q.cqes[slot*nvme.CompletionSize:][:nvme.CompletionSize]); err != nil {
			q.p.w.t.Errorf("%s: queue %d: %v", q.p.name, q.qid, err)
			return
		}
		_ = q.postRecv(slot)
		if c := q.slots[cqe.CID]; c != nil {
			q.slots[cqe.CID] = nil
			c.cqe = cqe
			close(c.done)
		}
	}
}

func (q *rdmaQueue) waitDialed(d time.Duration) error {
	select {
	case <-q.dialed:
	case <-time.After(d):
		return fmt.Errorf("no answer in %v", d)
	}
	var err error
	q.p.run(func() {
		if !q.up {
			err = q.why
		}
	})
	return err
}

// trespass writes to memory of the target's that it was not given.
func (q *rdmaQueue) trespass() error {
	var err error
	q.p.run(func() {
		err = q.qp.PostSend([]verbs.SendWR{{
			Opcode: verbs.WRRDMAWrite, Flags: verbs.SendSignaled,
			SG: []verbs.SGE{{Buf: q.cmds[:64], LKey: q.lkey}}, RemoteAddr: 1 << 40, RKey: 0xdead00,
		}})
	})
	return err
}

// forget has the target's key of the peer's memory be good for nothing.
func (p *rdmaHost) forget() error {
	err := p.mr.Dereg()
	p.mr = nil
	return err
}

func (p *rdmaHost) vanish() {
	p.run(func() {
		p.dev.Silence(true)
		p.dev.Vanish()
	})
}

// withWrongKey has what fn sends name memory by a key that there is not.
func (p *rdmaHost) withWrongKey(fn func()) {
	p.rkey ^= 0xff00
	fn()
	p.rkey ^= 0xff00
}

// isRTU reports whether a datagram is the connection manager's Ready To Use.
func isRTU(b []byte) bool {
	const bth, deth, attrID, rtu = 12, 8, 16, 0x14
	return len(b) > bth+deth+attrID+2 && b[0] == 0x64 && binary.BigEndian.Uint16(b[bth+deth+attrID:]) == rtu
}

// isACK reports whether a datagram is an acknowledgment, good or bad.
func isACK(b []byte) bool { return len(b) > 0 && b[0] == 0x11 }
