// Package soft is what providers that do RDMA in software have in common:
// memory keys with their access checks, and queues of receives.
package soft
