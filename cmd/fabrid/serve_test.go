package main

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/fabrid/fabrid/verbs/roce"
)

// serve says how to reach it, at addresses of both families.
func TestPrintLines(t *testing.T) {
	for _, c := range []struct {
		listens string
		udpPort uint16
		want    []string // of each line that says how, the address
	}{
		{"192.0.2.1", roce.Port, []string{"nvme discover 192.0.2.1", "nvme connect 192.0.2.1", "fabrid bench 192.0.2.1"}},
		{"127.0.0.7 fd77::2", roce.Port, []string{"nvme discover fd77::2", "nvme connect fd77::2", "fabrid bench 127.0.0.7", "fabrid bench fd77::2"}},
		{"fe80::1%2", roce.Port, []string{"nvme discover fe80::1%eth0", "nvme connect fe80::1%eth0", "fabrid bench fe80::1%eth0"}},
		{"fd77::2", 4792, []string{"fabrid bench fd77::2"}},
		{"::1", roce.Port, []string{"fabrid bench ::1"}},
	} {
		var listens []netip.Addr
		for _, a := range strings.Fields(c.listens) {
			listens = append(listens, netip.MustParseAddr(a))
		}
		var out bytes.Buffer
		printLines(&out, listens, serveFlags{port: 4420, udpPort: c.udpPort, nqn: "nqn.2014-08.org.example:test"})
		var got []string
		for line := range strings.Lines(out.String()) {
			if f := strings.Fields(line); len(f) > 5 && (f[0] == "nvme" || f[0] == "fabrid") {
				got = append(got, strings.Join([]string{f[0], f[1], f[5]}, " "))
			}
		}
		if strings.Join(got, "\n") != strings.Join(c.want, "\n") {
			t.Errorf("at %s: printed\n%s", c.listens, &out)
		}
	}
	// All addresses: this machine's loopback is among those of IPv4 alone.
	for at, want := range map[string]bool{"0.0.0.0": true, "::": false} {
		var out bytes.Buffer
		printLines(&out, []netip.Addr{netip.MustParseAddr(at)}, serveFlags{port: 4420, udpPort: roce.Port})
		if got := strings.Contains(out.String(), "-a 127.0.0.1 "); got != want {
			t.Errorf("at %s: printed\n%s", at, &out)
		}
	}
}
