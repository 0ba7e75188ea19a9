package bdev

import (
	"slices"
	"sync"
	"time"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/shard"
)

// Faulty is a device in front of another that fails and delays ops on demand:
// for tests, and for trying out what hosts do. Without a demand it passes ops
// on as they come.
//
// Power loss: as the device behind it.
type Faulty struct {
	dev Device
	ops lockdep.WaitGroup[faultyOps] // from Submit to Done

	mu      lockdep.Mutex[faultyMu]
	changed sync.Cond   // on mu: held has grown
	fails   []failure   // guarded by mu
	holds   []Kind      // guarded by mu: kinds to hold; nil with holding: all
	holding bool        // guarded by mu
	held    []*faultyOp // guarded by mu
	delays  []delay     // guarded by mu: the first that matches counts
	delayed []*faultyOp // guarded by mu
	closed  bool        // guarded by mu
}

// A failure is a demand for ops to fail.
type failure struct {
	kinds []Kind // empty: all
	left  int
	err   error
}

// A delay is a demand for ops to take longer.
type delay struct {
	kinds []Kind // empty: all
	by    time.Duration
}

// A faultyOp is an op on its way through: what the device behind gets is a
// copy, so that its end passes here.
type faultyOp struct {
	outer *Op
	inner Op
	task  shard.Task
	timer shard.Timer // of one that is delayed; armed on its shard
}

type (
	faultyMu  struct{} // innermost
	faultyOps struct{}
)

func (faultyMu) String() string  { return "bdev faulty" }
func (faultyOps) String() string { return "bdev faulty ops" }

// NewFaulty returns a device in front of dev, which it closes when it is
// closed.
func NewFaulty(dev Device) *Faulty {
	f := &Faulty{dev: dev}
	f.changed.L = &f.mu
	return f
}

// Fail makes the next n ops of the given kinds, or of any, fail with err. Later
// demands are served when earlier ones are used up.
func (f *Faulty) Fail(n int, err error, kinds ...Kind) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fails = append(f.fails, failure{kinds, n, err})
}

// Hold keeps ops of the given kinds, or all, from now on, until Release.
func (f *Faulty) Hold(kinds ...Kind) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.holding, f.holds = true, kinds
}

// Delay has ops of the given kinds, or all, wait for so long, from now on,
// before they are passed on. Zero ends that; an earlier demand for the same kinds
// counts no more.
func (f *Faulty) Delay(by time.Duration, kinds ...Kind) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.delays = slices.DeleteFunc(f.delays, func(d delay) bool { return slices.Equal(d.kinds, kinds) })
	if by > 0 {
		f.delays = append(f.delays, delay{kinds, by})
	}
}

// Held returns how many ops are held.
func (f *Faulty) Held() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.held)
}

// WaitHeld waits until at least n ops are held.
func (f *Faulty) WaitHeld(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.held) < n {
		f.changed.Wait()
	}
}

// Release ends Hold and passes on what is held, from the ops' shards.
func (f *Faulty) Release() {
	f.mu.Lock()
	held := f.held
	f.held, f.holding, f.holds = nil, false, nil
	f.mu.Unlock()
	for _, o := range held {
		if !o.outer.Shard.Post(&o.task) {
			f.ops.Done() // the shard is closed, and with it whoever would have been told
		}
	}
}

// Info returns the geometry of the device behind.
func (f *Faulty) Info() Info { return f.dev.Info() }

// Submit fails, holds or passes op on; see [Device].
func (f *Faulty) Submit(op *Op) {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		op.Finish(ErrClosed)
		return
	}
	if err := f.failLocked(op.Kind); err != nil {
		f.mu.Unlock()
		op.Finish(err)
		return
	}
	f.ops.Add(1)
	o := &faultyOp{outer: op, inner: Op{
		Kind: op.Kind, Offset: op.Offset, Length: op.Length, Data: op.Data, FUA: op.FUA, Unmap: op.Unmap, Shard: op.Shard,
	}}
	o.task.Fn = func() { f.dev.Submit(&o.inner) }
	o.inner.Done = func(inner *Op) {
		op.Finish(inner.Err)
		f.ops.Done()
	}
	if f.holding && matches(f.holds, op.Kind) {
		f.held = append(f.held, o)
		f.mu.Unlock()
		f.changed.Broadcast()
		return
	}
	if i := slices.IndexFunc(f.delays, func(d delay) bool { return matches(d.kinds, op.Kind) }); i >= 0 {
		by := f.delays[i].by
		f.delayed = append(f.delayed, o)
		f.mu.Unlock()
		o.timer.Fn = func() {
			if f.undelay(o) {
				f.dev.Submit(&o.inner)
			}
		}
		op.Shard.Arm(&o.timer, op.Shard.Now()+by)
		return
	}
	f.mu.Unlock()
	f.dev.Submit(&o.inner)
}

// undelay takes o out of those that are delayed, and reports whether it was
// there.
func (f *Faulty) undelay(o *faultyOp) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.Index(f.delayed, o)
	if i >= 0 {
		f.delayed = slices.Delete(f.delayed, i, i+1)
	}
	return i >= 0
}

func matches(kinds []Kind, k Kind) bool { return len(kinds) == 0 || slices.Contains(kinds, k) }

// Cancel takes back an op that is held or delayed; see [Canceler].
func (f *Faulty) Cancel(op *Op) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, o := range f.delayed {
		if o.outer == op {
			f.delayed = slices.Delete(f.delayed, i, i+1)
			op.Shard.Disarm(&o.timer)
			f.ops.Done()
			return true
		}
	}
	for i, o := range f.held {
		if o.outer == op {
			f.held = slices.Delete(f.held, i, i+1)
			f.ops.Done()
			return true
		}
	}
	return false
}

// failLocked returns what an op of the kind is to fail with, if it is.
func (f *Faulty) failLocked(k Kind) error {
	for i := range f.fails {
		if d := &f.fails[i]; matches(d.kinds, k) {
			err := d.err
			if d.left--; d.left <= 0 {
				f.fails = slices.Delete(f.fails, i, i+1)
			}
			return err
		}
	}
	return nil
}

// Close passes on what is held or delayed, waits for it and closes the device
// behind; see [Device].
func (f *Faulty) Close() error {
	f.mu.Lock()
	f.closed = true
	delayed := f.delayed
	f.delayed = nil
	f.mu.Unlock()
	for _, o := range delayed {
		o.task.Fn = func() {
			o.outer.Shard.Disarm(&o.timer)
			f.dev.Submit(&o.inner)
		}
		if !o.outer.Shard.Post(&o.task) {
			f.ops.Done() // as in Release
		}
	}
	f.Release()
	f.ops.Wait()
	return f.dev.Close()
}
