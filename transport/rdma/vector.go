package rdma

import (
	"errors"
	"fmt"

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

// sharedReceives is the receives that the I/O queues of a shard share. Admin
// queues have receives of their own, so that a busy shard can always be
// administered, and every I/O queue has a reservation: when nobody is above
// his, nobody finds none. Running low is back-pressure: the provider answers
// RNR until receives come home.
type sharedReceives struct {
	v        *vector
	srq      verbs.SRQ
	mem      memory
	receives []receive
	home     receiveList // to be posted at the end of the round
	post     shard.Flusher

	held countedInt // receives that hold a command
	mrs  countedInt

	reserve lockdep.Mutex[reserveMu]
	left    int // guarded by reserve: receives not reserved
}

type reserveMu struct{} // innermost

// sharedReserve is how many receives of an SRQ are reserved for an I/O queue.
const sharedReserve = 4

func newSharedReceives(v *vector, pd verbs.PD, index, size, capsule int) (*sharedReceives, error) {
	s := &sharedReceives{v: v, receives: make([]receive, size), left: size}
	s.post.Fn = s.postHome
	var err error
	if s.mem, err = newMemory(pd, size*capsule); err != nil {
		return nil, err
	}
	s.mrs.Add(s.mem.registered())
	for i := range s.receives {
		rc := &s.receives[i]
		rc.init(i, s.mem.buf[i*capsule:(i+1)*capsule], s.mem.lkey)
		rc.shared = s
		s.home.push(rc)
	}
	if runErr := v.shard.Run(func() {
		s.srq, err = pd.CreateSRQ(verbs.SRQAttr{Vector: index, MaxWR: size, MaxSGE: 1})
		if err == nil {
			s.postHome()
		}
	}); runErr != nil {
		err = runErr
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("rdma: SRQ of %d receives: %w", size, err), s.mem.free())
	}
	return s, nil
}

// put gives a receive back.
func (s *sharedReceives) put(rc *receive) {
	s.home.push(rc)
	s.v.shard.Flush(&s.post)
	s.held.Add(-1)
	s.v.checkIdle()
}

func (s *sharedReceives) postHome() {
	wrs := s.v.recvs[:0]
	for rc := s.home.head; rc != nil; rc = rc.next {
		wrs = append(wrs, rc.wr())
	}
	s.v.recvs = wrs
	// The SRQ has room for all, so an error says that it is of no use any more;
	// then its queue pairs are told too.
	if len(wrs) > 0 && s.srq.PostRecv(wrs) == nil {
		s.home = receiveList{}
	}
}

func (s *sharedReceives) close() error {
	var err error
	if runErr := s.v.shard.Run(func() { err = s.srq.Destroy() }); runErr != nil {
		err = runErr
	}
	s.mrs.Add(-s.mem.registered())
	return errors.Join(err, s.mem.free())
}

// reserveShared reserves receives for an I/O queue, or refuses it. It may be
// called from any goroutine.
func (v *vector) reserveShared(q *queue) error {
	if v.srq == nil || q.qid == 0 {
		return nil
	}
	v.srq.reserve.Lock()
	defer v.srq.reserve.Unlock()
	n := min(sharedReserve, q.depth)
	if v.srq.left < n {
		return refuse(nvme.RDMACMNoResources, "queue %d: %d shared receives left, need %d", q.qid, v.srq.left, n)
	}
	v.srq.left -= n
	return nil
}

func (v *vector) unreserveShared(q *queue) {
	if v.srq == nil || q.qid == 0 {
		return
	}
	v.srq.reserve.Lock()
	defer v.srq.reserve.Unlock()
	v.srq.left += min(sharedReserve, q.depth)
}
