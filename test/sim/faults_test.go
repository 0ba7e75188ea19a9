package sim

import (
	"errors"
	"net/netip"
	"sync/atomic"

	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/verbs"
	"github.com/fabrid/fabrid/verbs/roce"
)

var (
	errNoMemory = errors.New("sim: no memory")
	errAccept   = errors.New("sim: accept failed")
)

type roceDevice = roce.Device // which has a method Device

// A faultyDevice is the target's device, where things fail on demand.
type faultyDevice struct {
	*roceDevice
	failQPs     atomic.Int32 // so many queue pairs will not be made
	failAccepts atomic.Int32 // so many connections will not be accepted
	swallow     atomic.Bool  // completions are lost
}

var _ rdmacm.Watcher = (*faultyDevice)(nil)

// take uses up a demand, if there is one.
func take(n *atomic.Int32) bool {
	for {
		v := n.Load()
		if v <= 0 {
			return false
		}
		if n.CompareAndSwap(v, v-1) {
			return true
		}
	}
}

func (d *faultyDevice) Device() verbs.Device { return faultyVerbs{d.roceDevice.Device(), d} }

func (d *faultyDevice) Listen(addr netip.AddrPort, request func(rdmacm.Conn, rdmacm.ConnParam)) (func() error, error) {
	return d.roceDevice.Listen(addr, func(c rdmacm.Conn, p rdmacm.ConnParam) { request(&faultyConn{Conn: c, dev: d}, p) })
}

// A faultyConn tells of the failure as providers do, in an event.
type faultyConn struct {
	rdmacm.Conn
	dev  *faultyDevice
	sink func(rdmacm.Event)
}

func (c *faultyConn) Notify(sink func(rdmacm.Event)) {
	c.sink = sink
	c.Conn.Notify(sink)
}

func (c *faultyConn) Accept(qp verbs.QP, p rdmacm.ConnParam) {
	if take(&c.dev.failAccepts) {
		c.sink(rdmacm.Event{Type: rdmacm.ConnectError, Err: errAccept})
		return
	}
	c.Conn.Accept(qp, p)
}

type faultyVerbs struct {
	verbs.Device
	dev *faultyDevice
}

func (v faultyVerbs) AllocPD() (verbs.PD, error) {
	pd, err := v.Device.AllocPD()
	return faultyPD{pd, v.dev}, err
}

type faultyPD struct {
	verbs.PD
	dev *faultyDevice
}

func (pd faultyPD) CreateQP(attr verbs.QPInitAttr) (verbs.QP, error) {
	if take(&pd.dev.failQPs) {
		return nil, errNoMemory
	}
	return pd.PD.CreateQP(attr)
}

func (pd faultyPD) CreateCQ(attr verbs.CQAttr) (verbs.CQ, error) {
	handler := attr.Handler
	attr.Handler = func(wcs []verbs.WC) {
		if !pd.dev.swallow.Load() {
			handler(wcs)
		}
	}
	return pd.PD.CreateCQ(attr)
}
