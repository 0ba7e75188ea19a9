package sim

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// A table is one of testdata/pairs*.txt: the stages of a queue's life, the causes of
// its end, and every pair of both.
type table struct {
	name           string
	stages, causes []*script
	pairs          []*pair
}

// A script is named sentences.
type script struct {
	name, text string
	first      []line // before the stage
	lines      []line
}

// A pair says what becomes of a queue in a stage for a cause.
type pair struct {
	stage, cause string
	at           int    // the line of the file
	cannot       string // why there is no such pair
	lines        []line // in place of the cause's; may be none
	bound        time.Duration
	tally        []tally
}

// A tally is a reason that must have been counted: of refusals or releases.
type tally struct{ what, reason string }

type line struct {
	at   int
	text string
}

var (
	headLine   = regexp.MustCompile(`^(stage|cause) (\S+): (.+)$`)
	pairLine   = regexp.MustCompile(`^(\S+) x (\S+): zero within (\S+)((?:; (?:refused|released) [a-z_]+)*)$`)
	cannotLine = regexp.MustCompile(`^(\S+) x (\S+): cannot be: (.+)$`)
	tallyPart  = regexp.MustCompile(`; (refused|released) ([a-z_]+)`)
)

// readTable reads the table. Lines that begin with # are comments; what is
// indented belongs to the line above.
func readTable(t *testing.T, name string) *table {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	tab := &table{name: name}
	var into *[]line
	var head *script
	for i, s := range strings.Split(string(b), "\n") {
		at, text := i+1, strings.TrimSpace(s)
		switch {
		case text == "" || text[0] == '#':
		case s[0] == ' ' || s[0] == '\t':
			if into == nil {
				t.Fatalf("%s:%d: belongs to nothing", name, at)
			}
			if first, ok := strings.CutPrefix(text, "first: "); ok && head != nil {
				head.first = append(head.first, line{at, first})
				continue
			}
			*into = append(*into, line{at, text})
		default:
			head = nil
			if m := headLine.FindStringSubmatch(text); m != nil {
				head = &script{name: m[2], text: m[3]}
				into = &head.lines
				if m[1] == "stage" {
					tab.stages = append(tab.stages, head)
				} else {
					tab.causes = append(tab.causes, head)
				}
				continue
			}
			p := &pair{at: at}
			if m := cannotLine.FindStringSubmatch(text); m != nil {
				p.stage, p.cause, p.cannot = m[1], m[2], m[3]
				into = nil
			} else if m := pairLine.FindStringSubmatch(text); m != nil {
				p.stage, p.cause = m[1], m[2]
				if p.bound, err = time.ParseDuration(m[3]); err != nil {
					t.Fatalf("%s:%d: %v", name, at, err)
				}
				for _, m := range tallyPart.FindAllStringSubmatch(m[4], -1) {
					p.tally = append(p.tally, tally{m[1], m[2]})
				}
				into = &p.lines
			} else {
				t.Fatalf("%s:%d: cannot be read: %s", name, at, text)
			}
			tab.pairs = append(tab.pairs, p)
		}
	}
	return tab
}

func find(all []*script, name string) *script {
	i := slices.IndexFunc(all, func(s *script) bool { return s.name == name })
	if i < 0 {
		return nil
	}
	return all[i]
}

// check finds out whether the table has every pair, once. What is not there by
// name may be among those of a star.
func (tab *table) check(t *testing.T) {
	t.Helper()
	seen := make(map[string]int)
	for _, p := range tab.pairs {
		star := p.stage == "*" || p.cause == "*"
		if p.stage != "*" && find(tab.stages, p.stage) == nil || p.cause != "*" && find(tab.causes, p.cause) == nil || star && p.cannot == "" {
			t.Errorf("%s:%d: no such stage or cause: %s x %s", tab.name, p.at, p.stage, p.cause)
		}
		seen[p.stage+" x "+p.cause]++
	}
	for _, s := range tab.stages {
		for _, c := range tab.causes {
			n := seen[s.name+" x "+c.name]
			if n > 1 || n == 0 && seen[s.name+" x *"]+seen["* x "+c.name] == 0 {
				t.Errorf("%s: %s x %s is in the table %d times: every pair is to be there, with its script or why it cannot be", tab.name, s.name, c.name, n)
			}
		}
	}
}

// A step is a sentence that scripts may use.
type step struct {
	re *regexp.Regexp
	do func(w *world, m []string) error
}

// run carries out lines.
func (w *world) run(lines []line) error {
	for _, l := range lines {
		if err := w.step(l.text); err != nil {
			return fmt.Errorf("line %d: %s: %w", l.at, l.text, err)
		}
	}
	return nil
}

func (w *world) step(text string) error {
	for _, s := range steps {
		if m := s.re.FindStringSubmatch(text); m != nil {
			return s.do(w, m)
		}
	}
	return fmt.Errorf("no such sentence; see steps_test.go")
}
