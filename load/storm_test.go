package load_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/fabric"
	"github.com/fabrid/fabrid/internal/simnet"
	"github.com/fabrid/fabrid/load"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport/rdma"
	"github.com/fabrid/fabrid/verbs/roce"
)

// Messages of the connection manager, by the attribute ID of their MADs.
const (
	madREQ  = 0x10
	madREJ  = 0x12
	madRTU  = 0x14
	madDREQ = 0x15
)

// A stormWorld is a target and hosts on a simulated network, in a bubble.
type stormWorld struct {
	t      *testing.T
	target *fabric.Node
	hosts  *fabric.Node
	cfg    load.StormConfig
	tgt    *target.Target
	closed bool
	mads   [0x20]atomic.Int64 // that hosts sent, by attribute ID
}

var stormTarget = netip.MustParseAddrPort("192.0.2.1:4420")

func newStormWorld(t *testing.T, hosts int, mod func(*rdma.Config)) *stormWorld {
	w := &stormWorld{t: t}
	net := simnet.New(simnet.Config{})
	var err error
	if w.target, err = fabric.NewNode(fabric.Config{Name: "target", Sim: true}); err != nil {
		t.Fatal(err)
	}
	if w.hosts, err = fabric.NewNode(fabric.Config{Name: "hosts", Sim: true}); err != nil {
		t.Fatal(err)
	}
	device, err := w.target.OpenRoCE(roce.Config{Network: net, Addr: stormTarget.Addr()})
	if err != nil {
		t.Fatal(err)
	}
	w.tgt = target.New(target.Config{})
	sub, err := w.tgt.AddSubsystem(target.SubsystemConfig{NQN: nqn, AllowAnyHost: true})
	if err != nil {
		t.Fatal(err)
	}
	disk, err := bdev.NewNull(bdev.NullConfig{Size: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sub.AddNamespace(target.NamespaceConfig{Device: disk}); err != nil {
		t.Fatal(err)
	}
	port, err := w.tgt.AddPort(target.PortConfig{ID: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := port.Link(sub); err != nil {
		t.Fatal(err)
	}
	cfg := rdma.Config{Core: port}
	if mod != nil {
		mod(&cfg)
	}
	if _, err := device.Listen(cfg); err != nil {
		t.Fatal(err)
	}

	addr := netip.MustParseAddr("192.0.2.100")
	var addrs []netip.Addr
	for range hosts {
		addrs = append(addrs, addr)
		link := simnet.Link{Delay: 50 * time.Microsecond, Drop: w.count}
		if err := net.SetLink(addr, stormTarget.Addr(), link); err != nil {
			t.Fatal(err)
		}
		addr = addr.Next()
	}
	devices, err := w.hosts.OpenRoCEs(addrs, roce.Config{Network: net}, func(i int) uint64 { return 1<<57 | uint64(i+1) })
	if err != nil {
		t.Fatal(err)
	}
	w.cfg = load.StormConfig{Shard: w.hosts.Shard(), Remote: stormTarget, NQN: nqn, Queues: 2, Depth: 8, Seed: 1}
	for _, d := range devices {
		w.cfg.Devices = append(w.cfg.Devices, d.Device)
	}
	t.Cleanup(func() {
		w.close()
		ctx := context.Background()
		for _, err := range []error{w.hosts.Close(ctx), w.target.Close(ctx), net.Close(), disk.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	return w
}

// close ends the target.
func (w *stormWorld) close() {
	if !w.closed {
		w.closed = true
		if err := w.tgt.Close(); err != nil {
			w.t.Error(err)
		}
	}
}

// count is told of every packet of a host.
func (w *stormWorld) count(_ int, b []byte) bool {
	// BTH, DETH, and a MAD of 256 bytes with its attribute ID at 16.
	if len(b) > 256 && b[0] == 0x64 {
		if id := binary.BigEndian.Uint16(b[20+16:]); int(id) < len(w.mads) {
			w.mads[id].Add(1)
		}
	}
	return false
}

// run makes a storm, and looks whether hosts have everything back at its end.
func (w *stormWorld) run() *load.StormResult {
	w.t.Helper()
	r, err := load.Storm(w.t.Context(), w.cfg)
	synctest.Wait() // for what was sent last
	if err != nil {
		w.t.Fatal(err)
	}
	w.left()
	sum := load.StormSecond{}
	for _, s := range r.Seconds {
		sum.Attempts += s.Attempts
		sum.Connected += s.Connected
		sum.Cycles += s.Cycles
		sum.Refused += s.Refused
		sum.Failed += s.Failed
	}
	if want := (load.StormSecond{Attempts: r.Attempts, Connected: r.Connected, Cycles: r.Cycles, Refused: r.Refused, Failed: r.Failed}); sum != want {
		w.t.Errorf("the seconds have %+v, the whole %+v", sum, want)
	}
	return r
}

// brief is a result without its seconds.
func brief(r *load.StormResult) []byte {
	b := *r
	b.Seconds = nil
	text, _ := json.Marshal(b)
	return text
}

func (w *stormWorld) left() {
	w.t.Helper()
	if n := w.hosts.Counts(); n.QPs != 0 {
		w.t.Errorf("hosts have %d queue pairs left", n.QPs)
	}
}

// settle waits until the target has nothing left of any host: what it has,
// times of its own end.
func (w *stormWorld) settle(within time.Duration) {
	w.t.Helper()
	time.Sleep(within)
	synctest.Wait()
	n := w.target.Counts()
	if n.Queues.Total() != 0 || n.QPs != 0 || n.Buffers != 0 || n.MRs != 0 || n.CMIDs != 1 || n.Admitted != 0 || n.AdmittedBytes != 0 {
		w.t.Errorf("after %v the target has %+v", within, n)
	}
}

// sent returns how many REQ, RTU, DREQ and REJ the hosts sent.
func (w *stormWorld) sent() [4]int64 {
	return [4]int64{w.mads[madREQ].Load(), w.mads[madRTU].Load(), w.mads[madDREQ].Load(), w.mads[madREJ].Load()}
}

func TestStormStages(t *testing.T) {
	const cycles = 12
	// What a host sends in a cycle until it gets there: REQ and RTU; and to take
	// leave: DREQ and REJ.
	tests := map[load.StormStage][4]int64{
		load.StageREQ:           {1, 0, 0, 1},
		load.StageREP:           {1, 0, 1, 0},
		load.StageRTU:           {1, 1, 1, 0},
		load.StageConnect:       {1, 1, 1, 0},
		load.StageSetFeatures:   {1, 1, 1, 0},
		load.StageBetweenQueues: {2, 2, 2, 0},
		load.StageLive:          {3, 3, 3, 0},
	}
	for stage, want := range tests {
		for _, vanish := range []float64{0, 1} {
			t.Run(fmt.Sprintf("%v, vanish %v", stage, vanish), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newStormWorld(t, 3, nil)
					w.cfg.AbortAt, w.cfg.Vanish, w.cfg.Cycles = stage, vanish, cycles
					r := w.run()
					aborted, connected := uint64(cycles), uint64(0)
					if stage == load.StageLive {
						aborted, connected = 0, cycles
					}
					if r.Attempts != cycles || r.Cycles != cycles || r.Refused != 0 || r.Failed != 0 ||
						r.Connected != connected || r.Aborted[stage.String()] != aborted || r.Vanished != uint64(vanish*cycles) {
						t.Errorf("the result is %s", brief(r))
					}
					want := want
					for i := range want {
						if want[i] *= cycles; vanish == 1 && i >= 2 {
							want[i] = 0 // they do not take leave
						}
					}
					if got := w.sent(); got != want {
						t.Errorf("the hosts sent %v REQ, RTU, DREQ and REJ, want %v", got, want)
					}
					if vanish == 0 {
						w.settle(2 * time.Second)
					} else {
						w.settle(3 * time.Minute)
					}
				})
			})
		}
	}
}

func TestStormMeasures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newStormWorld(t, 4, nil)
		w.cfg.Hold, w.cfg.Runtime, w.cfg.KATO = 20*time.Second, 50*time.Second, 5*time.Second
		var told []load.StormProgress
		w.cfg.Progress = func(p load.StormProgress) { told = append(told, p) }
		r := w.run()
		// Two whole stays, and a third that the end of the run cuts.
		if r.Attempts != 12 || r.Connected != 12 || r.Cycles != 12 || r.QueuesConnected != 36 || r.MaxLive != 4 || r.Failed+r.Refused != 0 {
			t.Errorf("the result is %s", brief(r))
		}
		// Each way to the target takes 50 µs, and there are 13 of them.
		if l := r.Connect; l.Min < 649 || l.Max > 700 || l.P50 < l.Min || l.P99 > l.Max {
			t.Errorf("connect latency %+v", l)
		}
		if l := r.Cycle; l.Max < 20e6 || l.Max > 20.1e6 {
			t.Errorf("cycle latency %+v", l)
		}
		if n := len(told); n < 45 || told[10].Live != 4 || told[10].Total.Connected != 4 {
			t.Errorf("%d reports of progress, the last is %+v", n, told[n-1])
		}
		b, err := json.Marshal(r)
		if err != nil || !strings.Contains(string(b), `"connect_us":{"min":`) {
			t.Errorf("as JSON: %s, %v", b, err)
		}
		w.settle(2 * time.Second)
	})
}

func TestStormRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newStormWorld(t, 8, nil)
		w.cfg.Rate, w.cfg.Runtime = 100, 5*time.Second
		r := w.run()
		if r.Attempts < 499 || r.Attempts > 501 || r.Cycles != r.Attempts {
			t.Errorf("%d attempts in 5 s at 100/s, %d cycles", r.Attempts, r.Cycles)
		}
		for i, s := range r.Seconds[:5] {
			if s.Attempts < 99 || s.Attempts > 101 {
				t.Errorf("%d attempts in second %d", s.Attempts, i)
			}
		}
	})
}

func TestStormRefused(t *testing.T) {
	for name, test := range map[string]struct {
		mod  func(*rdma.Config)
		cfg  func(*load.StormConfig)
		want load.StormCount
	}{
		"port": {
			cfg:  func(c *load.StormConfig) { c.Remote = netip.AddrPortFrom(stormTarget.Addr(), 4421) },
			want: load.StormCount{Step: "connection of the admin queue", Reason: 8, What: "invalid service ID: nobody listens on that port"},
		},
		"subsystem": {
			cfg:  func(c *load.StormConfig) { c.NQN += "x" },
			want: load.StormCount{Step: "Connect of the admin queue", Status: 0x182, What: nvme.Status(0x182).FabricsName()},
		},
		"receives": {
			mod:  func(c *rdma.Config) { c.UseSRQ, c.SRQSize = true, 3 },
			cfg:  func(c *load.StormConfig) { c.Queues = 4 },
			want: load.StormCount{Step: "connection of an I/O queue", Reason: 28, Status: 6, What: "no resources"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newStormWorld(t, 2, test.mod)
				test.cfg(&w.cfg)
				w.cfg.Cycles = 20
				r := w.run()
				test.want.Count = 20
				if r.Refused != 20 || !slices.Equal(r.Refusals, []load.StormCount{test.want}) || r.Failed != 0 || r.Cycles != 0 {
					t.Errorf("the result is %s, want refusals %+v", brief(r), test.want)
				}
				w.settle(2 * time.Second)
			})
		})
	}
}

// Nobody is at the target's address: each attempt takes the time of a step.
func TestStormUnanswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newStormWorld(t, 2, nil)
		w.cfg.Remote = netip.MustParseAddrPort("192.0.2.2:4420")
		w.cfg.Timeout, w.cfg.Runtime = time.Second, 3500*time.Millisecond
		r := w.run()
		want := []load.StormCount{{Step: "connection of the admin queue", What: "timeout", Count: 8}}
		if !slices.Equal(r.Failures, want) || r.Attempts != 8 || r.FirstFailure == "" {
			t.Errorf("the result is %s", brief(r))
		}
	})
}

// The target goes away under hosts that are connected.
func TestStormTargetGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newStormWorld(t, 3, nil)
		w.cfg.Hold, w.cfg.Runtime, w.cfg.Rate = time.Hour, 5*time.Second, 1000
		time.AfterFunc(time.Second, w.close)
		r := w.run()
		if r.Connected != 3 || r.Failures[0].Step != "live" || r.Failures[0].What != "disconnected" || r.Failures[0].Count != 3 || r.Cycles != 0 {
			t.Errorf("the result is %s", brief(r))
		}
		if r.Refused == 0 {
			t.Error("no host tried again")
		}
	})
}

func TestStormEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newStormWorld(t, 3, nil)
		w.cfg.Hold, w.cfg.Runtime = time.Hour, time.Hour
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		began := time.Now()
		r, err := load.Storm(ctx, w.cfg)
		if err != nil || r.Connected != 3 || time.Since(began) > 11*time.Second {
			t.Errorf("after %v: %s, %v", time.Since(began), brief(r), err)
		}
		w.left()
		w.settle(2 * time.Second)
	})
}

// The same seed makes the same choices, another others.
func TestStormSeed(t *testing.T) {
	var results [3]*load.StormResult
	for i, seed := range []uint64{7, 7, 8} {
		synctest.Test(t, func(t *testing.T) {
			w := newStormWorld(t, 1, nil)
			w.cfg.AbortAt, w.cfg.Vanish, w.cfg.Cycles, w.cfg.Seed = load.StageRandom, 0.5, 60, seed
			results[i] = w.run()
			if n := results[i].Vanished; n < 15 || n > 45 {
				t.Errorf("%d of 60 vanished, half of them were to", n)
			}
			if n := len(results[i].Aborted); n != 6 {
				t.Errorf("aborted at %v, want all stages", results[i].Aborted)
			}
		})
	}
	same := func(a, b *load.StormResult) bool {
		return maps.Equal(a.Aborted, b.Aborted) && a.Vanished == b.Vanished && a.Connected == b.Connected
	}
	if !same(results[0], results[1]) {
		t.Errorf("a seed made %v and %v", results[0].Aborted, results[1].Aborted)
	}
	if same(results[0], results[2]) {
		t.Errorf("two seeds made %v", results[0].Aborted)
	}
}

func TestStormConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newStormWorld(t, 1, nil)
		w.cfg.Runtime = time.Second
		for name, mod := range map[string]func(*load.StormConfig){
			"no devices":  func(c *load.StormConfig) { c.Devices = nil },
			"no shard":    func(c *load.StormConfig) { c.Shard = nil },
			"no port":     func(c *load.StormConfig) { c.Remote = netip.AddrPort{} },
			"no end":      func(c *load.StormConfig) { c.Runtime = 0 },
			"no name":     func(c *load.StormConfig) { c.NQN = "" },
			"queues":      func(c *load.StormConfig) { c.Queues = -1 },
			"depth":       func(c *load.StormConfig) { c.Depth = 1 },
			"rate":        func(c *load.StormConfig) { c.Rate = -1 },
			"vanish":      func(c *load.StormConfig) { c.Vanish = 1.5 },
			"stage":       func(c *load.StormConfig) { c.AbortAt = load.StageRandom + 1 },
			"unreachable": func(c *load.StormConfig) { c.Queues, c.AbortAt = 0, load.StageSetFeatures },
			"KATO":        func(c *load.StormConfig) { c.KATO = time.Microsecond },
		} {
			cfg := w.cfg
			mod(&cfg)
			if r, err := load.Storm(t.Context(), cfg); err == nil || r != nil {
				t.Errorf("%s: no error", name)
			}
		}
	})
	for _, name := range load.StormStages() {
		if s, err := load.ParseStormStage(name); err != nil || s.String() != name {
			t.Errorf("%s is %v, %v", name, s, err)
		}
	}
	if _, err := load.ParseStormStage("never"); err == nil {
		t.Error("a stage that there is not")
	}
}
