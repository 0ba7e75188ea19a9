package transporttest

import (
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
)

// sizes are lengths of data around every edge that a fabric has.
func (b *bench) sizes() []int {
	var all []int
	for _, n := range []int{
		1, 2, 3, 4, 7, 64, 511, 512, 513, 1023, 1024, 4095, 4096, 4097, 8191, 3*4096 + 1, 16383, 16384, 16385, 65535, 65536,
		b.fab.InCapsule - 1, b.fab.InCapsule, b.fab.InCapsule + 1,
		b.fab.MaxData - 1, b.fab.MaxData,
	} {
		if n > 0 && n <= b.fab.MaxData {
			all = append(all, n)
		}
	}
	return all
}

// margin is memory around data that nobody may touch.
const margin = 64

// guarded returns n bytes in the midst of others.
func guarded(n int) (whole, data []byte) {
	whole = make([]byte, n+2*margin)
	for i := range whole {
		whole[i] = 0xEE
	}
	return whole, whole[margin : margin+n : margin+n]
}

func checkMargins(b *bench, whole []byte) {
	b.Helper()
	for i := range margin {
		if whole[i] != 0xEE || whole[len(whole)-1-i] != 0xEE {
			b.Errorf("memory beside %d bytes of data was written", len(whole)-2*margin)
			return
		}
	}
}

// transferSizes moves data of all sizes one way, each size by itself and all at
// once.
func transferSizes(p *pair, op nvme.IOOpcode) {
	all := p.sizes()
	batches := [][]int{all}
	for _, n := range all {
		batches = append(batches, []int{n})
	}
	for _, sizes := range batches {
		for len(sizes) > 0 {
			n := min(len(sizes), p.depth)
			var reqs []*hostRequest
			var wholes [][]byte
			for i, size := range sizes[:n] {
				whole, data := guarded(size)
				if op == nvme.IOWrite {
					fill(data, byte(i+size))
				}
				wholes = append(wholes, whole)
				reqs = append(reqs, p.request(op, uint32(byte(i+size)), data))
			}
			p.send(reqs...)
			p.wait(reqs...)
			for i, r := range reqs {
				if r.Completion.Result != uint64(sizes[i]) {
					p.Errorf("the controller saw %d bytes of %d", r.Completion.Result, sizes[i])
				}
				if _, at := same(r.Data, byte(i+sizes[i])); at >= 0 {
					p.Errorf("%v of %d bytes: data differ at byte %d", op, sizes[i], at)
				}
				checkMargins(p.bench, wholes[i])
			}
			sizes = sizes[n:]
		}
	}
}

// Data of every size, in capsules and not, reaches the controller.
func dataToController(b *bench) {
	p := b.connect(1, 16)
	transferSizes(p, nvme.IOWrite)
	p.disconnect()
}

// Data of every size reaches the host, and nothing beside it is written.
func dataToHost(b *bench) {
	p := b.connect(1, 16)
	transferSizes(p, nvme.IORead)
	p.disconnect()
}

// Admin queues have no in-capsule data, and move data nevertheless: Fabrics
// commands by the direction of their type, others by that of their opcode.
func adminQueueData(b *bench) {
	p := b.connect(0, 32)
	transferSizes(p, nvme.IOWrite)
	transferSizes(p, nvme.IORead)
	connect := p.request(0, 9, make([]byte, nvme.ConnectDataSize))
	fill(connect.Data, 9)
	c := nvme.MakeCommand(connect.Command[:])
	c.PutConnect(nvme.ConnectCommand{SQSize: 31})
	c.SetCDW(10, 9)
	p.send(connect)
	p.wait(connect)
	if connect.Completion.Result != nvme.ConnectDataSize {
		b.Errorf("the controller saw %d bytes of Connect data", connect.Completion.Result)
	}
	get := p.request(0, 0, nil)
	nvme.MakeCommand(get.Command[:]).PutPropertyGet(nvme.PropertyCAP)
	p.send(get)
	p.wait(get)
	p.disconnect()
}

// The core may send memory of its own, in pieces of any size, which it has back
// with Sent.
func dataOfTheCore(b *bench) {
	const length = 10000
	sent := make(chan bool, 64)
	b.env.Core.handle = func(q *Queue, r *transport.Request) {
		var pieces [][]byte
		seed := byte(r.Command.CDW(10))
		for left, n := r.Length, 1; left > 0; n = n*3 + 1 {
			piece := make([]byte, min(n, left))
			seed = fill(piece, seed)
			pieces = append(pieces, piece)
			left -= len(piece)
		}
		r.Data = pieces
		q.complete(r, nvme.Success, uint64(r.Length))
		if q.state[r.Index] != sending {
			return // Sent within Complete: nothing to be said against it
		}
		sent <- true
	}
	p := b.connect(1, 16)
	var reqs []*hostRequest
	for i := range 16 {
		reqs = append(reqs, p.request(nvme.IORead, uint32(i), make([]byte, min(length, b.fab.MaxData))))
	}
	p.send(reqs...)
	p.wait(reqs...)
	for i, r := range reqs {
		if _, at := same(r.Data, byte(i)); at >= 0 {
			b.Errorf("request %d: data differ at byte %d", i, at)
		}
	}
	p.disconnect()
}

// With a status other than success the host gets no data.
func statusWithoutData(b *bench) {
	b.env.Core.handle = func(q *Queue, r *transport.Request) {
		q.reserve(r, r.Length, func(r *transport.Request, err error) {
			for _, d := range r.Data {
				for i := range d {
					d[i] = 0xBB
				}
			}
			q.complete(r, nvme.UnrecoveredReadError, 0)
		})
	}
	p := b.connect(1, 16)
	for _, n := range p.sizes() {
		_, data := guarded(n)
		r := p.request(nvme.IORead, 0, data)
		p.send(r)
		receive(b, "the completion", r.done)
		if r.Err != nil || r.Completion.Status != nvme.UnrecoveredReadError {
			b.Errorf("%d bytes: %v, %v", n, r.Err, r.Completion.Status)
		}
		for i, v := range data {
			if v != 0xEE {
				b.Fatalf("byte %d of %d was written by a command that failed", i, n)
			}
		}
	}
	p.disconnect()
}

// A write that is refused needs no Pull.
func writeWithoutPull(b *bench) {
	b.env.Core.handle = func(q *Queue, r *transport.Request) {
		q.complete(r, nvme.NamespaceWriteProtected.WithDNR(), 0)
	}
	p := b.connect(1, 8)
	for _, n := range p.sizes() {
		var reqs []*hostRequest
		for range 8 {
			reqs = append(reqs, p.request(nvme.IOWrite, 0, make([]byte, n)))
		}
		p.send(reqs...)
		for _, r := range reqs {
			receive(b, "the completion", r.done)
			if r.Err != nil || r.Completion.Status != nvme.NamespaceWriteProtected.WithDNR() {
				b.Errorf("%d bytes: %v, %v", n, r.Err, r.Completion.Status)
			}
		}
	}
	p.disconnect()
}

// Data beyond the limit is refused where it is submitted.
func tooMuchData(b *bench) {
	p := b.connect(1, 8)
	r := p.request(nvme.IOWrite, 0, make([]byte, b.fab.MaxData+1))
	p.run(func() {
		if err := r.submit(); err == nil {
			b.Errorf("%d bytes were submitted, the limit is %d", len(r.Data), b.fab.MaxData)
		}
	})
	ok := p.request(nvme.IOFlush, 0, nil)
	p.send(ok)
	p.wait(ok)
	p.disconnect()
}

// overbook connects a queue that is deeper than the buffers reach, and returns
// requests that together need more.
func overbook(b *bench, depth int) (*pair, []*hostRequest) {
	p := b.connect(1, depth)
	var reqs []*hostRequest
	for i := range depth {
		op := nvme.IORead
		data := make([]byte, b.fab.MaxData)
		if i%2 == 1 {
			op = nvme.IOWrite
			fill(data, byte(i))
		}
		reqs = append(reqs, p.request(op, uint32(byte(i)), data))
	}
	return p, reqs
}

// Buffers are bounded: who finds none waits for those that others give back.
func buffersAreWaitedFor(b *bench) {
	const depth = 16
	// The core holds what it has got until nobody gets any more.
	b.env.Core.handle = func(q *Queue, r *transport.Request) {
		then := func(r *transport.Request, err error) {
			if err != nil {
				q.errorf("no buffer: %v", err)
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
	most := depth
	if b.fab.Pool > 0 {
		most = min(depth, int(b.fab.Pool)/b.fab.MaxData)
		if most == depth {
			b.Logf("a pool of %d bytes is not small: nobody waits", b.fab.Pool)
		}
	}
	for left := depth; left > 0; {
		p.until("a request with a buffer", func() bool {
			n := 0
			p.core.run(func() { n = len(p.core.held) })
			if n > most {
				b.Fatalf("%d requests of %d bytes have buffers, the pool has %d bytes", n, b.fab.MaxData, b.fab.Pool)
			}
			return n > 0
		})
		p.core.run(func() {
			for _, r := range p.core.held {
				p.core.carriedOut(r, nil)
				left--
			}
			p.core.held = p.core.held[:0]
		})
	}
	p.wait(reqs...)
	for i, r := range reqs {
		if _, at := same(r.Data, byte(i)); at >= 0 {
			b.Errorf("request %d: data differ at byte %d", i, at)
		}
	}
	p.core.run(func() {
		if b.fab.Pool > 0 && most < depth && p.core.refused == 0 {
			b.Errorf("nobody had to wait, with %d bytes for %d requests of %d", b.fab.Pool, depth, b.fab.MaxData)
		}
	})
	p.disconnect()
}

// A request that waits for a buffer can be taken back, once; those behind it
// move up. One that does not wait cannot.
func cancelWhileWaiting(b *bench) {
	const depth = 16
	var all []*transport.Request
	b.env.Core.handle = func(q *Queue, r *transport.Request) {
		all = append(all, r)
		if q.fabric.Cancel(r) {
			q.errorf("request %d was taken back, and it was the core's", r.Index)
		}
		then := func(r *transport.Request, err error) {
			if err != nil {
				q.errorf("no buffer: %v", err)
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
	canceled := 0
	p.core.run(func() {
		for i, r := range all {
			if i%3 == 0 || p.core.state[r.Index] != asked || !p.core.fabric.Cancel(r) {
				continue
			}
			canceled++
			p.core.state[r.Index] = here
			if p.core.fabric.Cancel(r) {
				b.Errorf("request %d was taken back twice", r.Index)
			}
			p.core.complete(r, nvme.AbortRequested, 0)
		}
	})
	if most := int(b.fab.Pool) / b.fab.MaxData; b.fab.Pool > 0 && most < depth/2 && canceled == 0 {
		b.Errorf("none of %d requests could be taken back, and there are buffers for %d", depth, most)
	}
	for left := depth - canceled; left > 0; {
		p.until("a request with a buffer", func() bool {
			n := 0
			p.core.run(func() { n = len(p.core.held) })
			return n > 0
		})
		p.core.run(func() {
			for _, r := range p.core.held {
				if p.core.fabric.Cancel(r) {
					b.Errorf("request %d was taken back, and it had its data", r.Index)
				}
				p.core.carriedOut(r, nil)
				left--
			}
			p.core.held = p.core.held[:0]
		})
	}
	aborted := 0
	for i, r := range reqs {
		receive(b, "the completion", r.done)
		if r.Err == nil && r.Completion.Status == nvme.AbortRequested {
			aborted++
			continue
		}
		if _, at := same(r.Data, byte(i)); at >= 0 || r.Err != nil {
			b.Errorf("request %d: %v, or data differ at byte %d", i, r.Err, at)
		}
	}
	if aborted != canceled {
		b.Errorf("%d requests were taken back, %d were answered so", canceled, aborted)
	}
	p.disconnect()
}
