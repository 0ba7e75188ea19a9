// Package hostile has peers that do what no good one does, against a whole
// target, over IPv4 and IPv6: simulated, in the virtual time of testing/synctest.
//
// There are two of them. An enemy is an address and nothing else: every packet of
// it is made here, by an encoder that shares nothing with the one under test, and
// it may say that it is from anybody. A stranger has good RDMA, and a bad idea of
// NVMe: it sends any capsule on queues that it has come by in the right way.
//
// What each gets for what it does is in tables: a NAK, a REJ, a status, or
// silence. All the while a good host writes, reads and compares: it must not
// notice. What is told of an attack to who runs the target is one line at most.
package hostile
