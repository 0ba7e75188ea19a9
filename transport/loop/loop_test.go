package loop_test

import (
	"context"
	"net/netip"
	"testing"

	"go.uber.org/goleak"

	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/transport/loop"
	"github.com/fabrid/fabrid/transport/transporttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var addr = netip.MustParseAddrPort("192.0.2.1:4420")

func newShard(sim bool, name string) (*shard.Shard, error) {
	if sim {
		return shard.NewSim(shard.Config{Name: name}), nil
	}
	return shard.New(shard.Config{Name: name})
}

// maker makes listeners on some shards and dialers on others.
func maker(targets, hosts int, cfg loop.Config, sim bool) transporttest.Maker {
	return func(t *testing.T, env *transporttest.Env) *transporttest.Fabric {
		start := func(name string, n int) []*shard.Shard {
			var all []*shard.Shard
			for range n {
				s, err := newShard(sim, name)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				})
				all = append(all, s)
			}
			return all
		}
		ts := start("target", targets)
		hs := ts // one shard for both ends
		if hosts > 0 {
			hs = start("host", hosts)
		}
		cfg := cfg
		cfg.Addr, cfg.Shards = addr, ts
		cfg.Core, cfg.Gate = env.Core, env.Gate
		if cfg.MaxData == 0 {
			cfg.MaxData = 128 << 10
		}
		cfg.PoolSize = 64 << 20
		if env.SmallPool {
			cfg.PoolSize = int64(cfg.MaxData) * 3 / 2
		}
		n := loop.NewNetwork()
		l, err := n.Listen(cfg)
		if err != nil {
			t.Fatal(err)
		}
		d, err := n.NewDialer(hs...)
		if err != nil {
			t.Fatal(err)
		}
		return &transporttest.Fabric{
			Dial: func(ctx context.Context, p transport.HostQueueParam) (transport.HostQueue, error) {
				p.Remote = addr
				return d.Dial(ctx, p)
			},
			MaxData: cfg.MaxData, InCapsule: max(cfg.InlineDataSize, 0), Pool: cfg.PoolSize,
			Stop: func(*testing.T) { l.Close() },
			Close: func(t *testing.T) map[string]int {
				if err := l.Shutdown(context.Background()); err != nil {
					t.Error(err)
				}
				s := l.Stats()
				return map[string]int{"queues": s.Queues, "waiting": s.Waiting, "pages": s.Pages}
			},
		}
	}
}

func TestConformance(t *testing.T) {
	for _, c := range []struct {
		name string
		mk   transporttest.Maker
	}{
		{"TwoShards", maker(1, 1, loop.Config{InlineDataSize: 4096}, false)},
		{"OneShard", maker(1, 0, loop.Config{InlineDataSize: 4096}, false)},
		{"ManyShards", maker(2, 3, loop.Config{InlineDataSize: 4096}, false)},
		{"NoInCapsuleData", maker(1, 1, loop.Config{InlineDataSize: -1}, false)},
		{"Simulated", maker(1, 1, loop.Config{InlineDataSize: 8192, MaxData: 256 << 10}, true)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if testing.Short() && c.name != "ManyShards" {
				t.Skip("long")
			}
			transporttest.Run(t, c.mk)
		})
	}
}
