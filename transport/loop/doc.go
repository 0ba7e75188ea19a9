// Package loop is the fabric within a process: hosts and targets whose queues
// exchange capsules by posting batches to each other's shards, and data by one
// copy.
//
// It is the seam's reference implementation. It has no wire format to parse and
// no peer to distrust, so what is left is what every fabric does: admission,
// requests with an owner at each step, data buffers that are bounded and waited
// for, and the one way in which a queue goes down and is released.
//
// A connection has two ends, each on a shard of its own choosing. A slot is the
// place of one command in both: a free one is the host's, who puts a command in
// and hands it to the target, who hands it back with the completion. Whoever
// has it may look at the host's memory; so when a connection ends, the target
// lets go first, and then the host gives the memory back to its owner.
package loop
