package main

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/fabrid/fabrid/fabric"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/transport/loop"
	"github.com/fabrid/fabrid/transport/rdma"
)

func TestPlan(t *testing.T) {
	const mib = 1 << 20
	flags := func(mod func(*serveFlags)) serveFlags {
		f := serveFlags{addrs: []string{"192.0.2.1"}, inline: 4096, maxQueueSize: 128, srqSize: 1024, maxQueues: 1024, memoryBudget: 256 * mib}
		mod(&f)
		return f
	}
	for _, c := range []struct {
		name string
		mod  func(*serveFlags)
		pool int64
		err  string
	}{
		{"a quarter for data", func(*serveFlags) {}, 64 * mib, ""},
		{"for each address its part", func(f *serveFlags) { f.addrs = nil }, 32 * mib, ""},
		{"no more than the default", func(f *serveFlags) { f.memoryBudget = 1 << 34 }, rdma.DefaultPoolSize, ""},
		{"shared receives", func(f *serveFlags) { f.useSRQ = true }, 64 * mib, ""},
		{"no in-capsule data", func(f *serveFlags) { f.inline = 0 }, 64 * mib, ""},
		{"too little", func(f *serveFlags) { f.memoryBudget = 4 * mib }, 0, "--memory-budget 4 MiB is too little for 1 addresses"},
		{"too little for a host", func(f *serveFlags) { f.memoryPerHost = 4096 }, 0, "--memory-per-host 4 KiB is too little"},
		{"too little for a port", func(f *serveFlags) { f.memoryPerPort = 4096 }, 0, "--memory-per-port 4 KiB is too little"},
		{"more for a port than there is", func(f *serveFlags) { f.memoryPerPort = 1 << 63 }, 0, "a budget of 9223372036854775808 bytes"},
		{"more than there is", func(f *serveFlags) { f.memoryBudget = 1 << 63 }, 0, "a budget of 9223372036854775808 bytes"},
		{"no bound", func(f *serveFlags) { f.memoryBudget = 0 }, 0, ""},
	} {
		f := flags(c.mod)
		p, err := f.plan()
		if err != nil || c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want %s", c.name, err, c.err)
			}
			continue
		}
		n, listeners := p.listener.Needs(), int64(len(f.addresses()))
		if p.listener.PoolSize != c.pool {
			t.Errorf("%s: pools of %d, want %d", c.name, p.listener.PoolSize, c.pool)
		}
		l := p.limits.Target
		if budget := int64(f.memoryBudget); budget > 0 && l.Bytes+listeners*(c.pool+n.SharedReceives) != budget {
			t.Errorf("%s: %d for queues, %d for buffers, %d shared, of %d", c.name, l.Bytes, listeners*c.pool, listeners*n.SharedReceives, budget)
		}
		// Queues that nobody stands behind leave room for those of others.
		if l.Connecting > l.Queues/4 || l.Bytes > 0 && int64(l.Connecting)*n.IOQueue > l.Bytes/4 || p.limits.Host.Connecting > l.Connecting/2 {
			t.Errorf("%s: connecting %d, of a host %d, of %+v", c.name, l.Connecting, p.limits.Host.Connecting, l)
		}
	}
}

// I/O queues that no controller stands behind do not fill the budget, however
// many ask for them and from however many addresses, and are in nobody's way who
// has reserved.
func TestQueuesWithoutControllerLeaveRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := serveFlags{addrs: []string{"192.0.2.1"}, maxQueueSize: 128, srqSize: 64, maxQueues: 64, memoryBudget: 256 << 20}
		p, err := f.plan()
		if err != nil {
			t.Fatal(err)
		}
		node, err := fabric.NewNode(fabric.Config{Sim: true, Limits: p.limits})
		if err != nil {
			t.Fatal(err)
		}
		tgt := target.New(target.Config{})
		port, err := tgt.AddPort(target.PortConfig{ID: 1})
		if err != nil {
			t.Fatal(err)
		}
		addr := netip.MustParseAddrPort("192.0.2.1:4420")
		if _, err := node.Loop().Listen(loop.Config{Core: port, Addr: addr}); err != nil {
			t.Fatal(err)
		}
		var all []transport.HostQueue
		dial := func(host byte, qid uint16) error {
			q, err := node.Loop().Dialer().Dial(context.Background(), transport.HostQueueParam{
				Local: netip.AddrFrom4([4]byte{192, 0, 2, host}), Remote: addr, QID: qid, Depth: 32, MaxData: 4096,
			})
			if err == nil {
				all = append(all, q)
			}
			return err
		}
		if err := dial(200, 0); err != nil {
			t.Fatal(err)
		}
		for host := byte(2); host < 34; host++ {
			for qid := uint16(1); qid <= 16; qid++ {
				_ = dial(host, qid) // most are refused
			}
		}
		if u := node.Budget().Stats().Used; u.Connecting != p.limits.Target.Connecting || u.Queues != u.Connecting+u.Reserved || u.Connecting > f.maxQueues/4 {
			t.Errorf("used %+v, want %d connecting", u, p.limits.Target.Connecting)
		}
		tally := node.Queues().Tally().Refused
		if tally["host_connecting"] == 0 || tally["target_connecting"] == 0 {
			t.Errorf("refused were %v", tally)
		}
		if err := dial(200, 1); err != nil {
			t.Errorf("who has reserved: %v", err)
		}
		for _, q := range all {
			q.Disconnect()
		}
		if err := errors.Join(tgt.Close(), node.Close(context.Background())); err != nil {
			t.Error(err)
		}
	})
}
