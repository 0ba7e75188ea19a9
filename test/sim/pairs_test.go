package sim

import (
	"fmt"
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
	for _, l := range [][]line{cause.first, stage.lines, tab.lines(p)} {
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
	tab := readTable(t, "testdata/pairs.txt")
	type two struct {
		a, b *pair
		gap  time.Duration
	}
	var all []two
	for _, a := range tab.pairs {
		for _, b := range tab.pairs {
			if a == b || a.stage != b.stage || a.cannot != "" || b.cannot != "" || a.cause == "backend" || b.cause == "backend" {
				continue
			}
			for _, gap := range []time.Duration{0, 120 * time.Microsecond, 3 * time.Millisecond} {
				all = append(all, two{a, b, gap})
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
		link, bound, lossy := pairLink, 35*time.Second, i%3 == 2
		if lossy {
			link.Loss, link.Duplicate, link.HoldBack, link.HoldBackBy = 0.05, 0.02, 0.02, time.Millisecond
			bound = 90 * time.Second
		}
		t.Run(fmt.Sprintf("%s_x_%s_and_%s_%v", c.a.stage, c.a.cause, c.b.cause, c.gap), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, worldConfig{
					seed: uint64(i), link: link, srq: i%2 == 0,
					limits: admission.Config{Target: admission.Limits{Queues: 16}},
				})
				defer w.close()
				// Where packets are lost a stage may not be reached in time.
				if err := w.run(find(tab.stages, c.a.stage).lines); err != nil && !lossy {
					t.Errorf("testdata/pairs.txt:%v", err)
					return
				}
				w.tryAll(tab.lines(c.a))
				time.Sleep(c.gap)
				w.tryAll(tab.lines(c.b))
				for _, p := range w.peers {
					p.hangUp()
				}
				if took, err := w.within(bound, 0); err != nil {
					t.Errorf("%v", err)
				} else {
					t.Logf("nothing was left after %v; %+v", took, w.node.Queues().Tally())
				}
			})
		})
	}
	t.Logf("%d of %d", (len(all)+sample-1)/sample, len(all))
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
