// Package rdmacm is the RDMA connection manager: how queue pairs come to be
// connected, for any provider, with the words and the semantics of Linux's
// rdma_cm.
//
// # Life of an ID
//
// An [ID] is one end of a connection to be, or a listener. Its events are
// handled one at a time, in order, on the connection manager's workqueue,
// under the ID's handler mutex; that of a connection that is being asked for
// is nested inside its listener's. [ID.Destroy] waits for a handler that is
// running, and none runs after it. A handler that returns an error has the ID
// destroyed that the event was about: for a connect request that is the new
// one.
//
// The active side: [CM.NewID], [ID.Resolve], a queue pair on [ID.Vector],
// [ID.Connect]. The passive side: NewID, [ID.Listen]; for every ConnectRequest
// a queue pair with receives posted, [ID.Accept], in the handler or later, or
// [ID.Reject]. Both hear of Established, then Disconnected. What may follow
// what is a table, and what arrives too late for it is dropped.
//
// A handler never waits for a destruction, never flushes a workqueue, and
// never blocks for long: other IDs' handlers wait behind it.
//
// # Providers
//
// A [Provider] does the wire protocol and owns the queue pair's moves. Its
// [Conn] is driven without blocking and reports by events; everything that can
// go wrong with an ID's life is decided here, once for all providers. A
// [Watcher] also tells when its device or an address of it goes away: DeviceRemoval
// is handled once by every ID of the device, whose owner destroys it, and
// AddrChange by those that listen at the address. Connections over an address
// that is gone are left to their timers.
package rdmacm
