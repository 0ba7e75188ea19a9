package rdma

import (
	"sync/atomic"
	"testing"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/verbs"
)

// Whatever a target sends in response to commands, wrong identifiers, heads,
// lengths and keys, the same twice, each request ends once, and nothing is left.
func FuzzHostResponses(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 1, 0, 0, 2, 0})
	f.Add([]byte{1, 0, 0x80, 0, 1, 0})
	f.Add([]byte{2, 0, 0xFF, 3, 1, 1, 0, 2, 0})
	f.Add([]byte{3, 0, 1})
	f.Add([]byte{4, 0, 15})
	f.Add([]byte{5, 0, 0, 5, 1, 0})
	f.Add([]byte{6, 2, 0, 7, 1, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		w := newWorld(t, worldConfig{})
		c, r := w.dialRaw(5)
		ended := make([]atomic.Int32, 4)
		reqs := make([]*req, len(ended))
		for i, op := range []nvme.IOOpcode{nvme.IORead, nvme.IOWrite, nvme.IOFlush, nvme.IORead} {
			var data []byte
			if op != nvme.IOFlush {
				data = make([]byte, 512<<i)
			}
			reqs[i] = ioReq(op, 0, data)
			reqs[i].Done = func(*transport.HostRequest) { ended[i].Add(1) }
		}
		c.submit(reqs...)
		var cmds []nvme.Command
		for range reqs {
			cmds = append(cmds, r.command())
		}
		// An error says that the host has left, as it does when it is lied to.
		post := func(wr verbs.SendWR) { _ = r.shard.Run(func() { _ = r.qp.PostSend([]verbs.SendWR{wr}) }) }
		for range 64 { // sends that fit
			if len(script) < 3 {
				break
			}
			op, cmd, x := script[0]%8, cmds[script[1]%4], script[2]
			script = script[3:]
			cqe := nvme.Completion{CID: cmd.CID()}
			wr := verbs.SendWR{Opcode: verbs.WRSend}
			length := nvme.CompletionSize
			switch op {
			case 1:
				cqe.CID ^= uint16(x) << (x & 7)
			case 2:
				cqe.SQHD, cqe.Result = uint16(x)<<8, uint64(x)<<56
			case 3:
				cqe.Status = nvme.Status(x) << 7
			case 4:
				length = int(x)
			case 5:
				post(verbs.SendWR{Opcode: verbs.WRSend, SG: []verbs.SGE{{Buf: completion(cqe.CID), LKey: r.lkey}}})
			case 6:
				wr.Opcode, wr.RKey = verbs.WRSendWithInv, cmds[x%4].SGL().Key
			case 7:
				wr.Opcode, wr.RKey = verbs.WRSendWithInv, cmd.SGL().Key^uint32(x)
			}
			b := append(cqe.AppendTo(nil), make([]byte, 256)...)[:length]
			wr.SG = []verbs.SGE{{Buf: b, LKey: r.lkey}}
			post(wr)
		}
		c.q.Disconnect()
		for i := range ended {
			if n := ended[i].Load(); n != 1 {
				t.Errorf("request %d ended %d times", i, n)
			}
		}
		if s := w.d.Stats(); s != (DialerStats{}) {
			t.Errorf("left: %+v", s)
		}
	})
}
