// Package fabric puts fabrics together for programs: what a target or a host
// needs beside itself to speak NVMe over one.
//
// A program makes a [Node], opens a device or takes its [Loop], listens there
// with a target's port, or gives its dialer to a host; the package's example does
// both.
//
// A [Node] has an event loop, the workqueue that releases queues, the budget and
// the connection manager, and ends them in the order that they need. It adds
// nothing to the packages it puts together; a program that wants other parts
// uses those.
package fabric
