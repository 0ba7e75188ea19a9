package target_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	subNQN   = "nqn.2025-01.example:sub"
	hostNQN  = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-000000000001"
	otherNQN = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-000000000002"
)

var hostID = nvme.UUID{0: 1, 15: 2}

var limits = transport.Limits{
	Type: nvme.TransportRDMA, AdrFam: nvme.AddressIPv4,
	MaxQueueDepth: 128, MaxData: 1 << 20, InCapsule: 4096,
	KeyedSGL: true, OffsetInCap: true, MaxDescriptors: 1,
}

// A world is a target with one subsystem on one port, and what brings hosts to
// it: queues of a fabric that is not there.
type world struct {
	t      testing.TB
	target *target.Target
	sub    *target.Subsystem
	port   *target.Port
	shard  *shard.Shard
	dev    bdev.Device
	faulty *bdev.Faulty // dev, for the fuzzer

	releases sync.WaitGroup // queues on the way from Disconnect to Destroy
	queues   []*queue
}

// newWorld makes a world with namespace 1 on dev, or on a memory device.
func newWorld(t testing.TB, cfg target.Config, dev bdev.Device) *world {
	w := &world{t: t, target: target.New(cfg), shard: shard.NewSim(shard.Config{}), dev: dev}
	if dev == nil {
		w.dev = newMemory(t, 1<<20)
	}
	w.sub = w.subsystem(target.SubsystemConfig{NQN: subNQN, AllowAnyHost: true, MaxQueues: 4})
	if _, err := w.sub.AddNamespace(target.NamespaceConfig{NSID: 1, Device: w.dev}); err != nil {
		t.Fatal(err)
	}
	var err error
	w.port, err = w.target.AddPort(target.PortConfig{ID: 1, Addresses: []target.Address{
		{TRTYPE: nvme.TransportRDMA, ADRFAM: nvme.AddressIPv4, TRADDR: "0.0.0.0", TRSVCID: "4420"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.port.Link(w.sub); err != nil {
		t.Fatal(err)
	}
	return w
}

func newMemory(t testing.TB, size uint64) *bdev.Memory {
	d, err := bdev.NewMemory(bdev.MemoryConfig{Size: size, BlockSize: 512})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (w *world) subsystem(cfg target.SubsystemConfig) *target.Subsystem {
	s, err := w.target.AddSubsystem(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// close ends everything and checks that nothing is left.
func (w *world) close() {
	w.t.Helper()
	if err := w.target.Close(); err != nil {
		w.t.Error(err)
	}
	w.releases.Wait()
	if c := w.target.Counts(); c != (target.Counts{}) {
		w.t.Errorf("left behind: %+v", c)
	}
	for _, q := range w.queues {
		q.shard.Run(func() {
			for i := range q.slots {
				if s := q.slots[i].state; s != atFabric {
					w.t.Errorf("request %d was never completed: %v", i, s)
				}
			}
		})
	}
	if err := w.dev.Close(); err != nil {
		w.t.Error(err)
	}
	w.shard.Close()
}

// Where a request is.
type place int

const (
	atFabric  place = iota // free
	atCore                 // received, or its data is ready
	atPull                 // Pull was called
	atReserve              // Reserve was called and could not be served
)

// A queue is a fabric's queue, and the host's end of it.
type queue struct {
	w     *world
	shard *shard.Shard
	core  transport.Queue
	param transport.QueueParam

	// Set before a command is sent.
	late     bool  // Pull and Reserve are served when the test says so (serve)
	dataErr  error // what DataReady says
	always   bool  // DataReady tells of data also when the queue is down
	stubborn bool  // Cancel gives nothing back
	parts    int   // into how many pieces data is cut; 0: one

	slots  []slot
	waits  []*slot // for serve
	quiet  time.Duration
	cause  error         // of Disconnect
	gone   chan struct{} // closed when destroyed
	left   chan struct{} // closed when Disconnect was called
	orphan atomic.Int64
	isDown bool
	posted shard.Task
}

type slot struct {
	transport.Request
	q       *queue
	command [nvme.CommandSize]byte
	state   place
	data    []byte // the host's: from it, or to it
	memory  []byte // the fabric's
	done    chan struct{}
}

// open makes a queue, as a fabric does when a host has connected.
func (w *world) open(change func(*transport.QueueParam)) *queue {
	w.t.Helper()
	q, err := w.tryOpen(change)
	if err != nil {
		w.t.Fatal(err)
	}
	return q
}

func (w *world) tryOpen(change func(*transport.QueueParam)) (*queue, error) {
	q := &queue{w: w, gone: make(chan struct{}), left: make(chan struct{}), quiet: 5 * time.Second, param: transport.QueueParam{
		Shard: w.shard,
		Local: netip.MustParseAddrPort("192.0.2.1:4420"), Remote: netip.MustParseAddrPort("192.0.2.2:1024"),
		AnyQID: true, Depth: 32, Limits: limits,
	}}
	if change != nil {
		change(&q.param)
	}
	q.shard = q.param.Shard
	q.slots = make([]slot, q.param.Depth)
	for i := range q.slots {
		q.slots[i].q, q.slots[i].Index = q, i
	}
	q.posted.Fn = func() { q.down(q.cause) }
	var err error
	if runErr := q.shard.Run(func() { q.core, err = w.port.Open(q, q.param) }); runErr != nil {
		w.t.Fatal(runErr)
	}
	if err == nil {
		w.queues = append(w.queues, q)
	}
	return q, err
}

func (q *queue) bug(format string, args ...any) { q.w.t.Errorf(format, args...) }

func (q *queue) slotOf(r *transport.Request, call string, want place) *slot {
	s := &q.slots[r.Index]
	if &s.Request != r || s.state != want {
		q.bug("%s of request %d: it is at %d, want %d", call, r.Index, s.state, want)
	}
	return s
}

func (s *slot) lend(n int) {
	s.memory = bytes.Repeat([]byte{0xCC}, n)
	b, parts := s.memory, max(1, s.q.parts)
	s.Data = nil
	for i := parts; i > 1; i-- {
		n := len(b) / i
		s.Data = append(s.Data, b[:n:n])
		b = b[n:]
	}
	s.Data = append(s.Data, b)
}

// Reserve implements [transport.Fabric].
func (q *queue) Reserve(r *transport.Request, n int) bool {
	s := q.slotOf(r, "Reserve", atCore)
	if n != r.Length {
		q.bug("Reserve %d bytes, the SGL says %d", n, r.Length)
	}
	if q.late || q.dataErr != nil || q.isDown {
		s.state = atReserve
		q.wait(s)
		return false
	}
	s.lend(n)
	return true
}

// Pull implements [transport.Fabric].
func (q *queue) Pull(r *transport.Request) {
	s := q.slotOf(r, "Pull", atCore)
	s.state = atPull
	if q.late || q.dataErr != nil || q.isDown {
		q.wait(s)
		return
	}
	s.ready(nil)
}

// Cancel implements [transport.Fabric].
func (q *queue) Cancel(r *transport.Request) bool {
	s := &q.slots[r.Index]
	i := slices.Index(q.waits, s)
	if i < 0 || q.isDown || q.stubborn {
		return false
	}
	q.waits = slices.Delete(q.waits, i, i+1)
	s.state = atCore
	return true
}

func (q *queue) wait(s *slot) {
	q.waits = append(q.waits, s)
	if !q.late || q.isDown {
		q.shard.Post(&shard.Task{Fn: q.serveAll})
	}
}

// ready serves a Pull or Reserve.
func (s *slot) ready(err error) {
	if err == nil {
		s.lend(s.Length)
		if s.state == atPull {
			copy(s.memory, s.data)
		}
	}
	s.state = atCore
	s.q.core.DataReady(&s.Request, err)
}

// serveAll serves what waits; on the shard.
func (q *queue) serveAll() {
	for len(q.waits) > 0 {
		s := q.waits[0]
		q.waits = q.waits[1:]
		err := q.dataErr
		if q.isDown && err == nil && !q.always {
			err = errors.New("queue down")
		}
		s.ready(err)
	}
}

// serve serves what waits.
func (q *queue) serve() { q.shard.Run(q.serveAll) }

// Complete implements [transport.Fabric].
func (q *queue) Complete(r *transport.Request) {
	s := q.slotOf(r, "Complete", atCore)
	if r.Completion.Status.OK() && r.Command.Direction() == nvme.ControllerToHost && r.Length > 0 {
		if s.memory == nil {
			q.bug("success of %v with %d bytes, and none were reserved", r.Command, r.Length)
		}
		n := 0
		for _, d := range r.Data {
			n += copy(s.data[n:], d)
		}
	}
	copy(s.memory, bytes.Repeat([]byte{0xDD}, len(s.memory))) // a late user sees rubbish
	clear(s.command[:])
	s.state, s.memory = atFabric, nil
	q.core.Sent(r)
	if s.done != nil {
		close(s.done)
	}
}

// Disconnect implements [transport.Fabric].
func (q *queue) Disconnect(cause error) {
	if q.cause != nil {
		q.bug("Disconnect twice: %v, then %v", q.cause, cause)
		return
	}
	q.cause = cause
	close(q.left)
	q.shard.Post(&q.posted)
}

// down takes the queue down, on the shard, and releases it elsewhere.
func (q *queue) down(cause error) {
	if q.isDown {
		return
	}
	q.isDown = true
	q.core.Down(cause)
	q.serveAll()
	q.w.releases.Go(func() {
		q.shard.Run(func() {}) // drain
		q.orphan.Store(int64(q.core.Quiesce(time.Now().Add(q.quiet))))
		q.core.Destroy()
		close(q.gone)
	})
}

// hangUp is the host leaving, and waits until the queue is gone.
func (q *queue) hangUp() {
	q.shard.Run(func() { q.down(errors.New("host left")) })
	<-q.gone
}

// send sends a command with so many bytes of data and returns where to look
// for its completion.
func (q *queue) send(c nvme.Command, data []byte) *slot { return q.sendSGL(c, data, nvme.Success) }

func (q *queue) sendSGL(c nvme.Command, data []byte, sgl nvme.Status) *slot {
	var s *slot
	err := q.shard.Run(func() {
		for i := range q.slots {
			if q.slots[i].state == atFabric {
				s = &q.slots[i]
				break
			}
		}
		if s == nil || q.isDown {
			return
		}
		s.state, s.done = atCore, make(chan struct{})
		s.data, s.Data, s.Length, s.SGLStatus = data, nil, len(data), sgl
		copy(s.command[:], c)
		s.Command = nvme.Command(s.command[:])
		q.core.Receive([]*transport.Request{&s.Request})
	})
	if err != nil || s == nil {
		q.w.t.Fatalf("send %v: no free request, or %v", c, err)
	}
	return s
}

// pending reports whether the command has not been completed.
func (s *slot) pending() bool {
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// do sends a command and waits for its completion.
func (q *queue) do(c nvme.Command, data []byte) nvme.Completion {
	s := q.send(c, data)
	<-s.done
	return s.Completion
}

// ok is do for commands that are to succeed.
func (q *queue) ok(c nvme.Command, data []byte) nvme.Completion {
	q.w.t.Helper()
	cid := c.CID()
	cqe := q.do(c, data)
	if cqe.Status != nvme.Success {
		q.w.t.Fatalf("%v: %v", c, cqe.Status)
	}
	if cqe.CID != cid {
		q.w.t.Fatalf("%v: CID %#x, want %#x", c, cqe.CID, cid)
	}
	return cqe
}

// fails is do for commands that are to end with the status, but for More.
func (q *queue) fails(c nvme.Command, data []byte, want nvme.Status) nvme.Completion {
	q.w.t.Helper()
	cqe := q.do(c, data)
	if got := cqe.Status; got.Base() != want.Base() || got.DNR() != want.DNR() {
		q.w.t.Errorf("%v with %d bytes: %v, want %v", c, len(data), got, want)
	}
	return cqe
}

// cmd makes a command with a CID of its own.
func cmd(put func(nvme.Command)) nvme.Command {
	c := nvme.NewCommand()
	c.SetCID(uint16(lastCID.Add(7919)))
	put(c)
	return c
}

var lastCID atomic.Uint32

// connectArgs is what a Connect says.
type connectArgs struct {
	nvme.ConnectCommand
	nvme.ConnectData
}

func adminConnect() connectArgs {
	return connectArgs{
		nvme.ConnectCommand{SQSize: 31},
		nvme.ConnectData{HostID: hostID, CNTLID: nvme.CNTLIDDynamic, SUBNQN: subNQN, HOSTNQN: hostNQN},
	}
}

func ioConnect(cntlid, qid uint16) connectArgs {
	a := adminConnect()
	a.QID, a.CNTLID = qid, cntlid
	return a
}

func (a connectArgs) command() nvme.Command {
	return cmd(func(c nvme.Command) { c.PutConnect(a.ConnectCommand) })
}

func (q *queue) connect(a connectArgs) nvme.Completion {
	return q.do(a.command(), a.ConnectData.AppendTo(nil))
}

// A host is a controller and the queues to it.
type host struct {
	*world
	admin  *queue
	cntlid uint16
}

// connect makes a controller of the world's subsystem, or as change says.
func (w *world) connect(change func(*connectArgs)) *host {
	w.t.Helper()
	a := adminConnect()
	if change != nil {
		change(&a)
	}
	q := w.open(nil)
	cqe := q.connect(a)
	if cqe.Status != nvme.Success {
		w.t.Fatalf("Connect: %v", cqe.Status)
	}
	return &host{w, q, nvme.ConnectResult(cqe.Result).CNTLID()}
}

func propGet(p nvme.Property) nvme.Command {
	return cmd(func(c nvme.Command) { c.PutPropertyGet(p) })
}

func propSet(p nvme.Property, v uint64) nvme.Command {
	return cmd(func(c nvme.Command) { c.PutPropertySet(p, v) })
}

// Values of CC as Linux writes them.
const (
	ccDisabled = 0x460000
	ccEnabled  = 0x460001
	ccShutdown = 0x464001
)

// enable is connect with CC.EN set.
func (w *world) enable(change func(*connectArgs)) *host {
	w.t.Helper()
	h := w.connect(change)
	h.admin.ok(propSet(nvme.PropertyCC, ccEnabled), nil)
	if csts := h.csts(); !csts.RDY() {
		w.t.Fatalf("CSTS %#x after CC.EN, want RDY", uint32(csts))
	}
	return h
}

func (h *host) csts() nvme.CSTS {
	h.t.Helper()
	return nvme.CSTS(h.admin.ok(propGet(nvme.PropertyCSTS), nil).Result)
}

// io adds an I/O queue.
func (h *host) io(qid uint16, change func(*transport.QueueParam)) *queue {
	h.t.Helper()
	q := h.open(change)
	if cqe := q.connect(ioConnect(h.cntlid, qid)); cqe.Status != nvme.Success {
		h.t.Fatalf("Connect of queue %d: %v", qid, cqe.Status)
	}
	return q
}

func identify(cns nvme.CNS, nsid uint32) nvme.Command {
	return cmd(func(c nvme.Command) { c.PutIdentify(nvme.IdentifyCommand{CNS: cns, NSID: nsid}) })
}

func getLog(lid nvme.LogPage, n int, change func(*nvme.GetLogPageCommand)) nvme.Command {
	g := nvme.GetLogPageCommand{LID: lid}
	g.SetLength(uint64(n))
	if change != nil {
		change(&g)
	}
	return cmd(func(c nvme.Command) { c.PutGetLogPage(g) })
}

func setFeature(fid nvme.Feature, v uint32) nvme.Command {
	return cmd(func(c nvme.Command) { c.PutSetFeatures(nvme.FeaturesCommand{FID: fid, CDW11: v}) })
}

func getFeature(fid nvme.Feature, v uint32) nvme.Command {
	return cmd(func(c nvme.Command) { c.PutGetFeatures(nvme.FeaturesCommand{FID: fid, CDW11: v}) })
}

func rw(op nvme.IOOpcode, nsid uint32, slba uint64, nlb uint16) nvme.Command {
	return cmd(func(c nvme.Command) { c.PutIO(op, nsid, slba, nlb, 0) })
}

// aer sends an Asynchronous Event Request.
func (h *host) aer() *slot {
	return h.admin.send(cmd(nvme.Command.PutAsyncEventRequest), nil)
}

// abort aborts a command and returns the result.
func (h *host) abort(sqid, cid uint16) uint64 {
	h.t.Helper()
	return h.admin.ok(cmd(func(c nvme.Command) { c.PutAbort(sqid, cid) }), nil).Result
}

// page fetches a page of n bytes with c.
func (q *queue) page(c nvme.Command, n int) []byte {
	q.w.t.Helper()
	b := make([]byte, n)
	q.ok(c, b)
	return b
}

var (
	addrPort  = netip.MustParseAddrPort
	farFuture = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
)

func parse[T any, P interface {
	*T
	Parse([]byte) error
}](t testing.TB, b []byte) T {
	t.Helper()
	var v T
	if err := P(&v).Parse(b); err != nil {
		t.Fatal(err)
	}
	return v
}

func (p place) String() string { return fmt.Sprintf("place %d", int(p)) }
