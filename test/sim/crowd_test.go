package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fabrid/fabrid/fabric"
	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/verbs/roce"
)

// A crowd is hosts as package host makes them: they stay alive, and come back
// by themselves. Each has a device, an address and a part of the disk of its
// own.
type crowd struct {
	w       *world
	node    *fabric.Node
	members []*member
	queues  int // of I/O, of each

	stop    context.CancelFunc // of what runs
	running sync.WaitGroup
	rounds  atomic.Int64 // of I/O, verified
}

type member struct {
	c      *crowd
	n      int
	hostID nvme.UUID
	dev    *fabric.RoCE
	dialer transport.Dialer
	rng    *rand.Rand
	ctrl   atomic.Pointer[host.Controller] // nil: not connected
	was    []byte                          // what it wrote last
	came   int                             // how often it has been let in
	tried  int                             // and how often not
}

// memberSpace is each member's part of the disk.
const memberSpace = 64 << 10

// newCrowd makes n hosts, which do nothing yet.
func (w *world) newCrowd(n, queues int) (*crowd, error) {
	c := &crowd{w: w, queues: queues}
	var err error
	if c.node, err = fabric.NewNode(fabric.Config{Name: "hosts", Sim: true}); err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for i := range n {
		addrs = append(addrs, hostAddr(i+1))
	}
	devices, err := c.node.OpenRoCEs(addrs, roce.Config{Network: w.net}, func(i int) uint64 { return 1<<32 | uint64(i) })
	if err != nil {
		return c, err
	}
	for i, d := range devices {
		m := &member{c: c, n: i, dev: d, rng: rand.New(rand.NewPCG(w.seed, uint64(i)))}
		m.hostID[6], m.hostID[8], m.hostID[14], m.hostID[15] = 0x40, 0x80, byte(i>>8), byte(i)
		if m.dialer, err = d.Dialer(); err != nil {
			return c, err
		}
		c.members = append(c.members, m)
	}
	return c, nil
}

// close ends the crowd, and finds out whether anything is left of it.
func (c *crowd) close() error {
	c.rest()
	for _, m := range c.members {
		m.leave(context.Background())
	}
	n := c.node.Counts()
	err := c.node.Close(context.Background())
	if n.QPs != 0 || n.CMIDs != 0 {
		err = errors.Join(err, fmt.Errorf("the hosts, having left, have %+v", n))
	}
	return err
}

// each runs fn for all members at once.
func (c *crowd) each(fn func(m *member) error) error {
	var wg sync.WaitGroup
	errs := make([]error, len(c.members))
	for i, m := range c.members {
		wg.Go(func() { errs[i] = fn(m) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// work has every member do something again and again, until rest.
func (c *crowd) work(fn func(ctx context.Context, m *member) error) {
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	for _, m := range c.members {
		c.running.Go(func() {
			for ctx.Err() == nil {
				if err := fn(ctx, m); err != nil {
					c.w.t.Errorf("after %v: host %d: %v", time.Since(c.w.began), m.n, err)
					return
				}
			}
		})
	}
}

func (c *crowd) rest() {
	if c.stop != nil {
		c.stop()
		c.running.Wait()
		c.stop = nil
	}
}

// in is how many hosts are connected, with all their queues.
func (c *crowd) in() (n int) {
	for _, m := range c.members {
		if ctrl := m.ctrl.Load(); ctrl != nil && ctrl.State() == host.Live && ctrl.Info().Queues == c.queues {
			n++
		}
	}
	return n
}

// connect is one attempt to get in.
func (m *member) connect(ctx context.Context) error {
	ctrl, err := host.Connect(ctx, host.Config{
		Dialer: m.dialer, Remote: m.c.w.remote, NQN: subNQN, HostID: m.hostID,
		NrIOQueues: m.c.queues, QueueSize: 32, CtrlLossTMO: host.Forever,
	})
	if err != nil {
		m.tried++
		return err
	}
	m.ctrl.Store(ctrl)
	m.came++
	return nil
}

// leave takes leave, if only of itself.
func (m *member) leave(ctx context.Context) {
	ctrl := m.ctrl.Load()
	if ctrl == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_ = ctrl.Disconnect(ctx) // a target that is not there does not answer
	m.ctrl.Store(nil)
}

// vanish loses power, and has it back at once.
func (m *member) vanish() error {
	if m.ctrl.Load() == nil {
		return nil
	}
	if err := m.c.node.Shard().Run(m.dev.Device.Vanish); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	m.leave(ctx)
	return nil
}

// verify reads what the member wrote last and writes something new. A loss of
// the connection, if it ends, is nothing that it notices.
func (m *member) verify() error {
	ns, err := m.ctrl.Load().Namespace(1)
	if err != nil {
		return err
	}
	at := int64(m.n) * memberSpace
	if m.was != nil {
		got := make([]byte, len(m.was))
		if _, err := ns.ReadAt(got, at); err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if !bytes.Equal(got, m.was) {
			return fmt.Errorf("what was read is not what was written")
		}
	}
	data := make([]byte, blockSize<<m.rng.IntN(3))
	for i := 0; i < len(data); i += 512 {
		data[i], data[i+1], data[i+2] = byte(m.n), byte(m.rng.Uint32()), byte(i>>9)
	}
	if _, err := ns.WriteAt(data, at); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	m.was = data
	m.c.rounds.Add(1)
	return nil
}

// sleep waits, unless ctx is done before.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// visit is one time in which a host comes, stays for d, uses its namespace every
// second, and leaves, sometimes without a word. One that is not let in tries
// again after d.
func (m *member) visit(ctx context.Context, d time.Duration) error {
	if err := m.connect(ctx); err != nil {
		sleep(ctx, d)
		return nil
	}
	for end := time.Now().Add(d); time.Now().Before(end) && ctx.Err() == nil; sleep(ctx, time.Second) {
		if err := m.verify(); err != nil {
			return err
		}
	}
	if m.rng.IntN(4) == 0 {
		return m.vanish()
	}
	m.leave(context.Background())
	return nil
}
