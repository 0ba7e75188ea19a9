package bdev_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/fabric"
	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport/loop"
)

// The same through a target: what a host has flushed is there after each cut,
// and each block is as it was or as it was written later.
func TestPowerLossOverFabric(t *testing.T) {
	const (
		blocks, bs = 64, 4096
		nqn        = "nqn.2014-08.org.example:power"
		writers    = 4
	)
	ctx := context.Background()
	p := bdev.NewPowerLoss(makeMemory(t, blocks*bs, bs), 3)
	node := must(fabric.NewNode(fabric.Config{}))(t)
	tgt := target.New(target.Config{})
	sub := must(tgt.AddSubsystem(target.SubsystemConfig{NQN: nqn, AllowAnyHost: true}))(t)
	must(sub.AddNamespace(target.NamespaceConfig{Device: p}))(t)
	port := must(tgt.AddPort(target.PortConfig{ID: 1}))(t)
	address := netip.MustParseAddrPort("192.0.2.1:4420")
	if err := port.Link(sub); err != nil {
		t.Fatal(err)
	}
	must(node.Loop().Listen(loop.Config{Core: port, Addr: address}))(t)
	c := must(host.Connect(ctx, host.Config{Dialer: node.Loop().Dialer(), Remote: address, NQN: nqn}))(t)
	ns := must(c.Namespace(1))(t)
	defer func() {
		for _, err := range []error{c.Disconnect(ctx), tgt.Close(), node.Close(ctx), p.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
	}()

	var may [blocks][]uint64
	for i := range may {
		may[i] = []uint64{0}
	}
	lost := 0
	for cut := range few(40) {
		errs := make(chan error, writers)
		for w := range writers {
			go func() { // each has blocks of its own
				r := rand.New(rand.NewPCG(uint64(cut), uint64(w)))
				mine := may[w*blocks/writers:][:blocks/writers]
				block := make([]byte, bs)
				for i := range 30 {
					if r.IntN(12) == 0 {
						if err := ns.Flush(ctx); err != nil {
							errs <- err
							return
						}
						for j := range mine {
							mine[j] = mine[j][len(mine[j])-1:]
						}
						continue
					}
					j, value := r.IntN(len(mine)), uint64(cut*1000000+w*10000+i+1)
					stamp(block, value)
					if err := ns.Write(ctx, uint64(w*blocks/writers+j), block); err != nil {
						errs <- err
						return
					}
					mine[j] = append(slices.Clone(mine[j]), value)
				}
				errs <- nil
			}()
		}
		for range writers {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		p.Cut()
		p.Restore()
		got := make([]byte, blocks*bs)
		if _, err := ns.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		for i := range may {
			v := binary.LittleEndian.Uint64(got[i*bs:])
			want := make([]byte, bs)
			stamp(want, v)
			if !bytes.Equal(got[i*bs:][:bs], want) || !slices.Contains(may[i], v) {
				t.Fatalf("cut %d: block %d begins with %d, want all of one of %v", cut, i, v, may[i])
			}
			if v != may[i][len(may[i])-1] {
				lost++
			}
			may[i] = []uint64{v}
		}
	}
	if lost == 0 {
		t.Error("the cuts have lost nothing")
	}
}
