// Package transport is the seam between NVMe over Fabrics and the fabrics that
// carry it, on the target's side and on the host's, and the life of a queue.
//
// Each side has two ends. On the target a fabric implements [Fabric] and a
// [Releaser] for each queue and the target core gives it a [Queue]; on the
// host a fabric implements [Dialer] and [HostQueue]. Everything per command
// happens on the shard that owns the queue, in batches, and never blocks.
//
// The life of a queue on the target is [Life]: a table of states that only
// move forward, one transition into release whatever the causes and however
// they race, and the release itself on a workqueue that does nothing else.
package transport
