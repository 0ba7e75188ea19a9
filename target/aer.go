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
	changed []uint32 // namespaces, for the Changed Attached Namespace List; ascending; one too many stands for all
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
	if i, found := slices.BinarySearch(c.events.changed, nsid); !found && len(c.events.changed) <= nvme.MaxNamespaceList {
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
		rq := c.aers[0]
		c.takeAER(rq)
		rq.result = uint64(event)
		rq.complete(nil)
	}
}

func (c *controller) takeAER(rq *request) {
	i := slices.Index(c.aers, rq)
	c.aers = slices.Delete(c.aers, i, i+1)
	rq.stage = stageCore
}

// failAERs completes the Asynchronous Event Requests that wait. On the admin
// queue's shard.
func (c *controller) failAERs(s nvme.Status) {
	for len(c.aers) > 0 {
		c.recallAER(c.aers[0], s)
	}
}

// recallAER completes one that waits without an event.
func (c *controller) recallAER(rq *request, s nvme.Status) {
	c.takeAER(rq)
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
	rq.stage = stageEvent
	c.aers = append(c.aers, rq)
	c.deliver()
}
