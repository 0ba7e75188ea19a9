package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/verbs/roce"
)

// A portTaken is the error of a UDP port at which somebody receives already.
type portTaken struct {
	addr  netip.AddrPort
	owner netip.AddrPort // as /proc/net/udp has it
}

func (e *portTaken) Error() string {
	return fmt.Sprintf("UDP port %d at %v is taken: a socket of this machine is bound to %v", e.addr.Port(), e.addr.Addr(), e.owner)
}

func (e *portTaken) Unwrap() error { return syscall.EADDRINUSE }

// hint says what a user can do about an error that does not say so itself.
func hint(err error) string {
	if r, ok := errors.AsType[*transport.RefusedError](err); ok && r.Reason == rdmacm.RejectReason(rdmacm.RejInvalidMTU) {
		return "this machine's interface takes longer packets than the target's: give both the same MTU (ip link), or\n" +
			"this host an address on a fitting interface, with --host-traddr"
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Sprintf("RoCEv2 peers receive on UDP port %d, so two of them on one machine need different addresses:\n"+
			"  another fabrid (ss -ulpn): give this one an address of its own, with --addr or --host-traddr\n"+
			"  Linux's rdma_rxe (rdma link show): unload it with modprobe -r rdma_rxe\n"+
			"  between two fabrids, give both another UDP port, with --udp-port", roce.Port)
	case errors.Is(err, syscall.EWOULDBLOCK):
		return "another process has that file open for a namespace: lslocks shows which"
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("the target has to receive RoCEv2 at that very address, on UDP port %d, and so has this machine: look at firewalls between", roce.Port)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "give an address that this machine has: ip -brief address shows them"
	case errors.Is(err, syscall.EAFNOSUPPORT):
		return "this machine's kernel does not have that address family: give an address of the other, with --addr"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "check the address, and the routes to it: ip route get ADDRESS"
	}
	return ""
}
