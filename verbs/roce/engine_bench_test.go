package roce

import (
	"fmt"
	"testing"

	"github.com/fabrid/fabrid/verbs"
	"github.com/fabrid/fabrid/verbs/verbstest"
)

// Over UDP sockets on the loopback interface, with depth work requests
// outstanding. One allocation is one too many.

func BenchmarkWrite4k(b *testing.B)   { benchEngine(b, Config{}, 4096, verbs.WRRDMAWrite, 4096, 32) }
func BenchmarkWrite128k(b *testing.B) { benchEngine(b, Config{}, 4096, verbs.WRRDMAWrite, 128<<10, 8) }
func BenchmarkRead4k(b *testing.B)    { benchEngine(b, Config{}, 4096, verbs.WRRDMARead, 4096, 32) }
func BenchmarkRead128k(b *testing.B)  { benchEngine(b, Config{}, 4096, verbs.WRRDMARead, 128<<10, 8) }
func BenchmarkSend64(b *testing.B)    { benchEngine(b, Config{}, 4096, verbs.WRSend, 64, 32) }

// BenchmarkLatency is one SEND of 64 bytes at a time, until it is acknowledged.
func BenchmarkLatency(b *testing.B) { benchEngine(b, Config{}, 4096, verbs.WRSend, 64, 1) }

// BenchmarkBuffers compares the socket buffers of an unprivileged user with those
// that we ask for, with and without trains: without, as it is with a peer that
// sends no UDP checksum.
func BenchmarkBuffers(b *testing.B) {
	for _, trains := range []bool{true, false} {
		for _, mtu := range []int{4096, 1024} {
			for _, op := range []verbs.WROpcode{verbs.WRRDMAWrite, verbs.WRRDMARead} {
				for _, n := range []int{1 << 20, 128 << 10} {
					for _, buffer := range []int{4 << 20, 212_992} {
						name := fmt.Sprintf("trains=%v/mtu=%d/%v/%dk/buffer=%d", trains, mtu, wcOpcode[op], n>>10, buffer)
						b.Run(name, func(b *testing.B) {
							benchEngine(b, Config{SocketBuffer: buffer, NoGSO: !trains, NoGRO: !trains}, mtu, op, n, 64)
						})
					}
				}
			}
		}
	}
}

func benchEngine(b *testing.B, cfg Config, mtu int, op verbs.WROpcode, n, depth int) {
	here, there := openSockets(b, cfg)
	attr := verbstest.DefaultAttr(mtu)
	attr.Init.MaxRecvWR = 256
	attr.QP.MaxRdAtomic, attr.QP.MaxDestRd = 32, 32
	p := verbstest.Connect(b, here.node(), there.node(), attr)
	m := p.B.Memory(n, 1, 7)
	wrs := make([]verbs.SendWR, 1)
	wrs[0] = verbs.SendWR{
		Opcode: op, Flags: verbs.SendSignaled, SG: p.A.SG(make([]byte, n)), RemoteAddr: m.IOVA, RKey: m.MR.RKey(),
	}
	recv := []verbs.RecvWR{{SG: p.B.SG(make([]byte, n))}}
	p.B.OnCompletion = func(wcs []verbs.WC) bool {
		for range wcs {
			if err := p.B.QP.PostRecv(recv); err != nil {
				b.Error(err)
			}
		}
		return true
	}
	done := make(chan struct{})
	left, posted := 0, 0
	p.A.OnCompletion = func(wcs []verbs.WC) bool {
		for i := range wcs {
			if wcs[i].Status != verbs.WCSuccess {
				b.Error(wcs[i].Status)
				posted = 0
			}
			if posted > 0 {
				posted--
				if err := p.A.QP.PostSend(wrs); err != nil {
					b.Error(err)
				}
			}
			if left--; left == 0 || b.Failed() {
				close(done)
			}
		}
		return true
	}
	p.B.Do("post receives", func() error {
		for range attr.Init.MaxRecvWR {
			if err := p.B.QP.PostRecv(recv); err != nil {
				return err
			}
		}
		return nil
	})
	b.SetBytes(int64(n))
	b.ReportAllocs()
	b.ResetTimer()
	p.A.Do("begin", func() error {
		left, posted = b.N, b.N
		for range min(depth, b.N) {
			posted--
			if err := p.A.QP.PostSend(wrs); err != nil {
				return err
			}
		}
		return nil
	})
	<-done
	b.StopTimer()
	sa, sb := here.Stats(), there.Stats()
	b.ReportMetric(float64(sa.Retransmits), "retransmits")
	b.ReportMetric(float64(sa.Timeouts), "timeouts")
	b.ReportMetric(float64(sa.DropsReceive+sb.DropsReceive), "drops")
	b.ReportMetric(float64(sa.SendCalls+sb.SendCalls)/float64(b.N), "sends/op")
	b.ReportMetric(float64(sa.PacketsSent+sb.PacketsSent)/float64(b.N), "packets/op")
}
