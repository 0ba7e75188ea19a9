package roce

import (
	"testing"
	"time"
)

func TestUDPSport(t *testing.T) {
	for _, c := range []struct {
		flowLabel, qpn1, qpn2 uint32
		want                  uint16
	}{
		{0x1c704, 0x11, 0x11, 50947}, // of a connection in rxe-mtu1500.pcap
		{1, 0, 0, 0xc001},
		{0xfffff, 0, 0, 0xc000 | 0x3fff ^ 0x3f},
		{0, 2, 3, 0xc006},
		{0, 0x100000, 2, 0xc002}, // the product is folded: 1<<21 becomes 1<<21 | 1<<1
		{1 << 20, 2, 3, 0xc006},  // above 20 bits nothing counts
	} {
		if got := udpSport(c.flowLabel, c.qpn1, c.qpn2); got != c.want {
			t.Errorf("udpSport(%#x, %#x, %#x): %d, want %d", c.flowLabel, c.qpn1, c.qpn2, got, c.want)
		}
		if got := udpSport(c.flowLabel, c.qpn2, c.qpn1); got != c.want {
			t.Errorf("udpSport(%#x, %#x, %#x): %d, want %d", c.flowLabel, c.qpn2, c.qpn1, got, c.want)
		}
	}
}

func TestMTU(t *testing.T) {
	for code, want := range []int{0, 256, 512, 1024, 2048, 4096, 0, 0} {
		if got := mtuBytes(uint8(code)); got != want {
			t.Errorf("mtuBytes(%d): %d, want %d", code, got, want)
		}
	}
	for n, want := range map[int]uint8{-96: 0, 0: 0, 255: 0, 256: 1, 1023: 2, 1024: 3, 4095: 4, 4096: 5, 65536: 5} {
		if got := mtuCode(n); got != want {
			t.Errorf("mtuCode(%d): %d, want %d", n, got, want)
		}
	}
	// As Linux picks them for Ethernet: see the REQs of the captures.
	for n, want := range map[int]uint8{68: 0, 1119: 2, 1120: 3, 1500: 3, 4191: 4, 4192: 5, 4200: 5, 9000: 5, 65536: 5} {
		if got := mtuCodeOfLink(n); got != want {
			t.Errorf("mtuCodeOfLink(%d): %d, want %d", n, got, want)
		}
	}
}

func TestAckTimeout(t *testing.T) {
	for code, want := range map[uint8]time.Duration{
		0:  0,
		1:  8192 * time.Nanosecond,
		14: 67_108_864 * time.Nanosecond,
		17: 536_870_912 * time.Nanosecond,
		31: 8_796_093_022_208 * time.Nanosecond,
		32: 0,
	} {
		if got := ackTimeout(code); got != want {
			t.Errorf("ackTimeout(%d): %v, want %v", code, got, want)
		}
	}
	for d, want := range map[time.Duration]uint8{
		-1:                     0,
		0:                      0,
		1:                      1,
		8192:                   1,
		8193:                   2,
		500 * time.Millisecond: 17,
		10 * time.Hour:         31,
	} {
		if got := ackTimeoutCode(d); got != want {
			t.Errorf("ackTimeoutCode(%v): %d, want %d", d, got, want)
		}
	}
}

func TestCMAckTimeout(t *testing.T) {
	for _, c := range []struct{ delay, lifetime, want uint8 }{
		{15, pathLifetimeCode, 17}, // Linux 6.12 with rxe
		{15, 18, 19},               // Linux 6.1 with rxe
		{16, 16, 18},
		{17, 16, 18},
		{18, 16, 19},
		{20, 16, 20},
		{21, 16, 21},
		{0, 0, 2},
		{31, 31, 31},
		{0, 31, 31},
	} {
		if got := cmAckTimeout(c.delay, c.lifetime); got != c.want {
			t.Errorf("cmAckTimeout(%d, %d): %d, want %d", c.delay, c.lifetime, got, c.want)
		}
	}
}

func TestCMTimeout(t *testing.T) {
	for code, want := range map[uint8]time.Duration{
		0:  time.Millisecond,
		8:  time.Millisecond,
		9:  2 * time.Millisecond,
		20: 4096 * time.Millisecond,
		24: 65536 * time.Millisecond,
		31: 8_388_608 * time.Millisecond,
	} {
		if got := cmTimeout(code); got != want {
			t.Errorf("cmTimeout(%d): %v, want %v", code, got, want)
		}
	}
}
