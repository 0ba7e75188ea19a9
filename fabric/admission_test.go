package fabric_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/admission"
	"github.com/fabrid/fabrid/fabric"
	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport/loop"
)

var addrFive = netip.MustParseAddrPort("192.0.2.1:4420")

// serveFive makes a target, at addrFive, that may have five queues.
func serveFive(t *testing.T) (*fabric.Node, *target.Target) {
	t.Helper()
	node, err := fabric.NewNode(fabric.Config{Sim: true, Limits: admission.Config{Target: admission.Limits{Queues: 5}}})
	if err != nil {
		t.Fatal(err)
	}
	tgt, port := serve(t)
	if _, err := node.Loop().Listen(loop.Config{Core: port, Addr: addrFive}); err != nil {
		t.Fatal(err)
	}
	return node, tgt
}

// Controllers get as many I/O queues as there is room for, at least one; who
// comes when there is none waits his time; what nobody comes for is for others;
// who only looks around takes one queue.
func TestAdmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node, tgt := serveFive(t)
		connect := func(queues int) (*host.Controller, error) {
			return host.Connect(t.Context(), host.Config{Dialer: node.Loop().Dialer(), Remote: addrFive, NQN: nqn, NrIOQueues: queues})
		}
		used := func(queues, reserved, connecting int) {
			t.Helper()
			synctest.Wait()
			if u := node.Budget().Stats().Used; u.Queues != queues || u.Reserved != reserved || u.Connecting != connecting || u.Waiting != 0 {
				t.Errorf("used %+v, want %d queues, %d reserved, %d connecting", u, queues, reserved, connecting)
			}
		}

		a, err := connect(2)
		if err != nil {
			t.Fatal(err)
		}
		used(3, 0, 0)
		b, err := connect(4)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(b.Queues()); n != 1 {
			t.Errorf("%d I/O queues of 4, with room for one", n)
		}
		used(5, 0, 0)

		start := time.Now()
		if _, err := connect(1); err == nil || !strings.Contains(err.Error(), "no room in 2s") {
			t.Errorf("a third: %v", err)
		}
		if d := time.Since(start); d != 2*time.Second {
			t.Errorf("refused after %v", d)
		}

		// One leaves while another waits.
		time.AfterFunc(time.Second, func() {
			if err := b.Disconnect(context.Background()); err != nil {
				t.Error(err)
			}
		})
		c, err := connect(1)
		if err != nil {
			t.Fatal(err)
		}
		used(5, 0, 0)
		if err := errors.Join(a.Disconnect(t.Context()), c.Disconnect(t.Context())); err != nil {
			t.Fatal(err)
		}
		used(0, 0, 0)

		d, err := host.Connect(t.Context(), host.Config{Dialer: node.Loop().Dialer(), Remote: addrFive, NQN: nvme.DiscoveryNQN})
		if err != nil {
			t.Fatal(err)
		}
		used(1, 0, 0)
		if err := errors.Join(d.Disconnect(t.Context()), tgt.Close(), node.Close(t.Context())); err != nil {
			t.Error(err)
		}
		used(0, 0, 0)
		if most := node.Budget().Stats().Most; most.Queues != 5 || most.Waiting != 1 {
			t.Errorf("most %+v", most)
		}
	})
}

// What is reserved and not used is given back in time.
func TestReservationEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node, tgt := serveFive(t)
		c, err := host.Connect(t.Context(), host.Config{Dialer: node.Loop().Dialer(), Remote: addrFive, NQN: nqn})
		if err != nil {
			t.Fatal(err)
		}
		for _, life := range node.Queues().All() {
			if info := life.Info(); info.QID == 0 {
				if n := life.Reserve(1, 8); n != 3 {
					t.Errorf("%d reserved of 3", n)
				}
			}
		}
		if u := node.Budget().Stats().Used; u.Queues != 5 || u.Reserved != 3 {
			t.Errorf("used %+v", u)
		}
		time.Sleep(target.DefaultReserveTimeout)
		synctest.Wait()
		if u := node.Budget().Stats().Used; u.Queues != 2 || u.Reserved != 0 {
			t.Errorf("used %+v after the time of the reservation", u)
		}
		if err := errors.Join(c.Disconnect(t.Context()), tgt.Close(), node.Close(t.Context())); err != nil {
			t.Error(err)
		}
	})
}
