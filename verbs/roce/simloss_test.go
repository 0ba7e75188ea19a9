package roce

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fabrid/fabrid/internal/simnet"
	"github.com/fabrid/fabrid/verbs"
	"github.com/fabrid/fabrid/verbs/verbstest"
)

// PSNs to begin with: in the middle, and such that each side's numbers wrap in
// the middle of what is sent.
var startPSNs = []struct {
	name string
	a, b uint32
}{
	{"PSNs in the middle", 0x123456, 0x654321},
	{"PSNs wrap early", 0xffffff, 0xfffffe},
	{"PSNs wrap late", 0xfffff5, 0xfffff9},
	{"PSNs begin at half", 0x7ffffe, 0x800000},
}

// TestTalk talks without any loss, which takes no timer.
func TestTalk(t *testing.T) {
	for _, psn := range startPSNs {
		t.Run(psn.name, func(t *testing.T) {
			inLab(t, simnet.Config{Link: simnet.Link{Delay: simDelay}}, func(t *testing.T, l *lab) {
				k := newTalk(t, l, psn.a, psn.b)
				if took := k.run(); took > 10*simDelay {
					t.Errorf("took %v, want a few round trips of %v", took, 2*simDelay)
				}
				k.end(l)
				for _, s := range []*station{l.a, l.b} {
					if st := s.Stats(); st.Retransmits+st.Timeouts+st.NAKsSent+st.Duplicates != 0 {
						t.Errorf("%v: %+v", s.Addr(), st)
					}
				}
			})
		})
	}
}

// TestIcrcOnTheWire checks every packet of a conversation as a peer would.
func TestIcrcOnTheWire(t *testing.T) {
	packets := 0
	check := func(from, to string) func(int, []byte) bool {
		src, dst := simA, simB
		if from == "B" {
			src, dst = simB, simA
		}
		return func(_ int, b []byte) bool {
			packets++
			want := icrcV4(src.As4(), dst.As4(), Port, Port, 0, b[:len(b)-icrcLen])
			if got := binary.LittleEndian.Uint32(b[len(b)-icrcLen:]); got != want {
				t.Errorf("%s to %s: ICRC %#08x, want %#08x", from, to, got, want)
			}
			return false
		}
	}
	inLab(t, simnet.Config{}, func(t *testing.T, l *lab) {
		l.setDrop(t, check("A", "B"), check("B", "A"))
		newTalk(t, l, 1, 2).run()
	})
	if packets < 30 {
		t.Errorf("looked at %d packets", packets)
	}
}

// TestEachPacketIsLostInTurn loses one packet of the conversation, each in
// turn: every SEND and WRITE packet, READ request and response, and ACK.
func TestEachPacketIsLostInTurn(t *testing.T) {
	for i, psn := range startPSNs {
		t.Run(psn.name, func(t *testing.T) {
			if testing.Short() && raceEnabled && i > 0 {
				t.Skip("short: numbers do not race")
			}
			seen := make(map[string]bool)
			for _, from := range []string{"A", "B"} {
				for n := 0; ; n++ {
					what := ""
					drop := func(i int, b []byte) bool {
						if i == n {
							what = opcodes[b[0]].name
						}
						return i == n
					}
					t.Run(fmt.Sprintf("packet %d from %s", n, from), func(t *testing.T) {
						loseInTalk(t, from, drop, psn.a, psn.b)
					})
					if what == "" {
						break // there was no such packet
					}
					seen[what] = true
					if t.Failed() {
						t.Fatalf("with packet %d from %s lost, %s", n, from, what)
					}
				}
			}
			for _, op := range []string{
				"SEND_FIRST", "SEND_MIDDLE", "SEND_LAST", "SEND_ONLY", "SEND_ONLY_INV",
				"WRITE_FIRST", "WRITE_MIDDLE", "WRITE_LAST", "WRITE_ONLY",
				"READ_REQUEST", "READ_RESP_FIRST", "READ_RESP_MIDDLE", "READ_RESP_LAST", "READ_RESP_ONLY", "ACKNOWLEDGE",
			} {
				if !seen[op] {
					t.Errorf("no %s was lost", op)
				}
			}
		})
	}
}

func loseInTalk(t *testing.T, from string, drop func(int, []byte) bool, psnA, psnB uint32) {
	inLab(t, simnet.Config{Link: simnet.Link{Delay: simDelay}}, func(t *testing.T, l *lab) {
		k := newTalk(t, l, psnA, psnB)
		if from == "A" {
			l.setDrop(t, drop, nil)
		} else {
			l.setDrop(t, nil, drop)
		}
		if took := k.run(); took > rtoStart+time.Millisecond {
			t.Errorf("took %v: more than one timeout of %v", took, rtoStart)
		}
		k.end(l)
	})
}

// TestEachPacketAndItsNAKAreLost loses a packet, and the NAK that tells of it.
func TestEachPacketAndItsNAKAreLost(t *testing.T) {
	losses := 0
	for n := 0; ; n++ {
		lost := false
		inLab(t, simnet.Config{Link: simnet.Link{Delay: simDelay}}, func(t *testing.T, l *lab) {
			k := newTalk(t, l, 0xfffff8, 5)
			naks := 0
			l.setDrop(t, func(i int, b []byte) bool {
				lost = lost || i == n
				return i == n
			}, func(_ int, b []byte) bool {
				p := packetOf(b)
				if p.opcode == opAcknowledge && p.aeth.syndrome == synNAKSequence {
					naks++
					return naks == 1
				}
				return false
			})
			if took := k.run(); took > 2*rtoStart {
				t.Errorf("packet %d: took %v", n, took)
			}
			k.end(l)
			losses += naks
		})
		if !lost || t.Failed() {
			break
		}
	}
	if losses < 10 {
		t.Errorf("%d NAKs were lost", losses)
	}
}

// TestEverythingIsLostOnce loses every packet the first time that it is sent.
func TestEverythingIsLostOnce(t *testing.T) {
	for _, psn := range startPSNs {
		t.Run(psn.name, func(t *testing.T) {
			once := func() func(int, []byte) bool {
				seen := make(map[string]bool)
				return func(_ int, b []byte) bool {
					p := packetOf(b)
					id := fmt.Sprint(p.opcode, p.psn, p.aeth.syndrome)
					was := seen[id]
					seen[id] = true
					return !was
				}
			}
			inLab(t, simnet.Config{Link: simnet.Link{Delay: simDelay}}, func(t *testing.T, l *lab) {
				k := newTalk(t, l, psn.a, psn.b)
				l.setDrop(t, once(), once())
				k.run()
				k.end(l)
			})
		})
	}
}

// TestALossCostsNoTimeout: where packets follow, the receiver tells of a loss,
// and it costs a round trip.
func TestALossCostsNoTimeout(t *testing.T) {
	for _, c := range []struct {
		op    uint8
		fromA bool
	}{
		{opSendFirst, true}, {opSendMiddle, true}, {opSendLast, true}, {opWriteFirst, true}, {opWriteMiddle, true},
		{opWriteLast, true}, {opReadRequest, true}, {opReadRespFirst, false}, {opReadRespMid, false},
	} {
		t.Run(opcodes[c.op].name, func(t *testing.T) {
			inLab(t, simnet.Config{Link: simnet.Link{Delay: simDelay}}, func(t *testing.T, l *lab) {
				k := newTalk(t, l, 5, 6)
				var lost atomic.Int32 // the network has a goroutine of its own
				drop := func(_ int, b []byte) bool { return b[0] == c.op && lost.Add(1) == 1 }
				if c.fromA {
					l.setDrop(t, drop, nil)
				} else {
					l.setDrop(t, nil, drop)
				}
				if took := k.run(); took > 20*simDelay {
					t.Errorf("took %v, want a few round trips of %v", took, 2*simDelay)
				}
				if lost.Load() == 0 {
					t.Error("nothing was lost")
				}
				k.end(l)
			})
		})
	}
}

// TestALoneReadIsRepaired loses one response of a READ that nothing follows: a
// response that is out of order tells of it, unless it was the last.
func TestALoneReadIsRepaired(t *testing.T) {
	for n := range 5 {
		t.Run(fmt.Sprintf("response %d", n), func(t *testing.T) {
			inLab(t, simnet.Config{Link: simnet.Link{Delay: simDelay}}, func(t *testing.T, l *lab) {
				p := l.pair(t, verbstest.DefaultAttr(1024))
				m := p.B.Memory(5000, 1, allAccess)
				l.setDrop(t, nil, func(i int, _ []byte) bool { return i == n })
				buf := make([]byte, 5000)
				begin := time.Now()
				p.A.Post(verbs.SendWR{WRID: 1, Opcode: verbs.WRRDMARead, Flags: verbs.SendSignaled, SG: p.A.SG(buf), RemoteAddr: m.IOVA, RKey: m.MR.RKey()})
				p.A.Expect(verbstest.Read(1))
				p.A.ExpectBytes("read", buf, m.Buf)
				took, most := time.Since(begin), 10*simDelay
				if n == 4 {
					most += rtoStart
				}
				if took > most {
					t.Errorf("took %v, want at most %v", took, most)
				}
				l.expectQuiet(t)
			})
		})
	}
}

// TestRNRNAKIsLost: the sender's timer does what the NAK would have done.
func TestRNRNAKIsLost(t *testing.T) {
	inLab(t, simnet.Config{Link: simnet.Link{Delay: simDelay}}, func(t *testing.T, l *lab) {
		p := l.pair(t, verbstest.DefaultAttr(1024))
		naks := 0
		l.setDrop(t, nil, func(_ int, b []byte) bool {
			if pkt := packetOf(b); pkt.opcode == opAcknowledge && isRNR(pkt.aeth.syndrome) {
				naks++
			}
			return naks == 1
		})
		p.A.Post(verbs.SendWR{WRID: 1, Flags: verbs.SendSignaled, SG: p.A.SG(verbstest.Filled(3000, 1))})
		p.A.ExpectNone(2 * rtoStart)
		buf := make([]byte, 3000)
		p.B.PostRecv(2, buf)
		p.B.Expect(verbstest.Received(2, 3000))
		p.A.Expect(verbstest.Sent(1))
		p.B.ExpectBytes("received", buf, verbstest.Filled(3000, 1))
		if naks < 2 {
			t.Errorf("%d RNR NAKs, want one for each time that the SEND comes", naks)
		}
		l.expectQuiet(t)
	})
}

// TestRNRTimer: the sender waits as long as the receiver asks for, and as often
// as it may.
func TestRNRTimers(t *testing.T) {
	for _, c := range []struct {
		code    uint8
		delay   time.Duration
		retries int
	}{
		{12, 640 * time.Microsecond, 3}, {1, 10 * time.Microsecond, 1}, {31, 491520 * time.Microsecond, 6}, {20, 10240 * time.Microsecond, 0},
	} {
		t.Run(fmt.Sprintf("code %d, %d retries", c.code, c.retries), func(t *testing.T) {
			inLab(t, simnet.Config{Link: simnet.Link{Delay: simDelay}}, func(t *testing.T, l *lab) {
				attr := verbstest.DefaultAttr(1024)
				attr.QP.MinRNRTimer, attr.QP.RNRRetry = c.code, c.retries
				p := l.pair(t, attr)
				begin := time.Now()
				p.A.Post(verbs.SendWR{WRID: 1, SG: p.A.SG(make([]byte, 10))})
				p.A.Expect(verbstest.Failed(verbstest.Sent(1), verbs.WCRNRRetryExcErr))
				p.A.ExpectEvent()
				took, want := time.Since(begin), time.Duration(c.retries)*(c.delay+2*simDelay)+2*simDelay
				if took < want || took > want+time.Millisecond {
					t.Errorf("gave up after %v, want %v", took, want)
				}
				if n := l.b.Stats().RNRsSent; n != uint64(c.retries)+1 {
					t.Errorf("%d RNR NAKs, want %d", n, c.retries+1)
				}
				p.B.ExpectState(verbs.RTS)
				l.expectQuiet(t)
			})
		})
	}
}

// TestFatalNAKIsLost: the wire tells it only once, so the retries run out.
func TestFatalNAKIsLost(t *testing.T) {
	inLab(t, simnet.Config{Link: simnet.Link{Delay: simDelay}}, func(t *testing.T, l *lab) {
		p := l.pair(t, verbstest.DefaultAttr(1024))
		l.setDrop(t, nil, func(n int, _ []byte) bool { return n == 0 })
		p.A.Post(verbs.SendWR{WRID: 1, Opcode: verbs.WRRDMAWrite, SG: p.A.SG(make([]byte, 10)), RKey: 0xbad})
		p.A.Expect(verbstest.Failed(verbstest.Wrote(1), verbs.WCRetryExcErr))
		p.A.ExpectEvent()
		p.B.ExpectEvent()
		l.expectQuiet(t)
	})
}

// TestPeerIsGone: the retries run out, in bounded time, whatever was sent.
func TestPeerIsGone(t *testing.T) {
	for _, op := range []verbs.WROpcode{verbs.WRSend, verbs.WRRDMAWrite, verbs.WRRDMARead} {
		for _, retries := range []int{0, 1, 7} {
			t.Run(fmt.Sprintf("opcode %d, %d retries", op, retries), func(t *testing.T) {
				inLab(t, simnet.Config{Link: simnet.Link{Delay: simDelay}}, func(t *testing.T, l *lab) {
					attr := verbstest.DefaultAttr(1024)
					attr.QP.RetryCnt = retries
					p := l.pair(t, attr)
					m := p.B.Memory(5000, 1, allAccess)
					p.B.PostRecv(1, verbstest.Bufs(2, 5000)...)
					p.A.PostRecv(50, make([]byte, 1))
					wr := verbs.SendWR{WRID: 1, Opcode: op, Flags: verbs.SendSignaled, SG: p.A.SG(make([]byte, 5000)), RemoteAddr: m.IOVA, RKey: m.MR.RKey()}
					p.A.Post(wr)
					if wc := p.A.Next(); wc.Status != verbs.WCSuccess {
						t.Fatalf("completion %+v", wc)
					}

					l.setLinks(t, simnet.Link{Loss: 1}, simnet.Link{Loss: 1})
					begin, sent := time.Now(), l.a.Stats().PacketsSent
					wr.WRID = 2
					p.A.Post(wr, verbs.SendWR{WRID: 3, SG: p.A.SG(make([]byte, 1))})
					wc := p.A.Next()
					if wc.WRID != 2 || wc.Status != verbs.WCRetryExcErr {
						t.Errorf("completion %+v, want %v", wc, verbs.WCRetryExcErr)
					}
					took := time.Since(begin)
					if lo, hi := time.Duration(retries+1)*rtoMin, time.Duration(retries+1)*rtoMax; took < lo || took > hi {
						t.Errorf("gave up after %v, want %v to %v", took, lo, hi)
					}
					if n := l.a.Stats().PacketsSent - sent; n < uint64(retries+1) {
						t.Errorf("sent %d packets in %d tries", n, retries+1)
					}
					p.A.Expect(verbstest.Flushed(verbstest.Sent(3)), verbstest.Flushed(verbstest.Received(50, 0)))
					p.A.ExpectEvent()
					p.A.ExpectState(verbs.Err)
					l.expectQuiet(t)
				})
			})
		}
	}
}

// TestSilenceThatEnds: a peer that is away for less than the retries last is
// taken up where it was.
func TestSilenceThatEnds(t *testing.T) {
	inLab(t, simnet.Config{Link: simnet.Link{Delay: simDelay}}, func(t *testing.T, l *lab) {
		k := newTalk(t, l, 1, 2)
		l.setLinks(t, simnet.Link{Loss: 1}, simnet.Link{Loss: 1})
		timer := time.AfterFunc(1500*time.Millisecond, func() {
			l.setLinks(t, simnet.Link{Delay: simDelay}, simnet.Link{Delay: simDelay})
		})
		defer timer.Stop()
		if took := k.run(); took < 1500*time.Millisecond || took > 6*time.Second {
			t.Errorf("took %v", took)
		}
		k.end(l)
	})
}
