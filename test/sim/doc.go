// Package sim is whole systems under test: a target with its port, subsystem
// and disk, hosts with a RoCEv2 device each, and the network between them, all
// simulated, in the virtual time of testing/synctest. What happens is written
// in testdata/, in sentences that need no Go: pairs.txt has every pair of a
// stage of a queue's life and a cause of its end, and what must be left of it,
// and when: nothing.
//
// A run that fails leaves a capture of its packets, and says where.
package sim
