package hostile

import (
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/nvme"
)

// A script is what a fuzzer has a stranger do.
type script []byte

func (s *script) bytes(n int) []byte {
	b := make([]byte, n)
	*s = (*s)[copy(b, *s):]
	return b
}

func (s *script) u8() uint8   { return s.bytes(1)[0] }
func (s *script) u16() uint16 { return binary.LittleEndian.Uint16(s.bytes(2)) }
func (s *script) u32() uint32 { return binary.LittleEndian.Uint32(s.bytes(4)) }
func (s *script) u64() uint64 { return binary.LittleEndian.Uint64(s.bytes(8)) }

// Steps of a script.
const (
	stepAdmin = iota // a queue of an enabled controller
	stepIO           // an I/O queue of the last
	stepDial         // a queue without a Connect
	stepConnect
	stepRaw
	stepReadWrite
	stepCommand
	stepCC
	stepWait
	stepLeave
	numSteps
)

// step takes a step.
func (s *script) step(p *stranger, qs *[]*queue) {
	kind := s.u8() % numSteps
	if len(*qs) == 0 {
		kind = stepAdmin
	}
	switch kind {
	case stepAdmin, stepIO, stepDial:
		switch {
		case len(*qs) == 6:
		case kind == stepAdmin:
			*qs = append(*qs, p.admin())
		default:
			*qs = append(*qs, p.dial(uint16(kind/stepIO%2)*uint16(s.u8()%3)))
			if q := (*qs)[len(*qs)-1]; kind == stepIO {
				p.connect(q, p.connectArgs(q.qid))
			}
		}
		return
	}
	i := int(s.u8()) % len(*qs)
	q := (*qs)[i]
	if q.isOver() && kind != stepLeave {
		return
	}
	switch kind {
	case stepConnect:
		a := p.connectArgs(uint16(s.u8() & 3))
		a.SQSize, a.KATO, a.RecFmt = s.u16()&63, uint32(s.u16()), uint16(s.u8()>>7)
		if s.u8()&1 != 0 {
			a.SUBNQN = nvme.DiscoveryNQN
		}
		p.put(a)
		q.send(p.command(func(c nvme.Command) { c.PutConnect(a.ConnectCommand) }, nvme.ConnectDataSize))
	case stepRaw:
		b := make([]byte, max(nvme.CommandSize, int(s.u16()%(8<<10))))
		copy(b, s.bytes(nvme.CommandSize))
		q.send(b[:len(b)-int(s.u8()&1)])
	case stepReadWrite:
		op, nlb := nvme.IOOpcode(s.u8()&0x0f), s.u16()&0x1ff
		c := p.command(func(c nvme.Command) { c.PutIO(op, uint32(s.u8()&3), s.u64()>>(s.u8()&63), nlb, s.u16()) }, (int(nlb)+1)*blockSize)
		if c.Direction() == nvme.NoData {
			sgl(func(g *nvme.SGL) { g.Length = 0 })(c)
		}
		switch s.u8() {
		case 1:
			sgl(func(g *nvme.SGL) { g.Key = s.u32() })(c)
		case 2:
			sgl(func(g *nvme.SGL) { g.Address = s.u64() })(c)
		case 3:
			sgl(func(g *nvme.SGL) { g.Length = s.u32() & 0xffffff })(c)
		case 4:
			sgl(func(g *nvme.SGL) { g.Type = s.u8() })(c)
		}
		q.send(c)
	case stepCommand:
		size := [...]int{0, 0, 4, 512, 4096}[s.u8()%5]
		c := p.command(func(c nvme.Command) {
			c.SetOpcode(s.u8())
			c.SetNSID(uint32(s.u8()))
			for n := 10; n < 16; n++ {
				c.SetCDW(n, uint32(s.u16()))
			}
		}, size)
		q.send(c)
	case stepCC:
		v := uint64(s.u32())
		q.send(p.command(func(c nvme.Command) { c.PutPropertySet(nvme.PropertyCC, v) }, 0))
	case stepWait:
		time.Sleep(time.Duration(s.u8()) * 50 * time.Microsecond)
	case stepLeave:
		q.leave()
		*qs = append((*qs)[:i], (*qs)[i+1:]...)
	}
}

// Whatever capsules come on queues that are real, in whatever order and on
// however many: the target takes it, the good host does not notice, and nothing
// is left.
func FuzzCapsules(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{stepAdmin, stepIO, 1, stepReadWrite, 1, 2, 0, 0, 1})
	f.Add([]byte{stepAdmin, stepIO, 1, stepReadWrite, 1, 1, 255, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 9, 9, 9, 9, stepLeave, 0})
	f.Add([]byte{stepAdmin, stepIO, 1, stepCC, 0, 0, 0, 0, 0, stepReadWrite, 1, 2, 7, 0, 1})
	f.Add([]byte{stepAdmin, stepCommand, 0, 0, 0x0c, stepCommand, 0, 0, 0x0c, stepWait, 200, stepLeave, 0, stepAdmin})
	f.Add([]byte{stepDial, stepConnect, 0, 0, 31, 0, 0, 0, 1, 1, stepCommand, 0, 4, 2, 0, 0x70, 0xff, 3, stepDial, stepDial, stepLeave, 1})
	f.Add([]byte{stepAdmin, stepRaw, 0, 64, 0, 0x7f, 0x40, 1, 0, 4, stepRaw, 0, 0, 32, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, "2001:db8::")
			p := w.stranger()
			s := script(b)
			var qs []*queue
			for n := 0; len(s) > 0 && n < 60; n++ {
				s.step(p, &qs)
			}
			time.Sleep(10 * time.Millisecond)
			p.close()
			w.unharmed("capsules")
			w.close()
		})
	})
}
