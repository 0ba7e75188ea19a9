package target

import (
	"slices"

	"github.com/fabrid/fabrid/nvme"
)

// maxAER is the most Asynchronous Event Requests that may be outstanding;
// AERL is one less.
const maxAER = 4

// An event kind of ours; the order is that of delivery.
const (
	eventNamespace = iota
	eventDiscovery
	numEvents
)

// eventKinds is what there is to know about each: the bit that turns it on
// (and is in OAES), and what the host gets.
var eventKinds = [numEvents]struct {
	config nvme.AsyncEventConfig
	event  nvme.AsyncEvent
}{
	eventNamespace: {nvme.AsyncConfigNamespace, nvme.EventNamespaceChanged},
	eventDiscovery: {nvme.AsyncConfigDiscoveryLogPage, nvme.EventDiscoveryChange},
}

// events is which asynchronous events a host wants, has coming, and has been
// told of. An event that has been raised is masked until the host reads its
// log page: more of the same would say nothing new [Base, Asynchronous Event
// Request command].
type events struct {
	config  nvme.AsyncEventConfig
	pending [numEvents]bool
	masked  [numEvents]bool
	changed []uint32 // namespaces, for the Changed Attached Namespace List; ascending
}

// reset forgets what a controller forgets when it is disabled.
func (e *events) reset() { *e = events{} }

// supportedEvents returns OAES.
func (c *controller) supportedEvents() nvme.AsyncEventConfig {
	if c.isDiscovery() {
		return nvme.AsyncConfigDiscoveryLogPage
	}
	return nvme.AsyncConfigNamespace
}

// raise tells the host that an event has happened, if it wants to know. From
// any goroutine.
func (c *controller) raise(event nvme.AsyncEvent) {
	c.mu.Lock()
	c.events.raise(event)
	c.mu.Unlock()
	c.admin.post()
}

func (e *events) raise(event nvme.AsyncEvent) {
	for i, k := range eventKinds {
		if k.event == event && e.config&k.config != 0 && !e.masked[i] {
			e.pending[i], e.masked[i] = true, true
		}
	}
}

// namespaceChanged notes that a namespace has come, gone or changed. From any
// goroutine.
func (c *controller) namespaceChanged(nsid uint32) {
	c.mu.Lock()
	if i, found := slices.BinarySearch(c.events.changed, nsid); !found {
		c.events.changed = slices.Insert(c.events.changed, i, nsid)
	}
	c.events.raise(nvme.EventNamespaceChanged)
	c.mu.Unlock()
	c.admin.post()
}

// logRead tells that the host has read the log page of an event, so that the
// next is worth telling.
func (e *events) logRead(lid nvme.LogPage) {
	for i, k := range eventKinds {
		if k.event.LogPage() == lid {
			e.pending[i], e.masked[i] = false, false
		}
	}
}

// next takes the next event that is pending.
func (e *events) next() (nvme.AsyncEvent, bool) {
	for i := range e.pending {
		if e.pending[i] {
			e.pending[i] = false
			return eventKinds[i].event, true
		}
	}
	return 0, false
}

// deliver completes an Asynchronous Event Request for each event that is
// pending, as far as there are any. On the admin queue's shard.
func (c *controller) deliver() {
	for len(c.aers) > 0 {
		c.mu.Lock()
		event, ok := c.events.next()
		c.mu.Unlock()
		if !ok {
			return
		}
		rq := c.takeAER(0)
		rq.result = uint64(event)
		rq.complete(nil)
	}
}

func (c *controller) takeAER(i int) *request {
	rq := c.aers[i]
	c.aers = slices.Delete(c.aers, i, i+1)
	return rq
}

// failAERs completes the Asynchronous Event Requests that wait. On the admin
// queue's shard.
func (c *controller) failAERs(s nvme.Status) {
	for len(c.aers) > 0 {
		c.recallAER(0, s)
	}
}

// recallAER completes one that waits without an event.
func (c *controller) recallAER(i int, s nvme.Status) {
	rq := c.takeAER(i)
	rq.recalled = true
	rq.complete(s)
}

// asyncEventRequest is Asynchronous Event Request.
func (rq *request) asyncEventRequest() {
	c := rq.q.ctrl
	if len(c.aers) >= maxAER {
		rq.complete(nvme.AsyncEventLimitExceeded.WithDNR())
		return
	}
	c.aers = append(c.aers, rq)
	c.deliver()
}

// abort is Abort. Of the commands that can be outstanding when it runs, those
// that wait for an event are the ones that it can still stop; bit 0 of the
// result says that it did not [Base 5.1.1].
func (rq *request) abort() error {
	sqid, cid := rq.r.Command.Abort()
	c := rq.q.ctrl
	rq.result = 1
	if sqid != 0 {
		return nil
	}
	for i, aer := range c.aers {
		if aer.r.Command.CID() == cid {
			rq.result = 0
			c.recallAER(i, nvme.AbortRequested)
			break
		}
	}
	return nil
}
