package rdma

import (
	"math"
	"testing"

	"github.com/fabrid/fabrid/nvme"
)

func sglCommand(op nvme.IOOpcode, flags uint8, s nvme.SGL) nvme.Command {
	c := nvme.NewCommand()
	c.SetOpcode(uint8(op))
	c.SetFlags(flags)
	c.SetSGL(s)
	return c
}

func TestParseSGL(t *testing.T) {
	const maxData, inCapsule = 1 << 20, 4096
	const psdt = nvme.PSDTSGL
	dnr := nvme.Status.WithDNR
	for _, c := range []struct {
		name      string
		cmd       nvme.Command
		inCapsule int
		want      dataPointer
		status    nvme.Status
	}{
		{"keyed", sglCommand(nvme.IORead, psdt, nvme.SGL{Type: 0x40, Address: 77, Length: 512, Key: 9}), 0,
			dataPointer{length: 512, keyed: true, address: 77, key: 9}, nvme.Success},
		{"keyed with invalidate", sglCommand(nvme.IOWrite, psdt, nvme.SGL{Type: 0x4F, Address: 77, Length: maxData, Key: math.MaxUint32}), 0,
			dataPointer{length: maxData, keyed: true, address: 77, key: math.MaxUint32, invalidate: true}, nvme.Success},
		{"null", sglCommand(nvme.IOFlush, psdt, nvme.SGL{Type: 0x40}), 0, dataPointer{keyed: true}, nvme.Success},
		{"to the end of the space", sglCommand(nvme.IORead, psdt, nvme.SGL{Type: 0x40, Address: math.MaxUint64 - 511, Length: 512}), 0,
			dataPointer{length: 512, keyed: true, address: math.MaxUint64 - 511}, nvme.Success},
		{"beyond the end of the space", sglCommand(nvme.IORead, psdt, nvme.SGL{Type: 0x4F, Address: math.MaxUint64 - 510, Length: 512, Key: 3}), 0,
			dataPointer{length: 512, keyed: true, address: math.MaxUint64 - 510, key: 3, invalidate: true}, dnr(nvme.SGLInvalidDataLength)},
		{"over MDTS", sglCommand(nvme.IORead, psdt, nvme.SGL{Type: 0x4F, Length: maxData + 1, Key: 3}), 0,
			dataPointer{length: maxData + 1, keyed: true, key: 3, invalidate: true}, dnr(nvme.InvalidField)},
		{"both directions", sglCommand(0x3, psdt, nvme.SGL{Type: 0x40, Length: 1}), 0,
			dataPointer{length: 1, keyed: true}, dnr(nvme.InvalidField)},
		{"in capsule", sglCommand(nvme.IOWrite, psdt, nvme.SGL{Type: 0x01, Length: 4096}), inCapsule,
			dataPointer{length: 4096}, nvme.Success},
		{"in capsule at an offset", sglCommand(nvme.IOWrite, psdt, nvme.SGL{Type: 0x01, Address: 96, Length: 4000}), inCapsule,
			dataPointer{length: 4000, offset: 96}, nvme.Success},
		{"nothing in capsule", sglCommand(nvme.IORead, psdt, nvme.SGL{Type: 0x01}), 0, dataPointer{}, nvme.Success},
		{"in capsule, one too many", sglCommand(nvme.IOWrite, psdt, nvme.SGL{Type: 0x01, Address: 97, Length: 4000}), inCapsule,
			dataPointer{}, dnr(nvme.SGLInvalidOffset)},
		{"in capsule, offset too far", sglCommand(nvme.IOWrite, psdt, nvme.SGL{Type: 0x01, Address: 4097, Length: 1}), inCapsule,
			dataPointer{}, dnr(nvme.SGLInvalidOffset)},
		{"in capsule, the sum wraps", sglCommand(nvme.IOWrite, psdt, nvme.SGL{Type: 0x01, Address: math.MaxUint64, Length: 2}), inCapsule,
			dataPointer{}, dnr(nvme.SGLInvalidOffset)},
		{"in capsule, the length wraps", sglCommand(nvme.IOWrite, psdt, nvme.SGL{Type: 0x01, Address: 1, Length: math.MaxUint32}), inCapsule,
			dataPointer{}, dnr(nvme.SGLInvalidOffset)},
		{"in an admin capsule", sglCommand(nvme.IOWrite, psdt, nvme.SGL{Type: 0x01, Length: 1}), 0,
			dataPointer{}, dnr(nvme.SGLInvalidOffset)},
		{"read into the capsule", sglCommand(nvme.IORead, psdt, nvme.SGL{Type: 0x01, Length: 1}), inCapsule,
			dataPointer{}, dnr(nvme.InvalidField)},
		{"unkeyed address", sglCommand(nvme.IORead, psdt, nvme.SGL{Type: 0x00, Length: 512}), 0, dataPointer{}, dnr(nvme.SGLInvalidType)},
		{"keyed, other subtype", sglCommand(nvme.IORead, psdt, nvme.SGL{Type: 0x41, Length: 512}), 0, dataPointer{}, dnr(nvme.SGLInvalidType)},
		{"segment", sglCommand(nvme.IORead, psdt, nvme.SGL{Type: 0x20, Length: 16}), 0, dataPointer{}, dnr(nvme.SGLInvalidType)},
		{"last segment", sglCommand(nvme.IORead, psdt, nvme.SGL{Type: 0x30, Length: 16}), 0, dataPointer{}, dnr(nvme.SGLInvalidType)},
		{"transport", sglCommand(nvme.IORead, psdt, nvme.SGL{Type: 0x5A, Length: 16}), 0, dataPointer{}, dnr(nvme.SGLInvalidType)},
		{"PRP", sglCommand(nvme.IORead, nvme.PSDTPRP, nvme.SGL{Type: 0x4F, Length: 512}), 0, dataPointer{}, dnr(nvme.InvalidField)},
		{"metadata segment", sglCommand(nvme.IORead, nvme.PSDTSGLSegment, nvme.SGL{Type: 0x4F, Length: 512}), 0, dataPointer{}, dnr(nvme.InvalidField)},
	} {
		got, status := parseSGL(c.cmd, c.inCapsule, maxData)
		if got != c.want || status != c.status {
			t.Errorf("%s: %+v, %v\nwant %+v, %v", c.name, got, status, c.want, c.status)
		}
	}
}

func FuzzParseSGL(f *testing.F) {
	f.Add([]byte(sglCommand(nvme.IOWrite, nvme.PSDTSGL, nvme.SGL{Type: 0x4F, Address: 1 << 40, Length: 4096, Key: 0x1234})), 0)
	f.Add([]byte(sglCommand(nvme.IOWrite, nvme.PSDTSGL, nvme.SGL{Type: 0x01, Address: 8, Length: 4088})), 4096)
	f.Fuzz(func(t *testing.T, b []byte, inCapsule int) {
		cmd, err := nvme.ParseCommand(b)
		if err != nil || inCapsule < 0 || inCapsule > 1<<20 {
			return
		}
		const maxData = 1 << 20
		p, s := parseSGL(cmd, inCapsule, maxData)
		if !s.OK() {
			if !s.DNR() {
				t.Errorf("status %v may be retried", s)
			}
			return
		}
		if p.length < 0 || p.length > maxData {
			t.Errorf("length %d", p.length)
		}
		if p.invalidate && !p.keyed {
			t.Error("a key to invalidate where there is none")
		}
		if p.keyed && p.length > 0 && p.address+uint64(p.length)-1 < p.address {
			t.Errorf("%d bytes at %#x wrap", p.length, p.address)
		}
		if !p.keyed && p.length > 0 && (p.offset < 0 || p.offset > inCapsule || p.length > inCapsule-p.offset) {
			t.Errorf("%d bytes at %d of %d", p.length, p.offset, inCapsule)
		}
	})
}
