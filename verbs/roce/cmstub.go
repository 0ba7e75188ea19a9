package roce

import "net/netip"

// The stand-in for the connection manager, until cm.go is there: delete this file then.
type cm struct{}

func (*cm) receiveMAD(local, remote netip.Addr, qpn uint32, mad []byte) {}
func (*cm) commEst(uint32)                                              {}
func (e *engine) startCM()                                              {}
func (e *engine) stopCM()                                               {}
