package rdma

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/transport/transporttest"
	"github.com/fabrid/fabrid/verbs/roce"
)

// The fabric over RoCEv2, on two addresses of the loopback interface.
func TestConformanceOverRoCE(t *testing.T) {
	next := byte(0)
	for name, mod := range map[string]func(c *Config){
		"plain": func(*Config) {},
		"SRQ":   func(c *Config) { c.UseSRQ = true },
	} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && (name != "SRQ" || raceEnabled) {
				t.Skip("short: the run with an SRQ has all of it, and TestConformance the most to race")
			}
			transporttest.Run(t, func(t *testing.T, env *transporttest.Env) *transporttest.Fabric {
				next++
				return newRoCEFabric(t, env, mod, next)
			})
		})
	}
}

func newRoCEFabric(t *testing.T, env *transporttest.Env, mod func(c *Config), n byte) *transporttest.Fabric {
	open := func(last byte) (*roce.Device, []*shard.Shard) {
		s, err := shard.New(shard.Config{})
		if err != nil {
			t.Fatal(err)
		}
		d, err := roce.Open(roce.Config{Shard: s, Addr: netip.AddrFrom4([4]byte{127, 41, n, last})})
		if err != nil {
			t.Fatal(err)
		}
		return d, []*shard.Shard{s}
	}
	hostDev, hostShards := open(1)
	dev, shards := open(2)
	cm := rdmacm.New(rdmacm.Config{})
	cfg := Config{
		CM: cm, Provider: dev, Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 41, n, 2}), 4420), Shards: shards,
		Core: env.Core, Gate: env.Gate,
		PoolSize: 16 << 20,
	}
	if env.SmallPool {
		cfg.PoolSize = 4 << 20
	}
	mod(&cfg)
	l, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	d, err := NewDialer(DialerConfig{CM: cm, Provider: hostDev, Shards: hostShards})
	if err != nil {
		t.Fatal(err)
	}
	return &transporttest.Fabric{
		Dial: func(ctx context.Context, p transport.HostQueueParam) (transport.HostQueue, error) {
			p.Remote = cfg.Addr
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
			err := errors.Join(l.Shutdown(wctx(t)), cm.Close(), hostDev.Close(), dev.Close(), hostShards[0].Close(), shards[0].Close())
			if err != nil {
				t.Error(err)
			}
			left := map[string]int{}
			if s := l.Stats(); s != (Stats{}) {
				left[fmt.Sprintf("%+v", s)] = 1
			}
			if s := d.Stats(); s != (DialerStats{}) {
				left[fmt.Sprintf("%+v", s)] = 1
			}
			return left
		},
	}
}
