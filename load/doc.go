// Package load makes load on targets and measures what comes of it.
//
// [Bench] reads and writes as a disk benchmark does: a pattern, a block size, so
// many commands outstanding, for so long. All of it happens on the shards of the
// controller's queues: a command's end submits the next, without another
// goroutine, a channel or an allocation per command.
//
// [Storm] connects hosts to a target and has them leave it, again and again: in
// order, without a word, or at any stage of connecting. It has no host library
// under it: each host is a state machine of its own on a device, all of them on
// one shard.
//
// With verification each block is written with a header that says what it is,
// and what is read is held against what was written last.
package load
