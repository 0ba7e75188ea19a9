package rdma

import (
	"fmt"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/verbs"
)

// A requestState says who has a request and in which list it is.
type requestState uint8

const (
	reqFree      requestState = iota // in queue.free
	reqCore                          // the core has it
	reqReserving                     // in the pool's line, for Reserve
	reqFailing                       // in queue.failed: DataReady with an error follows
	reqPullWait                      // in the pool's line, for Pull
	reqPulling                       // READs are posted; while some are not, in sender.pulls
	reqBouncing                      // completed; in the pool's line, for memory that the device knows
	reqCompleted                     // in sender.completed
	reqSending                       // its SEND is posted
)

var requestStateNames = [...]string{"free", "core", "reserving", "failing", "pull wait", "pulling", "bouncing", "completed", "sending"}

func (s requestState) String() string { return requestStateNames[s] }

// A request is a [transport.Request] and what the fabric keeps of it.
type request struct {
	transport.Request
	queue *queue
	next  *request
	state requestState

	recv *receive // that holds the command; nil once it is given back
	ptr  dataPointer

	// chunks is the pool's memory that the request holds, and segs has room for
	// as many slices of it. Their capacity is enough for any command.
	chunks []chunk
	segs   [][]byte
	need   int // bytes that it waits for in the pool's line

	pull pull

	write bool      // the data goes to the host
	wrs   int       // send queue entries that its response takes
	cqe   verbs.SGE // the response
}

// A pull is how far the reading of a request's data from the host has got.
type pull struct {
	posted   int // bytes
	seg, off int // where the next READ begins
	reads    int // READs outstanding
	err      error
}

// init makes a request one of q's. The memory of its lists it has already.
func (r *request) init(q *queue, index int, cqe []byte) {
	*r = request{queue: q, chunks: r.chunks[:0], segs: r.segs[:0], cqe: verbs.SGE{Buf: cqe, LKey: q.body.mem.lkey}}
	r.Index = index
}

// begin makes a free request that of the command in rc.
func (r *request) begin(rc *receive, maxData int) {
	r.state = reqCore
	r.recv = rc
	r.Command = nvme.Command(rc.buf[:nvme.CommandSize:nvme.CommandSize])
	r.ptr, r.SGLStatus = parseSGL(r.Command, rc.n-nvme.CommandSize, maxData)
	r.Length = r.ptr.length
	r.Data = nil
	r.Completion = nvme.Completion{}
	r.pull = pull{}
	r.write, r.wrs = false, 0
}

// setData makes n bytes of the chunks the request's data.
func (r *request) setData(n int) {
	r.segs = r.segs[:0]
	for _, c := range r.chunks {
		b := c.bytes()
		b = b[:min(n, len(b))]
		n -= len(b)
		r.segs = append(r.segs, b)
	}
	r.Data = r.segs
}

// fromPool reports whether the request's data lies in its chunks, so that their
// keys cover it.
func (r *request) fromPool() bool {
	if len(r.Data) > len(r.chunks) {
		return false
	}
	for i, b := range r.Data {
		if len(b) > 0 && &b[0] != &r.chunks[i].bytes()[0] {
			return false
		}
	}
	return true
}

// must panics unless the request is in the state: the core has called what it
// must not, and buffers would be used twice.
func (r *request) must(op string, s requestState) {
	if r.state != s {
		panic(fmt.Sprintf("rdma: %s of request %d of queue %d, which is %v", op, r.Index, r.queue.qid, r.state))
	}
}
