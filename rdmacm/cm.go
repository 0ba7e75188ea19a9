package rdmacm

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/workqueue"
)

// Defaults of a Config.
const (
	DefaultRequestTimeout = 5 * time.Second
	DefaultBacklog        = 1024
)

// ErrClosed is returned by calls on a CM that has been closed.
var ErrClosed = errors.New("rdmacm: closed")

// ErrOwnHandler is returned when an ID is to be destroyed from within one of
// its own handlers, which would wait for itself. The handler returns an error
// instead.
var ErrOwnHandler = errors.New("called from the ID's own handler, which returns an error instead")

// Config describes a CM to be. The zero value is good.
type Config struct {
	// Workqueue is what handlers run on; nil: one of the CM's own, "rdma_cm".
	// It must not be drained or destroyed before the CM is closed.
	Workqueue *workqueue.Queue

	// Events is told of every event before its handler runs, for logs. It is
	// called on the workqueue and does not block.
	Events func(id *ID, ev *Event)

	// RequestTimeout is how long a connect request may stay unanswered before
	// it is refused with RejNoResources, from its arrival on. Zero:
	// DefaultRequestTimeout.
	RequestTimeout time.Duration

	// Backlog is how many connect requests of a listener may wait for its
	// handler. What comes on top is refused with RejNoResources. Zero:
	// DefaultBacklog.
	Backlog int
}

// A CM is a connection manager: what IDs have in common. Its methods may be
// called from any goroutine.
type CM struct {
	cfg   Config
	wq    *workqueue.Queue
	ownWQ bool
	last  atomic.Uint64 // number of the newest ID

	mu     lockdep.Mutex[cmLock] // guards below; nothing is locked under it
	ids    map[*ID]struct{}      // that are not destroyed
	asked  patience
	closed bool

	removing map[Provider]int    // devices, by how many calls of RemoveDevice
	watched  map[Provider]func() // that end it; nil while it begins
}

// cmLock is the class of a CM's list of IDs. It is innermost.
type cmLock struct{}

func (cmLock) String() string { return "rdmacm.CM list" }

// New makes a connection manager.
func New(cfg Config) *CM {
	if cfg.RequestTimeout == 0 {
		cfg.RequestTimeout = DefaultRequestTimeout
	}
	if cfg.Backlog == 0 {
		cfg.Backlog = DefaultBacklog
	}
	cm := &CM{
		cfg: cfg, wq: cfg.Workqueue, ids: make(map[*ID]struct{}),
		removing: make(map[Provider]int), watched: make(map[Provider]func()),
	}
	cm.asked.timeout = cfg.RequestTimeout
	if cm.wq == nil {
		cm.wq, cm.ownWQ = workqueue.New(workqueue.Config{Name: "rdma_cm"}), true
	}
	return cm
}

// Workqueue returns what handlers run on.
func (cm *CM) Workqueue() *workqueue.Queue { return cm.wq }

// Close destroys the IDs that are left, listeners first, and then the CM's own
// workqueue. Like [ID.Destroy] it waits: it must not be called from a handler,
// on a device's loop, or while holding a lock that either of them takes.
func (cm *CM) Close() error {
	cm.mu.Lock()
	was := cm.closed
	cm.closed = true
	left := cm.snapshotLocked()
	cm.mu.Unlock()
	if was {
		return ErrClosed
	}
	cm.stopWatching()
	var errs []error
	for _, listeners := range []bool{true, false} {
		for _, id := range left {
			if id.isListener() == listeners {
				errs = append(errs, id.Destroy())
			}
		}
	}
	cm.asked.stop()
	if cm.ownWQ {
		cm.wq.Destroy()
	}
	return errors.Join(errs...)
}

func (cm *CM) add(id *ID) bool {
	cm.mu.Lock()
	defer cm.mu.Unlock()
	if cm.closed {
		return false
	}
	cm.ids[id] = struct{}{}
	return true
}

func (cm *CM) remove(id *ID) {
	cm.mu.Lock()
	defer cm.mu.Unlock()
	delete(cm.ids, id)
}

// Len returns how many IDs there are.
func (cm *CM) Len() int {
	cm.mu.Lock()
	defer cm.mu.Unlock()
	return len(cm.ids)
}
