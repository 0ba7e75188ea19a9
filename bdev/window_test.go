package bdev

import (
	"testing"
	"time"
)

// Ops leave the line before the window from anywhere, the others keep their order,
// and that costs the same however long the line is: many hosts may have made it,
// and any may take its ops back one by one.
func TestWindowLine(t *testing.T) {
	n := windowSize + 9
	if !testing.Short() {
		n = 1 << 16
	}
	for _, tt := range []struct {
		name  string
		leave func(i int) bool
	}{
		{"nobody", func(int) bool { return false }},
		{"everybody", func(int) bool { return true }},
		{"the first and the last", func(i int) bool { return i == windowSize || i == n-1 }},
		{"every other", func(i int) bool { return i%2 == 0 }},
		{"the second half", func(i int) bool { return i > n/2 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var w window
			w.init()
			ops := make([]Op, n)
			for i := range ops {
				ops[i] = Op{Kind: Read, Offset: uint64(i), Length: 1}
				if s := w.enter(&ops[i]); (s == nil) != (i >= windowSize) {
					t.Fatalf("op %d: started %v", i, s != nil)
				}
			}
			start := time.Now()
			for i := n - 1; i >= 0; i-- { // those behind all others first
				if tt.leave(i) && (w.leaveLine(&ops[i]) != (i >= windowSize) || w.leaveLine(&ops[i])) {
					t.Fatalf("op %d did not leave once", i)
				}
			}
			if d := time.Since(start); d > time.Second {
				t.Errorf("leaving a line of %d took %v", n, d)
			}
			running := &w.slots[ops[0].slot.index]
			for i := windowSize; i < n; i++ {
				if tt.leave(i) {
					continue
				}
				s := w.leave(running)
				if s == nil || s.op != &ops[i] {
					t.Fatalf("op %d does not follow", i)
				}
				running = s
			}
			if w.leave(running) != nil || w.first != nil || w.last != nil {
				t.Error("the line is not empty")
			}
		})
	}
}
