package rdma

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
)

// sharedReceives is the receives that the I/O queues of a shard share. Admin
// queues have receives of their own, so that a busy shard can always be
// administered.
//
// A capsule leaves its receive in the round in which it came: a command is copied
// to the queue's own memory, and with it its data, unless the queue has in place
// less than its share. So nobody's commands, however long they take and however
// many they are, keep others from finding a receive. Only when the pool has
// nothing for data either does it stay where it is. Then running low is
// back-pressure: the provider answers RNR until receives come home.
type sharedReceives struct {
	v        *vector
	srq      verbs.SRQ
	mem      memory
	receives []receive
	home     receiveList // to be posted at the end of the round
	post     shard.Flusher

	held countedInt // receives that hold a command
	mrs  countedInt

	queues atomic.Int64 // I/O queues that have a reservation

	reserve lockdep.Mutex[reserveMu]
	left    int // guarded by reserve: receives not reserved
}

type reserveMu struct{} // innermost

// sharedReserve is how many receives of an SRQ are reserved for an I/O queue. As
// capsules do not stay in them, with one each all find one in their turn.
const sharedReserve = 1

// share is how many receives a queue may keep. What queues keep now is never all:
// as shares shrink with every queue that comes, those there were leave it some.
func (s *sharedReceives) share() int {
	return len(s.receives) / (int(s.queues.Load()) + 1)
}

// low reports whether there are fewer receives to be found than queues.
func (s *sharedReceives) low() bool {
	return len(s.receives)-int(s.held.Load()) < int(s.queues.Load())
}

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
	v.srq.queues.Add(1)
	return nil
}

func (v *vector) unreserveShared(q *queue) {
	if v.srq == nil || q.qid == 0 {
		return
	}
	v.srq.reserve.Lock()
	defer v.srq.reserve.Unlock()
	v.srq.left += min(sharedReserve, q.depth)
	v.srq.queues.Add(-1)
}

// A shelf is where the capsules of one queue go from shared receives.
type shelf struct {
	size, made int         // slots that there may be, and are
	free       receiveList // of slots
}

// slotFootprint is what a command on the shelf costs, roughly.
const slotFootprint = nvme.CommandSize + 128

// slotsPer is how many slots there are for each command that the host may have
// outstanding: while its request waits for the ACK of a response, the next has
// come.
const slotsPer = 2

func newShelf(depth int) *shelf { return &shelf{size: slotsPer * depth} }

// take returns a free slot, nil if there is none.
func (sh *shelf) take() *receive {
	if sh.free.head == nil && sh.made < sh.size {
		n := min(requestChunk, sh.size-sh.made)
		sh.made += n
		slots, chunks, buf := make([]receive, n), make([]chunk, n), make([]byte, n*nvme.CommandSize)
		for i := range slots {
			rc := &slots[i]
			rc.buf = buf[i*nvme.CommandSize:][:nvme.CommandSize:nvme.CommandSize]
			rc.shelf, rc.chunks = sh, chunks[i:i:i+1]
			sh.free.push(rc)
		}
	}
	return sh.free.pop()
}

// shelve has a capsule leave its shared receive, if it can, and returns where it
// is.
func (q *queue) shelve(rc *receive) *receive {
	data := rc.n - nvme.CommandSize
	if data > 0 && q.rx.inPlace <= rc.shared.share() {
		return rc
	}
	slot := q.rx.shelf.take()
	if data > 0 {
		var ok bool
		if slot.chunks, ok = q.v.pool.take(q, slot.chunks, data); !ok {
			q.rx.shelf.free.push(slot)
			return rc
		}
		copy(slot.chunks[0].bytes(), rc.buf[nvme.CommandSize:rc.n])
	}
	copy(slot.buf, rc.buf)
	slot.n = rc.n
	q.put(rc)
	return slot
}

// hoards reports whether the queue keeps more than its share of receives, and
// others need them.
func (q *queue) hoards() bool {
	s := q.rx.shared
	return s != nil && q.rx.inPlace > s.share() && s.low()
}
