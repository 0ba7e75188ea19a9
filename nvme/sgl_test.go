package nvme

import "testing"

func TestSGL(t *testing.T) {
	for _, tt := range []struct {
		sgl  SGL
		want []byte
	}{
		{SGL{SGLKeyedInvalidate, 0x1122334455667788, 0xABCDEF, 0x01020304},
			[]byte{0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0xEF, 0xCD, 0xAB, 4, 3, 2, 1, 0x4F}},
		{SGL{SGLKeyed, 0, MaxKeyedLength, 0xFFFFFFFF},
			[]byte{0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x40}},
		{SGL{SGLOffset, 16, 0x89ABCDEF, 0},
			[]byte{16, 0, 0, 0, 0, 0, 0, 0, 0xEF, 0xCD, 0xAB, 0x89, 0, 0, 0, 1}},
		{SGL{SGLTransport, 0, 4096, 0},
			[]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0x5A}},
		{SGL{SGLDataBlock, 1, 2, 0}, []byte{1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0}},
	} {
		same(t, tt.sgl.String(), tt.sgl.AppendTo(nil), tt.want)
		var got SGL
		if err := got.Parse(tt.want); err != nil || got != tt.sgl {
			t.Errorf("%+v, %v, want %+v", got, err, tt.sgl)
		}
	}
	s := SGL{Type: SGLKeyedInvalidate}
	if !s.Keyed() || !s.Invalidate() || s.DescriptorType() != SGLTypeKeyed || s.Subtype() != 0xF {
		t.Errorf("%v", s)
	}
	if s.Type = SGLKeyed; !s.Keyed() || s.Invalidate() {
		t.Errorf("%v", s)
	}
	if s.Type = SGLTransport; s.Keyed() || s.DescriptorType() != SGLTypeTransport {
		t.Errorf("%v", s)
	}
}

// TestSGLTooLong: a length that does not fit would move less than was asked.
func TestSGLTooLong(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a keyed length of 25 bits was written")
		}
	}()
	NewCommand().SetSGL(SGL{Type: SGLKeyed, Length: MaxKeyedLength + 1})
}

func FuzzSGL(f *testing.F) {
	f.Add(SGL{SGLKeyedInvalidate, 1, 2, 3}.AppendTo(nil))
	f.Add(SGL{SGLOffset, 0, 4096, 0}.AppendTo(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s SGL
		if err := s.Parse(b); err != nil {
			return
		}
		want := append([]byte(nil), b[:SGLSize]...)
		if !s.Keyed() {
			clear(want[12:15]) // reserved
		}
		same(t, s.String(), s.AppendTo(nil), want)
	})
}
