// Package rdma carries NVMe over Fabrics over RDMA [RDMA]: the fabric of a
// target's queues ([Listen]) and of a host's ([NewDialer]). It speaks verbs
// and rdmacm and knows no provider.
//
// # Target
//
// A connection request is checked, charged to the budget, and only then given
// memory, a completion queue and a queue pair, on the shard of the vector that
// its connection belongs to. Receives are posted before it is accepted.
// Capsules that arrive before the connection is established are parked.
//
// A queue has as many receives as the host may have commands outstanding, and
// as many requests. A receive is posted again with the response to its
// command, so that the host never finds none; its request is free only when
// the response has been acknowledged. A capsule that arrives in between waits
// for a request.
//
// What a batch of events leads to is posted at the end of the round, in one
// chain: the RDMA WRITEs of all responses, the SENDs of all responses, and
// RDMA READs as far as the initiator depth goes. A queue pair completes in
// order, so the completion of a response's SEND says that its WRITEs are done
// too, and only SENDs and READs are signalled.
//
// # Host
//
// A queue has a protection domain of its own: what its fast registrations
// grant, no other queue pair reaches. Each command slot has a region; it is
// registered by the work request before the command's SEND, and invalidated
// by the response, or locally if the target did not. A request has ended when
// its SEND has completed, its response has come, and its region is invalid.
package rdma
