package roce

import (
	"fmt"
	"testing"
)

var benchSrc, benchDst = [4]byte{10, 77, 0, 3}, [4]byte{10, 77, 0, 2}

// benchPacket returns the UDP payload of a packet, with the ICRC for ident.
func benchPacket(op uint8, n int, ident uint16) []byte {
	p := samplePacket(op, n)
	b := appendPacket(make([]byte, 0, packetLen(op, n)), &p)
	body := b[:len(b)-icrcLen]
	putICRC(b[len(body):], icrcV4(benchSrc, benchDst, 50947, udpPort, ident, body))
	return b
}

// benchOps are an ACK, a capsule, and full packets of MTU 1024 and 4096.
var benchOps = []struct {
	op uint8
	n  int
}{
	{opAcknowledge, 0}, {opSendOnly, 64}, {opReadRespMid, 1024}, {opWriteFirst, 1024}, {opReadRespMid, 4096},
}

func BenchmarkICRC(b *testing.B) {
	for _, c := range benchOps {
		p := benchPacket(c.op, c.n, 0)
		body := p[:len(p)-icrcLen]
		b.Run(fmt.Sprintf("%s/%d", opcodes[c.op].name, len(p)), func(b *testing.B) {
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			for b.Loop() {
				icrcV4(benchSrc, benchDst, 50947, udpPort, 0, body)
			}
		})
		b.Run(fmt.Sprintf("%s/%d/path", opcodes[c.op].name, len(p)), func(b *testing.B) {
			path := icrcPathV4(benchSrc, benchDst, 50947, udpPort)
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			for b.Loop() {
				path.sum(body, 0)
			}
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	path := icrcPathV4(benchSrc, benchDst, 50947, udpPort)
	for _, c := range benchOps {
		p := benchPacket(c.op, c.n, 0x1234)
		for name, hint := range map[string]uint16{"hint": 0x1234, "solve": 0x1235} {
			b.Run(fmt.Sprintf("%s/%d/%s", opcodes[c.op].name, len(p), name), func(b *testing.B) {
				b.SetBytes(int64(len(p)))
				b.ReportAllocs()
				for b.Loop() {
					if _, _, ok := path.verify(p, hint); !ok {
						b.Fatal("ICRC wrong")
					}
				}
			})
		}
	}
}

func BenchmarkICRCFixID(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		icrcFixID(1040, 17)
	}
}

func BenchmarkParsePacket(b *testing.B) {
	for _, c := range benchOps {
		p := benchPacket(c.op, c.n, 0)
		b.Run(opcodes[c.op].name, func(b *testing.B) {
			b.ReportAllocs()
			var q packet
			for b.Loop() {
				if err := parsePacket(p, &q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendHeaders(b *testing.B) {
	for _, c := range benchOps {
		p := samplePacket(c.op, c.n)
		b.Run(opcodes[c.op].name, func(b *testing.B) {
			b.ReportAllocs()
			buf := make([]byte, 0, maxHeaderLen)
			for b.Loop() {
				buf = p.appendHeaders(buf[:0])
			}
		})
	}
}
