// Package target is the NVMe over Fabrics target core: subsystems with their
// namespaces, ports, controllers, and the commands that hosts send to them.
// It knows no fabric: what carries capsules and data is a [transport.Fabric],
// and a [Port] is the [transport.Core] that fabrics bring their queues to.
//
// What is supported is one table per kind of queue, in command.go. A row says
// all there is to know about a command: its name, which way its data goes, how
// many bytes they are, what it may change and the function that carries it out.
//
// # Who runs where
//
// Everything about one queue happens on the shard that owns it. The queues of
// a controller may be on different shards; the controller's admin commands and
// its timers are on the shard of its admin queue. The I/O path takes no lock:
// namespaces are a table that is replaced as a whole, whether the controller is
// ready is an atomic flag.
//
// What the control path shares is under two locks: that of the [Target], for
// what exists and belongs to what, and inside it that of one controller, for
// its properties and its list of queues. Neither is held while a fabric or a
// device is called.
//
// Another goroutine that wants something of a queue (leave, deliver an event)
// notes it and posts the queue's task to its shard.
package target
