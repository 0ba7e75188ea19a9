package transporttest

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/fabrid/fabrid/admission"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/workqueue"
)

// An Env is what a listener of the fabric is to be made with.
type Env struct {
	Core   *Core
	Gate   *transport.Gate
	Budget *admission.Budget // what Gate charges
	// SmallPool asks for as few data buffers as the fabric can do with.
	SmallPool bool
}

// A Fabric is a listener, made with an [Env], and a dialer that reaches it.
type Fabric struct {
	// Dial connects a queue to the listener. The suite sets QID, Depth,
	// InCapsule, MaxData and Down of the parameters, the fabric the rest.
	Dial func(ctx context.Context, p transport.HostQueueParam) (transport.HostQueue, error)

	MaxData   int   // bytes of data of a command, as the listener allows
	InCapsule int   // of an I/O queue
	Pool      int64 // bytes of data buffers that the queues of a shard share; 0: no bound

	// Stop stops listening. It may be called more than once.
	Stop func(t *testing.T)
	// Close ends what is left, after all queues have been released, and returns
	// what ought to be zero, by name.
	Close func(t *testing.T) map[string]int
}

// A Maker makes a fabric for one check. Shards and devices that it makes are
// closed by Fabric.Close, or by t.Cleanup.
type Maker func(t *testing.T, env *Env) *Fabric

// patience bounds every wait: reaching it is a failure.
const patience = 30 * time.Second

// A bench is a fabric being tested.
type bench struct {
	*testing.T
	env *Env
	fab *Fabric
}

// A pair is a connected queue, with both ends.
type pair struct {
	*bench
	host  transport.HostQueue
	core  *Queue
	depth int
	down  chan error // Down of the host's end

	reqs []*hostRequest
}

func newBench(t *testing.T, mk Maker, smallPool bool) *bench {
	t.Helper()
	env := &Env{
		Core:      &Core{t: t, opened: make(chan *Queue, 1024)},
		Budget:    admission.New(admission.Config{}),
		SmallPool: smallPool,
	}
	env.Gate = &transport.Gate{
		Queues:  new(transport.Queues),
		Delete:  workqueue.New(workqueue.Config{Name: "delete"}),
		Connect: workqueue.New(workqueue.Config{Name: "connect"}),
		Budget:  env.Budget.NewPort(admission.Limits{}),
	}
	return &bench{T: t, env: env, fab: mk(t, env)}
}

// close ends the bench: nothing is left.
func (b *bench) close() {
	b.Helper()
	b.until("every queue to be released", func() bool { return b.env.Gate.Queues.Counts().Total() == 0 })
	b.env.Gate.Delete.Flush() // the budget comes back after the counts
	b.until("all that was charged to be given back", func() bool { return b.env.Budget.Stats().Used == admission.Usage{} })
	b.fab.Stop(b.T)
	for what, n := range b.fab.Close(b.T) {
		if n != 0 {
			b.Errorf("%d %s left", n, what)
		}
	}
	b.env.Gate.Delete.Destroy()
	b.env.Gate.Connect.Destroy()
	if all := b.env.Gate.Queues.All(); len(all) != 0 {
		b.Errorf("%d queues in the list", len(all))
	}
}

// until waits for what cannot tell by itself that it has happened.
func (b *bench) until(what string, ok func() bool) {
	b.Helper()
	for end := time.Now().Add(patience); !ok(); runtime.Gosched() {
		if time.Now().After(end) {
			b.Fatalf("waited %v for %s", patience, what)
		}
	}
}

func receive[T any](b *bench, what string, c <-chan T) T {
	b.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		b.Fatalf("waited %v for %s", patience, what)
		panic("not reached")
	}
}

func (b *bench) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	b.Cleanup(cancel)
	return ctx
}

// connect connects a queue.
func (b *bench) connect(qid uint16, depth int) *pair {
	b.Helper()
	p := &pair{bench: b, depth: depth, down: make(chan error, 8)}
	param := transport.HostQueueParam{
		QID: qid, Depth: depth, MaxData: b.fab.MaxData,
		Down: func(cause error) { p.down <- cause },
	}
	if qid != 0 {
		param.InCapsule = b.fab.InCapsule
	}
	var err error
	if p.host, err = b.fab.Dial(b.context(), param); err != nil {
		b.Fatal(err)
	}
	p.core = receive(b, "Open", b.env.Core.opened)
	if p.core.param.Depth < depth {
		b.Errorf("opened with depth %d, connected with %d", p.core.param.Depth, depth)
	}
	p.core.quiesce.Store(-1)
	return p
}

// run runs fn on the host's shard.
func (p *pair) run(fn func()) {
	p.Helper()
	if err := p.host.Shard().Run(fn); err != nil {
		p.Fatal(err)
	}
}

// A hostRequest is a request of a host with what the check wants to know of it.
type hostRequest struct {
	transport.HostRequest
	p      *pair
	inside bool // Submit has not returned
	out    bool // submitted
	dones  int
	done   chan struct{}
	then   func()
}

func (p *pair) request(op nvme.IOOpcode, seed uint32, data []byte) *hostRequest {
	r := &hostRequest{p: p, done: make(chan struct{}, 16)}
	c := nvme.MakeCommand(r.Command[:])
	c.SetOpcode(uint8(op))
	c.SetNSID(1)
	c.SetCDW(10, seed)
	r.Data = data
	r.Done = func(*transport.HostRequest) { r.ended() }
	p.reqs = append(p.reqs, r)
	return r
}

func (r *hostRequest) ended() {
	if r.inside {
		r.p.Errorf("Done was called before Submit returned")
	}
	if !r.out {
		r.p.Errorf("Done was called for a request that is not outstanding")
	}
	r.out = false
	r.dones++
	if r.Err == nil {
		if cid := nvme.Command(r.Command[:]).CID(); r.Completion.CID != cid {
			r.p.Errorf("completion has CID %#x, the command %#x", r.Completion.CID, cid)
		}
	}
	if r.then != nil {
		r.then()
		return
	}
	r.done <- struct{}{}
}

// submit submits r. On the host's shard.
func (r *hostRequest) submit() error {
	r.inside, r.out = true, true
	err := r.p.host.Submit(&r.HostRequest)
	r.inside = false
	if err != nil {
		r.out = false
	}
	return err
}

// send submits requests in one round of the shard.
func (p *pair) send(reqs ...*hostRequest) {
	p.Helper()
	p.run(func() {
		for i, r := range reqs {
			if err := r.submit(); err != nil {
				p.Errorf("submit of request %d: %v", i, err)
			}
		}
	})
}

// wait waits for requests to be done and reports those that failed.
func (p *pair) wait(reqs ...*hostRequest) {
	p.Helper()
	for i, r := range reqs {
		receive(p.bench, "a request to be done", r.done)
		if r.Err != nil || !r.Completion.Status.OK() {
			p.Errorf("request %d: %v, %v", i, r.Err, r.Completion.Status)
		}
	}
}

// disconnect ends the pair from the host's end and checks that both ends were
// told what is due.
func (p *pair) disconnect() {
	p.Helper()
	p.host.Disconnect()
	p.host.Disconnect() // may be called again
	select {
	case cause := <-p.down:
		p.Errorf("the host's Down was called for its own disconnect: %v", cause)
	default:
	}
	p.released()
}

// released waits until the target's end has been released, and looks at it.
func (p *pair) released() {
	p.Helper()
	p.until("the queue to be released", func() bool {
		s, _ := p.core.param.Life.State()
		return s == transport.Freed
	})
	for i, r := range p.reqs {
		if r.out {
			p.Errorf("request %d of the host is still outstanding", i)
		}
	}
	p.core.run(func() {
		if p.core.downs != 1 {
			p.Errorf("Down was called %d times", p.core.downs)
		}
		if p.core.quiesce.Load() < 0 && p.core.sent != p.core.received {
			p.Errorf("%d of %d requests were told Sent", p.core.sent, p.core.received)
		}
	})
	if !p.core.destroyed.Load() {
		p.Error("the core's end was not destroyed")
	}
}
