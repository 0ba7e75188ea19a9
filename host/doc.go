// Package host is the host's side of NVMe over Fabrics: it connects to a
// controller, keeps the connection alive, and reads and writes namespaces.
//
//	c, err := host.Connect(ctx, host.Config{
//		Dialer: dialer, // of a fabric: transport/rdma, transport/tcp, ...
//		Remote: netip.MustParseAddrPort("192.0.2.1:4420"),
//		NQN:    "nqn.2024-01.example:disks",
//	})
//	...
//	ns, err := c.Namespace(1)
//	n, err := ns.ReadAt(buf, 0)
//	...
//	err = c.Disconnect(ctx)
//
// [Discover] asks a discovery controller what there is to connect to.
//
// # Two ways of I/O
//
// The methods of [Namespace] block and may be called by any goroutine. For load
// generators there is [Queue.Submit], on the queue's shard: an [IO] is prepared
// once, ends in its Done callback, may be submitted again from there, and costs
// no allocation, no channel and no other goroutine.
//
// # Loss of the connection
//
// The words and the numbers are those of Linux's host. When a queue is lost, a
// command exceeds its timeout or the controller answers no keep alive, all
// queues of the controller are disconnected, and connected again every
// ReconnectDelay until that succeeds, CtrlLossTMO has passed, or the controller
// answers with a status that says Do Not Retry.
//
// I/O commands wait meanwhile, also those whose fate the loss has left unknown:
// they are sent again when the controller is back, at most [MaxRetries] times.
// Read, Compare, Write, Write Zeroes, Deallocate and Flush, which is all that
// this package sends to I/O queues, may be executed twice without harm as long
// as nobody writes to the same blocks between; that is the order that a block
// device never promises before it has answered. A write of which the answer is
// lost may have been executed, in whole or in part, or may be executed later by
// a target that lost the connection but not the command; who takes over
// a namespace from another host needs reservations or fencing, as ever. With
// [Config.NoRequeue] nothing is sent twice: what the loss interrupted ends with
// an error that says so ([ErrLost]). Admin commands are never sent again.
//
// Commands are sent again after the namespaces have been identified again, so
// they never reach a namespace that has taken another's NSID.
package host
