package target

import "github.com/fabrid/fabrid/nvme"

// errorLogEntries is how many errors a controller remembers; ELPE is one less.
const errorLogEntries = 64

// errorLog is the Error Information log: a ring, which most controllers never
// need.
type errorLog struct {
	ring  *[errorLogEntries]nvme.ErrorLogEntry // the n-th error is at (n-1) mod size
	count uint64                               // errors ever
}

// logError notes what an error was about: a field, or if there is none (nil) the
// medium. From any shard of the controller's.
func (c *controller) logError(rq *request, fe *nvme.FieldError) {
	cmd := rq.r.Command
	e := nvme.ErrorLogEntry{
		SQID:     rq.q.qid,
		CID:      cmd.CID(),
		Status:   rq.r.Completion.Status,
		Location: nvme.NoParameterError,
		NSID:     cmd.NSID(),
		TRTYPE:   rq.q.param.Limits.Type,
		Opcode:   cmd.Opcode(),
		Version:  1,
	}
	if fe != nil && !fe.InData {
		e.Location = nvme.ParameterErrorLocation(fe.Offset, fe.Bit)
	}
	if cmd.IsFabrics() {
		e.NSID = 0
	}
	e.LBA = rq.lba
	c.mu.Lock()
	defer c.mu.Unlock()
	l := &c.errors
	if l.ring == nil {
		l.ring = new([errorLogEntries]nvme.ErrorLogEntry)
	}
	e.ErrorCount = l.count + 1
	l.ring[l.count%errorLogEntries] = e
	l.count++
}

// errorPage is the log, newest first.
func (c *controller) errorPage(*request) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := &c.errors
	var b []byte
	for i := range uint64(errorLogEntries) {
		var e nvme.ErrorLogEntry
		if i < l.count {
			e = l.ring[(l.count-1-i)%errorLogEntries]
		}
		b = e.AppendTo(b)
	}
	return b
}
