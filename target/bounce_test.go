package target

import (
	"slices"
	"testing"
	"time"

	"github.com/fabrid/fabrid/shard"
	"github.com/fabrid/fabrid/transport"
)

// Who leaves the line is not given a buffer, all others are, in their order.
// Leaving costs the same however long the line is: a host may fill it, and a queue
// that goes down takes all of its requests out.
func TestBounceLine(t *testing.T) {
	n := 9
	if !testing.Short() {
		n = 1 << 16
	}
	for _, tt := range []struct {
		name  string
		leave func(i int) bool
	}{
		{"nobody", func(int) bool { return false }},
		{"everybody", func(int) bool { return true }},
		{"the first and the last", func(i int) bool { return i == 0 || i == n-1 }},
		{"every other", func(i int) bool { return i%2 == 0 }},
		{"the second half", func(i int) bool { return i > n/2 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sh := shard.NewSim(shard.Config{Name: "line"})
			q := &queue{param: transport.QueueParam{Shard: sh}}
			var b bounce
			var served, want []int
			requests := make([]request, n)
			held := make([]request, bounceMost)
			all := make(chan struct{})
			for i := range held {
				held[i].inSteps()
				if !b.take(&held[i]) {
					t.Fatalf("no buffer %d", i)
				}
			}
			for i := range requests {
				rq := &requests[i]
				rq.q = q
				rq.inSteps().turn.Fn = func() {
					served = append(served, i)
					b.put(rq.steps.buf)
					if len(served) == len(want) {
						close(all)
					}
				}
				if b.take(rq) {
					t.Fatal("a buffer more than there are")
				}
				if !tt.leave(i) {
					want = append(want, i)
				}
			}
			start := time.Now()
			for i := n - 1; i >= 0; i-- { // those behind all others first
				if tt.leave(i) && (!b.leave(&requests[i]) || b.leave(&requests[i])) {
					t.Fatalf("request %d did not leave once", i)
				}
			}
			if d := time.Since(start); d > time.Second {
				t.Errorf("leaving a line of %d took %v", n, d)
			}
			if len(want) == 0 {
				close(all)
			}
			for i := range held {
				b.put(held[i].steps.buf)
			}
			<-all
			sh.Close()
			if !slices.Equal(served, want) || len(b.free) != bounceMost || b.first != nil || b.last != nil {
				t.Errorf("served %d, want %d; %d buffers free", len(served), len(want), len(b.free))
			}
		})
	}
}
