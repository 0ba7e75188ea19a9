// Package nvme is the NVMe specification as Go: the command and completion
// entries, status codes, properties, Fabrics commands, Identify data, log
// pages and names that a target and a host exchange, and their byte layouts.
//
// Names are the specifications' field names. The package is pure: it does no
// I/O, starts no goroutine and keeps no state. Every multi-byte field is
// little-endian on the wire and in the host's byte order in Go.
//
// Two shapes occur. What the hot path reads once is a view of its bytes
// ([Command]) or a small value ([Completion], [SGL]) and allocates nothing.
// What is built and inspected is a struct with AppendTo, which appends the
// whole structure with its reserved bytes zero, and Parse, which checks the
// length and ignores reserved bytes. A number that the specification calls
// 0's based stays 0-based in fields and accessors that bear its name.
//
// Comments cite the specifications by the title of a section or figure, which
// unlike its number outlives a revision: [Base, …] is the NVM Express Base
// Specification (2.1), [NVM, …] the NVM Command Set Specification, and
// [RDMA, …] the RDMA Transport Specification.
package nvme
