// Package transporttest is the conformance suite of the seam in package
// transport: every fabric runs it, at both of its ends.
//
//	func TestConformance(t *testing.T) {
//		transporttest.Run(t, func(t *testing.T, env *transporttest.Env) *transporttest.Fabric { ... })
//	}
//
// The target core is a fake, [Core], which watches that the fabric keeps its
// side of the contract: requests that come in order and once, DataReady and Sent
// where they are due and nowhere else, Down once, nothing before Open or after
// Destroy but what orphaned requests need.
package transporttest
