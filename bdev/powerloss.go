package bdev

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/shard"
)

// ErrPowerLoss is what ops end with while a [PowerLoss] device has no power.
var ErrPowerLoss = errors.New("power lost")

// PowerLoss is a device in front of another that loses power on demand: for
// tests. It has a volatile write cache: what was written stays in memory until
// a Flush, or FUA, has it written to the device behind, which stands for stable
// storage. Deallocate does nothing.
//
// Power loss: of each logical block that has been written since it was last
// flushed, Cut keeps what was flushed or any later write, by chance, block for
// block and whatever the order of the writes was; never a part of a block.
type PowerLoss struct {
	dev  Device
	info Info
	ops  lockdep.WaitGroup[powerOps] // from Submit to Done, of those that take time

	mu     lockdep.Mutex[powerMu]
	random *rand.Rand              // guarded by mu
	cache  map[uint64]*cachedBlock // guarded by mu: by number
	jobs   []*powerJob             // guarded by mu: the first is under way
	off    bool                    // guarded by mu
	closed bool                    // guarded by mu
}

// A cachedBlock is a block that the device behind has not got. Its versions do
// not change.
type cachedBlock struct {
	kept     []byte   // has survived a cut; nil: what the device behind has
	versions [][]byte // oldest first
}

// last returns what the block reads as.
func (c *cachedBlock) last() []byte {
	if n := len(c.versions); n > 0 {
		return c.versions[n-1]
	}
	return c.kept
}

const (
	powerVersions = 8    // of a block that are remembered: the latest
	powerMost     = 8192 // blocks in the cache from which on a write waits for room
	powerRun      = 256  // blocks that are written back together
)

type (
	powerMu  struct{} // innermost
	powerOps struct{}
)

func (powerMu) String() string  { return "bdev power loss" }
func (powerOps) String() string { return "bdev power loss ops" }

// NewPowerLoss returns a device in front of dev, which it closes when it is
// closed. What cuts keep depends on the seed.
func NewPowerLoss(dev Device, seed uint64) *PowerLoss {
	p := &PowerLoss{dev: dev, info: dev.Info(), random: rand.New(rand.NewPCG(seed, 0)), cache: make(map[uint64]*cachedBlock)}
	p.info.VolatileWriteCache = true
	p.info.ZeroAfterDeallocate = false
	return p
}

// Info returns the geometry of the device behind.
func (p *PowerLoss) Info() Info { return p.info }

// Cut takes the power away. Ops that are under way end, most with
// [ErrPowerLoss], before it returns, and so do those submitted until Restore.
// It must not be called on a shard.
func (p *PowerLoss) Cut() {
	p.mu.Lock()
	p.off = true
	p.mu.Unlock()
	p.ops.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	blocks := p.cachedLocked(0, p.info.Blocks) // in their order: chance does not depend on that of maps
	for _, b := range blocks {
		c := p.cache[b]
		if k := p.random.IntN(len(c.versions) + 1); k > 0 {
			c.kept = c.versions[k-1]
		}
		if c.versions = nil; c.kept == nil {
			delete(p.cache, b)
		}
	}
}

// Restore gives the power back after Cut.
func (p *PowerLoss) Restore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = false
}

// cachedLocked returns the numbers of the blocks of [from, to) that are in the
// cache, ascending.
func (p *PowerLoss) cachedLocked(from, to uint64) []uint64 {
	var all []uint64
	for b := range p.cache {
		if from <= b && b < to {
			all = append(all, b)
		}
	}
	slices.Sort(all)
	return all
}

// Submit starts op; see [Device].
func (p *PowerLoss) Submit(op *Op) {
	if err := p.check(op); err != nil {
		op.Finish(err)
		return
	}
	p.mu.Lock()
	if p.closed || p.off {
		err := ErrPowerLoss
		if p.closed {
			err = ErrClosed
		}
		p.mu.Unlock()
		op.Finish(err)
		return
	}
	j := &powerJob{p: p, op: op, to: p.info.Blocks}
	switch op.Kind {
	case Read, Compare:
		p.ops.Add(1)
		j.overlayLocked()
		p.mu.Unlock()
		j.read()
		return
	case Write, WriteZeroes:
		p.storeLocked(op)
		if op.FUA {
			j.from, j.to = p.blocksOf(op)
		} else if len(p.cache) < powerMost {
			p.mu.Unlock()
			op.Finish(nil)
			return
		}
	case Deallocate:
		p.mu.Unlock()
		op.Finish(nil)
		return
	}
	p.ops.Add(1)
	p.jobs = append(p.jobs, j)
	alone := len(p.jobs) == 1
	p.mu.Unlock()
	if alone {
		j.begin()
	}
}

func (p *PowerLoss) check(op *Op) error {
	if op.Kind > Compare {
		return errKind(op.Kind)
	}
	if err := op.inRange(p.info); err != nil {
		return err
	}
	switch op.Kind {
	case Read, Write, Compare:
		if op.dataLen() < op.Length {
			return errShortData(op)
		}
	}
	if p.info.ReadOnly && op.Kind.changes() {
		return ErrReadOnly
	}
	return nil
}

// blocksOf returns the blocks that op is about.
func (p *PowerLoss) blocksOf(op *Op) (from, to uint64) {
	bs := uint64(p.info.BlockSize)
	return op.Offset / bs, (op.Offset + op.Length) / bs
}

// storeLocked puts what op writes into the cache.
func (p *PowerLoss) storeLocked(op *Op) {
	bs := uint64(p.info.BlockSize)
	data := make([]byte, bs)
	if op.Kind == Write {
		data = make([]byte, op.Length)
		copyData(op.Data, 0, data, false)
	}
	from, to := p.blocksOf(op)
	for b := from; b < to; b++ {
		c := p.cache[b]
		if c == nil {
			c = &cachedBlock{}
			p.cache[b] = c
		}
		if len(c.versions) == powerVersions {
			c.versions = slices.Delete(c.versions, 0, 1)
		}
		c.versions = append(c.versions, data[:bs:bs])
		if op.Kind == Write {
			data = data[bs:]
		}
	}
}

// A powerJob is an op that takes time: a read from the device behind, under
// what the cache has, or one that has the cache written back.
type powerJob struct {
	p  *PowerLoss
	op *Op

	overlay map[uint64][]byte // of a read: what the cache had when it was submitted
	got     []byte            // of a compare

	from, to uint64   // what is to be written back
	blocks   []uint64 // those of it that are left
	data     [][]byte // and what is in them

	inner Op
	task  shard.Task
}

// submit has the device behind do something.
func (j *powerJob) submit(kind Kind, offset uint64, data [][]byte, done func(error)) {
	in := &j.inner
	in.Kind, in.Offset, in.Data, in.Shard = kind, offset, data, j.op.Shard
	in.Length = in.dataLen()
	in.Done = func(in *Op) { done(in.Err) }
	j.p.dev.Submit(in)
}

func (j *powerJob) overlayLocked() {
	from, to := j.p.blocksOf(j.op)
	for b := from; b < to; b++ {
		if c := j.p.cache[b]; c != nil {
			if j.overlay == nil {
				j.overlay = make(map[uint64][]byte)
			}
			j.overlay[b] = c.last()
		}
	}
}

func (j *powerJob) read() {
	op := j.op
	data := op.Data
	j.got = make([]byte, op.Length)
	j.submit(Read, op.Offset, [][]byte{j.got}, func(err error) {
		bs := uint64(j.p.info.BlockSize)
		for b, content := range j.overlay {
			copy(j.got[b*bs-op.Offset:], content)
		}
		switch {
		case err != nil:
		case op.Kind == Read:
			copyData(data, 0, j.got, true)
		default:
			want := make([]byte, op.Length)
			copyData(data, 0, want, false)
			if !bytes.Equal(want, j.got) {
				err = ErrCompare
			}
		}
		j.end(err)
	})
}

// end ends the op, on its shard.
func (j *powerJob) end(err error) {
	p := j.p
	p.mu.Lock()
	if p.off {
		err = ErrPowerLoss // nobody hears what is said without power
	}
	p.mu.Unlock()
	j.op.Finish(err)
	p.ops.Done()
}

// begin writes back, on the op's shard.
func (j *powerJob) begin() {
	p := j.p
	p.mu.Lock()
	j.blocks = p.cachedLocked(j.from, j.to)
	for _, b := range j.blocks {
		j.data = append(j.data, p.cache[b].last())
	}
	p.mu.Unlock()
	j.next()
}

// next writes the blocks back that come next and lie together.
func (j *powerJob) next() {
	p := j.p
	n := 0
	for n < len(j.blocks) && n < powerRun && j.blocks[n] == j.blocks[0]+uint64(n) {
		n++
	}
	p.mu.Lock()
	off := p.off
	p.mu.Unlock()
	switch {
	case off:
		j.leave(ErrPowerLoss)
	case n == 0:
		j.submit(Flush, 0, nil, j.leave)
	default:
		j.submit(Write, j.blocks[0]*uint64(p.info.BlockSize), j.data[:n], func(err error) {
			if err != nil {
				j.leave(err)
				return
			}
			p.mu.Lock()
			for i, b := range j.blocks[:n] {
				p.writtenLocked(b, j.data[i])
			}
			p.mu.Unlock()
			j.blocks, j.data = j.blocks[n:], j.data[n:]
			j.next()
		})
	}
}

// writtenLocked forgets what the device behind has now: that version of the
// block, and those before it.
func (p *PowerLoss) writtenLocked(b uint64, data []byte) {
	c := p.cache[b]
	c.kept = nil
	for i, v := range c.versions {
		if &v[0] == &data[0] {
			c.versions = slices.Delete(c.versions, 0, i+1)
			break
		}
	}
	if len(c.versions) == 0 {
		delete(p.cache, b)
	}
}

// leave ends a job that has written back, and has the next begin: one at a time,
// or an old version could come to lie over a new one.
func (j *powerJob) leave(err error) {
	p := j.p
	p.mu.Lock()
	p.jobs = slices.Delete(p.jobs, 0, 1)
	for len(p.jobs) > 0 {
		n := p.jobs[0]
		n.task.Fn = n.begin
		if n.op.Shard.Post(&n.task) {
			break
		}
		p.jobs = slices.Delete(p.jobs, 0, 1)
		p.ops.Done() // the shard is closed, and with it whoever would have been told
	}
	p.mu.Unlock()
	j.end(err)
}

// Close loses what is in the cache, waits for the ops, and closes the device
// behind; see [Device]. Shards that have ops under way must not have been closed.
func (p *PowerLoss) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.ops.Wait()
	return p.dev.Close()
}
