// Package fabrid is an NVMe over Fabrics target and host in Go that brings its
// own RDMA: RoCEv2 over plain UDP sockets, wire-compatible with Linux. It needs
// no kernel module, no RNIC and no privileges.
//
// This package has no code. Start with its examples, then go where you need:
//
//   - Serve storage: package target (subsystems, namespaces, ports) with a
//     device of package bdev.
//   - Use storage that others serve: package host.
//   - Connect the two: package fabric, over RoCEv2 or within one process.
//   - Measure: package load.
//
// Below these are the rooms that few programs enter by themselves:
//
//	nvme            the specification: types, byte layouts, status codes, names
//	transport       the seam between target or host and the fabrics; the life of a queue
//	transport/loop  the fabric within one process
//	transport/rdma  NVMe/RDMA over verbs and rdmacm, for any provider
//	rdmacm          the RDMA connection manager
//	verbs           the verbs interface: queue pairs, memory regions, completions
//	verbs/roce      RoCEv2 over UDP
//	admission       how many queues and bytes may exist
//	shard           the event loop that all I/O runs on
//	workqueue       bounded workers with flush, drain and barriers
//	lockdep         the lock-order validator
//
// The program is cmd/fabrid. How it all hangs together is in
// docs/ARCHITECTURE.md.
package fabrid
