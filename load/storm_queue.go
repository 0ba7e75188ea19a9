package load

import (
	"fmt"
	"net/netip"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
)

// A stormQueue is a queue of a host, of one cycle after the other. It has one
// command outstanding at most. It belongs to the shard.
type stormQueue struct {
	h      *stormHost
	qid    uint16
	cmd    []byte
	cqe    []byte
	notify func(rdmacm.Event)
	closed func()

	conn        rdmacm.Conn // nil: closed
	qp          verbs.QP
	established bool
	down        bool // there is no connection any more
	closing     bool

	cid      uint16
	busy     bool // a command is outstanding
	sent     bool // and the target has acknowledged it
	answered bool // and the completion is in cqe

	// Events wait for the end of the round: whoever tells them is in the middle
	// of something. What they lead to goes out with what led to them.
	events shard.Flusher
	come   []rdmacm.Event
	coming []rdmacm.Event // scratch
}

func newStormQueue(h *stormHost, qid uint16, mem []byte) *stormQueue {
	q := &stormQueue{h: h, qid: qid, cmd: mem[:nvme.CommandSize:nvme.CommandSize], cqe: mem[nvme.CommandSize:]}
	q.events.Fn = q.handleEvents
	q.closed = q.detached
	q.notify = func(ev rdmacm.Event) {
		q.come = append(q.come, ev)
		h.s.shard.Flush(&q.events)
	}
	return q
}

// dial asks for the connection, with a queue of depth entries. The queue pair
// needs fewer: there is one command at a time.
func (q *stormQueue) dial(depth int) {
	if err := q.open(); err != nil {
		q.h.lost = true
		if q.qp != nil && q.conn == nil {
			_ = q.qp.Destroy()
			q.qp = nil
		}
		q.h.fail("open", err)
		return
	}
	q.conn.Connect(q.qp, rdmacm.ConnParam{
		PrivateData: nvme.RDMACMRequest{
			QID:     q.qid,
			HRQSIZE: uint16(depth), // counted from 1
			HSQSIZE: uint16(depth - 1),
			CNTLID:  q.peerCNTLID(),
		}.AppendTo(nil),
		ResponderResources: 1, // the data of a Connect
		FlowControl:        true,
		RetryCount:         7,
		RNRRetryCount:      7,
		QPN:                q.qp.Num(),
	})
}

func (q *stormQueue) peerCNTLID() uint16 {
	if q.qid == 0 {
		return 0
	}
	return q.h.cntlid
}

func (q *stormQueue) open() (err error) {
	h := q.h
	if q.qp, err = h.pd.CreateQP(verbs.QPInitAttr{
		SendCQ: h.cq, RecvCQ: h.cq,
		MaxSendWR: 1, MaxRecvWR: 1, MaxSendSGE: 1, MaxRecvSGE: 1,
		Event: func(err error) { q.lose("queue pair error", err) },
	}); err != nil {
		return err
	}
	if err := q.qp.Modify(verbs.Init); err != nil {
		return err
	}
	if q.conn, err = h.dev.Open(netip.Addr{}, h.s.cfg.Remote); err != nil {
		q.conn = nil // not an interface with nil in it
		return err
	}
	q.established, q.down, q.closing, q.busy = false, false, false, false
	h.open++
	q.conn.Notify(q.notify)
	return nil
}

// connect sends Connect.
func (q *stormQueue) connect(f nvme.ConnectCommand, cntlid uint16) {
	h := q.h
	nvme.ConnectData{HostID: h.hostID, CNTLID: cntlid, SUBNQN: h.s.cfg.NQN, HOSTNQN: h.hostNQN}.AppendTo(h.mem[:0])
	f.QID = q.qid
	q.exec(func(c nvme.Command) {
		c.PutConnect(f)
		c.SetSGL(nvme.SGL{Type: nvme.SGLKeyed, Address: stormIOVA, Length: nvme.ConnectDataSize, Key: h.mr.RKey()})
	})
}

// exec sends a command. Its end is told to the host.
func (q *stormQueue) exec(put func(nvme.Command)) {
	c := nvme.MakeCommand(q.cmd)
	c.SetSGL(nvme.SGL{Type: nvme.SGLKeyed})
	put(c)
	q.cid++
	c.SetCID(q.cid)
	q.busy, q.sent, q.answered = true, false, false
	lkey := q.h.mr.LKey()
	// The target may answer as soon as it has the command.
	err := q.qp.PostRecv([]verbs.RecvWR{{SG: []verbs.SGE{{Buf: q.cqe, LKey: lkey}}}})
	if err == nil {
		err = q.qp.PostSend([]verbs.SendWR{{Opcode: verbs.WRSend, Flags: verbs.SendSignaled, SG: []verbs.SGE{{Buf: q.cmd, LKey: lkey}}}})
	}
	if err != nil {
		q.h.fail("post", err)
	}
}

// completed is the handler of the host's completion queue.
func (h *stormHost) completed(wcs []verbs.WC) {
	for i := range wcs {
		wc := &wcs[i]
		for _, q := range h.queues {
			if q.qp != nil && q.qp.Num() == wc.QPN {
				q.completed(wc)
				break
			}
		}
	}
}

func (q *stormQueue) completed(wc *verbs.WC) {
	switch {
	case wc.Status == verbs.WCWRFlushErr: // what made it so is told, too
		return
	case wc.Status != verbs.WCSuccess:
		q.lose("work completion", fmt.Errorf("queue %d: %v: %v", q.qid, wc.Opcode, wc.Status))
		return
	case wc.Opcode == verbs.WCSend:
		q.sent = true
	case wc.Opcode == verbs.WCRecv && wc.ByteLen == nvme.CompletionSize:
		q.answered = true
	default:
		q.lose("response", fmt.Errorf("queue %d: %v of %d bytes", q.qid, wc.Opcode, wc.ByteLen))
		return
	}
	// The memory of the command is ours again when it is acknowledged.
	if !q.busy || !q.sent || !q.answered {
		return
	}
	q.busy = false
	var cqe nvme.Completion
	if err := cqe.Parse(q.cqe); err != nil {
		q.lose("response", err)
		return
	}
	if cqe.CID != q.cid {
		q.lose("response", fmt.Errorf("queue %d: to command %#04x, not %#04x", q.qid, cqe.CID, q.cid))
		return
	}
	q.h.answered(q, &cqe)
}

// lose is for a queue that is of no use any more.
func (q *stormQueue) lose(what string, err error) {
	if q.conn != nil && !q.closing {
		q.h.fail(what, err)
	}
}

// handleEvents takes the connection's events.
func (q *stormQueue) handleEvents() {
	q.come, q.coming = q.coming[:0], q.come
	for i := range q.coming {
		if q.conn != nil && !q.closing {
			q.handle(&q.coming[i])
		}
		q.coming[i] = rdmacm.Event{}
	}
}

func (q *stormQueue) handle(ev *rdmacm.Event) {
	h := q.h
	if ev.Type == rdmacm.Established {
		if h.step == stepLeave {
			return
		}
		q.established = true
		h.established(q)
		return
	}
	q.down = true
	switch {
	case h.step == stepLeave:
		q.close()
	case ev.Type == rdmacm.Rejected:
		r := stormReason{step: h.step, reason: uint16(ev.Status)}
		var rej nvme.RDMACMReject
		if ev.Status == nvme.RDMACMConsumerReject && rej.Parse(ev.Param.PrivateData) == nil {
			r.status = uint16(rej.Status)
		}
		h.refuse(r)
	default:
		h.lost = ev.Type == rdmacm.ConnectError
		err := ev.Err
		if err == nil {
			err = fmt.Errorf("queue %d: %v", q.qid, ev.Type)
		}
		h.fail(ev.Type.String(), err)
	}
}

// close closes the connection, unless it is.
func (q *stormQueue) close() {
	if q.conn != nil && !q.closing {
		q.closing = true
		q.conn.Close(q.closed)
	}
}

// detached runs when the device has let go of the queue pair.
func (q *stormQueue) detached() {
	_ = q.qp.Destroy() // an error: it is
	q.qp, q.conn, q.established = nil, nil, false
	q.come = q.come[:0]
	q.h.release()
}
