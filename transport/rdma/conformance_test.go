package rdma

import (
	"context"
	"testing"

	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/transport/rdma/internal/fakeverbs"
	"github.com/fabrid/fabrid/transport/transporttest"
)

func TestConformance(t *testing.T) {
	for name, wc := range map[string]worldConfig{
		"plain":      {},
		"SRQ":        {mod: func(c *Config) { c.UseSRQ = true }},
		"no DMA key": {options: fakeverbs.Options{NoDMALKey: true}},
		"two shards": {shards: 2},
	} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && wc.shards < 2 {
				t.Skip("short: the run with two shards has the most to race")
			}
			transporttest.Run(t, func(t *testing.T, env *transporttest.Env) *transporttest.Fabric {
				return newConformanceFabric(t, env, wc)
			})
		})
	}
}

func newConformanceFabric(t *testing.T, env *transporttest.Env, wc worldConfig) *transporttest.Fabric {
	var n fakeverbs.Network
	newShards := func() (all []*shard.Shard) {
		for range max(1, wc.shards) {
			s, err := shard.New(shard.Config{})
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
	hostShards, shards := newShards(), newShards()
	hostDev := n.NewDevice(hostAddr, hostShards, wc.options)
	dev := n.NewDevice(targetAddr, shards, wc.options)
	hostCM, cm := rdmacm.New(rdmacm.Config{}), rdmacm.New(rdmacm.Config{})
	cfg := Config{
		CM: cm, Provider: dev.Provider(), Addr: portal, Shards: shards,
		Core: env.Core, Gate: env.Gate,
		PoolSize: 16 << 20,
	}
	if env.SmallPool {
		cfg.PoolSize = 4 << 20
	}
	if wc.mod != nil {
		wc.mod(&cfg)
	}
	l, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	d, err := NewDialer(DialerConfig{CM: hostCM, Provider: hostDev.Provider(), Shards: hostShards})
	if err != nil {
		t.Fatal(err)
	}
	return &transporttest.Fabric{
		Dial: func(ctx context.Context, p transport.HostQueueParam) (transport.HostQueue, error) {
			p.Remote = portal
			return d.Dial(ctx, p)
		},
		MaxData:   l.cfg.MaxData,
		InCapsule: l.cfg.InlineDataSize,
		Pool:      l.cfg.PoolSize,
		Stop: func(t *testing.T) {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		},
		Close: func(t *testing.T) map[string]int {
			if err := l.Shutdown(wctx(t)); err != nil {
				t.Error(err)
			}
			for _, c := range []*rdmacm.CM{hostCM, cm} {
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}
			s := l.Stats()
			left := map[string]int{
				"queues": s.Queues, "waiting queues": s.Waiting, "buffers": s.Buffers, "pool bytes": int(s.PoolBytes),
				"regions": s.MRs, "shared receives": s.SharedInUse,
				"host's queues": d.Stats().Queues, "host's regions": d.Stats().MRs,
			}
			for _, d := range []*fakeverbs.Device{hostDev, dev} {
				if err := d.Leftovers(); err != nil {
					left[err.Error()]++
				}
			}
			return left
		},
	}
}
