// Package shard is the event loop that everything on the I/O path runs on.
//
// A [Shard] is one goroutine, locked to its thread, that owns file
// descriptors, deadlines and whatever state its users give it. It takes a
// batch of events, runs all that the batch leads to, and then calls its
// flushers, which send what has gathered. What a shard owns needs no lock.
//
// Other goroutines reach a shard by [Shard.Post] only: a [Task] is intrusive,
// posting allocates nothing, and many posts cost one wake-up. [Shard.Run]
// posts and waits; nothing that runs on a shard may wait for anything but the
// next event.
//
// A simulated shard ([NewSim]) has no descriptors and takes its time from the
// time package, so that it runs inside a testing/synctest bubble.
package shard
