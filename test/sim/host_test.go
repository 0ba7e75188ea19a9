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

// Where a host's memory is for the target, and how it is divided.
const (
	hostIOVA  = 1 << 32
	hostData  = 4 << 20 // of reads and writes
	connectAt = hostData
	hostMem   = connectAt + nvme.ConnectDataSize

	queueDepth = 32
)

// A peer is a host that does what the script says, and nothing else: no keep
// alive, no answer to a loss. It is made of verbs. Everything but its script's
// calls is on its shard.
type peer struct {
	w      *world
	name   string
	addr   netip.Addr
	hostID nvme.UUID
	shard  *shard.Shard
	dev    *roce.Device
	pd     verbs.PD
	mr     verbs.MR // of mem; nil once it is forgotten
	rkey   uint32
	mem    []byte
	cq     verbs.CQ
	queues []*peerQueue // that have not been freed
	byQID  map[uint16]*peerQueue

	cntlid  uint16
	pending []*ioCommand // of transfers
	freeing sync.WaitGroup
}

// A peerQueue is one connection of a peer.
type peerQueue struct {
	p      *peer
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

// An ioCommand is a command that was sent.
type ioCommand struct {
	done chan struct{}
	cqe  nvme.Completion
	err  error // the queue's end
}

func (w *world) newPeer(name string, addr netip.Addr, n byte) (*peer, error) {
	p := &peer{w: w, name: name, addr: addr, byQID: make(map[uint16]*peerQueue), mem: make([]byte, hostMem)}
	p.hostID[6], p.hostID[8], p.hostID[15] = 0x40, 0x80, n
	p.shard = shard.NewSim(shard.Config{Name: name})
	var err error
	if p.dev, err = roce.Open(roce.Config{Shard: p.shard, Addr: addr, Network: w.net, NodeGUID: uint64(n) << 8}); err != nil {
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
func (p *peer) run(fn func()) {
	p.w.t.Helper()
	if err := p.shard.Run(fn); err != nil {
		p.w.t.Fatal(err)
	}
}

// close ends what is left of the peer, and finds out whether all of it ends.
func (p *peer) close() error {
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

// queue returns the queue of a QID; one that has never been is over.
func (p *peer) queue(qid uint16) *peerQueue {
	if q := p.byQID[qid]; q != nil {
		return q
	}
	return &peerQueue{p: p, qid: qid, over: true, why: errLeft, dialed: make(chan struct{})}
}

// held is how many queues the peer still has.
func (p *peer) held() (n int) {
	p.run(func() { n = len(p.queues) })
	return n
}

// dial asks for a connection and does not wait for it.
func (p *peer) dial(qid uint16) (*peerQueue, error) {
	q := &peerQueue{p: p, qid: qid, dialed: make(chan struct{})}
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

func (q *peerQueue) open() (err error) {
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
	p.byQID[q.qid] = q
	q.conn.Notify(func(ev rdmacm.Event) {
		p.shard.Post(&shard.Task{Fn: func() { q.event(ev) }})
	})
	q.conn.Connect(q.qp, rdmacm.ConnParam{
		PrivateData:        nvme.RDMACMRequest{QID: q.qid, HRQSIZE: queueDepth, HSQSIZE: queueDepth - 1, CNTLID: q.cntlid()}.AppendTo(nil),
		ResponderResources: 16,
		FlowControl:        true,
		RetryCount:         7,
		RNRRetryCount:      7,
		QPN:                q.qp.Num(),
	})
	return nil
}

func (q *peerQueue) cntlid() uint16 {
	if q.qid == 0 {
		return 0
	}
	return q.p.cntlid
}

func (q *peerQueue) postRecv(slot int) error {
	return q.qp.PostRecv([]verbs.RecvWR{{
		WRID: uint64(slot), SG: []verbs.SGE{{Buf: q.cqes[slot*nvme.CompletionSize:][:nvme.CompletionSize], LKey: q.lkey}},
	}})
}

// event takes an event of the connection. A connection that is over is closed.
func (q *peerQueue) event(ev rdmacm.Event) {
	switch {
	case q.closed || ev.Type == rdmacm.TimewaitExit:
	case ev.Type == rdmacm.Established:
		q.up = true
		close(q.dialed)
	default:
		err := fmt.Errorf("%v: %w", ev.Type, ev.Err)
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
func (q *peerQueue) lost(why error) {
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

var errLeft = errors.New("sim: the host has left")

// hangUp takes leave: of a connection that is being made, too.
func (q *peerQueue) hangUp() {
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

func (q *peerQueue) close() {
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

// send sends a command and does not wait for its end.
func (q *peerQueue) send(put func(nvme.Command)) *ioCommand {
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
		cmd.SetSGL(nvme.SGL{Type: nvme.SGLKeyed})
		put(cmd)
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

// commandTime bounds the wait for a command.
const commandTime = 30 * time.Second

func (c *ioCommand) wait() error {
	select {
	case <-c.done:
	case <-time.After(commandTime):
		return fmt.Errorf("no answer in %v", commandTime)
	}
	if c.err != nil {
		return c.err
	}
	if !c.cqe.Status.OK() {
		return c.cqe.Status.Base()
	}
	return nil
}

func (p *peer) completed(wcs []verbs.WC) {
	for _, wc := range wcs {
		for _, q := range p.queues {
			if q.qp.Num() == wc.QPN {
				q.completed(wc)
				break
			}
		}
	}
}

func (q *peerQueue) completed(wc verbs.WC) {
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

// waitDialed waits until the connection is made, or why it is not.
func (q *peerQueue) waitDialed(d time.Duration) error {
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

// connect sends Connect.
func (q *peerQueue) connect(nqn string, rkey uint32) *ioCommand {
	p := q.p
	cntlid, kato := uint16(nvme.CNTLIDDynamic), uint32(p.w.keepAlive/time.Millisecond)
	if q.qid != 0 {
		cntlid, kato = p.cntlid, 0
	}
	nvme.ConnectData{HostID: p.hostID, CNTLID: cntlid, SUBNQN: nqn, HOSTNQN: nvme.UUIDNQN(p.hostID)}.AppendTo(p.mem[connectAt:connectAt])
	return q.send(func(c nvme.Command) {
		c.PutConnect(nvme.ConnectCommand{QID: q.qid, SQSize: queueDepth - 1, KATO: kato})
		c.SetSGL(nvme.SGL{Type: nvme.SGLKeyed, Address: hostIOVA + connectAt, Length: nvme.ConnectDataSize, Key: rkey})
	})
}

func enabled() nvme.CC {
	return nvme.CC(0).WithIOSQES(nvme.IOSQES64).WithIOCQES(nvme.IOCQES16).WithEN(true)
}

// connectAdmin brings the admin queue, which is dialed, to where I/O queues may
// come.
func (p *peer) connectAdmin() error {
	q := p.queue(0)
	if err := q.waitDialed(commandTime); err != nil {
		return err
	}
	c := q.connect(subNQN, p.rkey)
	if err := c.wait(); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	p.cntlid = nvme.ConnectResult(c.cqe.DW0()).CNTLID()
	if err := q.setCC(enabled()).wait(); err != nil {
		return fmt.Errorf("set CC: %w", err)
	}
	return nil
}

func (q *peerQueue) setCC(cc nvme.CC) *ioCommand {
	return q.send(func(c nvme.Command) { c.PutPropertySet(nvme.PropertyCC, uint64(cc)) })
}

// connectIO makes an I/O queue.
func (p *peer) connectIO() error {
	if err := p.queue(0).send(func(c nvme.Command) {
		c.PutSetFeatures(nvme.FeaturesCommand{FID: nvme.FeatureNumberOfQueues, CDW11: uint32(nvme.MakeNumberOfQueues(0))})
	}).wait(); err != nil {
		return fmt.Errorf("set features: %w", err)
	}
	q, err := p.dial(1)
	if err != nil {
		return err
	}
	if err := q.waitDialed(commandTime); err != nil {
		return err
	}
	return q.connect(subNQN, p.rkey).wait()
}

// io sends a command that moves n bytes to or from the disk, at a place of the
// nth command's own.
func (p *peer) io(op nvme.IOOpcode, nth, n int) *ioCommand {
	return p.queue(1).send(func(c nvme.Command) {
		c.PutIO(op, 1, uint64(nth*n/blockSize), uint16(n/blockSize-1), 0)
		c.SetSGL(nvme.SGL{Type: nvme.SGLKeyed, Address: hostIOVA + uint64(nth*n), Length: uint32(n), Key: p.rkey})
	})
}

// verifiedIO writes and reads back.
func (p *peer) verifiedIO() error {
	const n = 16 << 10
	for i := range n {
		p.mem[i] = byte(i*7) ^ byte(p.hostID[15])
	}
	if err := p.io(nvme.IOWrite, 0, n).wait(); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	clear(p.mem[:n])
	if err := p.io(nvme.IORead, 0, n).wait(); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	for i := range n {
		if want := byte(i*7) ^ byte(p.hostID[15]); p.mem[i] != want {
			return fmt.Errorf("byte %d is %#02x, written was %#02x", i, p.mem[i], want)
		}
	}
	return nil
}

// trespass writes to memory of the target's that it was not given.
func (q *peerQueue) trespass() error {
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
func (p *peer) forget() error {
	err := p.mr.Dereg()
	p.mr = nil
	return err
}

// vanish is a loss of power.
func (p *peer) vanish() {
	p.run(func() {
		p.dev.Silence(true)
		p.dev.Vanish()
	})
}

// isRTU reports whether a datagram is the connection manager's Ready To Use.
func isRTU(b []byte) bool {
	const bth, deth, attrID, rtu = 12, 8, 16, 0x14
	return len(b) > bth+deth+attrID+2 && b[0] == 0x64 && binary.BigEndian.Uint16(b[bth+deth+attrID:]) == rtu
}

// isACK reports whether a datagram is an acknowledgment, good or bad.
func isACK(b []byte) bool { return len(b) > 0 && b[0] == 0x11 }
