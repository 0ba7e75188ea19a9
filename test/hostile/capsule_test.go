package hostile

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/fabrid/fabrid/nvme"
)

// Commands that nothing is wrong with.
func identify(c nvme.Command) { c.PutIdentify(nvme.IdentifyCommand{CNS: nvme.CNSController}) }
func read(c nvme.Command)     { c.PutIO(nvme.IORead, 1, blocks-8, 7, 0) }
func write(c nvme.Command)    { c.PutIO(nvme.IOWrite, 1, blocks-8, 7, 0) }
func compare(c nvme.Command)  { c.PutIO(nvme.IOCompare, 1, blocks-8, 7, 0) }
func zeroes(c nvme.Command)   { c.PutIO(nvme.IOWriteZeroes, 1, blocks-8, 7, 0) }
func flush(c nvme.Command)    { c.PutFlush(1) }
func dsm(c nvme.Command)      { c.PutDSM(1, 0, nvme.DSMAD) }
func getProp(c nvme.Command)  { c.PutPropertyGet(nvme.PropertyCSTS) }
func setProp(c nvme.Command)  { c.PutPropertySet(nvme.PropertyVS, 0) }

func logPage(c nvme.Command) {
	g := nvme.GetLogPageCommand{LID: nvme.LogSMART}
	g.SetLength(512)
	c.PutGetLogPage(g)
}

func features(fid nvme.Feature) func(nvme.Command) {
	return func(c nvme.Command) { c.PutGetFeatures(nvme.FeaturesCommand{FID: fid}) }
}

const ioSize = 8 * blockSize

// A wrong is a capsule with one field that is wrong, and the status for it.
type wrong struct {
	queue uint16
	good  func(nvme.Command)
	size  int
	field string
	spoil func(c nvme.Command)
	want  nvme.Status
}

func sgl(change func(s *nvme.SGL)) func(nvme.Command) {
	return func(c nvme.Command) {
		s := c.SGL()
		change(&s)
		c.SetSGL(s)
	}
}

func cdw(n int, v uint32) func(nvme.Command) { return func(c nvme.Command) { c.SetCDW(n, v) } }
func nsid(n uint32) func(nvme.Command)       { return func(c nvme.Command) { c.SetNSID(n) } }
func flags(f uint8) func(nvme.Command)       { return func(c nvme.Command) { c.SetFlags(f) } }
func opcode(op uint8) func(nvme.Command)     { return func(c nvme.Command) { c.SetOpcode(op) } }
func slba(n uint64) func(nvme.Command) {
	return func(c nvme.Command) { c.SetCDW(10, uint32(n)); c.SetCDW(11, uint32(n>>32)) }
}

// wrongs are what is wrong in turn [Base 4.1.1].
func wrongs() (all []wrong) {
	add := func(queue uint16, good func(nvme.Command), size int, field string, spoil func(nvme.Command), want nvme.Status) {
		all = append(all, wrong{queue, good, size, field, spoil, want})
	}
	for _, c := range []struct {
		name  string
		queue uint16
		good  func(nvme.Command)
		size  int
	}{{"Identify", 0, identify, 4096}, {"Read", 1, read, ioSize}, {"Write", 1, write, ioSize}} {
		field := func(f string) string { return c.name + ": " + f }
		add(c.queue, c.good, c.size, field("FUSE 1"), flags(nvme.PSDTSGL|1), nvme.InvalidField)
		add(c.queue, c.good, c.size, field("FUSE 2"), flags(nvme.PSDTSGL|2), nvme.InvalidField)
		add(c.queue, c.good, c.size, field("PSDT 0"), flags(0), nvme.InvalidField)
		add(c.queue, c.good, c.size, field("PSDT 2"), flags(2<<6), nvme.InvalidField)
		add(c.queue, c.good, c.size, field("PSDT 3"), flags(3<<6), nvme.InvalidField)
		for typ := range 256 {
			switch uint8(typ) {
			case nvme.SGLKeyed, nvme.SGLKeyedInvalidate, nvme.SGLOffset:
				continue
			}
			if typ&0x0f > 1 && typ&0x0f < 0x0e { // every type, with some subtypes
				continue
			}
			add(c.queue, c.good, c.size, field(fmt.Sprintf("SGL type %#02x", typ)), sgl(func(s *nvme.SGL) { s.Type = uint8(typ) }), nvme.SGLInvalidType)
		}
		add(c.queue, c.good, c.size, field("SGL too short"), sgl(func(s *nvme.SGL) { s.Length-- }), nvme.SGLInvalidDataLength)
		add(c.queue, c.good, c.size, field("SGL too long"), sgl(func(s *nvme.SGL) { s.Length++ }), nvme.SGLInvalidDataLength)
		add(c.queue, c.good, c.size, field("SGL of nothing"), sgl(func(s *nvme.SGL) { s.Length = 0 }), nvme.SGLInvalidDataLength)
		add(c.queue, c.good, c.size, field("SGL beyond MDTS"), sgl(func(s *nvme.SGL) { s.Length = 1<<24 - 1 }), nvme.InvalidField)
		add(c.queue, c.good, c.size, field("SGL that wraps"), sgl(func(s *nvme.SGL) { s.Address = math.MaxUint64 - 1 }), nvme.SGLInvalidDataLength)
	}
	add(1, read, ioSize, "Read: SGL into the capsule", sgl(func(s *nvme.SGL) { *s = nvme.SGL{Type: nvme.SGLOffset, Length: ioSize} }), nvme.InvalidField)
	add(1, write, ioSize, "Write: SGL beyond the capsule", sgl(func(s *nvme.SGL) { *s = nvme.SGL{Type: nvme.SGLOffset, Length: ioSize} }), nvme.SGLInvalidOffset)
	add(1, write, ioSize, "Write: SGL far beyond the capsule", sgl(func(s *nvme.SGL) {
		*s = nvme.SGL{Type: nvme.SGLOffset, Address: math.MaxUint64 - 4095, Length: ioSize}
	}), nvme.SGLInvalidOffset)

	for _, c := range []struct {
		name string
		good func(nvme.Command)
		size int
	}{{"Read", read, ioSize}, {"Write", write, ioSize}, {"Compare", compare, ioSize}, {"Write Zeroes", zeroes, 0}} {
		good, size := c.good, c.size
		field := func(f string) string { return c.name + ": " + f }
		for _, n := range []uint32{0, 2, 0xfffffffe, 0xffffffff} {
			add(1, good, size, field(fmt.Sprintf("NSID %#x", n)), nsid(n), nvme.InvalidNamespace)
		}
		for _, n := range []uint64{blocks - 7, blocks, 1 << 55, 1<<56 - 1, math.MaxUint64 - 7, math.MaxUint64} {
			add(1, good, size, field(fmt.Sprintf("SLBA %#x", n)), slba(n), nvme.LBAOutOfRange)
		}
		add(1, good, size, field("NLB"), cdw(12, 8), nvme.LBAOutOfRange)
	}
	add(1, flush, 0, "Flush: NSID 0", nsid(0), nvme.InvalidNamespace)
	add(1, flush, 0, "Flush: NSID 2", nsid(2), nvme.InvalidNamespace)
	add(1, flush, 0, "Flush: data", sgl(func(s *nvme.SGL) { s.Length = 512 }), nvme.SGLInvalidDataLength)
	add(1, dsm, 16, "Dataset Management: NSID", nsid(9), nvme.InvalidNamespace)
	add(1, dsm, 16, "Dataset Management: NR", cdw(10, 255), nvme.SGLInvalidDataLength)
	for _, op := range []uint8{0x03, 0x0f, 0x40, 0x7e, 0x80, 0xff} {
		add(1, flush, 0, fmt.Sprintf("I/O: opcode %#x", op), opcode(op), nvme.InvalidOpcode)
	}
	add(1, getProp, 0, "I/O: Property Get", func(nvme.Command) {}, nvme.InvalidOpcode)

	for _, op := range []uint8{0x00, 0x01, 0x04, 0x05, 0x0f, 0x7e, 0xff} { // queues are made otherwise here
		add(0, flush, 0, fmt.Sprintf("Admin: opcode %#x", op), opcode(op), nvme.InvalidOpcode)
	}
	add(0, getProp, 0, "Property Get: attributes", func(c nvme.Command) { c[nvme.OffAttrib] = 7 }, nvme.InvalidField)
	add(0, getProp, 0, "Property Get: offset", func(c nvme.Command) { c.PutPropertyGet(0x1004) }, nvme.InvalidField)
	add(0, getProp, 0, "Property Get: far offset", func(c nvme.Command) { c.PutPropertyGet(0xfffffffc) }, nvme.InvalidField)
	add(0, setProp, 0, "Property Set: read only", func(nvme.Command) {}, nvme.InvalidField)
	add(0, getProp, 0, "Fabrics: FCTYPE", func(c nvme.Command) { c[4] = 0x7f }, nvme.InvalidOpcode)
	add(0, identify, 4096, "Identify: CNS", func(c nvme.Command) { c[nvme.OffCNS] = 0x7f }, nvme.InvalidField)
	add(0, func(c nvme.Command) { c.PutIdentify(nvme.IdentifyCommand{CNS: nvme.CNSNamespace, NSID: 1}) }, 4096, "Identify Namespace: NSID 0", nsid(0), nvme.InvalidNamespace)
	add(0, logPage, 512, "Get Log Page: LID", func(c nvme.Command) { c[nvme.OffLID] = 0xbf }, nvme.InvalidLogPage)
	add(0, logPage, 512, "Get Log Page: NUMD", cdw(10, uint32(nvme.LogSMART)|0xffff<<16), nvme.SGLInvalidDataLength)
	add(0, logPage, 512, "Get Log Page: LPO", cdw(12, 3), nvme.InvalidField)
	add(0, features(nvme.FeatureNumberOfQueues), 0, "Get Features: FID", func(c nvme.Command) { c[nvme.OffFID] = 0xbf }, nvme.InvalidField)
	return all
}

// Each field of a capsule that is wrong in turn has its status. The queue goes
// on.
func TestCapsules(t *testing.T) {
	families(t, func(w *world) {
		s := w.stranger()
		queues := []*queue{s.admin(), nil}
		queues[1] = s.io()
		w.told()
		table := wrongs()
		for i, c := range table {
			if testing.Short() && i%4 != 0 {
				continue
			}
			q := queues[c.queue]
			cmd := s.command(c.good, c.size)
			c.spoil(cmd)
			got, ok := q.do(cmd)
			if !ok || got.Status.Base() != c.want || got.CID != 7 {
				w.Errorf("%s: answered %t, %v (%#x), CID %d; want %v", c.field, ok, got.Status, uint16(got.Status), got.CID, c.want)
			}
			if q.isOver() {
				w.Fatalf("%s: the queue is over", c.field)
			}
		}
		s.ok(queues[0], identify, 4096)
		s.ok(queues[1], write, ioSize)
		s.ok(queues[1], read, ioSize)
		if lines := w.told(); len(lines) != 0 {
			w.Errorf("told\n%s", strings.Join(lines, "\n"))
		}
		s.close()
		w.unharmed(fmt.Sprintf("%d capsules", len(table)))
	})
}

// Every field of a Connect that is wrong in turn [Base 6.3].
func TestConnects(t *testing.T) {
	families(t, func(w *world) {
		s := w.stranger()
		s.admin()
		for _, c := range []struct {
			name   string
			qid    uint16
			spoil  func(a *connectArgs)
			want   nvme.Status
			offset uint16 // of the field
			inData bool
		}{
			{"admin: RECFMT", 0, func(a *connectArgs) { a.RecFmt = 1 }, nvme.ConnectIncompatibleFormat, 0, false},
			{"admin: QID", 0, func(a *connectArgs) { a.QID = 1 }, nvme.ConnectInvalidParameters, 42, false},
			{"admin: SQSIZE 0", 0, func(a *connectArgs) { a.SQSize = 0 }, nvme.ConnectInvalidParameters, 44, false},
			{"admin: SQSIZE", 0, func(a *connectArgs) { a.SQSize = math.MaxUint16 }, nvme.ConnectInvalidParameters, 44, false},
			{"admin: CNTLID", 0, func(a *connectArgs) { a.CNTLID = 1 }, nvme.ConnectInvalidParameters, 16, true},
			{"admin: SUBNQN", 0, func(a *connectArgs) { a.SUBNQN = strings.Repeat("n", 223) }, nvme.ConnectInvalidParameters, 256, true},
			{"admin: no SUBNQN", 0, func(a *connectArgs) { a.SUBNQN = "" }, nvme.ConnectInvalidParameters, 256, true},
			{"admin: SUBNQN of the good host's", 0, func(a *connectArgs) { a.SUBNQN = goodNQN }, nvme.ConnectInvalidHost, 0, false},
			{"admin: no HOSTNQN", 0, func(a *connectArgs) { a.HOSTNQN = "" }, nvme.ConnectInvalidParameters, 512, true},
			{"I/O: RECFMT", 1, func(a *connectArgs) { a.RecFmt = 0xffff }, nvme.ConnectIncompatibleFormat, 0, false},
			{"I/O: QID 0", 1, func(a *connectArgs) { a.QID = 0 }, nvme.ConnectInvalidParameters, 42, false},
			{"I/O: QID of another", 1, func(a *connectArgs) { a.QID = 2 }, nvme.ConnectInvalidParameters, 42, false},
			{"I/O: SQSIZE", 1, func(a *connectArgs) { a.SQSize = queueDepth }, nvme.ConnectInvalidParameters, 44, false},
			{"I/O: controller of the good host", 1, func(a *connectArgs) { a.SUBNQN, a.CNTLID = goodNQN, w.ctrl.Info().CNTLID }, nvme.ConnectInvalidHost, 0, false},
			{"I/O: all that the good host says but its identifier", 1, func(a *connectArgs) {
				a.SUBNQN, a.CNTLID, a.HOSTNQN = goodNQN, w.ctrl.Info().CNTLID, goodHost
			}, nvme.ConnectInvalidParameters, 16, true},
			{"I/O: CNTLID of nobody", 1, func(a *connectArgs) { a.CNTLID = 0xffe0 }, nvme.ConnectInvalidParameters, 16, true},
			{"I/O: CNTLID dynamic", 1, func(a *connectArgs) { a.CNTLID = nvme.CNTLIDDynamic }, nvme.ConnectInvalidParameters, 16, true},
			{"I/O: HOSTID", 1, func(a *connectArgs) { a.HostID[0]++ }, nvme.ConnectInvalidParameters, 16, true},
			{"I/O: HOSTNQN", 1, func(a *connectArgs) { a.HOSTNQN += "x" }, nvme.ConnectInvalidParameters, 16, true},
			{"I/O: SUBNQN", 1, func(a *connectArgs) { a.SUBNQN += "x" }, nvme.ConnectInvalidParameters, 256, true},
		} {
			q := s.dial(c.qid)
			w.told()
			a := s.connectArgs(c.qid)
			c.spoil(a)
			got, ok := s.connect(q, a)
			if !ok || got.Status.Base() != c.want {
				w.Errorf("%s: answered %t, %v, want %v", c.name, ok, got.Status, c.want)
			}
			if offset, inData := nvme.InvalidConnectParameter(got.DW0()); c.want == nvme.ConnectInvalidParameters && (offset != int(c.offset) || inData != c.inData) {
				w.Errorf("%s: byte %d, in the data: %t; want %d, %t", c.name, offset, inData, c.offset, c.inData)
			}
			if lines := w.told(); len(lines) != 1 {
				w.Errorf("%s: told\n%s", c.name, strings.Join(lines, "\n"))
			}
			q.leave()
		}
		s.close()
		w.unharmed("connects")
	})
}

// What ends the queue that it comes on, and that alone.
func TestCapsulesThatEndAQueue(t *testing.T) {
	families(t, func(w *world) {
		s := w.stranger()
		for _, c := range []struct {
			name    string
			qid     uint16
			capsule func() []byte
		}{
			{"nothing", 0, func() []byte { return nil }},
			{"63 bytes", 1, func() []byte { return s.command(flush, 0)[:63] }},
			{"data that an admin queue has no room for", 0, func() []byte { return append(s.command(identify, 4096), 1) }},
			{"more than a capsule", 1, func() []byte { return make([]byte, 64+4096+1) }},
			{"a Write from where there is no key", 1, func() []byte {
				cmd := s.command(write, ioSize)
				sgl(func(s *nvme.SGL) { s.Key ^= 0x5500 })(cmd)
				return cmd
			}},
			{"a Read to where there is no key", 1, func() []byte {
				cmd := s.command(read, ioSize)
				sgl(func(s *nvme.SGL) { s.Key = 0 })(cmd)
				return cmd
			}},
			{"a Write from before the memory", 1, func() []byte {
				cmd := s.command(write, ioSize)
				sgl(func(s *nvme.SGL) { s.Address = iova - 1 })(cmd)
				return cmd
			}},
			{"a Read to beyond the memory", 1, func() []byte {
				cmd := s.command(read, ioSize)
				sgl(func(s *nvme.SGL) { s.Address = iova + memSize - ioSize + 1 })(cmd)
				return cmd
			}},
			{"a Write from the end of all memory", 1, func() []byte {
				cmd := s.command(write, ioSize)
				sgl(func(s *nvme.SGL) { s.Address = math.MaxUint64 - ioSize + 1 })(cmd)
				return cmd
			}},
		} {
			q := s.admin()
			admin := q
			if c.qid != 0 {
				q = s.io()
			}
			w.told()
			if got, ok := q.do(c.capsule()); ok {
				w.Errorf("%s: answered with %v", c.name, got.Status)
			}
			if !q.isOver() {
				w.Errorf("%s: the queue is not over", c.name)
			}
			if lines := w.told(); len(lines) > 1 {
				w.Errorf("%s: told\n%s", c.name, strings.Join(lines, "\n"))
			}
			admin.leave()
			w.unharmed(c.name)
		}
		s.close()
	})
}
