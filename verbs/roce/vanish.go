package roce

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/fabrid/fabrid/rdmacm"
)

var errVanished = errors.New("roce: cm: the device vanished")

// Silence has nothing leave the device any more, or lets it speak again: what
// is to be sent meanwhile is lost. What was sent before is on its way. It is for
// tests and load generators, and is called on the shard.
func (d *Device) Silence(on bool) {
	e := d.eng
	e.transmit()
	mute, is := e.wire.(muteWire)
	switch {
	case on && !is:
		e.wire = muteWire{e.wire}
	case !on && is:
		e.wire = mute.wire
	}
}

// A muteWire loses what is sent.
type muteWire struct{ wire }

func (muteWire) send(b *txBatch) { b.sent = len(b.pkts) }

// Vanish ends every connection of the device without a word to the peers, as a
// machine does that loses power; those who own them are told DeviceRemoval. The
// device can be used again at once, but never answers when it is asked about
// connections that it does not know. It is for tests and load generators, and
// is called on the shard.
func (d *Device) Vanish() {
	e := d.eng
	_, was := e.wire.(muteWire)
	d.Silence(true)
	e.cm.vanish()
	d.Silence(was)
}

func (m *cm) vanish() {
	if _, is := m.cfg.link.(ghostLink); !is {
		m.cfg.link = ghostLink{m.cfg.link, m}
	}
	for _, c := range m.conns {
		c.leave()
		if c.state == cmDREQSent {
			c.done()
		}
		c.emit(rdmacm.Event{Type: rdmacm.DeviceRemoval, Err: errVanished})
	}
	m.timewait = cmTimewait{max: m.cfg.caps.timewait}
}

// A ghostLink is the link of a cm some of whose connections vanished. Of those
// it says nothing.
type ghostLink struct {
	cmLink
	m *cm
}

func (l ghostLink) sendMAD(local, remote netip.Addr, mad []byte) {
	switch h, b, err := parseMAD(mad); {
	case err != nil:
		return
	case h.attrID == cmAttrDREP || h.attrID == cmAttrREJ:
		// Both begin with our communication ID.
		if l.m.conns[binary.BigEndian.Uint32(b)] == nil {
			return
		}
	}
	l.cmLink.sendMAD(local, remote, mad)
}
