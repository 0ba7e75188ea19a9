// Package fabric puts fabrics together for programs: what a target or a host
// needs beside itself to speak NVMe over one.
//
//	node, err := fabric.NewNode(fabric.Config{})
//	...
//	device, err := node.OpenRoCE(roce.Config{Addr: netip.MustParseAddr("192.0.2.1")})
//	...
//	listener, err := device.Listen(rdma.Config{Core: port}) // a target's port
//	...
//	c, err := host.Connect(ctx, host.Config{Dialer: device.Dialer(), ...})
//
// A [Node] has an event loop, the workqueue that releases queues, the budget and
// the connection manager, and ends them in the order that they need. It adds
// nothing to the packages it puts together; a program that wants other parts
// uses those.
package fabric
