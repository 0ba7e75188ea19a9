package sim

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/admission"
	"github.com/fabrid/fabrid/internal/simnet"
)

// Every pair of a stage of a queue's life and a cause of its end: nothing is
// left, within the bound that the table gives, and the next host gets in.
func TestPairs(t *testing.T) {
	tab := readTable(t, "testdata/pairs.txt")
	tab.check(t)
	n := 0
	for _, p := range tab.pairs {
		if p.cannot != "" {
			continue
		}
		n++
		if testing.Short() && n%5 != 0 {
			continue
		}
		for _, srq := range []bool{false, true} {
			name := p.stage + "_x_" + p.cause
			if srq {
				name += "_with_SRQ"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { tab.run(t, p, srq) })
			})
		}
	}
	t.Logf("%d pairs, %d of which can be", len(tab.pairs), n)
}

// pairLink is slow enough for commands to be under way when their end comes:
// 256 KiB take 2 ms.
var pairLink = simnet.Link{Delay: 50 * time.Microsecond, Rate: 125 << 20}

func (tab *table) run(t *testing.T, p *pair, srq bool) {
	w := newWorld(t, worldConfig{
		seed: uint64(p.at), link: pairLink, srq: srq,
		limits: admission.Config{Target: admission.Limits{Queues: 16}},
	})
	defer w.close()
	stage, cause := find(tab.stages, p.stage), find(tab.causes, p.cause)
	lines := cause.lines
	if len(p.lines) > 0 {
		lines = p.lines
	}
	for _, l := range [][]line{cause.first, stage.lines, lines} {
		if err := w.run(l); err != nil {
			t.Errorf("testdata/pairs.txt:%v", err)
			return
		}
	}
	took, err := w.within(p.bound, 0)
	if err != nil {
		t.Errorf("testdata/pairs.txt:%d: %v", p.at, err)
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
			t.Errorf("testdata/pairs.txt:%d: no queue was %s for %s: %+v", p.at, want.what, want.reason, got)
		}
	}
	if err := w.afterwards(); err != nil {
		t.Errorf("testdata/pairs.txt:%d: afterwards: %v", p.at, err)
	}
}
