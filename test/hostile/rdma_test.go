package hostile

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/fabrid/fabrid/verbs/roce"
)

// An act is a packet that a peer sends on its own connection, and what it must
// get for it.
type act struct {
	name   string
	packet func(l *link) []byte
	want   byte // the syndrome of an answer
	silent bool // there is none
	over   bool // the queue pair is in Err
}

func on(op byte, build func(b []byte) []byte) func(l *link) []byte {
	return func(l *link) []byte { return build(bth(op, l.qpn, l.psn)) }
}

func access(op byte, va uint64, rkey, length uint32, payload int) func(l *link) []byte {
	return on(op, func(b []byte) []byte { return appendPayload(appendRETH(b, va, rkey, length), make([]byte, payload)) })
}

func plain(op byte, payload int) func(l *link) []byte {
	return on(op, func(b []byte) []byte { return appendPayload(b, make([]byte, payload)) })
}

// acts are with a connection at path MTU 1024 whose queue pair grants RDMA WRITE
// where there is a key, of which there is none, and no RDMA READ
// (wire: [IBTA] 9.7).
var acts = []act{
	{"WRITE with no key", access(opWriteOnly, 0, 0, 8, 8), synNAKAccess, false, true},
	{"WRITE with the key of local memory", access(opWriteOnly, 0, 1, 8, 8), synNAKAccess, false, true},
	{"WRITE to the end of memory", access(opWriteOnly, math.MaxUint64-7, 0x100, 8, 8), synNAKAccess, false, true},
	{"WRITE beyond the end of memory", access(opWriteOnly, math.MaxUint64-3, 0x100, 8, 8), synNAKAccess, false, true},
	{"WRITE, the first of 2 GiB", access(opWriteFirst, math.MaxUint64-1<<20, 0x100, 1<<31, 1024), synNAKAccess, false, true},
	{"WRITE, the first of more than 2 GiB", access(opWriteFirst, 0, 0x100, 1<<31+1, 1024), synNAKInvalid, false, true},
	{"WRITE, the first of 4 GiB", access(opWriteFirst, 0, 0x100, math.MaxUint32, 1024), synNAKInvalid, false, true},
	{"WRITE longer than it says", access(opWriteOnly, 0, 0x100, 4, 8), synNAKInvalid, false, true},
	{"WRITE shorter than it says", access(opWriteOnly, 0, 0x100, 12, 8), synNAKInvalid, false, true},
	{"WRITE of nothing, whatever the key", access(opWriteOnly, math.MaxUint64, 0xdead, 0, 0), synACK, false, false},
	{"the middle of no WRITE", plain(opWriteMiddle, 1024), synNAKInvalid, false, true},
	{"the end of no WRITE", plain(opWriteLast, 8), synNAKInvalid, false, true},
	{"READ", access(opRead, 0, 0x100, 8, 0), synNAKInvalid, false, true},
	{"READ of nothing", access(opRead, 0, 0, 0, 0), synNAKInvalid, false, true},
	{"READ of 4 GiB", access(opRead, math.MaxUint64, 0, math.MaxUint32, 0), synNAKInvalid, false, true},
	{"compare and swap", on(opCompareSwap, func(b []byte) []byte { return append(appendRETH(b, 8, 0x100, 0), make([]byte, 12)...) }), synNAKInvalid, false, true},
	{"fetch and add", on(opFetchAdd, func(b []byte) []byte { return append(appendRETH(b, 7, 0x100, 0), make([]byte, 12)...) }), synNAKInvalid, false, true},
	{"FLUSH", on(opFlush, func(b []byte) []byte { return appendRETH(append(b, 0, 0, 0, 1), 0, 0x100, 8) }), 0, true, false},
	{"atomic WRITE", access(opAtomicWrite, 8, 0x100, 8, 8), 0, true, false},

	{"SEND that invalidates a key of nobody's", on(opSendOnlyInv, func(b []byte) []byte {
		return append(append(b, 0, 0, 0x12, 0x34), make([]byte, 64)...)
	}), synACK, false, true},
	{"SEND that invalidates the key of local memory", on(opSendOnlyInv, func(b []byte) []byte {
		return append(append(b, 0, 0, 0, 1), make([]byte, 64)...)
	}), synACK, false, true},
	{"SEND longer than a packet may be", plain(opSendOnly, 1028), synNAKInvalid, false, true},
	{"the first of a SEND, not full", plain(opSendFirst, 64), synNAKInvalid, false, true},
	{"the middle of no SEND", plain(opSendMiddle, 1024), synNAKInvalid, false, true},
	{"the end of no SEND", plain(opSendLast, 64), synNAKInvalid, false, true},

	{"from the future", func(l *link) []byte { return append(bth(opSendOnly, l.qpn, l.psn+1), make([]byte, 64)...) }, synNAKSequence, false, false},
	{"from the far future", func(l *link) []byte { return append(bth(opSendOnly, l.qpn, l.psn+1<<23-1), make([]byte, 64)...) }, synNAKSequence, false, false},
	{"from the past", func(l *link) []byte { return append(bth(opSendOnly, l.qpn, l.psn-1), make([]byte, 64)...) }, synACK, false, false},
	{"a READ of the past", func(l *link) []byte { return appendRETH(bth(opRead, l.qpn, l.psn-1), 0, 0, 64) }, 0, true, false},
	{"an ACK for nothing", func(l *link) []byte { return append(bth(opAck, l.qpn, l.ourPSN), synACK, 0, 0, 1) }, 0, true, false},
	{"a NAK for nothing", func(l *link) []byte { return append(bth(opAck, l.qpn, l.ourPSN), synNAKAccess, 0, 0, 0) }, 0, true, false},
	{"the response to no READ", func(l *link) []byte { return append(bth(opReadRespOnly, l.qpn, l.ourPSN), 0x1f, 0, 0, 1, 1, 2, 3, 4) }, 0, true, false},
	{"congestion", func(l *link) []byte { return append(bth(opCNP, l.qpn, 0), make([]byte, 16)...) }, 0, true, false},
	{"UD", func(l *link) []byte { return append(bth(opUDSendOnly, l.qpn, l.psn), make([]byte, 8+256)...) }, 0, true, false},

	{"another version", on(opSendOnly, func(b []byte) []byte { b[1] |= 1; return append(b, make([]byte, 64)...) }), 0, true, false},
	{"another partition", on(opSendOnly, func(b []byte) []byte { b[3] = 1; return append(b, make([]byte, 64)...) }), 0, true, false},
	{"no opcode", plain(0x1f, 64), 0, true, false},
	{"padding that is longer than the payload", on(opSendOnly, func(b []byte) []byte { b[1] |= 3 << 4; return b }), 0, true, false},
	{"a header that is cut off", on(opWriteOnly, func(b []byte) []byte { return append(b, make([]byte, 12)...) }), 0, true, false},
}

// guesses are with keys as regions have them: an index, and 8 bits of chance.
func guesses() (all []act) {
	n := uint32(16)
	if testing.Short() {
		n = 2
	}
	for i := range n {
		key := i<<8 | i*0x35&0xff
		all = append(all, act{fmt.Sprintf("WRITE with key %#x", key), access(opWriteOnly, 0, key, 64, 64), synNAKAccess, false, true})
	}
	return all
}

// Whatever a peer sends on its own connection, it gets the answer that the
// specification has, costs nobody else anything, and leaves nothing behind.
func TestRequests(t *testing.T) {
	families(t, func(w *world) {
		e := w.enemy()
		defer e.detach()
		for _, a := range append(acts, guesses()...) {
			l := e.connect(0)
			w.told()
			got := e.say(a.packet(l))
			if i := len(got) - 1; a.over && i > 0 && got[i].attr == cmDREQ {
				got = got[:i] // and then the target leaves
			}
			switch {
			case len(got) > 1:
				w.Errorf("%s: %d answers, want one at most", a.name, len(got))
			case a.silent && len(got) > 0:
				w.Errorf("%s: answered with %#x, syndrome %#x", a.name, got[0].op, got[0].syndrome)
			case !a.silent && (len(got) == 0 || got[0].op != opAck || got[0].syndrome != a.want):
				w.Errorf("%s: answered with %+v, want syndrome %#x", a.name, got, a.want)
			}
			// What still is a queue pair answers; else nothing does, ever.
			probe := e.say(access(opWriteOnly, 0, 0, 0, 0)(l))
			alive := slices.ContainsFunc(probe, func(r reply) bool { return r.op == opAck })
			if alive == a.over {
				w.Errorf("%s: the queue pair answers: %v, want %v (%+v)", a.name, alive, !a.over, probe)
			}
			l.leave()
			w.unharmed(a.name)
			if lines := w.told(); len(lines) > 1 {
				w.Errorf("%s: told\n%s", a.name, strings.Join(lines, "\n"))
			}
		}
	})
}

// counters are what a device has dropped and refused.
func counters(s roce.Stats) string {
	return fmt.Sprintf("%d malformed, %d ICRC, %d no QP, %d source", s.DropsMalformed, s.DropsICRC, s.DropsNoQP, s.DropsSource)
}

// What is for the queue pairs of others, or for none, is dropped and counted.
func TestQueuePairsOfOthers(t *testing.T) {
	families(t, func(w *world) {
		e := w.enemy()
		defer e.detach()
		w.told()
		before := w.device.Device.Stats()
		const each = 100
		qpns := w.qpnsOfTarget()
		if len(qpns) != 3 {
			w.Fatalf("queue pairs of the good host: %v", qpns)
		}
		n := uint64(0)
		for _, qpn := range qpns {
			for i := range uint32(each) {
				for op, size := range map[byte]int{opSendOnly: 64, opAck: 4, opReadRespOnly: 68} {
					e.send(e.evil, e.target, append(bth(op, qpn, i*0x28f5c), make([]byte, size)...))
					n++
				}
				e.send(e.evil, e.target, appendRETH(bth(opRead, qpn, i), 0, 0, 64))
				n++
			}
		}
		if got := e.say(appendRETH(bth(opRead, qpns[0], 0), 0, 0, 64)); len(got) != 0 {
			w.Errorf("answered: %+v", got)
		}
		n++
		after := w.device.Device.Stats()
		if after.DropsSource-before.DropsSource != n {
			w.Errorf("of %d packets to others' queue pairs: %s", n, counters(after))
		}

		// Nobody's.
		before = after
		for _, qpn := range []uint32{0, 2, 0x10, 0xffffff, qpns[0] ^ 0x800000} {
			if got := e.say(append(bth(opSendOnly, qpn, 0), make([]byte, 64)...)); len(got) != 0 {
				w.Errorf("QP %#x: answered: %+v", qpn, got)
			}
		}
		if after = w.device.Device.Stats(); after.DropsNoQP-before.DropsNoQP != 5 {
			w.Errorf("of 5 packets to nobody: %s", counters(after))
		}

		// Under the good host's address, but without an ICRC that fits.
		before = after
		f, to := addrPort(w.good), addrPort(w.target)
		for i := range uint32(each) {
			b := seal(f, to, append(bth(opSendOnly, qpns[int(i)%3], i), make([]byte, 64)...))
			b[len(b)-1-int(i%4)] ^= 1 << (i % 8)
			w.net.Send(f, to, 0, b)
		}
		w.unharmed("packets for others")

		// Under its address, with an ICRC that fits, out of nowhere: what has been is
		// acknowledged again, what is to come is missed, and both ends know better.
		for i := range uint32(each) {
			for j, v := range w.victims() {
				op := []byte{opSendOnly, opSendMiddle, opWriteLast}[j]
				e.send(e.good, e.target, append(bth(op, v.targetQPN, i*0x28f5c), make([]byte, 64)...))
				e.send(e.target, e.good, append(bth(opAck, v.hostQPN, i*0x28f5c), synACK, 0, 0, 1))
			}
		}
		w.unharmed("packets out of nowhere")
		if after = w.device.Device.Stats(); after.DropsICRC-before.DropsICRC != each {
			w.Errorf("of %d packets with a wrong ICRC: %s", each, counters(after))
		}
		if lines := w.told(); len(lines) != 0 {
			w.Errorf("told\n%s", strings.Join(lines, "\n"))
		}
	})
}
