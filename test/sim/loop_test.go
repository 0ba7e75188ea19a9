package sim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
)

// A loopHost is the end of a peer within the target's process. Everything but
// its script's calls is on its shard.
type loopHost struct {
	*peer
	shard  *shard.Shard
	dialer transport.Dialer

	mu      sync.Mutex
	queues  []*loopQueue // guarded by mu: that have not been freed
	freeing sync.WaitGroup
}

// A loopQueue is one connection of a loopHost.
type loopQueue struct {
	p      *loopHost
	cancel context.CancelFunc // of the dial
	dialed chan struct{}      // closed when the connection is made, or never will be
	q      transport.HostQueue
	why    error // after dialed: there is no q
	leave  sync.Once
}

func (w *world) newLoopHost(p *peer) *loopHost {
	return &loopHost{peer: p, shard: shard.NewSim(shard.Config{Name: p.name}), dialer: w.node.Loop().Dialer()}
}

func (p *loopHost) dial(qid uint16) (peerQueue, error) {
	ctx, cancel := context.WithCancel(context.Background())
	q := &loopQueue{p: p, cancel: cancel, dialed: make(chan struct{})}
	p.mu.Lock()
	p.queues = append(p.queues, q)
	p.mu.Unlock()
	p.freeing.Go(func() {
		q.q, q.why = p.dialer.Dial(ctx, transport.HostQueueParam{
			Remote: p.w.remote, Local: p.addr, QID: qid, Depth: queueDepth, Shard: p.shard,
			CNTLID: p.cntlidOf(qid), MaxData: hostData, Down: func(error) { q.free() },
		})
		close(q.dialed)
		if q.why != nil {
			p.forget(q)
		}
	})
	return q, nil
}

// forget takes out of the list a queue that is freed.
func (p *loopHost) forget(q *loopQueue) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.queues {
		if p.queues[i] == q {
			p.queues = append(p.queues[:i], p.queues[i+1:]...)
			return
		}
	}
}

// free gives the queue up, which waits for the shard.
func (q *loopQueue) free() {
	q.leave.Do(func() {
		q.cancel()
		q.p.freeing.Go(func() {
			<-q.dialed
			if q.q != nil {
				q.q.Disconnect()
				q.p.forget(q)
			}
		})
	})
}

func (p *loopHost) hangUp() {
	p.mu.Lock()
	all := append([]*loopQueue(nil), p.queues...)
	p.mu.Unlock()
	for _, q := range all {
		q.free()
	}
}

func (p *loopHost) held() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.queues)
}

func (p *loopHost) close() error {
	p.hangUp()
	p.freeing.Wait()
	var err error
	if n := p.held(); n > 0 {
		err = fmt.Errorf("%s: %d queues left", p.name, n)
	}
	return errors.Join(err, p.shard.Close())
}

func (q *loopQueue) waitDialed(d time.Duration) error {
	select {
	case <-q.dialed:
		return q.why
	case <-time.After(d):
		return fmt.Errorf("no answer in %v", d)
	}
}

func (q *loopQueue) send(put func(nvme.Command), at, n int) *ioCommand {
	select {
	case <-q.dialed:
	default:
		return notSent(errLeft)
	}
	if q.q == nil {
		return notSent(q.why)
	}
	c := &ioCommand{done: make(chan struct{})}
	r := &transport.HostRequest{Done: func(r *transport.HostRequest) {
		c.cqe, c.err = r.Completion, r.Err
		close(c.done)
	}}
	put(nvme.MakeCommand(r.Command[:]))
	if n > 0 {
		r.Data = q.p.mem[at:][:n]
	}
	var err error
	if e := q.p.shard.Run(func() { err = q.q.Submit(r) }); e != nil {
		err = e
	}
	if err != nil {
		return notSent(err)
	}
	return c
}
