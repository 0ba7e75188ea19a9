package target

import "sync/atomic"

// Stats is what commands have done since the beginning.
type Stats struct {
	Reads        uint64 `json:"reads"` // commands that succeeded
	ReadBytes    uint64 `json:"read_bytes"`
	Writes       uint64 `json:"writes"`
	WrittenBytes uint64 `json:"written_bytes"`
	Others       uint64 `json:"others"` // all other commands, and those that failed
	// Errors is commands that failed. Asynchronous Event Requests that still wait
	// when they are aborted, or their controller ends, are not among them.
	Errors uint64 `json:"errors"`
}

func (s *Stats) add(o Stats) {
	s.Reads += o.Reads
	s.ReadBytes += o.ReadBytes
	s.Writes += o.Writes
	s.WrittenBytes += o.WrittenBytes
	s.Others += o.Others
	s.Errors += o.Errors
}

// counters is a Stats that one goroutine adds to and any may read.
type counters struct {
	reads, readBytes, writes, writtenBytes, others, errors atomic.Uint64
}

func (c *counters) read() Stats {
	return Stats{
		c.reads.Load(), c.readBytes.Load(), c.writes.Load(), c.writtenBytes.Load(),
		c.others.Load(), c.errors.Load(),
	}
}

func (c *counters) add(s Stats) {
	c.reads.Add(s.Reads)
	c.readBytes.Add(s.ReadBytes)
	c.writes.Add(s.Writes)
	c.writtenBytes.Add(s.WrittenBytes)
	c.others.Add(s.Others)
	c.errors.Add(s.Errors)
}
