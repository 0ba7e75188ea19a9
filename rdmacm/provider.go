package rdmacm

import (
	"net/netip"

	"github.com/fabrid/fabrid/verbs"
)

// A Provider speaks the wire protocol of connection management for one device.
// It may be used from any goroutine.
type Provider interface {
	// Device is the device whose queue pairs it connects.
	Device() verbs.Device

	// Listen has request called for every connection that a peer asks for at
	// addr, whose IP may be unspecified for all of the device's. request does
	// not block; it is called on any goroutine, and conn is its to accept, to
	// reject or to close. close ends it: request is not called any more when it
	// has returned. It must not be called on the device's loops.
	Listen(addr netip.AddrPort, request func(conn Conn, param ConnParam)) (close func() error, err error)

	// Open makes the active end of a connection to remote; nothing is sent yet.
	// If local is invalid the provider chooses the address that leads there.
	Open(local netip.Addr, remote netip.AddrPort) (Conn, error)
}

// A Conn is one end of a connection on the wire. Its methods may be called from
// any goroutine and do not block: what comes of them is told as events.
// Connect, Accept, Reject and Disconnect are each called at most once. One that
// comes after Close, with which it may race, does nothing.
type Conn interface {
	// Vector is the completion vector of the queue pair to be.
	Vector() int
	LocalAddr() netip.AddrPort
	RemoteAddr() netip.AddrPort

	// Notify sets who is told of events. It is called once, before anything but
	// the methods above. sink does not block and is called in the order of the
	// events, on any goroutine.
	Notify(sink func(Event))

	// Connect asks for the connection, with qp, in Init. Established, Rejected,
	// Unreachable or ConnectError follows. qp is connected before Established.
	Connect(qp verbs.QP, p ConnParam)

	// Accept grants what the peer asked for, with qp, in Init, its receives
	// posted: the peer may send as soon as it has the answer. Established or
	// ConnectError follows.
	Accept(qp verbs.QP, p ConnParam)

	// Reject refuses it, with reason RejConsumerDefined and private data.
	// Nothing follows.
	Reject(reason int, private []byte)

	// Disconnect moves the queue pair to Err and takes leave of the peer, once
	// there is a connection; otherwise it gives up connecting. Disconnected
	// follows if it was established.
	Disconnect()

	// Close forgets the connection, after taking leave as Disconnect and Reject
	// do where that is still owed. The queue pair is touched no more when
	// detached is called, on qp's loop, or at once if the connection has let go of
	// it before. sink may be called until then; by a call that was under way, a
	// little later.
	Close(detached func())
}
