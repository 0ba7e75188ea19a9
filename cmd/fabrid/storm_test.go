package main

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/fabrid/fabrid/load"
)

func TestStorm(t *testing.T) {
	s := serve(t)
	out, errs, code := fabrid(t, "storm", "-a", s.addr, "--hosts", "5", "--queues", "2", "--cycles", "20", "--json")
	var r load.StormResult
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 {
		t.Fatalf("storm: code %d, %v\n%s%s", code, err, out, errs)
	}
	if r.Hosts != 5 || r.Attempts != 20 || r.Connected != 20 || r.QueuesConnected != 60 || r.Failed != 0 || r.Connect.P50 <= 0 || r.Cycle.Max < r.Connect.P50 {
		t.Errorf("storm: %s", out)
	}
	nothingLeft(t, s)

	// As text, with leaves at every stage.
	out, errs, code = fabrid(t, "storm", "-a", s.addr, "--hosts", "2", "--cycles", "60", "--abort-at", "random", "--vanish", "0", "--seed", "3")
	for _, want := range []string{"storm of 2 hosts", "seed 3", "aborted", "at req", "at rep", "at rtu", "at between-queues", "latency/ms"} {
		if !strings.Contains(out, want) {
			t.Errorf("storm: code %d, no %q in\n%s%s", code, want, out, errs)
		}
	}
	nothingLeft(t, s)

	out, errs, code = fabrid(t, "storm", "-a", s.addr, "-s", "4421", "-n", "nqn.2014-08.org.example:none", "--cycles", "3")
	if code != 0 || !strings.Contains(out, "3 connection of the admin queue: REJ reason 8, invalid service ID") {
		t.Errorf("storm: code %d\n%s%s", code, out, errs)
	}
	for _, args := range [][]string{
		{"--abort-at", "never"}, {"--vanish", "2"}, {"--hosts", "0"}, {"--host-traddr", "127.9.9.9-127.9.9.8"},
		{"--host-traddr", "127.9.9.0/30", "--hosts", "3"}, {"--host-traddr", "::1"}, {"-t", "tcp"}, {"--runtime", "0s"},
	} {
		if out, errs, code := fabrid(t, append([]string{"storm", "-a", s.addr}, args...)...); code != 1 || errs == "" {
			t.Errorf("storm %v: code %d\n%s%s", args, code, out, errs)
		}
	}
}

func TestStormAddrs(t *testing.T) {
	for _, test := range []struct {
		named string
		n     int
		want  string // first and last
	}{
		{"192.0.2.7", 1, "192.0.2.7 192.0.2.7"},
		{"192.0.2.250", 10, "192.0.2.250 192.0.3.3"},
		{"192.0.2.7-192.0.2.9", 3, "192.0.2.7 192.0.2.9"},
		{"192.0.2.7-192.0.2.9", 4, ""},
		{"192.0.2.77/24", 254, "192.0.2.1 192.0.2.254"},
		{"192.0.2.77/24", 255, ""},
		{"192.0.2.6/31", 2, "192.0.2.6 192.0.2.7"},
		{"192.0.2.6/32", 1, "192.0.2.6 192.0.2.6"},
		{"255.255.255.255", 2, ""},
		{"192.0.2.7-", 1, ""},
		{"host", 1, ""},
		{"2001:db8::1", 1, ""},
	} {
		all, err := stormAddrs(netip.MustParseAddr("192.0.2.1"), test.named, test.n)
		got := ""
		if err == nil {
			got = all[0].String() + " " + all[len(all)-1].String()
		}
		if got != test.want || err == nil && len(all) != test.n {
			t.Errorf("%d hosts at %s: %s, %d addresses, %v, want %s", test.n, test.named, got, len(all), err, test.want)
		}
	}
	all, err := stormAddrs(netip.MustParseAddr("2001:db8::1"), "2001:db8::/64", 3)
	if err != nil || all[0] != netip.MustParseAddr("2001:db8::1") {
		t.Errorf("a prefix of IPv6: %v, %v", all, err)
	}
	all, err = stormAddrs(netip.MustParseAddr("127.0.0.1"), "", 1000)
	if err != nil || len(all) != 1000 || !all[0].IsLoopback() || !all[999].IsLoopback() {
		t.Errorf("on loopback: %d, %v", len(all), err)
	}
}
