package target

import (
	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
)

// maxAborts is the most Abort commands of a controller that may be outstanding;
// ACL is one less.
const maxAborts = 4

// abortNotPerformed is IANP, bit 0 of the result: the command was not aborted
// before the Abort was answered. It may be, later.
const abortNotPerformed = 1

// abort is Abort [Base 5.1.1]. A command is aborted at once where it waits: for
// memory of the fabric, for a device that has not begun with it, for memory of a
// namespace, for an event. What a device is at cannot be stopped; a command of
// several steps, or one whose data is on its way, ends after that step.
func (rq *request) abort() {
	sqid, cid := rq.r.Command.Abort()
	c := rq.q.ctrl
	rq.result = abortNotPerformed
	if c.aborts >= maxAborts {
		rq.complete(nvme.AbortLimitExceeded) // without DNR: those before it end
		return
	}
	q := c.queue(sqid)
	if q == nil {
		rq.complete(nil)
		return
	}
	if q.shard() == rq.q.shard() {
		rq.abortOn(q, cid)
		rq.complete(nil)
		return
	}
	// The command is another shard's: there, and back with what became of it.
	c.aborts++
	rq.stage = stageForeign
	back := &shard.Task{Fn: func() {
		c.aborts--
		rq.complete(nil)
	}}
	// At the end of the round, when the fabric has sent what the command ended with:
	// that goes first.
	answer := &shard.Flusher{Fn: func() { rq.q.shard().Post(back) }} // if closed: then nobody waits for it
	there := &shard.Task{Fn: func() {
		rq.abortOn(q, cid)
		q.shard().Flush(answer)
	}}
	if !q.shard().Post(there) {
		back.Fn()
	}
}

// abortOn aborts command cid of q and sets the result of rq, which does it. On the
// shard of q.
func (rq *request) abortOn(q *queue, cid uint16) {
	if victim := q.outstanding(cid, rq); victim != nil && victim.cancel() {
		rq.result = 0
	}
}

// queue returns the queue of that identifier, or nil.
func (c *controller) queue(qid uint16) *queue {
	c.mu.Lock()
	defer c.mu.Unlock()
	if int(qid) >= len(c.queues) {
		return nil
	}
	return c.queues[qid]
}

// outstanding returns the request of command cid, but for one, or nil.
func (q *queue) outstanding(cid uint16, but *request) *request {
	for _, chunk := range q.requests {
		if chunk == nil {
			continue
		}
		for i := range chunk {
			rq := &chunk[i]
			if rq != but && rq.stage != stageFree && rq.stage != stageParked && rq.r.Command.CID() == cid {
				return rq
			}
		}
	}
	return nil
}

// cancel ends the request with Command Abort Requested if it waits, and else has
// it end after its step. It returns whether the request has ended. On its shard.
func (rq *request) cancel() bool {
	switch rq.stage {
	case stageFabric:
		if rq.q.fabric.Cancel(rq.r) {
			rq.complete(nvme.AbortRequested)
			return true
		}
	case stageDevice:
		dev, ok := rq.ns.cfg.Device.(bdev.Canceler)
		if ok && dev.Cancel(&rq.op) {
			rq.op.Data = nil
			rq.complete(nvme.AbortRequested)
			return true
		}
	case stageLine:
		if rq.ns.state.bounce.leave(rq) {
			rq.complete(nvme.AbortRequested)
			return true
		}
	case stageEvent:
		rq.q.ctrl.recallAER(rq, nvme.AbortRequested)
		return true
	}
	rq.aborted = true
	return false
}
