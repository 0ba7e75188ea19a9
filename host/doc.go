// Package host is the host's side of NVMe over Fabrics: it connects to a
// controller, keeps the connection alive, and reads and writes namespaces. Its
// examples show how: [Connect], [Discover], and both ways of I/O.
//
// # Two ways of I/O
//
// The methods of [Namespace] block and may be called by any goroutine; it is an
// [io.ReaderAt] and an [io.WriterAt]. For many commands at once there is
// [Queue.Submit], on the queue's shard: an [IO] is prepared once, ends in its
// Done callback, may be submitted again from there, and costs no allocation, no
// channel and no other goroutine.
//
// # Loss of the connection
//
// The words and the numbers are those of Linux's host. When a queue is lost, a
// command exceeds its timeout or the controller answers no keep alive, all
// queues of the controller are disconnected, and connected again every
// ReconnectDelay until that succeeds, CtrlLossTMO has passed since the loss, or
// the controller answers with a status that says Do Not Retry.
//
// I/O commands wait meanwhile, for at most FastIOFailTMO, also those whose fate
// the loss has left unknown: they are sent again when the controller is back, at
// most MaxRetries times. What may be sent twice, and what is not:
//
//	Read, Compare, Flush          sent again as soon as the controller is back
//	Write, Write Zeroes,          the same data to the same blocks: sent again when the old
//	Deallocate                    controller is known to execute nothing any more
//	admin commands, passed on     never sent again
//	whatever its owner was told   never sent again
//	the failure of
//
// The old controller may still execute a write that was under way, for a while:
// late, it would undo a newer one to the same blocks. So after a loss with writes
// under way nothing that writes is sent, neither again nor for the first time,
// until that controller has become not ready when it was disabled, if its admin
// queue still works, or has had to notice the loss and to stop: two periods of
// its keep alive, three with TBKAS, and CQT. With the defaults that is the
// ReconnectDelay, or 5 s more. Without keep alive there is no such time: writes
// that a loss interrupts fail, and a target that keeps them for long may execute
// them after newer ones. The same is true of a target that goes on for longer
// than it says, of another [Controller] to the same subsystem, and of other
// hosts, which need reservations or fencing, as ever.
//
// What fails for want of a connection or a path is a [*PathError], which says
// whether the command may have been executed. With [Config.NoRequeue] nothing is
// sent twice.
//
// Commands are sent again after the namespaces have been identified again, so
// they never reach a namespace that has taken another's NSID.
//
// # Refusals
//
// A command that ends with a status without DNR is sent again, MaxRetries times:
// after the delay that the controller asks for (CRD, up to [MaxRetryDelay]); else
// after 100 ms, 200 ms and so on if the status speaks of a passing state; else at
// once. One for which the controller has no path (ANA inaccessible or in
// transition) is tried every second, and when the controller says that its paths
// have changed, for as long as it would wait for a connection: FastIOFailTMO,
// else CtrlLossTMO.
//
// # Contexts
//
// A call whose context is done returns early, and its memory is not touched any
// more: what waits ends at once, and what the controller has it is asked to
// abort. If it does neither that nor answers, the connection is given up after
// IOTimeout. A write that ends so may have been executed.
package host
