package target_test

import (
	"sync"
	"testing"

	"github.com/fabrid/fabrid/bdev"
)

// A recorder is a device that notes what comes, and checks that it may.
type recorder struct {
	bdev.Device
	t    testing.TB
	info func(*bdev.Info)
	fail func(bdev.Kind) error // on the shard

	mu  sync.Mutex
	ops []record
}

// A record is an op that was.
type record struct {
	Kind           bdev.Kind
	Offset, Length uint64
	FUA, Unmap     bool
}

func (r *recorder) Info() bdev.Info {
	i := r.Device.Info()
	if r.info != nil {
		r.info(&i)
	}
	return i
}

func (r *recorder) Submit(op *bdev.Op) {
	i := r.Device.Info()
	bs := uint64(i.BlockSize)
	if op.Kind != bdev.Flush {
		if err := i.Check(op.Offset/bs, op.Length/bs); err != nil || op.Offset%bs != 0 || op.Length%bs != 0 || op.Length == 0 {
			r.t.Errorf("%v of %d+%d: %v", op.Kind, op.Offset, op.Length, err)
		}
	}
	var n uint64
	for _, d := range op.Data {
		n += uint64(len(d))
	}
	switch op.Kind {
	case bdev.Read, bdev.Write, bdev.Compare:
		if n != op.Length {
			r.t.Errorf("%v of %d bytes with %d of data", op.Kind, op.Length, n)
		}
	default:
		if n != 0 {
			r.t.Errorf("%v with %d bytes of data", op.Kind, n)
		}
	}
	r.mu.Lock()
	r.ops = append(r.ops, record{op.Kind, op.Offset, op.Length, op.FUA, op.Unmap})
	r.mu.Unlock()
	if r.fail != nil {
		if err := r.fail(op.Kind); err != nil {
			op.Finish(err)
			return
		}
	}
	r.Device.Submit(op)
}

// take returns what has come since it was last called.
func (r *recorder) take() []record {
	r.mu.Lock()
	defer r.mu.Unlock()
	ops := r.ops
	r.ops = nil
	return ops
}
