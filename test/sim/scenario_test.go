package sim

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/admission"
)

// soak makes scenarios as long as they can be: make soak.
var soak = flag.Bool("soak", false, "run what takes a virtual day as long as that")

// What is written in testdata/scenarios happens.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/scenarios/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			if testing.Short() && strings.Contains(name, "herd-p") {
				t.Skip("short: herd-restart is a herd, too")
			}
			t.Parallel()
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			var lines []line
			for i, s := range strings.Split(string(b), "\n") {
				if s = strings.TrimSpace(s); s != "" && s[0] != '#' {
					lines = append(lines, line{i + 1, s})
				}
			}
			synctest.Test(t, func(t *testing.T) {
				if err := play(t, lines); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
		})
	}
}

// play carries out a scenario: what describes the world, until the target
// starts, then the rest.
func play(t *testing.T, lines []line) error {
	var cfg worldConfig
	for i, l := range lines {
		if l.text == "T starts" {
			w := newWorld(t, cfg)
			defer w.close()
			return w.play(lines[i+1:])
		}
		if err := cfg.describe(l.text); err != nil {
			return fmt.Errorf("line %d: %s: %w", l.at, l.text, err)
		}
	}
	return errors.New("T never starts")
}

func (c *worldConfig) describe(text string) error {
	var n, m int
	var d string
	if scan(text, "T has room for %d queues, %d of which may be connecting", &n, &m) {
		c.limits = admission.Config{Target: admission.Limits{Queues: n, Connecting: m}}
		return nil
	}
	if scan(text, "T has room for %d KiB", &n) {
		c.limits = admission.Config{Target: admission.Limits{Bytes: int64(n) << 10}}
		return nil
	}
	if scan(text, "packets take %s and of a thousand %d are lost", &d, &n) {
		var err error
		c.link.Delay, err = dur(d)
		c.link.Loss = float64(n) / 1000
		return err
	}
	if scan(text, "chance is %d", &n) {
		c.seed = uint64(n)
		return nil
	}
	return errors.New("no such sentence before T starts")
}

func scan(text, format string, into ...any) bool {
	n, err := fmt.Sscanf(text, format, into...)
	return err == nil && n == len(into) && fmt.Sprintf(format, values(into)...) == text
}

func values(into []any) (all []any) {
	for _, v := range into {
		switch v := v.(type) {
		case *int:
			all = append(all, *v)
		case *string:
			all = append(all, *v)
		}
	}
	return all
}

// play carries out lines, those between "N times, M in a soak:" and "end" again
// and again.
func (w *world) play(lines []line) error {
	defer w.endCrowd()
	for i := 0; i < len(lines); i++ {
		n, m := 0, 0
		if !scan(lines[i].text, "%d times, %d in a soak:", &n, &m) {
			if err := w.run(lines[i : i+1]); err != nil {
				return err
			}
			continue
		}
		end := i + 1
		for end < len(lines) && lines[end].text != "end" {
			end++
		}
		switch {
		case *soak:
			n = m
		case testing.Short():
			n = max(1, n/4)
		}
		for range n {
			if err := w.run(lines[i+1 : end]); err != nil {
				return err
			}
		}
		i = end
	}
	return nil
}

func (w *world) endCrowd() {
	if w.crowd != nil {
		if err := w.crowd.close(); err != nil {
			w.t.Error(err)
		}
		w.crowd = nil
	}
}

// wantIn waits until all hosts are in.
func (w *world) wantIn(bound time.Duration) error {
	begin := time.Now()
	for {
		n, took := w.crowd.in(), time.Since(begin)
		live := w.node.Queues().Counts().Live // a host may not know yet that it is out
		switch {
		case n == len(w.crowd.members) && live == n*(1+w.crowd.queues):
			w.t.Logf("%d hosts were in after %v; at most %+v", n, took, w.node.Budget().Stats().Most)
			return nil
		case took >= bound:
			return fmt.Errorf("%d hosts of %d are in; %+v; refused: %v", n, len(w.crowd.members), w.node.Counts(), w.node.Queues().Tally().Refused)
		}
		time.Sleep(min(20*time.Millisecond, bound-took))
	}
}

func init() {
	on(`T stops`, func(w *world, _ []string) error { w.stop(); return nil })
	on(`T loses its power`, func(w *world, _ []string) error {
		if err := w.node.Shard().Run(func() {
			w.dev.Silence(true)
			w.dev.Vanish()
		}); err != nil {
			return err
		}
		w.stop()
		return nil
	})
	on(`T starts again`, func(w *world, _ []string) error { w.start(); return nil })
	on(`the network is cut`, func(w *world, _ []string) error { return w.cut(true) })
	on(`the network is whole`, func(w *world, _ []string) error { return w.cut(false) })

	on(`there are (\d+) hosts, who want (\d+) I/O queues each`, func(w *world, m []string) (err error) {
		n, _ := strconv.Atoi(m[1])
		queues, _ := strconv.Atoi(m[2])
		w.crowd, err = w.newCrowd(n, queues)
		return err
	})
	on(`all come`, func(w *world, _ []string) error {
		return w.crowd.each(func(m *member) error { return m.connect(w.t.Context()) })
	})
	on(`all lose their power, and have it back at once`, func(w *world, _ []string) error {
		return w.crowd.each((*member).vanish)
	})
	on(`all come, every (\S+) until they are in`, func(w *world, m []string) error {
		d, err := dur(m[1])
		w.crowd.work(func(ctx context.Context, m *member) error {
			if m.ctrl.Load() != nil || m.connect(ctx) == nil {
				<-ctx.Done()
				return nil
			}
			sleep(ctx, d)
			return nil
		})
		return err
	})
	on(`T has refused queues for (\S+)`, func(w *world, m []string) error {
		if all := w.node.Queues().Tally().Refused; all[m[1]] == 0 {
			return fmt.Errorf("it refused %v", all)
		}
		return nil
	})
	on(`all write and read, every (\S+)`, func(w *world, m []string) error {
		d, err := dur(m[1])
		w.crowd.work(func(ctx context.Context, m *member) error {
			defer sleep(ctx, d)
			return m.verify()
		})
		return err
	})
	on(`all come, write and read, and leave after (\S+), or vanish, again and again`, func(w *world, m []string) error {
		d, err := dur(m[1])
		w.crowd.work(func(ctx context.Context, m *member) error { return m.visit(ctx, d) })
		return err
	})
	on(`all rest`, func(w *world, _ []string) error { w.crowd.rest(); return nil })
	on(`within (\S+) all are in`, func(w *world, m []string) error {
		d, err := dur(m[1])
		if err != nil {
			return err
		}
		return w.wantIn(d)
	})
	on(`all leave`, func(w *world, _ []string) error {
		return w.crowd.each(func(m *member) error { m.leave(context.Background()); return nil })
	})
	on(`within (\S+) nothing is left`, func(w *world, m []string) error {
		d, err := dur(m[1])
		if err != nil {
			return err
		}
		_, err = w.within(d, 0)
		return err
	})
	on(`each was in at least (\d+) times, or (\d+) in a soak`, func(w *world, m []string) error {
		i := 1
		if *soak {
			i = 2
		}
		want, _ := strconv.Atoi(m[i])
		if testing.Short() {
			want /= 5
		}
		least, most, tried := 1<<30, 0, 0
		for _, m := range w.crowd.members {
			least, most, tried = min(least, m.came), max(most, m.came), tried+m.tried
		}
		w.t.Logf("in %v: each host was in %d to %d times; %d attempts failed; %d times somebody read what it had written", time.Since(w.began), least, most, tried, w.crowd.rounds.Load())
		if least < want {
			return fmt.Errorf("one was in %d times", least)
		}
		return nil
	})
}

// cut takes the network apart, or puts it together.
func (w *world) cut(apart bool) error {
	l := w.link
	if apart {
		l.Drop = func(int, []byte) bool { return true }
	}
	var errs []error
	for _, m := range w.crowd.members {
		a := m.dev.Device.Addr().Addr()
		errs = append(errs, w.net.SetLink(a, targetAddr, l), w.net.SetLink(targetAddr, a, l))
	}
	return errors.Join(errs...)
}
