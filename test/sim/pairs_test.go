package sim

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/admission"
	"github.com/fabrid/fabrid/internal/simnet"
)

// Every pair of a stage of a queue's life and a cause of its end: nothing is
// left, within the bound that the table gives, and the next host gets in.
func TestPairs(t *testing.T) {
	pairs := func(t *testing.T, name string, kinds map[string]worldConfig) {
		tab := readTable(t, name)
		tab.check(t)
		n := 0
		for _, p := range tab.pairs {
			if p.cannot != "" {
				continue
			}
			n++
			if testing.Short() && n%9 != 0 {
				continue
			}
			for kind, cfg := range kinds {
				cfg.seed, cfg.limits.Target.Queues = uint64(p.at), 16
				t.Run(p.stage+"_x_"+p.cause+kind, func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) { tab.run(t, p, cfg) })
				})
			}
		}
		t.Logf("%d pairs, %d of which can be", len(tab.stages)*len(tab.causes), n)
	}
	t.Run("rdma", func(t *testing.T) {
		pairs(t, "testdata/pairs.txt", map[string]worldConfig{"": {link: pairLink}, "_with_SRQ": {link: pairLink, srq: true}})
	})
	t.Run("loop", func(t *testing.T) {
		pairs(t, "testdata/pairs-loop.txt", map[string]worldConfig{"": {loop: true}})
	})
}

// pairLink is slow enough for commands to be under way when their end comes:
// 256 KiB take 2 ms.
var pairLink = simnet.Link{Delay: 50 * time.Microsecond, Rate: 125 << 20}

func (tab *table) run(t *testing.T, p *pair, cfg worldConfig) {
	w := newWorld(t, cfg)
	defer w.close()
	stage, cause := find(tab.stages, p.stage), find(tab.causes, p.cause)
	for _, l := range [][]line{cause.first, stage.lines, tab.lines(p)} {
		if err := w.run(l); err != nil {
			t.Errorf("%s:%v", tab.name, err)
			return
		}
	}
	took, err := w.within(p.bound, 0)
	if err != nil {
		t.Errorf("%s:%d: %v", tab.name, p.at, err)
		return
	}
	got := w.node.Queues().Tally()
	t.Logf("nothing was left after %v; %+v", took, got)
	for _, want := range p.tally {
		n := got.Released[want.reason]
		if want.what == "refused" {
			n = got.Refused[want.reason]
		}
		if n == 0 {
			t.Errorf("%s:%d: no queue was %s for %s: %+v", tab.name, p.at, want.what, want.reason, got)
		}
	}
	if err := w.afterwards(); err != nil {
		t.Errorf("%s:%d: afterwards: %v", tab.name, p.at, err)
	}
}

// lines is what a pair does when its stage is reached.
func (tab *table) lines(p *pair) []line {
	if len(p.lines) > 0 {
		return p.lines
	}
	return find(tab.causes, p.cause).lines
}

// Two causes at once, or one shortly after the other: still exactly one release,
// and nothing left, also where packets are lost, doubled and late. What the hosts
// hear is not looked at: they may be gone. Here is a sample; a soak has all.
func TestTwoCauses(t *testing.T) {
	type two struct {
		tab  *table
		a, b *pair
		gap  time.Duration
	}
	var all []two
	for _, name := range []string{"testdata/pairs.txt", "testdata/pairs-loop.txt"} {
		tab := readTable(t, name)
		for _, a := range tab.pairs {
			for _, b := range tab.pairs {
				if a == b || a.stage != b.stage || a.cannot != "" || b.cannot != "" || a.cause == "backend" || b.cause == "backend" {
					continue
				}
				for _, gap := range []time.Duration{0, 120 * time.Microsecond, 3 * time.Millisecond} {
					all = append(all, two{tab, a, b, gap})
				}
			}
		}
	}
	sample := 29
	switch {
	case *soak:
		sample = 1
	case testing.Short():
		sample = 101
	}
	for i := 0; i < len(all); i += sample {
		c := all[i]
		cfg := worldConfig{seed: uint64(i), limits: admission.Config{Target: admission.Limits{Queues: 16}}}
		bound, lossy := 35*time.Second, false
		if cfg.loop = c.tab.name == "testdata/pairs-loop.txt"; !cfg.loop {
			cfg.link, cfg.srq, lossy = pairLink, i%2 == 0, i%3 == 2
		}
		if lossy {
			cfg.link.Loss, cfg.link.Duplicate, cfg.link.HoldBack, cfg.link.HoldBackBy = 0.05, 0.02, 0.02, time.Millisecond
			bound = 90 * time.Second
		}
		t.Run(fmt.Sprintf("%s_%s_x_%s_and_%s_%v", strings.TrimSuffix(filepath.Base(c.tab.name), ".txt"), c.a.stage, c.a.cause, c.b.cause, c.gap), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { c.tab.runTwo(t, c.a, c.b, c.gap, cfg, lossy, bound) })
		})
	}
	t.Logf("%d of %d", (len(all)+sample-1)/sample, len(all))
}

func (tab *table) runTwo(t *testing.T, a, b *pair, gap time.Duration, cfg worldConfig, lossy bool, bound time.Duration) {
	w := newWorld(t, cfg)
	defer w.close()
	// Where packets are lost a stage may not be reached in time.
	if err := w.run(find(tab.stages, a.stage).lines); err != nil && !lossy {
		t.Errorf("%s:%v", tab.name, err)
		return
	}
	w.tryAll(tab.lines(a))
	time.Sleep(gap)
	w.tryAll(tab.lines(b))
	for _, p := range w.peers {
		p.end.hangUp()
	}
	if took, err := w.within(bound, 0); err != nil {
		t.Errorf("%v", err)
	} else {
		t.Logf("nothing was left after %v; %+v", took, w.node.Queues().Tally())
	}
}

// tryAll carries out lines, those that wait excepted, and as far as that can be.
func (w *world) tryAll(lines []line) {
	for _, l := range lines {
		if strings.HasPrefix(l.text, "wait ") || strings.HasPrefix(l.text, "T has ") {
			continue
		}
		_ = w.step(l.text)
	}
}
