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
//
// # Atomicity
//
// AWUN, AWUPF, NAWUN, NAWUPF and ACWU are 0, one logical block, for every device;
// there are no atomic boundaries. That is what devices promise: no command sees a
// block of which a part is of one write and a part of another, whatever shards
// they are on, and be they Writes, Write Zeroes or Copies; a command of several
// blocks is not one. A memory device loses everything with its power. A file or a
// block device keeps a block whole in a power failure as far as the file system
// and the disk below do: of a file whose blocks are smaller than the disk's
// sectors, or whose file system writes a block in parts, AWUPF is a promise of
// theirs. FUSES is 0: a Compare and Write that are one command would need as much
// of the devices, and no host that we know asks for it.
//
// Write Uncorrectable marks blocks in the memory of the target, for all hosts at
// once and until they are written; a target that is started again, and a namespace
// that is added again, know nothing of it. Deallocated blocks stay marked.
//
// # Abort
//
// A command that waits ends at once with Command Abort Requested, before the Abort
// is answered: one that waits for memory of the fabric, that its device has not
// begun and gives back ([bdev.Canceler]), that waits for memory of its namespace
// (Copy, Verify), or for an event. The others go on. One of several steps ends
// after the one that it is at, one whose data is on its way when it is there: then
// the Abort's answer says that it was not immediate.
//
// # Orphans
//
// A queue that is gone may leave requests with a device that does not answer: its
// release waits for them QuiesceTimeout, and no longer. They keep their buffers,
// and nobody hears how they end. Their controller is forgotten with its last
// queue, and its identifier free again, while a write of it may still be on its
// way through the device. So there is no order between such a write and those of
// the same host after it has come back: the older may overtake the newer, and
// stay. A host sees the same of any controller that was lost with writes under
// way, whose end it does not know [Base, Communication Loss Handling]; what is
// longer here is the time, which is the device's. A backend that can be stuck
// for longer than QuiesceTimeout must fence what it was given before it answers
// again, or be restarted with the target.
package target
