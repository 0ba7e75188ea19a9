package target_test

import (
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport"
)

// A script is what a fuzzer makes a host do.
type script []byte

func (s *script) u8() uint8 {
	if len(*s) == 0 {
		return 0
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return b
}

func (s *script) bytes(n int) []byte {
	b := make([]byte, n)
	*s = (*s)[copy(b, *s):]
	return b
}

func (s *script) u16() uint16 { return binary.LittleEndian.Uint16(s.bytes(2)) }
func (s *script) u32() uint32 { return binary.LittleEndian.Uint32(s.bytes(4)) }
func (s *script) u64() uint64 { return binary.LittleEndian.Uint64(s.bytes(8)) }

// Steps of a script.
const (
	stepOpen = iota
	stepConnect
	stepRaw
	stepIO
	stepAdmin
	stepCC
	stepLate
	stepServe
	stepFailData
	stepHangUp
	stepAbort
	stepCopy
	stepHold
	numSteps
)

// step takes one step with queue q.
func (s *script) step(w *world, qs *[]*queue) {
	kind := s.u8() % numSteps
	if kind == stepOpen || len(*qs) == 0 {
		if len(*qs) < 5 {
			*qs = append(*qs, w.open(func(p *transport.QueueParam) { p.Depth = 8 }))
		}
		return
	}
	i := int(s.u8()) % len(*qs)
	q := (*qs)[i]
	switch kind {
	case stepConnect:
		a := adminConnect()
		a.SQSize = 7
		if sel := s.u8(); sel != 0 {
			a = ioConnect(uint16(sel>>4), uint16(sel&15))
			a.SQSize = 7
		}
		if s.u8()&1 != 0 {
			a.SUBNQN = nvme.DiscoveryNQN
		}
		q.try(a.command(), a.ConnectData.AppendTo(nil), nvme.Success)
	case stepRaw:
		c := nvme.Command(s.bytes(nvme.CommandSize))
		n := int(s.u16())
		sgl := nvme.Success
		if s.u8() == 1 {
			sgl = nvme.Status(s.u16() & 0x7FFF)
		}
		q.try(c, append(s.bytes(min(n, 64)), make([]byte, max(0, n-64))...), sgl)
	case stepIO:
		op := s.u8()
		c := nvme.NewCommand()
		c.PutIO(nvme.IOOpcode(op&0x0F), uint32(s.u8()&3), s.u64()>>(s.u8()&63), s.u16()&0x1FF, s.u16())
		n := int(c.Blocks()) * 512
		if c.Direction() == nvme.NoData {
			n = 0
		}
		if nvme.IOOpcode(c.Opcode()) == nvme.IODatasetManagement {
			c.SetCDW(10, uint32(s.u8()))
			c.SetCDW(11, nvme.DSMAD)
			n = 4096
		}
		q.try(c, append(s.bytes(min(n, 64)), make([]byte, max(0, n-64))...), nvme.Success)
	case stepAdmin:
		c := nvme.NewCommand()
		c.SetOpcode(s.u8() & 0x1F)
		c.SetNSID(s.u32())
		c.SetCDW(10, s.u32())
		c.SetCDW(11, s.u32())
		c.SetCDW(12, uint32(s.u8()))
		n := 0
		switch nvme.AdminOpcode(c.Opcode()) {
		case nvme.AdminIdentify:
			n = 4096
		case nvme.AdminGetLogPage:
			c.SetCDW(11, 0)
			n = int(c.GetLogPage().Length())
		}
		q.try(c, make([]byte, n), nvme.Success)
	case stepCC:
		q.try(propSet(nvme.PropertyCC, uint64(s.u32())), nil, nvme.Success)
	case stepLate:
		q.shard.Run(func() { q.late = !q.late })
	case stepServe:
		q.serve()
	case stepFailData:
		q.shard.Run(func() {
			if q.dataErr == nil {
				q.dataErr = errors.New("no data")
			} else {
				q.dataErr = nil
			}
		})
	case stepAbort:
		s := q.any(int(s.u8()))
		sqid := uint16(i)
		q.try(cmd(func(c nvme.Command) { c.PutAbort(sqid, s) }), nil, nvme.Success)
		for _, admin := range *qs {
			admin.try(cmd(func(c nvme.Command) { c.PutAbort(1, s) }), nil, nvme.Success)
		}
	case stepCopy:
		f := nvme.CopyCommand{NSID: uint32(s.u8() & 1), SDLBA: s.u64() >> (s.u8() & 63), NR: s.u8(), DESFMT: s.u8() >> 6, FUA: s.u8()&1 != 0}
		data := make([]byte, (int(f.NR)+1)*nvme.CopyRangeSize)
		for at := 0; at < len(data) && len(*s) > 0; at += nvme.CopyRangeSize {
			copy(data[at:], nvme.CopyRange{SLBA: uint64(s.u8()), NLB: uint16(s.u8())}.AppendTo(nil))
		}
		q.try(cmd(func(c nvme.Command) { c.PutCopy(f) }), data, nvme.Success)
	case stepHold:
		if w.faulty.Held() > 0 || i%2 == 0 {
			w.faulty.Release()
		} else {
			w.faulty.Hold()
		}
	case stepHangUp:
		w.faulty.Release() // or its commands keep the queue
		q.hangUp()
		*qs = append((*qs)[:i], (*qs)[i+1:]...)
	}
}

// any returns the identifier of a command that is with the core, if there is one.
func (q *queue) any(n int) (cid uint16) {
	q.shard.Run(func() {
		for i := range q.slots {
			if s := &q.slots[(i+n)%len(q.slots)]; s.state != atFabric {
				cid = s.cid()
				return
			}
		}
	})
	return cid
}

// try sends a command if the queue still takes one.
func (q *queue) try(c nvme.Command, data []byte, sgl nvme.Status) {
	room := false
	q.shard.Run(func() {
		for i := range q.slots {
			room = room || q.slots[i].state == atFabric
		}
		room = room && !q.isDown && q.cause == nil
	})
	if room {
		q.sendSGL(c, data, sgl)
	}
}

// Whatever hosts send and however they come and go: nothing panics, every
// command is completed exactly once, no device is asked for what it does not
// have, and nothing is left behind. The fake fabric, the recording device and
// close check it.
func FuzzCommands(f *testing.F) {
	up := []byte{stepOpen, stepConnect, 0, 0, 0, stepCC, 0, 1, 0, 0x46, 0} // an enabled controller, 1
	io := append(up, stepOpen, stepConnect, 1, 0x11, 0)                    // and I/O queue 1
	add := func(base []byte, more ...byte) { f.Add(append(append([]byte(nil), base...), more...)) }
	add(up, stepAdmin, 0, 0x06, 1, 0, 0, 0, 0, 0, 0, 0)                                                  // Identify
	add(up, stepAdmin, 0, 0x0C, stepAdmin, 0, 0x0C, stepHangUp, 0)                                       // AERs
	add(up, stepAdmin, 0, 0x09, 0, 0, 0, 0, 0x0B, 0, 0, 0, 0, 1, 0, 0)                                   // events on
	add(io, stepIO, 1, 0x02, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7)                                            // read
	add(io, stepIO, 1, 0x01, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7)                                            // write
	add(io, stepIO, 1, 0x09, 1)                                                                          // deallocate
	add(io, stepIO, 1, 0x08, 1, 255, 255, 255, 255, 255, 255, 255, 255, 0, 255, 255)                     // write zeroes, far away
	add(io, stepLate, 1, stepIO, 1, 0x01, 1, stepIO, 1, 0x02, 1, stepCC, 0, 0, 0, 0x46, 0, stepServe, 1) // reset under way
	add(io, stepLate, 1, stepIO, 1, 0x01, 1, stepHangUp, 1)                                              // gone while it waits
	add(io, stepFailData, 1, stepIO, 1, 0x02, 1, stepHangUp, 0)
	add(up, stepOpen, stepConnect, 1, 0, 1, stepCC, 1, 1, 0, 0, 0, stepAdmin, 1, 0x02, 0, 0, 0, 0, 0x70, 0, 255, 0) // discovery
	add(up, stepRaw, 0, 0x7F, 0x40, 1, 0, 0x04)
	add(io, stepIO, 1, 0x0C, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100)                                     // verify
	add(io, stepIO, 1, 0x04, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, stepIO, 1, 0x02, 1)          // write uncorrectable, read
	add(io, stepCopy, 1, 1, 50, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 5, 9, 0, 20)                       // copy, overlapping
	add(io, stepHold, 1, stepCopy, 1, 1, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 9, stepAbort, 1, 0) // aborted with the device
	add(io, stepLate, 1, stepIO, 1, 0x01, 1, stepAbort, 1, 0, stepServe, 1)                         // aborted before
	add(io, stepHold, 1, stepIO, 1, 0x0C, 1, stepIO, 1, 0x0C, 1, stepIO, 1, 0x0C, 1, stepHangUp, 1) // gone while they wait in line
	f.Fuzz(func(t *testing.T, b []byte) {
		rec := &recorder{Device: newMemory(t, 64<<10), t: t}
		faulty := bdev.NewFaulty(rec)
		w := newWorld(t, target.Config{LeaveTimeout: time.Microsecond}, faulty)
		w.faulty = faulty
		defer w.close()
		defer faulty.Release()
		s := script(b)
		var qs []*queue
		for n := 0; len(s) > 0 && n < 200; n++ {
			s.step(w, &qs)
		}
	})
}
