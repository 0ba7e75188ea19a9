package target

import (
	"errors"
	"fmt"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
)

// A request is what the core keeps per command, in an array of its queue by
// the index of the transport's request. It is in use from Receive until the
// fabric's Complete:
//
//	begin ── wrong ─────────────────────────────────────┐
//	  │ data from the host: Pull     ┐                  │
//	  │ data to the host: Reserve    ├─ dataReady ─ run ┤ complete
//	  │ none                         ┘     ^    └ start ┘
//	  └────────────────────────────────────┘      │  ^
//	                                        device└──┘ opDone
type request struct {
	q   *queue
	r   *transport.Request
	cmd *command
	ns  *Namespace // of an I/O command

	offset, length uint64 // of an I/O command, on the device, in bytes
	result         uint64 // of the completion
	next           int    // Dataset Management: the next range
	recalled       bool   // an Asynchronous Event Request that no event has ended

	op   bdev.Op
	turn shard.Task // Dataset Management: goes on with the next range
}

// Errors that are made once.
var (
	errNoKATO  error = nvme.KeepAliveInvalid.WithDNR()
	errAborted error = nvme.AbortedSQDeletion // without DNR: elsewhere, or later, it may go well

	// errLeaving is a command that comes when the queue is leaving. It is not
	// answered: a host would try it again at once, a few times, and give up. It
	// waits until the connection is gone and the host knows.
	errLeaving = fmt.Errorf("target: queue leaving: %w", errAborted)
)

// invalidField returns Invalid Field in Command for the field at that byte of
// the command.
func invalidField(field string, offset int) error {
	return &nvme.FieldError{Status: nvme.InvalidField.WithDNR(), Field: field, Offset: offset}
}

// Byte offsets of fields that every command has.
const (
	offFlags = 1
	offNSID  = 4
	offDPTR  = 24
)

// begin takes a command that has arrived.
func (rq *request) begin(r *transport.Request) {
	q := rq.q
	q.held++
	rq.r, rq.cmd, rq.ns, rq.result, rq.next, rq.recalled = r, nil, nil, 0, 0, false
	if err := rq.check(); err != nil {
		if err == errLeaving && !q.down {
			q.parked = append(q.parked, rq)
			return
		}
		rq.complete(err)
		return
	}
	switch {
	case r.Length == 0:
		rq.dataReady()
	case rq.cmd.dir == nvme.HostToController:
		q.fabric.Pull(r)
	case q.fabric.Reserve(r, r.Length):
		rq.dataReady()
	}
}

// check finds the command's row and tells what is wrong before any data is
// moved.
func (rq *request) check() error {
	q, r := rq.q, rq.r
	if q.leaving || q.down {
		return errLeaving
	}
	if !r.SGLStatus.OK() {
		return r.SGLStatus
	}
	if r.Command.FUSE() != 0 {
		return invalidField("FUSE", offFlags)
	}
	if r.Command.PSDT() != nvme.PSDTSGL {
		return invalidField("PSDT", offFlags)
	}
	cmd := q.find(r.Command)
	if cmd == nil {
		return nvme.InvalidOpcode.WithDNR()
	}
	if !cmd.always && !q.ctrl.ready.Load() {
		return q.ctrl.notReady()
	}
	rq.cmd = cmd
	var size uint64
	if cmd.size != nil {
		var err error
		if size, err = cmd.size(rq); err != nil {
			return err
		}
	}
	length := uint64(r.Length)
	if length != size && (!cmd.more || length < size || length > cmd.most) {
		return &nvme.FieldError{Status: nvme.SGLInvalidDataLength.WithDNR(), Field: "DPTR", Offset: offDPTR}
	}
	if most := q.maxData(); length > most {
		return invalidField("DPTR", offDPTR)
	}
	return nil
}

// maxData returns how many bytes a command may transfer: what MDTS says, and
// what the queue's own fabric can do.
func (q *queue) maxData() uint64 {
	most := uint64(q.param.Limits.MaxData)
	if q.ctrl != nil {
		most = min(most, q.ctrl.maxData)
	}
	return most
}

// dataReady carries the command out: its data, if any, is in place.
func (rq *request) dataReady() {
	switch {
	case rq.q.down:
		rq.complete(errAborted) // nothing is submitted any more: its end was waited for
	case rq.cmd.start != nil:
		rq.cmd.start(rq)
	default:
		rq.complete(rq.cmd.run(rq))
	}
}

// complete ends the request. It is the one place where an error becomes a
// status. The request is not the core's any more when it returns.
func (rq *request) complete(err error) {
	q, r := rq.q, rq.r
	c := &r.Completion
	*c = nvme.Completion{CID: r.Command.CID(), SQHD: q.nextSQHD(), Result: rq.result}
	if err != nil {
		rq.fail(err)
	}
	q.count(rq)
	rq.ns = nil
	q.fabric.Complete(r)
	q.held--
	if q.leaving || q.down {
		q.settle()
	}
}

// fail sets the completion to an error, and notes in the log of the controller
// what field it was about.
func (rq *request) fail(err error) {
	q, c := rq.q, &rq.r.Completion
	c.Status = nvme.StatusOf(err)
	c.Result = 0
	fe, ok := errors.AsType[*nvme.FieldError](err)
	switch {
	case !ok:
	case q.ctrl == nil:
		// Not yet connected: there is no log, but a Connect's result says it.
		switch c.Status.Base() {
		case nvme.ConnectInvalidParameters, nvme.ConnectInvalidHost:
			c.Result = uint64(fe.ConnectResult())
		}
	case !q.ctrl.isDiscovery(): // which has no such log
		q.ctrl.logError(rq, fe)
		c.Status = c.Status.WithMore()
	}
}

// count adds the request to the queue's statistics.
func (q *queue) count(rq *request) {
	n := &q.counters
	if !rq.r.Completion.Status.OK() {
		if !rq.recalled { // every host leaves some behind, and nothing is wrong
			n.errors.Add(1)
		}
		n.others.Add(1)
		return
	}
	if q.qid != 0 {
		switch nvme.IOOpcode(rq.r.Command.Opcode()) {
		case nvme.IORead:
			n.reads.Add(1)
			n.readBytes.Add(rq.length)
			return
		case nvme.IOWrite:
			n.writes.Add(1)
			n.writtenBytes.Add(rq.length)
			return
		}
	}
	n.others.Add(1)
}

// reply copies page, or as much of it as was asked for, to the host's data;
// what was asked for beyond its end is zero.
func (rq *request) reply(page []byte) {
	for _, d := range rq.r.Data {
		n := copy(d, page)
		clear(d[n:])
		page = page[n:]
	}
}

// dataAt copies the host's data from byte off on to b and returns how many
// bytes there were.
func (rq *request) dataAt(b []byte, off int) int {
	n := 0
	for _, d := range rq.r.Data {
		if off >= len(d) {
			off -= len(d)
			continue
		}
		n += copy(b[n:], d[off:])
		off = 0
	}
	return n
}

// dataError is what a request ends with whose data could not be moved.
func dataError(err error) error {
	if s, ok := errors.AsType[nvme.Status](err); ok {
		return s
	}
	return fmt.Errorf("%w: %w", nvme.DataTransferError, err)
}
