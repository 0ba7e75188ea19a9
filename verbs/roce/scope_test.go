package roce

import (
	"net/netip"
	"strings"
	"testing"
)

func TestScopes(t *testing.T) {
	for _, c := range []struct{ local, remote, want, err string }{
		{"192.0.2.1", "192.0.2.2", "192.0.2.2", ""},
		{"192.0.2.1", "::ffff:192.0.2.2%lo", "192.0.2.2", ""},
		{"fd00::1", "fd00::2", "fd00::2", ""},
		{"fd00::1", "fd00::2%lo", "fd00::2", ""},
		{"fd00::1", "fe80::2%lo", "fe80::2%1", ""},
		{"fd00::1", "fe80::2%01", "fe80::2%1", ""},
		{"fe80::1%1", "fe80::2", "fe80::2%1", ""},
		{"fe80::1%1", "fd00::2", "fd00::2", ""},
		{"::", "fe80::2", "", "one interface"},
		{"::", "fe80::2%nosuchthing", "", "fe80::2%nosuchthing: "},
		{"::", "fe80::2%0", "", "fe80::2%0: "},
	} {
		got, err := toPeer(netip.MustParseAddr(c.local), netip.MustParseAddr(c.remote))
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("from %s to %s: %v, %v; want an error with %q", c.local, c.remote, got, err, c.err)
			}
			continue
		}
		if err != nil || got != netip.MustParseAddr(c.want) {
			t.Errorf("from %s to %s: %v, %v; want %s", c.local, c.remote, got, err, c.want)
		}
		if (scopeID(got) != 0) != (got.Is6() && got.IsLinkLocalUnicast()) {
			t.Errorf("%v: interface %d", got, scopeID(got))
		}
	}
	if _, err := Open(Config{Addr: netip.MustParseAddr("fe80::1%nosuchthing")}); err == nil {
		t.Error("opened on an interface that there is not")
	}
}

// The address of a link-local peer is made once, for as long as he is the only one.
func TestScopedPeersCostNothing(t *testing.T) {
	var s socket
	a, b := netip.MustParseAddr("fe80::1").As16(), netip.MustParseAddr("fd00::1").As16()
	for _, c := range []struct {
		addr  [16]byte
		scope uint32
		want  string
	}{{a, 2, "fe80::1%2"}, {a, 3, "fe80::1%3"}, {b, 0, "fd00::1"}, {b, 3, "fd00::1"}, {a, 3, "fe80::1%3"}, {a, 2, "fe80::1%2"}} {
		if got := s.scoped(c.addr, c.scope); got != netip.MustParseAddr(c.want) {
			t.Errorf("%v, want %s", got, c.want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { s.scoped(a, 2); s.scoped(b, 0) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
