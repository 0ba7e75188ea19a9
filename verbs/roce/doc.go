// Package roce is a verbs provider that speaks RoCEv2 in software, over plain
// UDP sockets: no kernel module, no RNIC, no privileges.
//
// A [Device] is one UDP socket, on one shard. Its core, the engine, does no
// I/O and has no clock of its own: packets, work requests and time come in,
// packets and completions go out. A queue pair has three parts, named as in
// the specification and kept apart: requester.go sends, completer.go takes the
// answers in, responder.go answers. The connection manager's wire protocol is
// in cm.go. Only a socket does I/O (socket.go and its neighbours): it receives a
// batch, and at the end of the round sends one, in trains of equal packets that
// the kernel cuts up (UDP_SEGMENT) and puts together (UDP_GRO).
//
// It is wire-compatible with Linux's rdma_rxe and, as far as the InfiniBand
// specification goes, with hardware. The ICRC is made and checked though a
// socket does not show the IPv4 Identification that it covers: see icrc.go.
package roce
