package fabric

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fabrid/fabrid/admission"
	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/transport/loop"
	"github.com/fabrid/fabrid/workqueue"
)

// Config describes a node to be. The zero value is good.
type Config struct {
	// Name appears in reports. Empty: "fabrid".
	Name string

	// Spin is for how long the event loop looks for work before it sleeps; see
	// [shard.Config].
	Spin time.Duration

	// Limits is what queues of targets may exist. What is zero has no bound, but
	// for those that wait to be admitted: DefaultWaiting and DefaultHostWaiting.
	Limits admission.Config

	// CMEvents is told of every event of the connection manager before it is
	// handled; see [rdmacm.Config].
	CMEvents func(id *rdmacm.ID, ev *rdmacm.Event)

	// Sim makes the event loop a simulated one, for tests without sockets in a
	// testing/synctest bubble.
	Sim bool
}

// How many admin queues may wait to be admitted, in all and of one host, if
// Config.Limits does not say.
const (
	DefaultWaiting     = 512
	DefaultHostWaiting = 16
)

// ErrClosed is returned by calls on a node that has been closed.
var ErrClosed = errors.New("node closed")

type nodeMu struct{} // nothing is locked or waited for while it is held

func (nodeMu) String() string { return "fabric node" }

type nodeMaking struct{} // listeners and devices that are being made

func (nodeMaking) String() string { return "fabric node making" }

// A Node is a program's place on its fabrics. Its methods may be called from
// any goroutine, but Close, and those that make something, not from a shard.
type Node struct {
	shard   *shard.Shard
	delete  *workqueue.Queue
	connect *workqueue.Queue
	budget  *admission.Budget
	gate    *transport.Gate // of listeners that bring none
	queues  transport.Queues
	cm      *rdmacm.CM
	loop    *loop.Network
	making  lockdep.WaitGroup[nodeMaking] // what Close has to find in its lists

	mu        lockdep.Mutex[nodeMu]
	listeners []listener // guarded by mu
	devices   []*RoCE    // guarded by mu
	closed    bool       // guarded by mu
}

// A listener is of any fabric.
type listener interface {
	Shutdown(ctx context.Context) error
	stats() (buffers, mrs int)
}

// NewNode makes a node and starts its event loop.
func NewNode(cfg Config) (*Node, error) {
	if cfg.Name == "" {
		cfg.Name = "fabrid"
	}
	if w := &cfg.Limits.Target.Waiting; *w == 0 {
		*w = DefaultWaiting
	}
	if w := &cfg.Limits.Host.Waiting; *w == 0 {
		*w = DefaultHostWaiting
	}
	n := &Node{budget: admission.New(cfg.Limits), loop: loop.NewNetwork()}
	if c := (shard.Config{Name: cfg.Name, Spin: cfg.Spin}); cfg.Sim {
		n.shard = shard.NewSim(c)
	} else {
		var err error
		if n.shard, err = shard.New(c); err != nil {
			return nil, fmt.Errorf("fabric: new node: %w", err)
		}
	}
	// Before any listener, and destroyed after the last.
	n.delete = workqueue.New(workqueue.Config{Name: cfg.Name + " delete"})
	n.connect = workqueue.New(workqueue.Config{Name: cfg.Name + " connect", MaxActive: connectWorkers})
	n.gate = n.NewGate(admission.Limits{})
	n.cm = rdmacm.New(rdmacm.Config{Events: cfg.CMEvents})
	return n, nil
}

// connectWorkers is how many queues are made at once: what that takes is memory,
// and the loop's time.
const connectWorkers = 2

// NewGate returns a gate for the listeners of one port, which may let in so much
// of what the node's limits allow. Listeners that are given none share one
// without bounds of its own.
func (n *Node) NewGate(l admission.Limits) *transport.Gate {
	return &transport.Gate{Queues: &n.queues, Delete: n.delete, Connect: n.connect, Budget: n.budget.NewPort(l)}
}

// Queues returns the list of the queues of the node's targets.
func (n *Node) Queues() *transport.Queues { return &n.queues }

// Budget returns what queues may exist, and do.
func (n *Node) Budget() *admission.Budget { return n.budget }

// Shard returns the node's event loop.
func (n *Node) Shard() *shard.Shard { return n.shard }

// begin says that something is to be made, until n.making.Done: Close waits for
// that. It fails when the node has been closed.
func (n *Node) begin() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return ErrClosed
	}
	n.making.Add(1)
	return nil
}

// add enters a listener, between begin and Done.
func (n *Node) add(l listener) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners = append(n.listeners, l)
}

// Counts is what the queues of the node's targets hold. When no host is
// connected all of it is zero, soon.
type Counts struct {
	Queues  transport.Counts `json:"queues"`
	Buffers int              `json:"buffers"`
	MRs     int              `json:"mrs"`
	QPs     int              `json:"qps"` // those of hosts, too
	CMIDs   int              `json:"cm_ids"`
	// Admitted and AdmittedBytes are what is charged to the budget.
	Admitted      int   `json:"admitted"`
	AdmittedBytes int64 `json:"admitted_bytes"`
}

// Counts returns what the queues hold. It waits for the shard.
func (n *Node) Counts() Counts {
	c := Counts{Queues: n.queues.Counts(), CMIDs: n.cm.Len()}
	n.mu.Lock()
	listeners, devices := n.listeners, n.devices
	n.mu.Unlock()
	for _, l := range listeners {
		buffers, mrs := l.stats()
		c.Buffers += buffers
		c.MRs += mrs
	}
	for _, d := range devices {
		c.QPs += d.Device.QPs()
	}
	used := n.budget.Stats().Used
	c.Admitted, c.AdmittedBytes = used.Queues, used.Bytes
	return c
}

// Workqueues returns the workqueues of the node: the one that releases queues,
// and the one that makes them.
func (n *Node) Workqueues() (del, connect *workqueue.Queue) { return n.delete, n.connect }

// CMWorkqueue returns the workqueue of the connection manager's handlers.
func (n *Node) CMWorkqueue() *workqueue.Queue { return n.cm.Workqueue() }

// Close ends everything in order: the listeners stop and take leave of their
// hosts, the queues are released, and then the workqueue, the connection
// manager, the devices and the event loop end. Targets are closed before, so
// that they take leave in their way, and hosts disconnected. If ctx is done
// before all queues are being released, the rest ends without waiting for them,
// and the error says what was left; a release has bounds of its own. Further
// calls return [ErrClosed].
func (n *Node) Close(ctx context.Context) error {
	n.mu.Lock()
	was := n.closed
	n.closed = true
	n.mu.Unlock()
	if was {
		return fmt.Errorf("fabric: close: %w", ErrClosed)
	}
	n.making.Wait()
	n.mu.Lock()
	listeners, devices := n.listeners, n.devices
	n.mu.Unlock()
	var errs []error
	for _, l := range listeners {
		errs = append(errs, l.Shutdown(ctx))
	}
	n.delete.Flush()
	if left := n.queues.Counts().Total(); left > 0 {
		errs = append(errs, fmt.Errorf("%d queues left", left))
	}
	errs = append(errs, n.cm.Close())
	for _, d := range devices {
		errs = append(errs, d.Device.Close())
	}
	errs = append(errs, n.shard.Close())
	// Last: queues that were left have gone down by now, and then want to be
	// released.
	n.delete.Destroy()
	n.connect.Destroy()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("fabric: close: %w", err)
	}
	return nil
}
