package load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs"
)

// A stormHost is one host: a device, a name, and a machine that goes through
// the steps of a cycle, one command or connection at a time. It belongs to the
// shard.
type stormHost struct {
	s       *storm
	index   int
	dev     StormDevice
	rng     *rand.Rand
	hostID  nvme.UUID
	hostNQN string

	pd     verbs.PD
	mr     verbs.MR // of mem
	cq     verbs.CQ
	mem    []byte        // the data of a Connect, and what queues send and receive
	queues []*stormQueue // by QID

	step    stormStep
	abortAt StormStage
	vanish  bool // it will leave without a word
	silent  bool // it is not heard any more
	open    int  // connections that are not closed
	lost    bool // something on our side failed: not again at once
	wasLive bool
	aborted bool
	failed  bool // or was refused

	began   time.Duration // when the cycle did
	until   time.Duration // on the shard's clock: the end of Hold
	cntlid  uint16
	cap     nvme.CAP
	granted int // I/O queues

	deadline shard.Timer // of the step
	wake     shard.Timer // to go on
	stopped  shard.Task  // the REQ is on its way, and that was all
	over     shard.Flusher
}

// Memory of a host: the data of a Connect, then a command and a completion for
// each queue.
const (
	stormQueueMem = nvme.CommandSize + nvme.CompletionSize
	// stormIOVA is where the target finds it.
	stormIOVA = 1 << 32
)

// localPause is how long a host waits when it could not even begin.
const localPause = 10 * time.Millisecond

// pollCSTS is the time between two looks at CSTS.
const pollCSTS = time.Millisecond

// newStormHost makes a host. With an error, it is to be freed if it is not nil.
func newStormHost(s *storm, index int, dev StormDevice) (*stormHost, error) {
	h := &stormHost{s: s, index: index, dev: dev, rng: rand.New(rand.NewPCG(s.cfg.Seed, uint64(index)))}
	h.deadline.Fn = h.expired
	h.wake.Fn = h.awake
	h.over.Fn = h.end
	h.stopped.Fn = func() { h.stops(StageREQ) }
	binary.BigEndian.PutUint64(h.hostID[:], h.rng.Uint64())
	binary.BigEndian.PutUint64(h.hostID[8:], h.rng.Uint64())
	h.hostID[6] = h.hostID[6]&0x0F | 0x40 // version 4: by chance
	h.hostID[8] = h.hostID[8]&0x3F | 0x80
	h.hostNQN = nvme.UUIDNQN(h.hostID)

	if n := dev.Device().Attr().NumCompVectors; n != 1 {
		return nil, fmt.Errorf("%d completion vectors, want 1", n)
	}
	var err error
	if h.pd, err = dev.Device().AllocPD(); err != nil {
		return nil, err
	}
	queues := 1 + s.cfg.Queues
	h.mem = make([]byte, nvme.ConnectDataSize+queues*stormQueueMem)
	if h.mr, err = h.pd.RegMR(h.mem, stormIOVA, verbs.AccessLocalWrite|verbs.AccessRemoteRead); err != nil {
		return h, err
	}
	if runErr := s.shard.Run(func() {
		// A send and a receive each, and what is flushed.
		h.cq, err = h.pd.CreateCQ(verbs.CQAttr{Size: 4 * queues, Handler: h.completed})
	}); runErr != nil {
		err = runErr
	}
	if err != nil {
		return h, err
	}
	for i := range queues {
		h.queues = append(h.queues, newStormQueue(h, uint16(i), h.mem[nvme.ConnectDataSize+i*stormQueueMem:][:stormQueueMem:stormQueueMem]))
	}
	return h, nil
}

// free gives back what newStormHost made. The host is idle.
func (h *stormHost) free() error {
	var errs []error
	if h.cq != nil {
		var err error
		runErr := h.s.shard.Run(func() { err = h.cq.Destroy() })
		errs = append(errs, runErr, err)
	}
	if h.mr != nil {
		errs = append(errs, h.mr.Dereg())
	}
	return errors.Join(append(errs, h.pd.Dealloc())...)
}

// enter begins a step, which the deadline bounds.
func (h *stormHost) enter(step stormStep) {
	h.step = step
	h.s.shard.Arm(&h.deadline, h.s.shard.Now()+h.s.cfg.Timeout)
}

// begin begins a cycle.
func (h *stormHost) begin() {
	cfg := &h.s.cfg
	h.began = h.s.now()
	h.abortAt, h.vanish = cfg.AbortAt, h.rng.Float64() < cfg.Vanish
	if h.abortAt == StageRandom {
		for {
			h.abortAt = StormStage(h.rng.IntN(numStops))
			if cfg.Queues > 0 || h.abortAt != StageSetFeatures && h.abortAt != StageBetweenQueues {
				break
			}
		}
	}
	h.lost, h.wasLive, h.aborted, h.failed = false, false, false, false
	h.enter(stepCM)
	h.queues[0].dial(stormAdminDepth)
	switch {
	case h.step != stepCM: // it failed
	case h.abortAt == StageREQ:
		h.s.shard.Post(&h.stopped) // after what dial posted
	case h.abortAt == StageREP:
		// The REQ goes out, and the RTU will not.
		h.s.shard.Post(&shard.Task{Fn: h.hush})
	}
}

func (h *stormHost) hush() {
	if h.step == stepCM && !h.silent {
		h.silent = true
		h.dev.Silence(true)
	}
}

// stops reports whether this stage is where the cycle ends, and ends it.
func (h *stormHost) stops(at StormStage) bool {
	if h.abortAt != at || h.step == stepLeave || h.step == stepIdle {
		return false
	}
	h.aborted = true
	h.s.stats.aborted[at]++
	h.leave(h.vanish)
	return true
}

// established is told of a connection.
func (h *stormHost) established(q *stormQueue) {
	if q.qid == 0 {
		if !h.stops(StageREP) && !h.stops(StageRTU) {
			h.enter(stepConnect)
			q.connect(nvme.ConnectCommand{SQSize: stormAdminDepth - 1, KATO: uint32(h.s.cfg.KATO / time.Millisecond)}, nvme.CNTLIDDynamic)
		}
		return
	}
	switch n := int(q.qid); {
	case n == (h.granted+1)/2 && h.stops(StageBetweenQueues):
	case n < h.granted:
		h.dialIO(n + 1)
	default:
		h.connectIO(1)
	}
}

// depth is the size of I/O queues.
func (h *stormHost) depth() int { return min(h.s.cfg.Depth, int(h.cap.MQES())+1) }

func (h *stormHost) dialIO(qid int) {
	h.enter(stepIOCM)
	h.queues[qid].dial(h.depth())
}

func (h *stormHost) connectIO(qid int) {
	h.enter(stepIOConnect)
	h.queues[qid].connect(nvme.ConnectCommand{SQSize: uint16(h.depth() - 1)}, h.cntlid)
}

// answered takes the completion of the step's command, in the order of
// Linux's host: all I/O queues are established before the first sends Connect.
func (h *stormHost) answered(q *stormQueue, cqe *nvme.Completion) {
	if !cqe.Status.OK() {
		h.refuse(stormReason{step: h.step, status: uint16(cqe.Status.Base())})
		return
	}
	admin := h.queues[0]
	switch h.step {
	case stepConnect:
		h.cntlid = nvme.ConnectResult(cqe.DW0()).CNTLID()
		if !h.stops(StageConnect) {
			h.enter(stepCAP)
			admin.exec(func(c nvme.Command) { c.PutPropertyGet(nvme.PropertyCAP) })
		}
	case stepCAP:
		h.cap = nvme.CAP(cqe.Result)
		cc := nvme.CC(0).WithIOSQES(nvme.IOSQES64).WithIOCQES(nvme.IOCQES16).WithEN(true)
		if h.cap.CSS()&nvme.CAPCSSIOCS != 0 {
			cc = cc.WithCSS(nvme.CCCSSIOCS)
		}
		h.enter(stepCC)
		admin.exec(func(c nvme.Command) { c.PutPropertySet(nvme.PropertyCC, uint64(cc)) })
	case stepCC:
		h.enter(stepCSTS)
		h.readCSTS()
	case stepCSTS:
		switch csts := nvme.CSTS(cqe.DW0()); {
		case csts.CFS() || csts == nvme.CSTSDead:
			h.fail("controller fatal status", fmt.Errorf("CSTS %#x", uint32(csts)))
		case !csts.RDY():
			h.s.shard.Arm(&h.wake, h.s.shard.Now()+pollCSTS)
		case h.s.cfg.Queues == 0:
			h.live()
		default:
			h.enter(stepSetFeatures)
			n := nvme.MakeNumberOfQueues(uint16(h.s.cfg.Queues - 1))
			admin.exec(func(c nvme.Command) {
				c.PutSetFeatures(nvme.FeaturesCommand{FID: nvme.FeatureNumberOfQueues, CDW11: uint32(n)})
			})
		}
	case stepSetFeatures:
		h.granted = min(h.s.cfg.Queues, nvme.NumberOfQueues(cqe.DW0()).Pairs())
		if h.granted < h.s.cfg.Queues {
			h.s.stats.short++
		}
		if !h.stops(StageSetFeatures) {
			h.dialIO(1)
		}
	case stepIOConnect:
		if n := int(q.qid); n < h.granted {
			h.connectIO(n + 1)
		} else {
			h.live()
		}
	}
}

func (h *stormHost) readCSTS() {
	h.queues[0].exec(func(c nvme.Command) { c.PutPropertyGet(nvme.PropertyCSTS) })
}

// live is the end of connecting.
func (h *stormHost) live() {
	st, shard := &h.s.stats, h.s.shard
	now := h.s.now()
	h.wasLive = true
	st.connected++
	st.second(now).Connected++
	st.queues += uint64(h.open)
	st.connect.RecordValue(clampLatency(now - h.began))
	st.live++
	st.maxLive = max(st.maxLive, st.live)
	h.step = stepLive
	shard.Disarm(&h.deadline)
	h.until = shard.Now() + h.s.cfg.Hold
	h.stay()
}

// stay waits for the end of Hold, or for the time of the next Keep Alive.
func (h *stormHost) stay() {
	shard := h.s.shard
	if now := shard.Now(); now < h.until && !h.s.hurried {
		shard.Arm(&h.wake, min(h.until, now+h.s.cfg.KATO/2))
		return
	}
	h.leave(h.vanish)
}

// awake goes on after a wait.
func (h *stormHost) awake() {
	switch h.step {
	case stepCSTS:
		h.readCSTS()
	case stepLive:
		if h.s.shard.Now() < h.until && !h.queues[0].busy {
			h.queues[0].exec(func(c nvme.Command) { c.PutKeepAlive() })
		}
		h.stay()
	case stepIdle:
		h.lost = false
		h.s.ready(h)
	}
}

// hurry ends waits: the run ends.
func (h *stormHost) hurry() {
	switch {
	case h.step == stepLive && h.s.hurried:
		h.leave(h.vanish)
	case h.step == stepIdle && h.lost:
		h.lost = false
		h.s.shard.Disarm(&h.wake)
		h.s.release()
	}
}

func (h *stormHost) expired() {
	if h.step != stepLeave {
		h.fail("timeout", fmt.Errorf("not done within %v", h.s.cfg.Timeout))
		return
	}
	h.failed = true
	h.s.stats.fail(stormReason{step: stepLeave, what: "timeout"}, h.s.now(),
		fmt.Errorf("load: storm: host %d: no answer to the disconnect within %v", h.index, h.s.cfg.Timeout))
	for _, q := range h.queues {
		q.close()
	}
}

// refuse ends a cycle that the target has refused.
func (h *stormHost) refuse(r stormReason) {
	if h.step != stepLeave && h.step != stepIdle {
		h.failed = true
		h.s.stats.refuse(r, h.s.now())
		h.leave(false)
	}
}

// fail ends a cycle in which something went wrong.
func (h *stormHost) fail(what string, err error) {
	if h.step != stepLeave && h.step != stepIdle {
		h.failed = true
		h.s.stats.fail(stormReason{step: h.step, what: what}, h.s.now(), fmt.Errorf("load: storm: host %d: %v: %s: %w", h.index, h.step, what, err))
		h.leave(false)
	}
}

// leave ends the connections: in order, and then it waits for the target's
// word, or as a machine does that loses power.
func (h *stormHost) leave(vanish bool) {
	if h.step == stepLeave || h.step == stepIdle {
		return
	}
	if h.wasLive {
		h.s.stats.live--
	}
	h.open++ // until the end of this function
	h.enter(stepLeave)
	h.s.shard.Disarm(&h.wake)
	if vanish {
		h.s.stats.vanished++
		h.dev.Vanish()
	}
	if h.silent {
		h.silent = false
		h.dev.Silence(false)
	}
	for _, q := range h.queues {
		if q.established && !q.down && !vanish {
			q.conn.Disconnect()
		} else {
			q.close()
		}
	}
	h.release()
}

// release counts a connection that is closed. After the last the cycle is over,
// at the end of the round: who closes may be in the middle of others.
func (h *stormHost) release() {
	if h.open--; h.open == 0 {
		h.s.shard.Flush(&h.over)
	}
}

// end ends a cycle.
func (h *stormHost) end() {
	s := h.s
	s.shard.Disarm(&h.deadline)
	h.step = stepIdle
	if (h.wasLive || h.aborted) && !h.failed {
		now := s.now()
		s.stats.cycles++
		s.stats.second(now).Cycles++
		s.stats.cycle.RecordValue(clampLatency(now - h.began))
	}
	if h.lost && !s.stopping {
		s.shard.Arm(&h.wake, s.shard.Now()+localPause)
		return
	}
	h.lost = false
	s.ready(h)
}
