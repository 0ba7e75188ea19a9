// Package verbs is the seam between those who use RDMA and those who provide
// it: devices, protection domains, memory regions, completion queues, shared
// receive queues and queue pairs, with the words and the semantics of the
// InfiniBand specification and of Linux's ibv_* and ib_* interfaces, in Go's
// manner: batches of work requests in, batches of work completions to a
// handler, errors as values.
//
// # Threads
//
// A device has one or more completion vectors, each driven by one event loop
// (a shard). A [CQ] belongs to one vector and a [QP] and an [SRQ] to the
// vector of their CQ. Creating them, every method they have, and the calls of
// a CQ's handler happen on that vector's loop; nothing there is locked. A
// [Device], a [PD] and registered memory may be used from any goroutine.
//
// # Memory
//
// A scatter/gather element names memory by a slice and the local key that
// covers it. The memory belongs to the provider from the post of a work
// request until its completion. Remote peers name memory by an address and a
// remote key; the address is whatever the registration says it is (an iova),
// not a pointer.
package verbs
