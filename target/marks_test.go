package target

import (
	"math/rand/v2"
	"testing"
)

// Marks are what a table of blocks would say, whatever is marked and written.
func TestMarks(t *testing.T) {
	const blocks = 64
	rng := rand.New(rand.NewPCG(1, 2))
	var m marks
	var want [blocks]bool
	for i := range 20000 {
		from := rng.Uint64N(blocks)
		n := 1 + rng.Uint64N(min(9, blocks-from))
		mark := rng.IntN(2) == 0
		if mark {
			if !m.add(from, n) {
				t.Fatal("no room")
			}
		} else {
			m.clear(from, n)
		}
		for b := from; b < from+n; b++ {
			want[b] = mark
		}
		first, any := uint64(0), false
		from, n = rng.Uint64N(blocks), 1+rng.Uint64N(blocks)
		n = min(n, blocks-from)
		for b := from; b < from+n && !any; b++ {
			first, any = b, want[b]
		}
		if got, ok := m.first(from, n); ok != any || ok && got != first {
			t.Fatalf("step %d: %d+%d: %d %v, want %d %v: %v", i, from, n, got, ok, first, any, m.spans)
		}
		for j, s := range m.spans {
			if s.from >= s.to || j > 0 && s.from <= m.spans[j-1].to {
				t.Fatalf("step %d: %v", i, m.spans)
			}
		}
		if m.any() != (len(m.spans) > 0) {
			t.Fatalf("step %d: any %v of %v", i, m.any(), m.spans)
		}
	}
}

// The ranges are bounded, and where they are too many a written block is never
// marked.
func TestMarksAreBounded(t *testing.T) {
	var m marks
	for i := range uint64(maxMarks) {
		if !m.add(i*10, 5) {
			t.Fatalf("no room for range %d", i)
		}
	}
	if m.add(1<<40, 1) {
		t.Error("room for one more")
	}
	if !m.add(5, 5) || !m.add(14, 1) || len(m.spans) != maxMarks-1 {
		t.Errorf("what joins others: %d ranges", len(m.spans))
	}
	if !m.add(1<<40, 16) {
		t.Error("no room when two have become one")
	}
	m.clear(1<<40+4, 1) // would split it
	if _, ok := m.first(1<<40, 5); ok {
		t.Error("a written block, or the shorter half, is marked")
	}
	if lba, ok := m.first(1<<40+5, 100); !ok || lba != 1<<40+5 {
		t.Error("the longer half is not marked")
	}
	m.clear(1<<40+14, 1)
	if lba, ok := m.first(1<<40+5, 100); !ok || lba != 1<<40+5 {
		t.Error("the longer half, before, is not marked")
	}
	if _, ok := m.first(1<<40+14, 100); ok {
		t.Error("the shorter half, behind, is marked")
	}
	if len(m.spans) != maxMarks {
		t.Errorf("%d ranges", len(m.spans))
	}
	m.clear(0, 1<<63)
	if m.any() {
		t.Error("some are left")
	}
}

// A tally's busy time is that in which commands were outstanding, each moment
// once.
func TestBusy(t *testing.T) {
	const ms = 1_000_000
	var y tally
	y.begin(10 * ms)
	y.begin(12 * ms)
	y.end(15 * ms)
	if got := y.busy.Load(); got != 0 {
		t.Errorf("%d after 5 ms with a command still outstanding", got)
	}
	y.end(20 * ms)
	if got := y.busy.Load(); got != 10*ms {
		t.Errorf("%d, want 10 ms", got)
	}
	y.begin(100 * ms)
	y.begin(100 * ms)
	y.end(3000 * ms) // long: told while the other goes on
	if got := y.busy.Load(); got != 2910*ms {
		t.Errorf("%d, want 2910 ms", got)
	}
	y.end(3001 * ms)
	if got := y.busy.Load(); got != 2911*ms || y.outstanding != 0 {
		t.Errorf("%d, want 2911 ms; %d outstanding", got, y.outstanding)
	}
}
