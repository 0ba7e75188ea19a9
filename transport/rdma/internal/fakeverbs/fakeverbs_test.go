package fakeverbs

import (
	"net/netip"
	"testing"

	"go.uber.org/goleak"

	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/verbs/verbstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The fake keeps to the semantics that every provider has.
func TestConformance(t *testing.T) {
	for name, o := range map[string]Options{"DMA key": {}, "no DMA key": {NoDMALKey: true}} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && !o.NoDMALKey {
				t.Skip("long")
			}
			verbstest.Run(t, verbstest.Config{
				Open: func(t testing.TB) (a, b verbstest.Node) {
					var n Network
					open := func(addr string) verbstest.Node {
						s, err := shard.New(shard.Config{Name: addr})
						if err != nil {
							t.Fatal(err)
						}
						ip := netip.MustParseAddr(addr)
						d := n.NewDevice(ip, []*shard.Shard{s}, o)
						t.Cleanup(func() {
							if err := s.Close(); err != nil {
								t.Error(err)
							}
							if err := d.Leftovers(); err != nil {
								t.Error(err)
							}
						})
						return verbstest.Node{Device: d, Addr: ip, Run: s.Run}
					}
					return open("192.0.2.1"), open("192.0.2.2")
				},
			})
		})
	}
}
