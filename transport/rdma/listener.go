package rdma

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/verbs"
	"github.com/fabrid/fabrid/workqueue"
)

var (
	errListenerClosed = &transport.Cause{Word: "listener_closed", Text: "rdma: listener closed"}
	errPortGone       = &transport.Cause{Word: "port_gone", Text: "the port is gone"}
	errShutdown       = &transport.Cause{Word: "listener_shutdown", Text: "rdma: target shut down"}
)

// listenerMu guards a listener's state. Under it a queue's life is locked.
type listenerMu struct{}

// listenerWork is the class of the wait for a listener's goroutines: its
// supervisor and the admin queues that wait to be admitted.
type listenerWork struct{}

// listenerEmpty is the class of the wait for a listener's queues.
type listenerEmpty struct{}

// A Listener takes the connections of NVMe/RDMA hosts at one address and owns
// the queues that come of them. Its methods may be called from any goroutine,
// but those that say they wait not on a shard.
type Listener struct {
	cfg     Config
	pd      verbs.PD
	attr    verbs.DeviceAttr
	vectors []*vector

	ctx    context.Context // done when the listener is closed
	cancel context.CancelFunc
	work   lockdep.WaitGroup[listenerWork]
	signal chan struct{} // to the supervisor: look at lost

	mu      lockdep.Mutex[listenerMu] // guards below
	id      *rdmacm.ID                // that listens; nil while none does
	lost    lostID                    // the latest that was told to be of no use
	closed  bool
	queues  map[*queue]struct{}
	waiting int                                // of the queues, those that the gate has not answered
	empty   *lockdep.Completion[listenerEmpty] // somebody waits for the last queue
	expired bool                               // nobody waits for the last queue any more
	freed   bool                               // what the queues shared is given back
	mrs     int64                              // regions of queues' own memory

	spares  spares
	freeing freeing
}

// A lostID is a listening ID that is of no use any more, and why.
type lostID struct {
	id    *rdmacm.ID
	cause error
}

// freeing gives the device back what the queues shared, on the delete workqueue:
// it is the end of the last release, and may wait for a shard as those do.
type freeing struct {
	work workqueue.Work
	done bool  // only work's function touches it
	err  error // guarded by Listener.mu
}

// Listen makes a listener, which takes connections at once and supervises
// itself: if its address goes away it tries again until it is back. It waits
// for the shards. A port that is taken, and whatever else is wrong at the
// start, is an error.
func Listen(cfg Config) (*Listener, error) {
	if cfg.Provider == nil {
		return nil, fmt.Errorf("rdma: listen at %v: no provider", cfg.Addr)
	}
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	dev := cfg.Provider.Device()
	pd, err := dev.AllocPD()
	if err != nil {
		return nil, fmt.Errorf("rdma: listen at %v: %w", cfg.Addr, err)
	}
	l := &Listener{
		cfg: cfg, pd: pd, attr: dev.Attr(),
		signal: make(chan struct{}, 1),
		queues: make(map[*queue]struct{}),
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.freeing.work.Init("free listener", l.freeDevice)
	for i, s := range cfg.Shards {
		v, err := newVector(l, i, s)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("rdma: listen at %v: %w", cfg.Addr, err), l.free())
		}
		l.vectors = append(l.vectors, v)
	}
	if err := l.listen(); err != nil {
		return nil, errors.Join(fmt.Errorf("rdma: %w", err), l.free())
	}
	l.work.Go(l.supervise)
	return l, nil
}

// Addr returns the address that the listener was made for.
func (l *Listener) Addr() netip.AddrPort { return l.cfg.Addr }

// listen makes an ID that listens.
func (l *Listener) listen() error {
	id, err := l.cfg.CM.NewID(l.handle)
	if err != nil {
		return err
	}
	if err := id.Listen(l.cfg.Provider, l.cfg.Addr); err != nil {
		return errors.Join(err, id.Destroy())
	}
	l.mu.Lock()
	closed := l.closed
	if !closed {
		l.id = id
	}
	l.mu.Unlock()
	if closed {
		return errors.Join(errListenerClosed, id.Destroy())
	}
	return nil
}

// supervise makes the listener anew when its address has gone away.
func (l *Listener) supervise() {
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-l.signal:
		}
		l.mu.Lock()
		lost := l.lost
		l.lost = lostID{}
		stale := lost.id == nil || lost.id != l.id
		if !stale {
			l.id = nil
		}
		l.mu.Unlock()
		if stale {
			continue
		}
		l.tell(errors.Join(lost.cause, lost.id.Destroy()))
		for l.listenAgain() {
		}
	}
}

// lose tells the supervisor that a listening ID is of no use. An ID is told of
// before its successor is made, and after it only if it was told of already.
func (l *Listener) lose(id *rdmacm.ID, cause error) {
	l.mu.Lock()
	l.lost = lostID{id, cause}
	l.mu.Unlock()
	select {
	case l.signal <- struct{}{}:
	default: // it has not looked yet
	}
}

// listenAgain waits and tries once, and reports whether to go on trying.
func (l *Listener) listenAgain() bool {
	t := time.NewTimer(l.cfg.RetryInterval)
	defer t.Stop()
	select {
	case <-l.ctx.Done():
		return false
	case <-t.C:
	}
	err := l.listen()
	if errors.Is(err, errListenerClosed) {
		return false
	}
	l.tell(err)
	return err != nil
}

func (l *Listener) tell(err error) {
	if l.cfg.Events.Listening != nil {
		l.cfg.Events.Listening(l.cfg.Addr, err)
	}
}

// Close stops taking connections. Queues live on. It waits for handlers and
// for admin queues that wait to be admitted, which are refused. Further calls
// do nothing.
func (l *Listener) Close() error {
	l.mu.Lock()
	id := l.id
	l.id, l.closed = nil, true
	l.mu.Unlock()
	l.cancel()
	var err error
	if id != nil {
		err = id.Destroy()
	}
	for _, q := range l.all() {
		q.life.Withdraw(errListenerClosed)
	}
	l.work.Wait()
	return err
}

// DisconnectAll takes leave of all hosts: each queue sends what was completed,
// within a bound, disconnects, and is released. It does not wait.
func (l *Listener) DisconnectAll(cause error) {
	for _, q := range l.all() {
		q.askToLeave(cause)
	}
}

func (l *Listener) all() []*queue {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]*queue, 0, len(l.queues))
	for q := range l.queues {
		all = append(all, q)
	}
	return all
}

// Shutdown closes the listener, disconnects all queues, waits until they have
// been released, and frees what they shared. If ctx is done before, it returns
// an error that says what is left, and may be called again. Without that, the
// last release gives the device what is its own; the memory of buffers that
// storage had not given back stays.
func (l *Listener) Shutdown(ctx context.Context) error {
	err := l.Close()
	l.DisconnectAll(errShutdown)
	select {
	case <-l.emptied().Done():
	case <-ctx.Done():
		l.expire()
		return errors.Join(err, fmt.Errorf("rdma: shut down %v: %d queues left: %w", l.cfg.Addr, l.Stats().Queues, context.Cause(ctx)))
	}
	for _, v := range l.vectors {
		select {
		case <-v.home():
		case <-ctx.Done():
			l.expire()
			return errors.Join(err, fmt.Errorf("rdma: shut down %v: %d buffers left: %w", l.cfg.Addr, l.Stats().Buffers, context.Cause(ctx)))
		}
	}
	return errors.Join(err, l.free())
}

// emptied is completed when there are no queues. No queue is added after Close.
func (l *Listener) emptied() *lockdep.Completion[listenerEmpty] {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.empty == nil {
		l.empty = new(lockdep.Completion[listenerEmpty])
		if len(l.queues) == 0 {
			l.empty.Complete()
		}
	}
	return l.empty
}

// expire leaves it to the last release to give back what is the device's.
func (l *Listener) expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expired = true
	l.freeIfLastLocked()
}

func (l *Listener) freeIfLastLocked() {
	if l.expired && len(l.queues) == 0 {
		l.cfg.Gate.Delete.Queue(&l.freeing.work)
	}
}

// freeDevice is what freeing does, once.
func (l *Listener) freeDevice() {
	if l.freeing.done {
		return
	}
	l.freeing.done = true
	var errs []error
	for _, v := range l.vectors {
		errs = append(errs, v.freeDevice())
	}
	err := errors.Join(append(errs, l.pd.Dealloc())...)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.freeing.err = err
}

// free gives back what the queues shared. There are none, and no buffer is out.
func (l *Listener) free() error {
	l.cancel()
	l.mu.Lock()
	freed := l.freed
	l.mu.Unlock()
	if freed {
		return nil
	}
	l.cfg.Gate.Delete.Queue(&l.freeing.work)
	l.freeing.work.Flush()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.freed { // by another call
		return nil
	}
	l.freed = true
	errs := []error{l.freeing.err}
	for _, v := range l.vectors {
		errs = append(errs, v.pool.close())
	}
	return errors.Join(errs...)
}

// add enters a queue in the list, unless the listener is closed.
func (l *Listener) add(q *queue) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.queues[q] = struct{}{}
	l.waiting++
	l.work.Add(1)
	return true
}

// answered counts a queue that the gate has answered.
func (l *Listener) answered() {
	l.mu.Lock()
	l.waiting--
	l.mu.Unlock()
	l.work.Done()
}

func (l *Listener) remove(q *queue) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.queues, q)
	if l.empty != nil && len(l.queues) == 0 {
		l.empty.Complete()
	}
	l.freeIfLastLocked()
}

func (l *Listener) countMRs(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mrs += n
}

// Stats is what a listener holds. After Shutdown all of it is zero.
type Stats struct {
	Queues      int   `json:"queues"`       // admitted and not released
	Waiting     int   `json:"waiting"`      // admin queues that wait to be admitted
	Buffers     int   `json:"buffers"`      // data buffers in use
	PoolBytes   int64 `json:"pool_bytes"`   // memory of the data buffers, used or not
	MRs         int   `json:"mrs"`          // memory regions
	SharedInUse int   `json:"shared_inuse"` // shared receives that hold a command
}

// Stats returns what the listener holds.
func (l *Listener) Stats() Stats {
	l.mu.Lock()
	s := Stats{Queues: len(l.queues) - l.waiting, Waiting: l.waiting, MRs: int(l.mrs)}
	l.mu.Unlock()
	for _, v := range l.vectors {
		s.Buffers += int(v.pool.inUse.Load())
		s.PoolBytes += v.pool.bytes.Load()
		s.MRs += int(v.pool.mrs.Load())
		if v.srq != nil {
			s.SharedInUse += int(v.srq.held.Load())
			s.MRs += int(v.srq.mrs.Load())
		}
	}
	return s
}
