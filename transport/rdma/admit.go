package rdma

import (
	"errors"
	"fmt"

	"github.com/fabrid/fabrid/admission"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/transport"
)

// handle is the handler of the listening ID and of those of its connections.
// It neither blocks nor flushes: what takes long is posted to a shard, or done
// on the connect workqueue.
func (l *Listener) handle(id *rdmacm.ID, ev *rdmacm.Event) error {
	switch ev.Type {
	case rdmacm.ConnectRequest:
		return l.connectRequest(ev.Conn, &ev.Param)
	case rdmacm.AddrChange, rdmacm.DeviceRemoval:
		if id.Context == nil {
			l.lose(id, eventError(ev))
			return nil
		}
	}
	if q, ok := id.Context.(*queue); ok {
		q.event(ev)
	}
	return nil
}

// eventError says why an event ends a connection. Its word is the event's name.
func eventError(ev *rdmacm.Event) error {
	return transport.WithReason(word(ev.Type.String()), eventText(ev))
}

func eventText(ev *rdmacm.Event) error {
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
		err = &refusal{nvme.RDMACMNoResources, errPortGone}
	}
	if err == nil && (id.Vector() < 0 || id.Vector() >= len(l.vectors)) {
		err = refuse(nvme.RDMACMNoResources, "completion vector %d of %d", id.Vector(), len(l.vectors))
	}
	if err != nil {
		l.cfg.Gate.Queues.Refused(err)
		return l.refuse(id, err)
	}
	q := newQueue(l, id, offer)
	id.Context = q
	host := admission.Host{Addr: id.RemoteAddr().Addr(), GUID: p.NodeGUID}
	if err := q.enter(host); err != nil {
		return l.refuse(id, err)
	}
	return nil
}

// refuse answers a REQ that is not granted and returns its cause.
func (l *Listener) refuse(id *rdmacm.ID, cause error) error {
	status, ok := errors.AsType[nvme.RDMACMStatus](cause)
	if !ok {
		status = nvme.RDMACMNoResources
		cause = &refusal{status, cause}
	}
	// An error says that the host has gone meanwhile.
	_ = id.Reject(nvme.RDMACMReject{Status: status}.AppendTo(nil))
	if l.cfg.Events.Refused != nil {
		l.cfg.Events.Refused(id.RemoteAddr(), cause)
	}
	return cause
}

// enter has a queue pass the gate. With an error it has no life; else Admitted or
// Refused follows, which may have been by now.
func (q *queue) enter(host admission.Host) error {
	l := q.l
	q.from = host
	claim := transport.Claim{QID: q.qid, CNTLID: q.cntlid, Host: host, Bytes: l.cfg.footprint(q.qid, q.depth)}
	if q.qid == 0 {
		claim.IOBytes = l.cfg.footprint(1, l.cfg.MaxQueueSize)
	}
	q.life.Init(transport.LifeConfig{
		Gate:           l.cfg.Gate,
		Queue:          q,
		DrainTimeout:   l.cfg.DrainTimeout,
		QuiesceTimeout: l.cfg.QuiesceTimeout,
	}, claim)
	err := q.v.reserveShared(q)
	if err == nil && !l.add(q) {
		q.v.unreserveShared(q)
		err = errListenerClosed
	}
	if err != nil {
		q.life.Refuse(err)
		return err
	}
	if err := q.life.Enter(); err != nil {
		q.leaveUnadmitted()
		return err
	}
	return nil
}

// leaveUnadmitted takes back what enter did for a queue that is not let in.
func (q *queue) leaveUnadmitted() {
	q.v.unreserveShared(q)
	q.l.remove(q)
	q.l.answered()
}

// Refused implements [transport.Entrant].
func (q *queue) Refused(cause error) {
	_ = q.l.refuse(q.id, cause)
	_ = q.id.Destroy() // the handler does not wait for us
	q.leaveUnadmitted()
}

// Admitted implements [transport.Entrant]: the queue is made, at last on its
// shard. From now on its life is what ends it.
func (q *queue) Admitted() {
	defer q.l.answered()
	if err := q.allocate(); err != nil {
		err = transport.WithReason("create", err)
		_ = q.l.refuse(q.id, err)
		q.life.BeginRelease(err) // which destroys the ID
		return
	}
	q.v.shard.Post(&q.outside.create)
}
