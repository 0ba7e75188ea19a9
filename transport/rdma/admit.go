package rdma

import (
	"errors"
	"fmt"
	"time"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/workqueue"
)

// handle is the handler of the listening ID and of those of its connections.
// It neither blocks nor flushes: what takes long is posted to a shard, or
// waited for on a goroutine.
func (l *Listener) handle(id *rdmacm.ID, ev *rdmacm.Event) error {
	switch ev.Type {
	case rdmacm.ConnectRequest:
		return l.connectRequest(ev.Conn, &ev.Param)
	case rdmacm.AddrChange, rdmacm.DeviceRemoval:
		if id.Context == nil {
			select {
			case l.lost <- eventError(ev):
			default: // it knows
			}
			return nil
		}
	}
	if q, ok := id.Context.(*queue); ok {
		q.event(ev)
	}
	return nil
}

// eventError says why an event ends a connection.
func eventError(ev *rdmacm.Event) error {
	switch {
	case ev.Err != nil:
		return fmt.Errorf("rdma: %v: %w", ev.Type, ev.Err)
	case ev.Type == rdmacm.Rejected:
		return fmt.Errorf("rdma: %v: %s", ev.Type, rdmacm.RejectReason(ev.Status))
	default:
		return fmt.Errorf("rdma: %v", ev.Type)
	}
}

// connectRequest takes a REQ. An error destroys the ID.
func (l *Listener) connectRequest(id *rdmacm.ID, p *rdmacm.ConnParam) error {
	offer, err := parseOffer(p, l.cfg.MaxQueueSize)
	if err == nil && l.cfg.Core.Removed() {
		err = refuse(nvme.RDMACMNoResources, "the port is gone")
	}
	if err == nil && (id.Vector() < 0 || id.Vector() >= len(l.vectors)) {
		err = refuse(nvme.RDMACMNoResources, "completion vector %d of %d", id.Vector(), len(l.vectors))
	}
	if err != nil {
		return l.refuse(id, err)
	}
	q := newQueue(l, id, offer)
	id.Context = q
	q.life.Init(transport.LifeConfig{
		Queues:         l.cfg.Queues,
		Delete:         l.cfg.Delete,
		Releaser:       q,
		DrainTimeout:   l.cfg.DrainTimeout,
		QuiesceTimeout: l.cfg.QuiesceTimeout,
	})
	if offer.qid != 0 {
		err = q.admit()
	} else {
		err = l.startWaiting()
	}
	if err != nil {
		q.life.Refuse(err)
		return l.refuse(id, err)
	}
	if offer.qid == 0 {
		l.work.Go(func() {
			defer l.stopWaiting()
			if err := q.waitAndAdmit(); err != nil {
				q.life.Refuse(err)
				_ = l.refuse(id, err)
				_ = id.Destroy() // the handler does not wait for us
			}
		})
	}
	return nil
}

// refuse answers a REQ that is not granted and returns its cause.
func (l *Listener) refuse(id *rdmacm.ID, cause error) error {
	status := nvme.RDMACMNoResources
	var s nvme.RDMACMStatus
	if errors.As(cause, &s) {
		status = s
	}
	// An error says that the host has gone meanwhile.
	_ = id.Reject(nvme.RDMACMReject{Status: status}.AppendTo(nil))
	if l.cfg.Events.Refused != nil {
		l.cfg.Events.Refused(id.RemoteAddr(), cause)
	}
	return cause
}

func (l *Listener) startWaiting() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return refuse(nvme.RDMACMNoResources, "the listener is closed")
	}
	if l.waiting >= l.cfg.MaxWaiting {
		return refuse(nvme.RDMACMNoResources, "%d admin queues wait already", l.waiting)
	}
	l.waiting++
	return nil
}

func (l *Listener) stopWaiting() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting--
}

type deletionsDone struct{}

// waitAndAdmit lets the deletions that were queued before run, or a bound pass,
// and then admits the queue: so a storm of connects and disconnects cannot
// have more queues than the budget, and goes no faster than deletion does.
func (q *queue) waitAndAdmit() error {
	var done lockdep.Completion[deletionsDone]
	var barrier workqueue.Barrier
	barrier.Init("rdma admin connect", done.Complete)
	q.l.cfg.Delete.FlushAsync(&barrier)
	bound := time.NewTimer(q.l.cfg.BarrierTimeout)
	defer bound.Stop()
	select {
	case <-done.Done():
	case <-bound.C:
		barrier.Cancel()
	case <-q.outside.gone:
		barrier.Cancel()
		return q.leaveCause()
	case <-q.l.ctx.Done():
		barrier.Cancel()
		return refuse(nvme.RDMACMNoResources, "the listener is closed")
	}
	return q.admit()
}

// admit charges the queue to the budget and has it made on its shard. From then
// on its life is what ends it; with an error it has none.
func (q *queue) admit() error {
	l := q.l
	if err := q.v.reserveShared(q); err != nil {
		return err
	}
	grant, err := l.cfg.Budget.Take(q.footprint())
	if err != nil {
		q.v.unreserveShared(q)
		return refuse(nvme.RDMACMNoResources, "queue %d: %v", q.qid, err)
	}
	if !l.admit(q, grant) {
		q.v.unreserveShared(q)
		grant.Return()
		return refuse(nvme.RDMACMNoResources, "the listener is closed")
	}
	if err := q.allocate(); err != nil {
		_ = l.refuse(q.id, err)
		q.life.BeginRelease(err)
		return nil // the release destroys the ID
	}
	q.v.shard.Post(&q.outside.create)
	return nil
}
