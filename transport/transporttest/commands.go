package transporttest

import (
	"errors"
	"testing"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
)

// Commands arrive in the order in which they were submitted, in one round of
// the shard or in several, and each once.
func capsulesInOrder(b *bench) {
	p := b.connect(1, 64)
	p.core.run(func() { p.core.keepOrder = true })
	seq := uint32(0)
	for round := range 20 {
		reqs := make([]*hostRequest, 1+round%64)
		for i := range reqs {
			reqs[i] = p.request(nvme.IOFlush, seq, nil)
			seq++
		}
		p.send(reqs...)
		p.wait(reqs...)
	}
	p.core.run(func() {
		if len(p.core.order) != int(seq) {
			b.Errorf("%d of %d commands arrived", len(p.core.order), seq)
		}
		for i, v := range p.core.order {
			if v != uint32(i) {
				b.Errorf("command %d arrived in place of %d", v, i)
				break
			}
		}
	})
	p.disconnect()
}

// What is submitted as soon as Dial has returned arrives, in order, whether the
// core has taken the queue by then or not.
func commandsRightAfterDial(b *bench) {
	b.env.Core.handle = func(q *Queue, r *transport.Request) {
		q.order = append(q.order, r.Command.CDW(10))
		q.carryOut(r)
	}
	for range 10 {
		const depth = 32
		p := &pair{bench: b, depth: depth, down: make(chan error, 8)}
		var reqs []*hostRequest
		for i := range depth {
			reqs = append(reqs, p.request(nvme.IOFlush, uint32(i), nil))
		}
		var err error
		p.host, err = b.fab.Dial(b.context(), transport.HostQueueParam{
			QID: 1, Depth: depth, MaxData: b.fab.MaxData, InCapsule: b.fab.InCapsule,
			Down: func(cause error) { p.down <- cause },
		})
		if err != nil {
			b.Fatal(err)
		}
		p.send(reqs...)
		p.wait(reqs...)
		p.core = receive(b, "Open", b.env.Core.opened)
		p.core.quiesce.Store(-1)
		p.core.run(func() {
			for i, v := range p.core.order {
				if v != uint32(i) {
					b.Fatalf("command %d arrived in place of %d", v, i)
				}
			}
		})
		p.disconnect()
	}
}

// The host sees the completion as the core set it, and the core the command as
// the host set it but for what is the fabric's.
func completionFields(b *bench) {
	for _, want := range []nvme.Completion{
		{Result: 0x0123456789ABCDEF, SQHD: 0x1234, Status: nvme.Success},
		{Result: 1<<64 - 1, SQHD: nvme.SQHDDisabled, Status: nvme.LBAOutOfRange.WithDNR()},
		{SQHD: 0, Status: nvme.NamespaceNotReady.WithMore().WithCRD(2)},
		{Status: nvme.Status(0x7FFF)},
	} {
		var got []byte
		b.env.Core.handle = func(q *Queue, r *transport.Request) {
			got = append([]byte(nil), r.Command...)
			r.Completion = want
			r.Completion.CID = r.Command.CID()
			q.state[r.Index] = sending
			q.fabric.Complete(r)
		}
		p := b.connect(1, 16)
		r := p.request(nvme.IOFlush, 0, nil)
		for i := range r.Command {
			r.Command[i] = byte(0xA0 + i)
		}
		nvme.Command(r.Command[:]).SetOpcode(0x80) // vendor specific, no data
		sent := r.Command
		p.send(r)
		receive(b, "the completion", r.done)
		cqe := r.Completion
		if cqe.Result != want.Result || cqe.SQHD != want.SQHD || cqe.Status != want.Status || r.Err != nil {
			b.Errorf("completion %+v, %v; want %+v", cqe, r.Err, want)
		}
		p.core.run(func() {
			for i, v := range got {
				switch {
				case i == 1 && v != sent[i]&^nvme.FlagsPSDT|nvme.PSDTSGL,
					i != 1 && i != 2 && i != 3 && (i < 24 || i >= 40) && v != sent[i]:
					b.Errorf("byte %d of the command is %#x, was %#x", i, v, sent[i])
				}
			}
			if c := nvme.Command(got); c.CID() != nvme.Command(r.Command[:]).CID() {
				b.Errorf("CID %#x of the command, %#x at the host", c.CID(), nvme.Command(r.Command[:]).CID())
			}
		})
		p.disconnect()
	}
}

// As many commands may be outstanding as the queue is deep, and no more.
func queueFull(b *bench) {
	const depth = 16
	b.env.Core.handle = (*Queue).hold
	p := b.connect(1, depth)
	var reqs []*hostRequest
	for range depth {
		reqs = append(reqs, p.request(nvme.IOFlush, 0, nil))
	}
	p.send(reqs...)
	extra := p.request(nvme.IOFlush, 0, nil)
	p.run(func() {
		if err := extra.submit(); !errors.Is(err, transport.ErrQueueFull) {
			b.Errorf("submit number %d: %v, want %v", depth+1, err, transport.ErrQueueFull)
		}
	})
	p.until("all commands", func() bool {
		n := 0
		p.core.run(func() { n = len(p.core.held) })
		return n == depth
	})
	p.core.run(func() { p.core.completeHeld(nvme.Success) })
	p.wait(reqs...)
	p.send(extra)
	p.until("the last command", func() bool {
		n := 0
		p.core.run(func() { n = len(p.core.held) })
		return n == 1
	})
	p.core.run(func() { p.core.completeHeld(nvme.Success) })
	p.wait(extra)
	p.disconnect()
}

// A request may be submitted from its own Done, with the queue full but for it.
func submitFromDone(b *bench) {
	const depth, rounds = 8, 50
	p := b.connect(1, depth)
	data := make([][]byte, depth)
	var reqs []*hostRequest
	left := depth
	all := make(chan struct{})
	for i := range depth {
		data[i] = make([]byte, 512)
		r := p.request(nvme.IORead, uint32(i), data[i])
		r.then = func() {
			if r.Err != nil || !r.Completion.Status.OK() {
				b.Errorf("request %d, round %d: %v, %v", i, r.dones, r.Err, r.Completion.Status)
			}
			if _, at := same(r.Data, byte(i)); at >= 0 {
				b.Errorf("request %d, round %d: data differ at byte %d", i, r.dones, at)
			}
			clear(r.Data)
			if r.dones == rounds {
				if left--; left == 0 {
					close(all)
				}
				return
			}
			if err := r.submit(); err != nil {
				b.Errorf("submit of request %d from Done: %v", i, err)
			}
		}
		reqs = append(reqs, r)
	}
	p.send(reqs...)
	receive(b, "all rounds", all)
	p.disconnect()
}

// The core may complete later, posted to its shard, and in any order.
func completedLate(b *bench) {
	const depth = 32
	b.env.Core.handle = (*Queue).hold
	p := b.connect(1, depth)
	for range 5 {
		var reqs []*hostRequest
		for i := range depth {
			reqs = append(reqs, p.request(nvme.IORead, uint32(i), make([]byte, 1000)))
		}
		p.send(reqs...)
		p.until("all commands", func() bool {
			n := 0
			p.core.run(func() { n = len(p.core.held) })
			return n == depth
		})
		for step := range depth {
			p.core.run(func() {
				i := (step * 7) % len(p.core.held)
				r := p.core.held[i]
				p.core.held = append(p.core.held[:i], p.core.held[i+1:]...)
				p.core.carryOut(r)
			})
		}
		p.wait(reqs...)
		for i, r := range reqs {
			if _, at := same(r.Data, byte(i)); at >= 0 {
				b.Errorf("request %d: data differ at byte %d", i, at)
			}
		}
	}
	p.disconnect()
}

type hosts struct{}

// Queues do not disturb each other.
func manyQueues(b *bench) {
	const queues, depth, rounds = 5, 16, 20
	pairs := make([]*pair, queues)
	for i := range pairs {
		qid := uint16(i) // the admin queue is one of them
		pairs[i] = b.connect(qid, depth)
	}
	var wg lockdep.WaitGroup[hosts]
	for i, p := range pairs {
		wg.Go(func() {
			for round := range rounds {
				var reqs []*hostRequest
				for k := range depth {
					op, n := nvme.IORead, 100*k+i
					data := make([]byte, n)
					if k%2 == 0 {
						op = nvme.IOWrite
						fill(data, byte(round))
					}
					reqs = append(reqs, p.request(op, uint32(round), data))
				}
				p.send(reqs...)
				p.wait(reqs...)
				for _, r := range reqs {
					if _, at := same(r.Data, byte(round)); at >= 0 {
						b.Errorf("queue %d: data differ at byte %d of %d", i, at, len(r.Data))
					}
				}
				p.reqs = p.reqs[:0]
			}
		})
	}
	wg.Wait()
	for _, p := range pairs {
		p.disconnect()
	}
}

// A command costs no allocation at either end.
func noAllocations(b *bench) {
	if lockdep.Enabled {
		return // the validator allocates
	}
	const depth = 32
	p := b.connect(1, depth)
	left := 0
	all := make(chan struct{}, 1)
	var reqs []*hostRequest
	for i := range depth {
		op := nvme.IORead
		data := make([]byte, 4096)
		if i%2 == 0 {
			op = nvme.IOWrite
			fill(data, byte(i))
		}
		if i%4 == 0 {
			data = data[:min(512, len(data))]
		}
		r := p.request(op, uint32(i), data)
		r.then = func() {
			if left--; left == 0 {
				all <- struct{}{}
			}
		}
		reqs = append(reqs, r)
	}
	submit := func() {
		left = depth
		for _, r := range reqs {
			if err := r.submit(); err != nil {
				b.Error(err)
			}
		}
	}
	task := shard.Task{Fn: submit}
	round := func() {
		p.host.Shard().Post(&task)
		<-all
	}
	for range 100 { // rings and lists reach their size
		round()
	}
	if n := testing.AllocsPerRun(200, round); n != 0 {
		b.Errorf("%v allocations for %d commands", n, depth)
	}
	p.disconnect()
}
