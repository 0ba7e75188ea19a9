package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
)

// A session is one connection to the controller: from the admin queue's dial to
// the disconnection of its last queue. A reconnect makes another.
type session struct {
	ctrl *Controller
	ctx  context.Context // done when the session has failed; the cause says why
	fail context.CancelCauseFunc
	wg   lockdep.WaitGroup[sessionGoroutines]

	adminQueue *Queue          // of this session alone
	adminUp    context.Context // done when the admin queue carries nothing any more
	adminDown  context.CancelCauseFunc
	// conns are in the order in which they were made. They change on the admin
	// queue's shard, where the keep alive reads them, and the goroutine that
	// changes them reads them anywhere.
	conns     []conn
	keepAlive keepAlive
	aer       aer
	aborts    aborts
	info      Info
	cc        nvme.CC
	found     map[uint32]*format // by NSID: the last scan
}

type sessionGoroutines struct{}

// A conn is a queue with its connection.
type conn struct {
	queue *Queue
	hq    transport.HostQueue
}

// A step is the error of one of the steps of a connect.
type step struct {
	name string
	err  error
}

func (s *step) Error() string { return s.name + ": " + s.err.Error() }
func (s *step) Unwrap() error { return s.err }

// adminReserved is what the admin queue keeps free of other commands: for Keep
// Alive and the Asynchronous Event Request.
const adminReserved = 2

// establish connects the admin queue, enables the controller, connects the I/O
// queues and identifies the namespaces. The I/O queues take commands, but send
// none before goLive.
func (c *Controller) establish(ctx context.Context) (*session, error) {
	s := &session{ctrl: c}
	s.ctx, s.fail = context.WithCancelCause(context.Background())
	s.adminUp, s.adminDown = context.WithCancelCause(context.Background())
	err := s.setUp(ctx)
	if err == nil {
		return s, nil
	}
	// What failed the session says more than what it did to the command.
	if cause := context.Cause(s.ctx); cause != nil {
		err = &step{stepName(err), cause}
	}
	s.tearDown(err)
	e := &ConnectError{Remote: c.cfg.Remote, NQN: c.cfg.NQN, Step: stepName(err), Err: errors.Unwrap(err)}
	e.Hint = hint(&c.cfg, err)
	return nil, e
}

func stepName(err error) string {
	if s, ok := errors.AsType[*step](err); ok {
		return s.name
	}
	return "connect"
}

func (s *session) setUp(ctx context.Context) error {
	for _, st := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"connect admin queue", s.connectAdmin},
		{"enable controller", s.enable},
		{"Identify Controller", s.identifyController},
		{"start keep alive", s.startKeepAlive},
		{"connect I/O queues", s.connectIO},
		{"Set Features, Asynchronous Event Configuration", s.configureEvents},
		{"Get Log Page, ANA", s.readANA},
		{"identify namespaces", s.scan},
	} {
		if err := st.run(ctx); err != nil {
			if _, ok := err.(*step); ok {
				return err // more precise than ours
			}
			return &step{st.name, err}
		}
	}
	return nil
}

// dial connects a queue's transport. queue tells which, once the shard is known.
func (s *session) dial(ctx context.Context, p transport.HostQueueParam, queue func(transport.HostQueue) *Queue, limit int) (*Queue, error) {
	// A dial that the session's end does not interrupt would outlive it.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stopFollowing := context.AfterFunc(s.ctx, func() { cancel(context.Cause(s.ctx)) })
	defer stopFollowing()
	ctx, cancelTimeout := context.WithTimeout(ctx, s.ctrl.cfg.AdminTimeout)
	defer cancelTimeout()

	cfg := &s.ctrl.cfg
	p.Remote, p.Local, p.MaxData = cfg.Remote, cfg.Local, cfg.MaxData
	p.Down = func(cause error) {
		err := fmt.Errorf("%w: queue %d: %w", ErrLost, p.QID, cause)
		if p.QID == 0 {
			s.adminDown(err)
		}
		s.fail(err)
	}
	hq, err := cfg.Dialer.Dial(ctx, p)
	if err != nil {
		return nil, &step{fmt.Sprintf("connect transport of queue %d", p.QID), err}
	}
	q := queue(hq)
	enter := func() { s.conns = append(s.conns, conn{q, hq}) }
	if s.adminQueue.shard.Run(enter) != nil {
		enter() // closed: nothing runs there, and tearDown is to find it
	}
	if q.shard != hq.Shard() {
		return nil, fmt.Errorf("queue %d lives on shard %q and was connected on %q", p.QID, q.shard.Name(), hq.Shard().Name())
	}
	return q, q.shard.Run(func() { q.attach(hq, limit, s.fail) })
}

func (s *session) connectAdmin(ctx context.Context) error {
	p := transport.HostQueueParam{Depth: AdminQueueSize}
	q, err := s.dial(ctx, p, func(hq transport.HostQueue) *Queue {
		s.adminQueue = newQueue(0, hq.Shard(), &s.ctrl.cfg, &s.ctrl.checks)
		return s.adminQueue
	}, AdminQueueSize-1-adminReserved)
	if err != nil {
		return err
	}
	if err := q.shard.Run(func() { q.start(0) }); err != nil {
		return err
	}
	f := nvme.ConnectCommand{SQSize: AdminQueueSize - 1}
	if k := s.ctrl.cfg.KATO; k != Off {
		f.KATO = uint32(k / time.Millisecond)
	}
	r, err := s.connectCommand(ctx, q, f, nvme.CNTLIDDynamic)
	if err != nil {
		return err
	}
	s.info.CNTLID = r.CNTLID()
	if r.ATR() || r.ASCR() {
		return &step{"Connect of queue 0", nvme.AuthenticationRequired}
	}
	if s.info.CNTLID > nvme.MaxCNTLID {
		return &step{"Connect of queue 0", fmt.Errorf("controller identifier %#x, at most %#x is allowed", s.info.CNTLID, nvme.MaxCNTLID)}
	}
	return nil
}

// connectCommand sends the Connect of a queue.
func (s *session) connectCommand(ctx context.Context, q *Queue, f nvme.ConnectCommand, cntlid uint16) (nvme.ConnectResult, error) {
	cfg := &s.ctrl.cfg
	if cfg.DisableSQFlow {
		f.CATTR |= nvme.CATTRDisableSQFlow
	}
	f.QID = q.qid
	data := nvme.ConnectData{HostID: cfg.HostID, CNTLID: cntlid, SUBNQN: cfg.NQN, HOSTNQN: cfg.HostNQN}.AppendTo(nil)
	name := fmt.Sprintf("Connect of queue %d", q.qid)
	ctx, cancel := context.WithTimeout(ctx, cfg.AdminTimeout)
	defer cancel()
	cqe, err := s.exec(ctx, q, q.submitNow, name, func(c nvme.Command) { c.PutConnect(f) }, data)
	if ce, ok := errors.AsType[*CommandError](err); ok {
		cqe.Status = ce.Status
		err = connectRefusal(cqe)
	}
	if err != nil {
		return 0, &step{name, err}
	}
	return nvme.ConnectResult(cqe.DW0()), nil
}

// enable brings the controller to CSTS.RDY [Base 3.5.3].
func (s *session) enable(ctx context.Context) error {
	v, err := s.propertyGet(ctx, nvme.PropertyCAP)
	if err != nil {
		return err
	}
	limit := nvme.CAP(v)
	s.cc = nvme.CC(0).WithIOSQES(nvme.IOSQES64).WithIOCQES(nvme.IOCQES16)
	if limit.CSS()&nvme.CAPCSSIOCS != 0 {
		s.cc = s.cc.WithCSS(nvme.CCCSSIOCS)
	}
	if limit.MPSMIN() != 0 {
		return fmt.Errorf("CAP.MPSMIN %d: pages of %d KiB are the least, 4 KiB wanted", limit.MPSMIN(), 4<<limit.MPSMIN())
	}
	if err := s.propertySet(ctx, nvme.PropertyCC, uint64(s.cc)); err != nil {
		return err
	}
	// Again: CC.CSS may change CAP.TO.
	if v, err = s.propertyGet(ctx, nvme.PropertyCAP); err != nil {
		return err
	}
	s.info.CAP = nvme.CAP(v)
	timeout := readyTimeout(uint16(s.info.CAP.TO()))
	if s.info.CAP.CRWMS() {
		if v, err = s.propertyGet(ctx, nvme.PropertyCRTO); err != nil {
			return err
		}
		timeout = max(timeout, readyTimeout(nvme.CRTO(v).CRWMT()))
	}
	s.cc = s.cc.WithEN(true)
	if err := s.propertySet(ctx, nvme.PropertyCC, uint64(s.cc)); err != nil {
		return err
	}
	if err := s.await(ctx, timeout, "ready", nvme.CSTS.RDY); err != nil {
		return err
	}
	if v, err = s.propertyGet(ctx, nvme.PropertyVS); err != nil {
		return err
	}
	s.info.VS = nvme.VS(v)
	return nil
}

// readyTimeout is the time that units of 500 ms mean, rounded up as Linux does.
func readyTimeout(units uint16) time.Duration {
	return (time.Duration(units) + 1) * 500 * time.Millisecond
}

// Bounds of the time between two looks at CSTS, which doubles: a controller may
// ask for hours.
const (
	pollCSTS    = 2 * time.Millisecond
	maxPollCSTS = 128 * time.Millisecond
)

// await reads CSTS until it is what is wanted, within a timeout.
func (s *session) await(ctx context.Context, timeout time.Duration, what string, ok func(nvme.CSTS) bool) error {
	return s.awaitUntil(s.ctx, ctx, timeout, what, ok)
}

// awaitUntil is await with another end of the session.
func (s *session) awaitUntil(sessionEnd, ctx context.Context, timeout time.Duration, what string, ok func(nvme.CSTS) bool) error {
	timer, poll := time.NewTimer(pollCSTS), pollCSTS
	defer timer.Stop()
	for end := time.Now().Add(timeout); ; {
		v, err := s.propertyGetUntil(sessionEnd, ctx, nvme.PropertyCSTS)
		if err != nil {
			return err
		}
		switch csts := nvme.CSTS(v); {
		case csts == nvme.CSTSDead:
			return errors.New("CSTS reads as all ones: the controller is gone")
		case ok(csts):
			return nil
		case csts.CFS():
			return fmt.Errorf("CSTS %#x: controller fatal status", v)
		case !time.Now().Before(end):
			return fmt.Errorf("CSTS %#x: not %s within %v", v, what, timeout)
		}
		timer.Reset(poll)
		poll = min(2*poll, maxPollCSTS)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-sessionEnd.Done():
			return context.Cause(sessionEnd)
		}
	}
}

// identifyController reads Identify Controller and holds it against what a host
// must have.
func (s *session) identifyController(ctx context.Context) error {
	data, err := s.identify(ctx, nvme.IdentifyCommand{CNS: nvme.CNSController})
	if err != nil {
		return err
	}
	id := &s.info.Identify
	if err := id.Parse(data); err != nil {
		return err
	}
	cfg := &s.ctrl.cfg
	if id.CNTLID != s.info.CNTLID {
		return fmt.Errorf("CNTLID %d, Connect said %d", id.CNTLID, s.info.CNTLID)
	}
	if cfg.discovery() {
		if id.CNTRLTYPE != nvme.ControllerDiscovery && id.SUBNQN != nvme.DiscoveryNQN {
			return fmt.Errorf("CNTRLTYPE %v: not a discovery controller", id.CNTRLTYPE)
		}
	} else {
		switch {
		case id.KAS == 0 && cfg.KATO != Off:
			return errors.New("KAS 0: no keep alive")
		case id.IOCCSZ < 4:
			return fmt.Errorf("IOCCSZ %d, at least 4 is required", id.IOCCSZ)
		case id.IORCSZ < 1:
			return fmt.Errorf("IORCSZ %d, at least 1 is required", id.IORCSZ)
		case id.ICDOFF != 0:
			return fmt.Errorf("ICDOFF %d, only 0 is supported", id.ICDOFF)
		}
	}
	s.info.MaxData = cfg.MaxData
	if id.MDTS != 0 && id.MDTS < 32 {
		s.info.MaxData = int(min(int64(s.info.MaxData), 1<<(12+id.MDTS)))
	}
	size := min(cfg.QueueSize, int(s.info.CAP.MQES())+1)
	if id.MAXCMD != 0 {
		size = min(size, int(id.MAXCMD))
	}
	s.info.QueueSize = max(size, 2)
	return nil
}

// inCapsule is how much data a command capsule of an I/O queue may carry.
func (s *session) inCapsule() int {
	id := &s.info.Identify
	if id.SGLS&nvme.SGLSOffset == 0 {
		return 0
	}
	return int(min(uint64(id.IOCCSZ)*16-nvme.CommandSize, uint64(s.ctrl.cfg.MaxData), MaxInCapsule))
}

// connectIO asks for I/O queues, connects the transports of all that are
// granted, and then sends each its Connect, as Linux does: targets keep the
// idle connections.
func (s *session) connectIO(ctx context.Context) error {
	c := s.ctrl
	if c.cfg.discovery() || s.info.Identify.CNTRLTYPE == nvme.ControllerDiscovery {
		return nil
	}
	want := c.cfg.NrIOQueues
	if c.queues != nil {
		want = len(c.queues)
	}
	n, err := s.numberOfQueues(ctx, want)
	if err != nil {
		return err
	}
	s.info.Queues = n
	if c.queues == nil {
		c.queues = make([]*Queue, n)
	}
	n = min(n, len(c.queues))
	for i := range n {
		p := transport.HostQueueParam{
			QID: uint16(i + 1), Depth: s.info.QueueSize, CNTLID: s.info.CNTLID, InCapsule: s.inCapsule(),
		}
		if q := c.queues[i]; q != nil {
			p.Shard = q.shard
		}
		_, err := s.dial(ctx, p, func(hq transport.HostQueue) *Queue {
			if c.queues[i] == nil {
				c.queues[i] = newQueue(p.QID, hq.Shard(), &c.cfg, &c.checks)
			}
			return c.queues[i]
		}, s.info.QueueSize-1)
		if err != nil {
			return err
		}
	}
	for _, q := range c.queues[:n] {
		f := nvme.ConnectCommand{SQSize: uint16(s.info.QueueSize - 1)}
		if _, err := s.connectCommand(ctx, q, f, s.info.CNTLID); err != nil {
			return err
		}
	}
	return nil
}

// numberOfQueues asks for so many I/O queues and returns how many to use.
func (s *session) numberOfQueues(ctx context.Context, want int) (int, error) {
	f := nvme.FeaturesCommand{FID: nvme.FeatureNumberOfQueues, CDW11: uint32(nvme.MakeNumberOfQueues(uint16(want - 1)))}
	cqe, err := s.admin(ctx, "Set Features, Number of Queues", func(c nvme.Command) { c.PutSetFeatures(f) }, nil)
	if err != nil {
		return 0, err
	}
	return min(want, nvme.NumberOfQueues(cqe.DW0()).Pairs()), nil
}

// Bounds of how long a controller may take to shut down, if RTD3E does not say.
const (
	minShutdown = 5 * time.Second
	maxShutdown = 60 * time.Second
)

// shutDown tells the controller that we leave, and waits until it is ready for
// that [Base 3.6.1].
func (s *session) shutDown() error {
	// The I/O queues first, as Linux does: the controller takes them down when it
	// is shut down, and that is not to be taken for a loss.
	for _, c := range s.conns {
		if c.queue != s.adminQueue {
			c.hq.Disconnect()
		}
	}
	if err := s.propertySet(s.ctx, nvme.PropertyCC, uint64(s.cc.WithSHN(nvme.SHNNormal))); err != nil {
		return err
	}
	timeout := time.Duration(s.info.Identify.RTD3E) * time.Microsecond
	timeout = min(max(timeout, minShutdown), maxShutdown)
	err := s.await(s.ctx, timeout, "shut down", func(c nvme.CSTS) bool { return c.SHST() == nvme.SHSTComplete })
	if errors.Is(err, ErrLost) {
		return nil // it has gone: it was ready to
	}
	return err
}

// tearDown ends the session: nothing is sent any more, the queues are
// disconnected, what was outstanding has come home, and no goroutine is left. It
// reports whether the controller may still execute a command that writes.
func (s *session) tearDown(cause error) (writing bool) {
	s.fail(cause) // whoever waits for a command stops
	s.wg.Wait()
	for _, c := range s.conns {
		_ = c.queue.shard.Run(func() { // an error: closed, nothing runs there
			if c.queue.stop() {
				writing = true
			}
		})
	}
	if writing && s.ctrl.stopping.Err() == nil && s.quiesce() {
		writing = false
	}
	s.adminDown(cause)
	for _, c := range s.conns {
		c.hq.Disconnect()
	}
	for _, c := range s.conns {
		_ = c.queue.shard.Run(c.queue.detach)
	}
	if q := s.adminQueue; q != nil {
		_ = q.shard.Run(func() {
			s.keepAlive.stop()
			q.close(ErrLost)
		})
	}
	return writing
}
