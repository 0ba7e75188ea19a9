package rdma

import (
	"unsafe"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/verbs"
)

// Needs is what a listener of a configuration takes of memory, in bytes, so that
// a program can plan its budget.
type Needs struct {
	Pool           int64 // data buffers, at most
	SharedReceives int64 // from Listen on
	AdminQueue     int64 // that an admin queue is charged, at most
	IOQueue        int64 // that an I/O queue is charged, at most
}

// Needs returns what a listener of this configuration takes.
func (c Config) Needs() Needs {
	c.setDefaults()
	shards := int64(max(1, len(c.Shards)))
	n := Needs{
		Pool:       shards * c.PoolSize,
		AdminQueue: c.footprint(0, adminQueueSize),
		IOQueue:    c.footprint(1, c.MaxQueueSize),
	}
	if c.UseSRQ {
		per := nvme.CommandSize + c.InlineDataSize + int(unsafe.Sizeof(receive{})+unsafe.Sizeof(verbs.RecvWR{})+2*unsafe.Sizeof(verbs.SGE{}))
		n.SharedReceives = shards * int64(c.SRQSize) * int64(per)
	}
	return n
}
