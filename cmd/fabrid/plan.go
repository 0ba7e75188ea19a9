package main

import (
	"fmt"
	"math"
	"runtime/debug"

	"github.com/fabrid/fabrid/admission"
	"github.com/fabrid/fabrid/transport/rdma"
)

// A plan is what may exist, and how the memory budget is divided: a quarter for
// the buffers that data is in, what shared receives take, and the rest for
// queues.
type plan struct {
	limits   admission.Config
	port     admission.Limits // of each address
	listener rdma.Config      // of each
	heap     int64            // bound of the Go heap, and what belongs to it; 0: none

	percent int   // GOGC before
	before  int64 // the bound that there was; -1: it has not been changed
}

const (
	poolQuantum = 1 << 20 // what pools grow by
	leastPool   = 4 << 20
	// beside is what the program takes beside queues, data and its own text: the
	// loop, the devices, and what the garbage collector has not come to.
	beside = 24 << 20
)

// plan divides the budget, or says that it is too small.
func (f *serveFlags) plan() (plan, error) {
	inline := int(f.inline)
	if inline == 0 {
		inline = -1
	}
	p := plan{before: -1, listener: rdma.Config{InlineDataSize: inline, MaxQueueSize: f.maxQueueSize, UseSRQ: f.useSRQ, SRQSize: f.srqSize}}
	target, host := &p.limits.Target, &p.limits.Host
	*target = admission.Limits{Queues: f.maxQueues}
	*host = admission.Limits{Queues: f.maxQueuesPerHost}
	if most := max(f.memoryBudget, f.memoryPerPort, f.memoryPerHost); most > math.MaxInt64 {
		return plan{}, fmt.Errorf("a budget of %d bytes", most)
	}
	host.Bytes = int64(f.memoryPerHost)
	p.port = admission.Limits{Queues: f.maxQueuesPerPort, Bytes: int64(f.memoryPerPort)}
	budget, listeners := int64(f.memoryBudget), int64(len(f.addresses()))
	needs := p.listener.Needs()
	controller := needs.AdminQueue + needs.IOQueue
	connecting := f.maxQueues / 4
	if budget > 0 {
		p.listener.PoolSize = min(max(budget/4/listeners/poolQuantum*poolQuantum, leastPool), rdma.DefaultPoolSize)
		pools := listeners * p.listener.PoolSize
		target.Bytes = budget - pools - listeners*needs.SharedReceives
		if target.Bytes < controller {
			least, b := size(pools+listeners*needs.SharedReceives+controller), f.memoryBudget
			return plan{}, fmt.Errorf("--memory-budget %v is too little for %d addresses, with buffers and shared receives, and one controller: want %d bytes or more", &b, listeners, least)
		}
		p.heap = budget - pools + beside
		connecting = int(min(int64(connecting), target.Bytes/4/needs.IOQueue))
	}
	for _, l := range []struct {
		flag  string
		bytes size
	}{{"--memory-per-port", f.memoryPerPort}, {"--memory-per-host", f.memoryPerHost}} {
		if l.bytes > 0 && int64(l.bytes) < controller {
			return plan{}, fmt.Errorf("%s %v is too little for one controller: want %d bytes or more", l.flag, &l.bytes, controller)
		}
	}
	if f.maxConnecting > 0 {
		connecting = f.maxConnecting
	}
	// An I/O queue may be asked for by who has no controller: those must
	// not take all that there is.
	target.Connecting = max(connecting, 2)
	host.Connecting = max(connecting/4, 2)
	return p, nil
}

// gcPercent is how much the heap may grow between collections. The bound on it
// makes it safe to collect seldom, and what is live is little: with 100, Go's own,
// a storm spends a tenth of its time in collecting.
const gcPercent = 300

// apply bounds the heap, unless the user has bounded it closer.
func (p *plan) apply() {
	if p.heap > 0 {
		p.before = debug.SetMemoryLimit(-1)
		debug.SetMemoryLimit(min(p.before, p.heap))
		if p.percent = debug.SetGCPercent(gcPercent); p.percent != 100 {
			debug.SetGCPercent(p.percent) // the user has said it
		}
	}
}

func (p *plan) undo() {
	if p.before >= 0 {
		debug.SetMemoryLimit(p.before)
		debug.SetGCPercent(p.percent)
	}
}
