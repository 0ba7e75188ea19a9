package roce

import "testing"

func TestPSN(t *testing.T) {
	for _, c := range []struct {
		p    PSN
		n    int
		want PSN
	}{
		{0, 0, 0},
		{0, 1, 1},
		{0, -1, psnMask},
		{psnMask, 1, 0},
		{5, 1 << 24, 5},
		{0x7fffff, 1, 0x800000},
		{1, -0x800000, 0x800001},
	} {
		got := c.p.Add(c.n)
		if got != c.want {
			t.Errorf("%#x.Add(%d): %#x, want %#x", c.p, c.n, got, c.want)
		}
		if c.n >= -0x800000 && c.n < 0x800000 {
			if n := got.Sub(c.p); n != c.n {
				t.Errorf("%#x.Sub(%#x): %d, want %d", got, c.p, n, c.n)
			}
		}
	}
}
