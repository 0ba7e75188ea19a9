package rdma

import (
	"errors"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
)

// A vector is what the queues of a listener on one shard share.
type vector struct {
	shard *shard.Shard
	pool  *pool
	srq   *sharedReceives // nil without an SRQ

	// Scratch space for posting. Posts read it during the call only, and
	// nothing else of the shard runs meanwhile.
	recvs []verbs.RecvWR
	sends []verbs.SendWR
	sges  []verbs.SGE

	waited bool                           // somebody waits for buffers to come home
	idle   lockdep.Completion[vectorIdle] // they have
}

// vectorIdle is the class of the wait for a vector's buffers.
type vectorIdle struct{}

// newVector makes what the queues of a shard share. It waits for the shard.
func newVector(l *Listener, index int, s *shard.Shard) (*vector, error) {
	v := &vector{shard: s, pool: newPool(s, l.pd, l.cfg.PoolSize)}
	v.pool.returned = v.checkIdle
	if !l.cfg.UseSRQ {
		return v, nil
	}
	var err error
	if v.srq, err = newSharedReceives(v, l.pd, index, l.cfg.SRQSize, nvme.CommandSize+l.cfg.InlineDataSize); err != nil {
		return nil, err
	}
	return v, nil
}

// home is closed when no buffer is out any more. There are no queues when it is
// called, so none goes out again. It does not wait for the shard.
func (v *vector) home() <-chan struct{} {
	if !v.shard.Post(&shard.Task{Fn: func() { v.waited = true; v.checkIdle() }}) {
		v.idle.Complete() // a closed shard: close will say what is left
	}
	return v.idle.Done()
}

func (v *vector) checkIdle() {
	if v.waited && v.pool.inUse.Load() == 0 && (v.srq == nil || v.srq.held.Load() == 0) {
		v.idle.Complete()
	}
}

// freeDevice gives back what the device knows of. Orphaned requests may still
// have buffers: they are ordinary memory from now on. It waits for the shard.
func (v *vector) freeDevice() error {
	var errs []error
	if v.srq != nil {
		errs = append(errs, v.srq.close())
	}
	return errors.Join(append(errs, v.pool.deregister())...)
}
