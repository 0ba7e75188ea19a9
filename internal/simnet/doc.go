// Package simnet is a network that is a test double: UDP datagrams over links
// with delay, a rate, loss, duplication, reordering and corruption, decided by
// a seed or by a script.
//
// A [Net] runs on one simulated shard: it has one goroutine, waits on channels
// and timers only, and so works inside a testing/synctest bubble, where a lost
// packet costs exactly a retransmission timeout and no real time. It delivers
// one packet at a time and lets at least a nanosecond pass before the next: in
// a bubble everything that a packet leads to has happened before the next one
// arrives, and a run depends on its seed alone.
//
// Each direction between two addresses is a link of its own ([Net.SetLink]),
// with its own random numbers, so that traffic on one does not change what
// happens on another.
//
// A test that fails leaves a capture that Wireshark opens ([Net.Capture]).
package simnet
