package loop

import (
	"fmt"
	"sync/atomic"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
)

type hostClosed struct{} // completed on the host's shard

// A hostQueue is the host's end of a connection: [transport.HostQueue]. What is
// below free belongs to the host's shard.
type hostQueue struct {
	conn    *conn
	shard   *shard.Shard
	maxData int
	inline  int // of data go in the capsule
	tell    func(error)

	answered shard.Task // looks into conn.toHost
	lost     shard.Task // the target's end is down
	leave    shard.Task // the owner wants no more
	left     atomic.Bool
	closed   lockdep.Completion[hostClosed]

	// downCause is written by the target's end before it posts lost.
	downCause error

	free    slotList
	sending slotList // of this round
	flusher shard.Flusher
	owned   bool // Disconnect was called: nobody wants to be told
	down    bool
	dialed  bool // Dial has returned it
}

func newHostQueue(c *conn, s *shard.Shard, p transport.HostQueueParam) *hostQueue {
	h := &hostQueue{
		conn: c, shard: s,
		maxData: min(p.MaxData, c.l.cfg.MaxData),
		inline:  min(p.InCapsule, len(c.slots[0].inline)),
		tell:    p.Down,
	}
	for i := range c.slots {
		h.free.push(&c.slots[i])
	}
	h.answered.Fn = h.runAnswered
	h.lost.Fn = h.runLost
	h.leave.Fn = h.runLeave
	h.flusher.Fn = h.flush
	return h
}

// Shard implements [transport.HostQueue].
func (h *hostQueue) Shard() *shard.Shard { return h.shard }

// Submit implements [transport.HostQueue].
func (h *hostQueue) Submit(r *transport.HostRequest) error {
	if h.down {
		return errQueueGone
	}
	if len(r.Data) > h.maxData {
		return fmt.Errorf("loop: submit: %d bytes of data, the limit is %d", len(r.Data), h.maxData)
	}
	s := h.free.pop()
	if s == nil {
		return transport.ErrQueueFull
	}
	s.req = r
	c := nvme.Command(r.Command[:])
	c.SetCID(uint16(s.r.Index))
	c.SetFlags(c.Flags()&^nvme.FlagsPSDT | nvme.PSDTSGL)
	sgl := nvme.SGL{Type: nvme.SGLTransport, Length: uint32(len(r.Data))}
	s.data = r.Data
	if len(r.Data) > 0 && len(r.Data) <= h.inline && c.Direction() == nvme.HostToController {
		sgl.Type = nvme.SGLOffset
		copy(s.inline, r.Data)
	}
	c.SetSGL(sgl)
	s.command = r.Command
	h.sending.push(s)
	h.shard.Flush(&h.flusher)
	return nil
}

// flush sends the commands of a round.
func (h *hostQueue) flush() {
	if s := h.sending.take(); s != nil {
		h.conn.toTarget.put(s)
		h.conn.shard.Post(&h.conn.arrive)
	}
}

// runAnswered takes the completions that have come.
func (h *hostQueue) runAnswered() {
	for s := h.conn.toHost.get(); s != nil; {
		next := s.next
		s.next = nil
		h.end(s, s.r.Completion, nil)
		s = next
	}
}

// end gives a request back to its owner. The slot is free when that learns it.
func (h *hostQueue) end(s *slot, cqe nvme.Completion, err error) {
	r := s.req
	s.req, s.data = nil, nil
	h.free.push(s)
	r.Completion, r.Err = cqe, err
	r.Done(r)
}

// runLost ends what is outstanding: the target's end touches no memory of ours
// any more.
func (h *hostQueue) runLost() {
	h.closed.Acquire()
	defer h.closed.Release()
	if h.down {
		return
	}
	h.runAnswered() // completed before
	h.down = true
	h.sending = slotList{}
	h.free = slotList{} // not needed any more: Submit says so
	err := fmt.Errorf("loop: %w: %w", transport.ErrQueueDown, h.downCause)
	for i := range h.conn.slots {
		s := &h.conn.slots[i]
		if s.req == nil {
			continue
		}
		r := s.req
		s.req, s.data = nil, nil
		r.Completion, r.Err = nvme.Completion{}, err
		r.Done(r)
	}
	switch {
	case h.owned:
		h.closed.Complete()
	case h.dialed && h.tell != nil:
		h.tell(h.downCause)
	}
}

// Disconnect implements [transport.HostQueue].
func (h *hostQueue) Disconnect() {
	if !h.left.Swap(true) && !h.shard.Post(&h.leave) {
		h.closed.Complete() // the shard is closed: nothing runs there
	}
	h.closed.Wait()
}

func (h *hostQueue) runLeave() {
	h.closed.Acquire()
	defer h.closed.Release()
	h.owned = true
	if h.down {
		h.closed.Complete()
		return
	}
	if !h.conn.shard.Post(&h.conn.depart) {
		// Closed: the target's end cannot touch anything, nor say so.
		h.downCause = errHostLeft
		h.runLost()
	}
}
