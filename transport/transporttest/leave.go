package transporttest

import (
	"context"
	"errors"
	"time"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
)

// held waits until the core holds n requests.
func (p *pair) held(n int) {
	p.Helper()
	p.until("the core to hold the requests", func() bool {
		have := 0
		p.core.run(func() { have = len(p.core.held) })
		return have == n
	})
}

// lost checks that requests have ended because the queue went down.
func (p *pair) lost(reqs ...*hostRequest) {
	p.Helper()
	for i, r := range reqs {
		receive(p.bench, "a request to be done", r.done)
		if !errors.Is(r.Err, transport.ErrQueueDown) {
			p.Errorf("request %d: %v, want %v", i, r.Err, transport.ErrQueueDown)
		}
		if r.dones != 1 {
			p.Errorf("request %d: Done was called %d times", i, r.dones)
		}
	}
}

// mixed is requests of all kinds, as many as the queue is deep.
func (p *pair) mixed() []*hostRequest {
	var reqs []*hostRequest
	for i := range p.depth {
		op, n := nvme.IOFlush, 0
		switch i % 4 {
		case 1:
			op, n = nvme.IORead, 4096
		case 2:
			op, n = nvme.IOWrite, 512
		case 3:
			op, n = nvme.IOWrite, min(32768, p.fab.MaxData)
		}
		reqs = append(reqs, p.request(op, uint32(i), make([]byte, n)))
	}
	return reqs
}

// checkHostDown checks that the host was told once, after all requests.
func (p *pair) checkHostDown() {
	p.Helper()
	if cause := receive(p.bench, "the host's Down", p.down); cause == nil {
		p.Error("the host's Down has no cause")
	}
	p.run(func() {
		for i, r := range p.reqs {
			if r.out {
				p.Errorf("Down was told with request %d outstanding", i)
			}
		}
		if err := p.request(nvme.IOFlush, 0, nil).submit(); err == nil {
			p.Error("a queue that is down takes a request")
		}
	})
}

// ended checks that nothing comes after the end.
func (p *pair) ended() {
	p.Helper()
	select {
	case cause := <-p.down:
		p.Errorf("the host's Down was called once more: %v", cause)
	default:
	}
}

// The host leaves with commands at the core: they end before Disconnect
// returns, and nobody is told Down at the host.
func disconnectByHost(b *bench) {
	b.env.Core.handle = (*Queue).hold
	p := b.connect(1, 16)
	reqs := p.mixed()
	p.send(reqs...)
	p.held(len(reqs))
	p.host.Disconnect()
	for i, r := range reqs {
		if r.dones != 1 || !errors.Is(r.Err, transport.ErrQueueDown) {
			b.Errorf("request %d when Disconnect returns: Done %d times, %v", i, r.dones, r.Err)
		}
	}
	p.disconnect()
}

// The target leaves with commands at the core: the host's end with an error, and
// then it is told.
func disconnectByTarget(b *bench) {
	b.env.Core.handle = (*Queue).hold
	p := b.connect(1, 16)
	reqs := p.mixed()
	p.send(reqs...)
	p.held(len(reqs))
	p.core.run(func() {
		p.core.fabric.Disconnect(errors.New("the check leaves"))
		p.core.fabric.Disconnect(errors.New("and again"))
	})
	p.lost(reqs...)
	p.checkHostDown()
	p.host.Disconnect()
	p.host.Disconnect()
	p.released()
	p.ended()
}

// What was completed before the target disconnects reaches the host.
func completedBeforeDisconnect(b *bench) {
	const depth = 16
	for range 10 {
		b.env.Core.handle = (*Queue).hold
		p := b.connect(1, depth)
		reqs := p.mixed()
		for i, r := range reqs {
			if len(r.Data) > 0 && i%4 != 1 {
				fill(r.Data, byte(i))
			}
		}
		p.send(reqs...)
		p.held(depth)
		// Some have got their data already, and are completed in the round of the
		// disconnect; the others not at all.
		first := p.core.held[:depth/2]
		last := p.core.held[depth/2:]
		ready := 0
		p.core.run(func() {
			p.core.held = nil
			for _, r := range first {
				then := func(*transport.Request, error) { ready++ }
				switch {
				case r.Length == 0:
					ready++
				case r.Command.Direction() == nvme.HostToController:
					p.core.pull(r, then)
				default:
					p.core.reserve(r, r.Length, then)
				}
			}
		})
		p.until("the data", func() bool {
			n := 0
			p.core.run(func() { n = ready })
			return n == len(first)
		})
		p.core.run(func() {
			for _, r := range first {
				if r.Length == 0 {
					p.core.complete(r, nvme.Success, 0)
				} else {
					p.core.carriedOut(r, nil)
				}
			}
			p.core.held = last
			p.core.fabric.Disconnect(errors.New("the check leaves"))
		})
		p.wait(reqs[:depth/2]...)
		p.lost(reqs[depth/2:]...)
		for i, r := range reqs[:depth/2] {
			if _, at := same(r.Data, byte(i)); at >= 0 {
				b.Errorf("request %d: data differ at byte %d", i, at)
			}
		}
		p.checkHostDown()
		p.host.Disconnect()
		p.released()
		p.ended()
	}
}

// Both leave at the same time.
func disconnectByBoth(b *bench) {
	b.env.Core.handle = (*Queue).hold
	for range 20 {
		p := b.connect(1, 16)
		reqs := p.mixed()
		p.send(reqs...)
		p.held(len(reqs))
		var wg lockdep.WaitGroup[hosts]
		wg.Go(func() { p.core.run(func() { p.core.fabric.Disconnect(errors.New("the check leaves")) }) })
		for range 2 {
			wg.Go(p.host.Disconnect)
		}
		wg.Wait()
		p.lost(reqs...)
		p.released()
		if n := len(p.down); n > 1 {
			b.Errorf("the host's Down was called %d times", n)
		}
	}
}

// Requests that wait for buffers when the queue goes down are told that there
// will be none.
func disconnectWhileWaiting(b *bench) {
	const depth = 16
	for _, byHost := range []bool{true, false} {
		b.env.Core.handle = func(q *Queue, r *transport.Request) {
			then := func(r *transport.Request, err error) {
				if err != nil {
					q.complete(r, nvme.DataTransferError, 0)
					return
				}
				if q.downs > 0 {
					q.complete(r, nvme.AbortedSQDeletion, 0)
					return
				}
				q.hold(r)
			}
			if r.Command.Direction() == nvme.HostToController {
				q.pull(r, then)
			} else {
				q.reserve(r, r.Length, then)
			}
		}
		p, reqs := overbook(b, depth)
		p.send(reqs...)
		p.until("the commands", func() bool {
			n := 0
			p.core.run(func() { n = p.core.received })
			return n == depth
		})
		if byHost {
			p.disconnect()
			p.lost(reqs...)
			continue
		}
		p.core.run(func() { p.core.fabric.Disconnect(errors.New("the check leaves")) })
		p.lost(reqs...)
		p.checkHostDown()
		p.host.Disconnect()
		p.released()
		p.ended()
	}
}

// A queue that carried nothing leaves as any other.
func disconnectIdle(b *bench) {
	b.connect(1, 2).disconnect()
	p := b.connect(0, 32)
	p.core.run(func() { p.core.fabric.Disconnect(errors.New("the check leaves")) })
	p.checkHostDown()
	p.host.Disconnect()
	p.released()
}

// The end comes in the midst of traffic.
func disconnectTraffic(b *bench) {
	const depth = 32
	for round := range 20 {
		p := b.connect(1, depth)
		stopped := false
		out := 0
		idle := make(chan struct{})
		var reqs []*hostRequest
		for i := range depth {
			op := nvme.IORead
			data := make([]byte, min(20000, b.fab.MaxData))
			if i%2 == 0 {
				op = nvme.IOWrite
				fill(data, byte(i))
			}
			r := p.request(op, uint32(i), data)
			r.then = func() {
				if r.Err != nil && !errors.Is(r.Err, transport.ErrQueueDown) {
					b.Errorf("request %d: %v", i, r.Err)
				}
				if r.Err == nil {
					if _, at := same(r.Data, byte(i)); at >= 0 {
						b.Errorf("request %d: data differ at byte %d", i, at)
					}
				}
				if stopped = stopped || r.Err != nil; !stopped {
					if r.submit() == nil {
						return
					}
				}
				if out--; out == 0 {
					close(idle)
				}
			}
			reqs = append(reqs, r)
			out++
		}
		p.send(reqs...)
		p.until("some traffic", func() bool {
			n := 0
			p.core.run(func() { n = p.core.sent })
			return n > depth*round/2
		})
		if round%2 == 0 {
			p.disconnect()
		} else {
			p.core.run(func() { p.core.fabric.Disconnect(errors.New("the check leaves")) })
		}
		receive(b, "the requests to end", idle)
		if round%2 != 0 {
			p.checkHostDown()
			p.host.Disconnect()
			p.released()
		}
	}
}

// Requests that storage never gives back in time are orphaned: the queue is
// released without them, and they come home later.
func orphanedRequests(b *bench) {
	const depth = 16
	b.env.Core.handle = func(q *Queue, r *transport.Request) {
		if r.Command.Direction() == nvme.ControllerToHost {
			q.reserve(r, r.Length, func(r *transport.Request, _ error) { q.hold(r) })
			return
		}
		q.hold(r)
	}
	p := b.connect(1, depth)
	p.core.quiesce.Store(depth)
	reqs := p.mixed()
	p.send(reqs...)
	p.held(depth)
	p.disconnect()
	p.lost(reqs...)
	p.core.run(func() {
		for _, r := range p.core.held {
			for _, d := range r.Data {
				fill(d, 1) // still theirs
			}
		}
		p.core.completeHeld(nvme.Success)
	})
	p.until("Sent of the orphaned requests", func() bool {
		n := 0
		p.core.run(func() { n = p.core.sent })
		return n == depth
	})
	for i, r := range reqs {
		for _, v := range r.Data {
			if v != 0 {
				b.Fatalf("an orphaned request wrote to the data of request %d", i)
			}
		}
	}
}

// Queues come and go, and what they held comes back.
func connectAgain(b *bench) {
	for i := range 30 {
		p := b.connect(uint16(i%2), 32)
		r := p.request(nvme.IORead, 5, make([]byte, 4096))
		p.send(r)
		p.wait(r)
		p.disconnect()
	}
}

// The core refuses a queue: nobody gets one.
func openRefused(b *bench) {
	b.env.Core.open = func(transport.QueueParam) error { return errors.New("not today") }
	q, err := b.fab.Dial(b.context(), transport.HostQueueParam{QID: 1, Depth: 16, MaxData: b.fab.MaxData})
	if err == nil {
		b.Error("a refused queue was connected")
		q.Disconnect()
	}
	b.env.Core.open = nil
	b.connect(1, 16).disconnect()
}

// Where nobody listens, a dial says so.
func nobodyListens(b *bench) {
	b.fab.Stop(b.T)
	q, err := b.fab.Dial(b.context(), transport.HostQueueParam{QID: 0, Depth: 32, MaxData: b.fab.MaxData})
	if err == nil {
		b.Error("connected")
		q.Disconnect()
		return
	}
	var refused *transport.RefusedError
	if !errors.As(err, &refused) || refused.Listening {
		b.Errorf("error %v, want a *transport.RefusedError that says that nobody listens", err)
	}
}

// A dial that is given up leaves nothing behind.
func dialCancelled(b *bench) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if q, err := b.fab.Dial(ctx, transport.HostQueueParam{QID: 1, Depth: 16, MaxData: b.fab.MaxData}); err == nil {
		q.Disconnect() // it may have been quicker
	} else if !errors.Is(err, context.Canceled) {
		b.Errorf("error %v, want %v", err, context.Canceled)
	}
	for i := range 20 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i)*20*time.Microsecond)
		if q, err := b.fab.Dial(ctx, transport.HostQueueParam{QID: 1, Depth: 16, MaxData: b.fab.MaxData}); err == nil {
			q.Disconnect()
		}
		cancel()
	}
	b.until("what was given up to be released", func() bool { return b.env.Gate.Queues.Counts().Total() == 0 })
	b.env.Core.drainOpened()
	b.connect(1, 16).disconnect()
}

// drainOpened forgets queues that nobody waits for.
func (c *Core) drainOpened() {
	for {
		select {
		case <-c.opened:
		default:
			return
		}
	}
}
