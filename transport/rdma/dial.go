package rdma

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
)

// DialerConfig describes a dialer to be.
type DialerConfig struct {
	CM       *rdmacm.CM
	Provider rdmacm.Provider

	// Shards are the loops of the device's completion vectors, by vector. They
	// are closed after the last queue has been disconnected.
	Shards []*shard.Shard

	// FlushTimeout bounds the wait for a queue's work requests when it goes
	// down; zero is DefaultFlushTimeout.
	FlushTimeout time.Duration
}

// A Dialer connects a host's queues over NVMe/RDMA. It implements
// [transport.Dialer]; Dial may be called from any goroutine but shards and
// handlers of connections.
type Dialer struct {
	cfg    DialerConfig
	queues atomic.Int64
	mrs    atomic.Int64
}

var _ transport.Dialer = (*Dialer)(nil)

// NewDialer makes a dialer. It holds nothing and need not be closed.
func NewDialer(cfg DialerConfig) (*Dialer, error) {
	orDefault(&cfg.FlushTimeout, DefaultFlushTimeout)
	if cfg.CM == nil || cfg.Provider == nil {
		return nil, errors.New("rdma: new dialer: CM and Provider are needed")
	}
	if n := cfg.Provider.Device().Attr().NumCompVectors; len(cfg.Shards) != n {
		return nil, fmt.Errorf("rdma: new dialer: %d shards for %d completion vectors", len(cfg.Shards), n)
	}
	return &Dialer{cfg: cfg}, nil
}

// DialerStats is what the queues of a dialer hold. When all have been
// disconnected it is zero.
type DialerStats struct {
	Queues int `json:"queues"`
	MRs    int `json:"mrs"`
}

// Stats returns what the dialer's queues hold.
func (d *Dialer) Stats() DialerStats {
	return DialerStats{Queues: int(d.queues.Load()), MRs: int(d.mrs.Load())}
}

// Dial implements [transport.Dialer]. If the peer refused, the error's chain
// has a [*transport.RefusedError], and an [nvme.RDMACMStatus] if it gave one.
func (d *Dialer) Dial(ctx context.Context, p transport.HostQueueParam) (transport.HostQueue, error) {
	q, err := d.dial(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("rdma: connect queue %d to %v: %w", p.QID, p.Remote, err)
	}
	return q, nil
}

func (d *Dialer) dial(ctx context.Context, p transport.HostQueueParam) (*hostQueue, error) {
	attr := d.cfg.Provider.Device().Attr()
	orDefault(&p.MaxData, DefaultMaxData)
	p.MaxData = min(p.MaxData, attr.MaxFastRegLen, nvme.MaxKeyedLength)
	switch {
	case p.Depth < 2 || p.Depth > 1<<16-1:
		return nil, fmt.Errorf("depth %d, need 2 to 65535", p.Depth)
	case 3*p.Depth > attr.MaxQPWR:
		return nil, fmt.Errorf("depth %d needs %d work requests, the device has %d", p.Depth, 3*p.Depth, attr.MaxQPWR)
	case p.InCapsule < 0 || p.InCapsule > 1<<24:
		return nil, fmt.Errorf("in-capsule data of %d bytes", p.InCapsule)
	case p.InCapsule > 0 && p.QID == 0:
		return nil, errors.New("in-capsule data on an admin queue")
	case p.MaxData < 1:
		return nil, fmt.Errorf("maximum data %d", p.MaxData)
	}
	q, err := newHostQueue(d, p)
	if err != nil {
		return nil, err
	}
	if err := q.connect(ctx); err != nil {
		q.Disconnect()
		return nil, err
	}
	return q, nil
}

// connect makes the connection. The queue is to be disconnected if it fails.
func (q *hostQueue) connect(ctx context.Context) error {
	d := q.d
	id, err := d.cfg.CM.NewID(q.handle)
	if err != nil {
		return err
	}
	q.id = id
	if err := id.Resolve(d.cfg.Provider, q.p.Local, q.p.Remote); err != nil {
		return err
	}
	vector := id.Vector()
	if vector < 0 || vector >= len(d.cfg.Shards) {
		return fmt.Errorf("completion vector %d of %d", vector, len(d.cfg.Shards))
	}
	if s := d.cfg.Shards[vector]; q.p.Shard != nil && q.p.Shard != s {
		return fmt.Errorf("the connection is on shard %s, want %s", s.Name(), q.p.Shard.Name())
	}
	q.mu.Lock() // events come already
	q.shard = d.cfg.Shards[vector]
	q.mu.Unlock()
	if runErr := q.shard.Run(func() { err = q.makeQP(vector) }); runErr != nil || err != nil {
		return errors.Join(runErr, err)
	}
	attr := d.cfg.Provider.Device().Attr()
	if err := id.Connect(q.qp, rdmacm.ConnParam{
		PrivateData: nvme.RDMACMRequest{
			QID:     q.p.QID,
			HRQSIZE: uint16(q.p.Depth), // counted from 1
			HSQSIZE: uint16(q.p.Depth - 1),
			CNTLID:  q.p.CNTLID,
		}.AppendTo(nil),
		ResponderResources: uint8(max(1, min(attr.MaxQPRdAtom, 255))),
		FlowControl:        true,
		RetryCount:         7,
		RNRRetryCount:      7,
		QPN:                q.qp.Num(),
	}); err != nil {
		return err
	}
	select {
	case err = <-q.result:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	// From here on the owner is told when the queue goes down.
	runErr := q.shard.Run(func() {
		if q.down {
			err = q.cause
		}
		q.dialed = true
	})
	return errors.Join(runErr, err)
}

// handle is the handler of the queue's connection.
func (q *hostQueue) handle(_ *rdmacm.ID, ev *rdmacm.Event) error {
	switch ev.Type {
	case rdmacm.Established:
		q.tell(nil)
	case rdmacm.TimewaitExit: // Disconnected was before
	default:
		err := eventError(ev)
		switch {
		case ev.Type == rdmacm.Rejected:
			err = rejectError(ev, q.p.Remote)
		case ev.Type == rdmacm.Unreachable && errors.Is(ev.Err, syscall.ECONNREFUSED):
			err = &transport.RefusedError{Remote: q.p.Remote, Reason: "the port of its RDMA is closed"}
		}
		q.tell(err)
		q.lose(err)
	}
	return nil
}

// tell tells connect how it ended; what comes later is not about that.
func (q *hostQueue) tell(err error) {
	select {
	case q.result <- err:
	default:
	}
}

// rejectError says who refused and why.
func rejectError(ev *rdmacm.Event, remote netip.AddrPort) error {
	e := &transport.RefusedError{
		Remote:    remote,
		Listening: ev.Status != rdmacm.RejInvalidServiceID,
		Reason:    rdmacm.RejectReason(ev.Status),
	}
	switch ev.Status {
	case rdmacm.RejNoQP, rdmacm.RejNoResources, rdmacm.RejTimeout, rdmacm.RejStaleConnection:
		e.Busy = true
	case rdmacm.RejConsumerDefined:
		var r nvme.RDMACMReject
		if r.Parse(ev.Param.PrivateData) != nil || r.Status == 0 {
			e.Busy = true // as Linux's target refuses when it has too much to delete
			return e
		}
		e.Busy = r.Status == nvme.RDMACMNoResources
		e.Reason += fmt.Sprintf(", %v (status %d)", r.Status.String(), uint16(r.Status))
		return &rejection{e, r.Status}
	}
	return e
}

// A rejection is a refusal together with the status that the target gave.
type rejection struct {
	refused *transport.RefusedError
	status  nvme.RDMACMStatus
}

func (e *rejection) Error() string   { return e.refused.Error() }
func (e *rejection) Unwrap() []error { return []error{e.refused, e.status} }
