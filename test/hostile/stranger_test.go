package hostile

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
	"github.com/fabrid/fabrid/verbs/roce"
)

// Where a stranger's memory is for the target.
const (
	iova    = 1 << 40
	memSize = 1 << 20
)

const queueDepth = 32

// A stranger has good RDMA, and sends any capsule. Its methods are for the test's
// goroutine; all else is on its shard.
type stranger struct {
	*world
	shard  *shard.Shard
	dev    *roce.Device
	pd     verbs.PD
	cq     verbs.CQ
	mr     verbs.MR
	mem    []byte
	queues []*queue
	id     nvme.UUID
	cntlid uint16
}

// A queue is a connection of a stranger's.
type queue struct {
	s       *stranger
	qid     uint16
	qp      verbs.QP
	conn    rdmacm.Conn
	cmds    [queueDepth][]byte // that are being sent, by turns
	next    int
	recvs   [][]byte
	cqes    chan nvme.Completion
	up      chan error // told once
	over    bool
	detach  bool
	stopped sync.Once
}

func (w *world) stranger() *stranger {
	s := &stranger{world: w, mem: make([]byte, memSize), shard: shard.NewSim(shard.Config{Name: "stranger"})}
	s.id[6], s.id[8], s.id[15] = 0x40, 0x80, 99
	var err error
	s.dev, err = roce.Open(roce.Config{Shard: s.shard, Addr: w.evil, Network: w.net, NodeGUID: 66})
	w.must(err)
	s.pd, err = s.dev.AllocPD()
	w.must(err)
	s.mr, err = s.pd.RegMR(s.mem, iova, verbs.AccessLocalWrite|verbs.AccessRemoteRead|verbs.AccessRemoteWrite)
	w.must(err)
	s.on(func() { s.cq, err = s.pd.CreateCQ(verbs.CQAttr{Size: 4096, Handler: s.completed}) })
	w.must(err)
	return s
}

func (s *stranger) on(fn func()) {
	s.Helper()
	s.must(s.shard.Run(fn))
	synctest.Wait()
}

func (s *stranger) close() {
	s.Helper()
	for _, q := range s.queues {
		q.leave()
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		left := 0
		s.on(func() {
			for _, q := range s.queues {
				if !q.detach {
					left++
				}
			}
		})
		if left == 0 {
			break
		}
	}
	var err error
	s.on(func() { err = s.cq.Destroy() })
	s.must(errors.Join(err, s.mr.Dereg(), s.pd.Dealloc(), s.dev.Close(), s.shard.Close()))
}

// dial connects a queue, as far as RDMA goes.
func (s *stranger) dial(qid uint16) *queue {
	s.Helper()
	q := &queue{s: s, qid: qid, cqes: make(chan nvme.Completion, 1024), up: make(chan error, 1)}
	var err error
	s.on(func() {
		s.queues = append(s.queues, q)
		err = q.open()
	})
	s.must(err)
	select {
	case err = <-q.up:
	case <-time.After(10 * time.Second):
		err = errors.New("no answer")
	}
	if err != nil {
		s.Fatalf("queue %d: %v", qid, err)
	}
	return q
}

func (q *queue) open() (err error) {
	s := q.s
	if q.qp, err = s.pd.CreateQP(verbs.QPInitAttr{
		SendCQ: s.cq, RecvCQ: s.cq, MaxSendWR: queueDepth, MaxRecvWR: 2 * queueDepth, MaxSendSGE: 1, MaxRecvSGE: 1,
	}); err != nil {
		return err
	}
	if err = q.qp.Modify(verbs.Init); err != nil {
		return err
	}
	for i := range 2 * queueDepth {
		q.recvs = append(q.recvs, make([]byte, nvme.CompletionSize))
		if err = q.post(i); err != nil {
			return err
		}
	}
	if q.conn, err = s.dev.Open(netip.Addr{}, netip.AddrPortFrom(s.target, 4420)); err != nil {
		return err
	}
	q.conn.Notify(func(ev rdmacm.Event) { s.shard.Post(&shard.Task{Fn: func() { q.event(ev) }}) })
	q.conn.Connect(q.qp, rdmacm.ConnParam{
		PrivateData:        nvme.RDMACMRequest{QID: q.qid, HRQSIZE: queueDepth, HSQSIZE: queueDepth - 1, CNTLID: s.cntlid}.AppendTo(nil),
		ResponderResources: 16, RetryCount: 7, RNRRetryCount: 7, QPN: q.qp.Num(),
	})
	return nil
}

func (q *queue) post(i int) error {
	lkey, _ := q.s.pd.LocalDMALKey()
	return q.qp.PostRecv([]verbs.RecvWR{{WRID: uint64(i), SG: []verbs.SGE{{Buf: q.recvs[i], LKey: lkey}}}})
}

func (q *queue) event(ev rdmacm.Event) {
	var err error
	switch ev.Type {
	case rdmacm.TimewaitExit:
		return
	case rdmacm.Established:
	default:
		q.over = true
		err = fmt.Errorf("%v: %w", ev.Type, ev.Err)
		q.shut()
	}
	select {
	case q.up <- err:
	default:
	}
}

// shut closes the connection, once; the queue pair goes with it.
func (q *queue) shut() {
	q.over = true
	q.stopped.Do(func() {
		q.conn.Close(func() {
			_ = q.qp.Destroy()
			q.detach = true
		})
	})
}

func (q *queue) leave() { q.s.on(q.shut) }

func (s *stranger) completed(wcs []verbs.WC) {
	for _, wc := range wcs {
		for _, q := range s.queues {
			if q.qp.Num() != wc.QPN || wc.Opcode != verbs.WCRecv || wc.Status != verbs.WCSuccess {
				continue
			}
			var c nvme.Completion
			if err := c.Parse(q.recvs[wc.WRID][:wc.ByteLen]); err != nil {
				s.Errorf("queue %d: a response: %v", q.qid, err)
			}
			_ = q.post(int(wc.WRID))
			q.cqes <- c
		}
	}
}

// send sends a capsule, whatever it is.
func (q *queue) send(capsule []byte) {
	q.s.on(func() {
		lkey, _ := q.s.pd.LocalDMALKey()
		q.cmds[q.next] = append(q.cmds[q.next][:0], capsule...)
		// It fails on a queue that is over, which the test finds out by itself.
		_ = q.qp.PostSend([]verbs.SendWR{{Opcode: verbs.WRSend, Flags: verbs.SendSignaled, SG: []verbs.SGE{{Buf: q.cmds[q.next], LKey: lkey}}}})
		q.next = (q.next + 1) % queueDepth
	})
}

// do sends a capsule and returns the answer; ok is false if there is none.
func (q *queue) do(capsule []byte) (c nvme.Completion, ok bool) {
	q.send(capsule)
	select {
	case c = <-q.cqes:
		return c, true
	case <-time.After(100 * time.Millisecond):
		return c, false
	}
}

func (q *queue) isOver() (over bool) {
	q.s.on(func() { over = q.over })
	return over
}

// command is a command with data of n bytes in the stranger's memory.
func (s *stranger) command(put func(nvme.Command), n int) nvme.Command {
	c := nvme.NewCommand()
	put(c)
	c.SetCID(7)
	c.SetFlags(nvme.PSDTSGL)
	c.SetSGL(nvme.SGL{Type: nvme.SGLKeyed, Address: iova, Length: uint32(n), Key: s.mr.RKey()})
	return c
}

func (s *stranger) ok(q *queue, put func(nvme.Command), n int) nvme.Completion {
	s.Helper()
	c, ok := q.do(s.command(put, n))
	if !ok || !c.Status.OK() {
		s.Fatalf("queue %d: answered %t, %v", q.qid, ok, c.Status)
	}
	return c
}

// connectArgs are what a Connect says.
type connectArgs struct {
	nvme.ConnectCommand
	nvme.ConnectData
}

func (s *stranger) connectArgs(qid uint16) *connectArgs {
	a := &connectArgs{
		nvme.ConnectCommand{QID: qid, SQSize: queueDepth - 1},
		nvme.ConnectData{HostID: s.id, CNTLID: nvme.CNTLIDDynamic, SUBNQN: subNQN, HOSTNQN: nvme.UUIDNQN(s.id)},
	}
	if qid != 0 {
		a.CNTLID = s.cntlid
	}
	return a
}

// put has the data of a Connect in memory.
func (s *stranger) put(a *connectArgs) {
	s.on(func() {
		clear(s.mem[:nvme.ConnectDataSize])
		a.ConnectData.AppendTo(s.mem[:0])
	})
}

// connect sends Connect.
func (s *stranger) connect(q *queue, a *connectArgs) (nvme.Completion, bool) {
	s.put(a)
	return q.do(s.command(func(c nvme.Command) { c.PutConnect(a.ConnectCommand) }, nvme.ConnectDataSize))
}

// admin is an admin queue of an enabled controller, and io an I/O queue of that.
func (s *stranger) admin() *queue {
	s.Helper()
	s.cntlid = 0
	q := s.dial(0)
	c, ok := s.connect(q, s.connectArgs(0))
	if !ok || !c.Status.OK() {
		s.Fatalf("connect: answered %t, %v", ok, c.Status)
	}
	s.cntlid = nvme.ConnectResult(c.DW0()).CNTLID()
	enabled := nvme.CC(0).WithIOSQES(nvme.IOSQES64).WithIOCQES(nvme.IOCQES16).WithEN(true)
	s.ok(q, func(c nvme.Command) { c.PutPropertySet(nvme.PropertyCC, uint64(enabled)) }, 0)
	s.ok(q, func(c nvme.Command) {
		c.PutSetFeatures(nvme.FeaturesCommand{FID: nvme.FeatureNumberOfQueues, CDW11: uint32(nvme.MakeNumberOfQueues(0))})
	}, 0)
	return q
}

func (s *stranger) io() *queue {
	s.Helper()
	q := s.dial(1)
	if c, ok := s.connect(q, s.connectArgs(1)); !ok || !c.Status.OK() {
		s.Fatalf("connect I/O: answered %t, %v", ok, c.Status)
	}
	return q
}
