package rdma

import (
	"fmt"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/verbs"
)

// What must have happened before a slot's request has ended.
const (
	slotPosted     uint8 = 1 << iota // its work requests are posted
	slotSent                         // the SEND has completed: its memory is ours
	slotAnswered                     // the response has come
	slotRegistered                   // the region is valid: the target may reach it
)

// A slot is a command that may be outstanding, with its memory region, and the
// receive of a response, not necessarily its own.
type slot struct {
	index   int
	state   uint8
	gen     uint16 // counts uses, for the CID
	cid     uint16
	mr      verbs.MR
	rkey    uint32 // as of the last registration
	capsule []byte // to be sent from, where requests' memory cannot be
	recv    [1]verbs.SGE

	req        *transport.HostRequest
	completion nvme.Completion
	next       *slot
}

// A slotList is a line of slots, linked as requests are.
type slotList struct{ head, tail *slot }

func (l *slotList) push(s *slot) {
	s.next = nil
	if l.tail == nil {
		l.head = s
	} else {
		l.tail.next = s
	}
	l.tail = s
}

func (l *slotList) pop() *slot {
	s := l.head
	if s == nil {
		return nil
	}
	if l.head = s.next; l.head == nil {
		l.tail = nil
	}
	s.next = nil
	return s
}

// Submit implements [transport.HostQueue].
func (q *hostQueue) Submit(r *transport.HostRequest) error {
	if q.down {
		return q.cause
	}
	cmd := nvme.Command(r.Command[:])
	dir := cmd.Direction()
	switch {
	case len(r.Data) == 0:
	case dir == nvme.NoData || dir == nvme.Bidirectional:
		return fmt.Errorf("rdma: submit %v: %d bytes of data, direction %v", cmd, len(r.Data), dir)
	case len(r.Data) > q.p.MaxData:
		return fmt.Errorf("rdma: submit %v: %d bytes of data, at most %d", cmd, len(r.Data), q.p.MaxData)
	}
	s := q.free.pop()
	if s == nil {
		return transport.ErrQueueFull
	}
	s.req, s.state = r, 0
	// The generation tells a late or repeated response from that of the
	// command which has the slot now.
	s.gen++
	s.cid = uint16(s.index) | s.gen<<q.slotBits
	cmd.SetCID(s.cid)
	cmd.SetFlags(cmd.Flags()&^nvme.FlagsPSDT | nvme.PSDTSGL)
	switch {
	case len(r.Data) == 0:
		cmd.SetSGL(nvme.SGL{Type: nvme.SGLKeyed})
	case dir == nvme.HostToController && len(r.Data) <= q.p.InCapsule:
		cmd.SetSGL(nvme.SGL{Type: nvme.SGLOffset, Length: uint32(len(r.Data))})
	default:
		if s.mr == nil {
			// With the first command that needs it: many queues never use all of
			// their slots, and each region is a wait for the shard at the end.
			mr, err := q.pd.AllocMR(q.p.MaxData)
			if err != nil {
				s.req = nil
				q.free.push(s)
				return fmt.Errorf("rdma: submit %v: memory region of %d bytes: %w", cmd, q.p.MaxData, err)
			}
			s.mr = mr
			q.d.mrs.Add(1)
		}
		// The key differs from the one before, so that a target that still uses
		// that one is refused.
		s.rkey = s.mr.RKey()&^0xff | uint32(uint8(s.rkey+1))
		s.state |= slotRegistered
		cmd.SetSGL(nvme.SGL{Type: nvme.SGLKeyedInvalidate, Address: s.iova(), Length: uint32(len(r.Data)), Key: s.rkey})
	}
	q.pending.push(s)
	q.shard.Flush(&q.flusher)
	return nil
}

// iova is where the target finds the slot's data: not our addresses, which are
// nobody's business.
func (s *slot) iova() uint64 { return uint64(s.cid) << 32 }

// flush posts what the round has led to: receives, invalidations, commands.
func (q *hostQueue) flush() {
	if q.down {
		q.wentDown()
		return
	}
	// Before the commands: each has a response.
	if err := q.postReceives(); err != nil {
		q.fail(err)
		return
	}
	q.wrs, q.sges = q.wrs[:0], q.sges[:0]
	sends := 0
	for s := q.invalid.pop(); s != nil; s = q.invalid.pop() {
		q.wrs = append(q.wrs, verbs.SendWR{
			WRID:   wrid(wrLocalInv, s.index),
			Opcode: verbs.WRLocalInv,
			Flags:  verbs.SendSignaled,
			RKey:   s.rkey,
		})
		sends++
	}
	for s := q.pending.pop(); s != nil; s = q.pending.pop() {
		q.appendCommand(s)
		s.state |= slotPosted
		sends++
	}
	if len(q.wrs) == 0 {
		return
	}
	if err := q.qp.PostSend(q.wrs); err != nil {
		q.fail(fmt.Errorf("post %d work requests: %w", len(q.wrs), err))
		return
	}
	q.sends += sends
}

// appendCommand appends the work requests of a command. The registration is not
// signalled: the SEND behind it is, and if it fails it completes anyway.
func (q *hostQueue) appendCommand(s *slot) {
	r := s.req
	dir := nvme.Command(r.Command[:]).Direction()
	inCapsule := len(r.Data) > 0
	if s.state&slotRegistered != 0 {
		inCapsule = false
		access := verbs.AccessRemoteRead
		if dir == nvme.ControllerToHost {
			access = verbs.AccessRemoteWrite | verbs.AccessLocalWrite
		}
		q.wrs = append(q.wrs, verbs.SendWR{
			WRID:   wrid(wrRegMR, s.index),
			Opcode: verbs.WRRegMR,
			MR:     s.mr,
			Buf:    r.Data,
			IOVA:   s.iova(),
			RKey:   s.rkey,
			Access: access,
		})
	}
	first := len(q.sges)
	if q.dma {
		q.sges = append(q.sges, verbs.SGE{Buf: r.Command[:], LKey: q.lkey})
		if inCapsule {
			q.sges = append(q.sges, verbs.SGE{Buf: r.Data, LKey: q.lkey})
		}
	} else {
		n := copy(s.capsule, r.Command[:])
		if inCapsule {
			n += copy(s.capsule[n:], r.Data)
		}
		q.sges = append(q.sges, verbs.SGE{Buf: s.capsule[:n], LKey: q.mem.lkey})
	}
	q.wrs = append(q.wrs, verbs.SendWR{
		WRID:   wrid(wrSend, s.index),
		Opcode: verbs.WRSend,
		Flags:  verbs.SendSignaled,
		SG:     q.sges[first:len(q.sges):len(q.sges)],
	})
}

// completed is the handler of the queue's CQ.
func (q *hostQueue) completed(wcs []verbs.WC) {
	for i := range wcs {
		wc := &wcs[i]
		s := &q.slots[wrIndex(wc.WRID)]
		switch wrKind(wc.WRID) {
		case wrRecv:
			q.posted--
			if wc.Status == verbs.WCSuccess && !q.down {
				q.answer(wc, s.recv[0].Buf)
				q.repost = append(q.repost, s.index)
			}
		case wrSend:
			q.sends--
			if wc.Status == verbs.WCSuccess {
				s.state |= slotSent
				q.end(s)
			}
		case wrLocalInv:
			q.sends--
			if wc.Status == verbs.WCSuccess {
				s.state &^= slotRegistered
				q.end(s)
			}
		}
		q.check(wc)
	}
	if q.down {
		q.wentDown()
	} else if len(q.repost) > 0 || q.invalid.head != nil {
		q.shard.Flush(&q.flusher)
	}
}

// check takes the queue down if a work request failed. A flush has its cause
// elsewhere, and that is on its way.
func (q *hostQueue) check(wc *verbs.WC) {
	switch wc.Status {
	case verbs.WCSuccess:
	case verbs.WCWRFlushErr:
		if !q.down && !q.flushTimer.Armed() {
			q.shard.Arm(&q.flushTimer, q.shard.Now()+q.d.cfg.FlushTimeout)
		}
	default:
		q.fail(fmt.Errorf("%s: %v", wrNames[wrKind(wc.WRID)], wc.Status))
	}
}

// answer takes a response. The target is not trusted: it may answer what was
// not asked, twice, or invalidate what is not the command's.
func (q *hostQueue) answer(wc *verbs.WC, buf []byte) {
	var c nvme.Completion
	if err := c.Parse(buf[:min(uint64(wc.ByteLen), uint64(len(buf)))]); err != nil {
		q.fail(err)
		return
	}
	index := int(c.CID & (1<<q.slotBits - 1))
	if index >= len(q.slots) {
		q.fail(fmt.Errorf("response to command %#04x: slot %d of %d", c.CID, index, len(q.slots)))
		return
	}
	s := &q.slots[index]
	if s.req == nil || s.cid != c.CID || s.state&(slotPosted|slotAnswered) != slotPosted {
		q.fail(fmt.Errorf("response to command %#04x, which is not outstanding", c.CID))
		return
	}
	if wc.Flags&verbs.WCWithInvalidate != 0 {
		if s.state&slotRegistered == 0 || wc.InvRKey != s.rkey {
			q.fail(fmt.Errorf("bogus remote invalidation of key %#x in the response to command %#04x", wc.InvRKey, c.CID))
			return
		}
		s.state &^= slotRegistered
	} else if s.state&slotRegistered != 0 {
		q.invalid.push(s)
	}
	s.completion = c
	s.state |= slotAnswered
	q.end(s)
}

// end ends a slot's request if everything has happened that must have.
func (q *hostQueue) end(s *slot) {
	if q.down || s.state != slotPosted|slotSent|slotAnswered {
		return
	}
	q.finish(s, nil)
}

// finish gives a request back. Its slot is free before, for what the owner
// submits from within.
func (q *hostQueue) finish(s *slot, err error) {
	r := s.req
	s.req, s.state = nil, 0
	q.free.push(s)
	r.Completion, r.Err = s.completion, err
	r.Done(r)
}
