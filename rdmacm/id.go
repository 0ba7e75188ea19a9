package rdmacm

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/verbs"
	"github.com/fabrid/fabrid/workqueue"
)

// A Handler is told of an ID's events, one at a time and in order, on the
// connection manager's workqueue, with the ID's handler mutex held. ev is valid
// during the call, the private data in it for good.
//
// It must not block, flush the workqueue, or destroy an ID. If it returns an
// error, the ID that the event is about is destroyed: for ConnectRequest the
// new one, ev.Conn, which refuses the connection, otherwise id itself.
type Handler func(id *ID, ev *Event) error

// handlerMutex is the class of an ID's handler mutex. The one of an ID that is
// being asked for is taken at level 1, inside its listener's.
type handlerMutex struct{}

func (handlerMutex) String() string { return "rdmacm.ID handler mutex" }

// idLock is the class of an ID's state lock. Under it works are queued, and the
// CM's list is locked.
type idLock struct{}

func (idLock) String() string { return "rdmacm.ID state" }

// idDestroyed is the class of the wait for the end of an ID.
type idDestroyed struct{}

func (idDestroyed) String() string { return "rdmacm.ID destroyed" }

// An ID is one end of a connection, or a listener. Its methods may be called
// from any goroutine, also by handlers and on a device's loops, and do not
// block; except Listen, Destroy and the like, which say so.
type ID struct {
	// Context is the consumer's. It is set before Listen or Resolve; the ID of
	// a connect request begins with its listener's, which the handler of the
	// request may replace.
	Context any

	cm  *CM
	num uint64
	fn  Handler

	// handler is held while a handler runs, and by Destroy to wait for it.
	handler lockdep.Mutex[handlerMutex]
	// runner is the work that runs a handler of this ID, nil if none does: its
	// own, or its listener's.
	runner atomic.Pointer[workqueue.Work]
	// current is the event that is being handled. It belongs to work.
	current Event

	work      workqueue.Work // run
	destroyed lockdep.Completion[idDestroyed]

	mu       lockdep.Mutex[idLock] // guards below
	state    State
	listener bool
	provider Provider
	conn     Conn
	addr     netip.AddrPort // of a listener
	unlisten func() error
	pending  []Event  // that have arrived and wait for the handler
	room     [1]Event // where pending begins
	requests int      // connect requests in pending
	held     bool     // pending waits for the handler of the connect request

	unanswered // guarded by the CM's lock
}

// NewID makes an ID, for Listen or for Resolve. fn is told of its events, and
// of those of the connections that a listener brings. It must be destroyed,
// here or by its handler.
func (cm *CM) NewID(fn Handler) (*ID, error) {
	id := cm.newID(fn)
	if !cm.add(id) {
		return nil, fmt.Errorf("rdmacm: new ID: %w", ErrClosed)
	}
	return id, nil
}

func (cm *CM) newID(fn Handler) *ID {
	id := &ID{cm: cm, num: cm.last.Add(1), fn: fn}
	id.work.Init("rdmacm.id", id.run)
	return id
}

// Num is the ID's number, unique in its CM: what logs and operators see.
func (id *ID) Num() uint64 { return id.num }

// String names the ID by its number.
func (id *ID) String() string { return fmt.Sprintf("ID %d", id.num) }

// State returns the state, which may change at once.
func (id *ID) State() State {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.state
}

// Device is the device of the provider, nil before Listen or Resolve.
func (id *ID) Device() verbs.Device {
	id.mu.Lock()
	p := id.provider
	id.mu.Unlock()
	if p == nil {
		return nil
	}
	return p.Device()
}

// Vector is the completion vector of the queue pair to be, from Resolve or the
// connect request on; before it is 0.
func (id *ID) Vector() int {
	if c := id.getConn(); c != nil {
		return c.Vector()
	}
	return 0
}

// LocalAddr is the address of this end: a listener's as given to Listen, a
// connection's as the peer sees it.
func (id *ID) LocalAddr() netip.AddrPort {
	if c := id.getConn(); c != nil {
		return c.LocalAddr()
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.addr
}

// RemoteAddr is the address of the other end, invalid for a listener.
func (id *ID) RemoteAddr() netip.AddrPort {
	if c := id.getConn(); c != nil {
		return c.RemoteAddr()
	}
	return netip.AddrPort{}
}

func (id *ID) getConn() Conn {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.conn
}

func (id *ID) boundTo(p Provider) bool {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.provider == p
}

// listensAt reports whether the ID listens at addr itself.
func (id *ID) listensAt(addr netip.Addr) bool {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.listener && id.addr.Addr().Unmap() == addr.Unmap()
}

func (id *ID) isListener() bool {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.listener
}

// moveLocked makes a move, or returns a *StateError and makes none.
func (id *ID) moveLocked(m move) error {
	to, ok := id.state.after(m)
	if !ok {
		return &StateError{id.num, m.String(), id.state}
	}
	id.state = to
	return nil
}

// Listen makes the ID a listener at addr of p's device: ConnectRequest events
// follow. The IP of addr may be unspecified. It may wait for the device's
// loops. On an error the ID is as before.
func (id *ID) Listen(p Provider, addr netip.AddrPort) error {
	id.mu.Lock()
	err := id.moveLocked(callListen)
	if err == nil && id.cm.isRemoving(p) {
		_ = id.moveLocked(listenFailed)
		err = fmt.Errorf("rdmacm: %v: listen at %v: %w", id, addr, ErrDeviceRemoved)
	}
	if err == nil {
		id.listener, id.provider, id.addr = true, p, addr
	}
	id.mu.Unlock()
	if err != nil {
		return err
	}
	id.cm.watch(p)
	unlisten, err := p.Listen(addr, id.request)
	id.mu.Lock()
	if err != nil {
		if id.moveLocked(listenFailed) == nil {
			id.listener, id.provider, id.addr = false, nil, netip.AddrPort{}
		}
		id.mu.Unlock()
		return fmt.Errorf("rdmacm: %v: listen at %v: %w", id, addr, err)
	}
	late := id.state == StateDestroying // destroyed meanwhile, which found nothing to undo
	if !late {
		id.unlisten = unlisten
	}
	id.mu.Unlock()
	if late {
		return errors.Join(&StateError{id.num, "listen", StateDestroying}, unlisten())
	}
	return nil
}

// Resolve makes the ID the active end of a connection to be, to remote; if
// local is invalid, from the address that leads there. Nothing is sent; what
// follows is a queue pair on Vector, and Connect. On an error the ID is as
// before.
func (id *ID) Resolve(p Provider, local netip.Addr, remote netip.AddrPort) error {
	id.mu.Lock()
	_, ok := id.state.after(callResolve)
	state := id.state
	id.mu.Unlock()
	if !ok {
		return &StateError{id.num, "resolve", state}
	}
	conn, err := p.Open(local, remote)
	if err != nil {
		return fmt.Errorf("rdmacm: %v: resolve %v: %w", id, remote, err)
	}
	conn.Notify(id.notify)
	id.mu.Lock()
	if id.cm.isRemoving(p) {
		err = fmt.Errorf("rdmacm: %v: resolve %v: %w", id, remote, ErrDeviceRemoved)
	} else if err = id.moveLocked(callResolve); err == nil { // again: there may have been another call
		id.provider, id.conn = p, conn
	}
	id.mu.Unlock()
	if err != nil {
		conn.Close(func() {})
		return err
	}
	id.cm.watch(p)
	return nil
}

// Connect asks the peer for the connection, with a queue pair in Init. The
// private data is copied. Established follows, with the queue pair in RTS, or
// one of Rejected, Unreachable, ConnectError, and then nothing.
func (id *ID) Connect(qp verbs.QP, p ConnParam) error {
	conn, err := id.begin(callConnect, qp)
	if err != nil {
		return err
	}
	p.PrivateData = slices.Clone(p.PrivateData)
	conn.Connect(qp, p)
	return nil
}

// Accept grants a connect request, with a queue pair in Init whose receives are
// posted. The private data is copied. It may be called by the request's handler
// or at any time after, until the CM's RequestTimeout. An error says that the
// ID's state does not allow it and that nothing was done. Otherwise Established
// follows, or, however it fails, one ConnectError, Rejected or Unreachable.
func (id *ID) Accept(qp verbs.QP, p ConnParam) error {
	conn, err := id.begin(callAccept, qp)
	if err != nil {
		return err
	}
	p.PrivateData = slices.Clone(p.PrivateData)
	conn.Accept(qp, p)
	return nil
}

// Reject refuses a connect request, with reason RejConsumerDefined and private
// data, which is copied. Nothing follows.
func (id *ID) Reject(private []byte) error {
	conn, err := id.begin(callReject, nil)
	if err != nil {
		return err
	}
	conn.Reject(RejConsumerDefined, slices.Clone(private))
	return nil
}

// begin makes the move of a call that needs the connection.
func (id *ID) begin(m move, qp verbs.QP) (Conn, error) {
	if qp == nil && m != callReject {
		return nil, fmt.Errorf("rdmacm: %v: %v: no queue pair", id, m)
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	if err := id.moveLocked(m); err != nil {
		return nil, err
	}
	id.cm.answered(id)
	return id.conn, nil
}

// Disconnect moves the queue pair to Err and takes leave of the peer; before
// there is a connection, it gives up getting one. Disconnected follows if there
// was one on the wire, otherwise nothing: Established is not told any more.
// Once the ID is on its way out, by whichever cause, Disconnect does nothing.
func (id *ID) Disconnect() error {
	id.mu.Lock()
	before := id.state
	err := id.moveLocked(callDisconnect)
	changed := id.state != before
	conn := id.conn
	if changed {
		id.cm.answered(id)
	}
	id.mu.Unlock()
	if changed {
		conn.Disconnect()
	}
	return err
}
