package admission

import (
	"errors"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/fabrid/fabrid/lockdep"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTake(t *testing.T) {
	for _, c := range []struct {
		name   string
		limits Limits
		bytes  []int64
		want   string // of the last one
	}{
		{"no bound", Limits{}, []int64{1 << 62, 1 << 40}, ""},
		{"at the bounds", Limits{Queues: 2, Bytes: 10}, []int64{4, 6}, ""},
		{"a queue too many", Limits{Queues: 1}, []int64{0, 0}, "admission: 1 more queues on top of 1 pass the limit of 1"},
		{"a byte too many", Limits{Bytes: 10}, []int64{4, 7}, "admission: 7 more bytes on top of 4 pass the limit of 10"},
		{"more than there can be", Limits{Bytes: 1<<63 - 1}, []int64{1<<63 - 1, 1<<63 - 1}, "admission: 9223372036854775807 more bytes on top of 9223372036854775807 pass the limit of 9223372036854775807"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := New(c.limits)
			var err error
			for i, n := range c.bytes {
				if _, err = b.Take(n); err != nil && i < len(c.bytes)-1 {
					t.Fatal(err)
				}
			}
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var ae *Error
			if !errors.As(err, &ae) || err.Error() != c.want {
				t.Errorf("error %v, want %s", err, c.want)
			}
			if q, _ := b.Used(); q != len(c.bytes)-1 {
				t.Errorf("%d queues charged: a refusal charged something", q)
			}
		})
	}
}

func TestReturnTwicePanics(t *testing.T) {
	b := New(Limits{})
	g, err := b.Take(1)
	if err != nil {
		t.Fatal(err)
	}
	g.Return()
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
		if q, n := b.Used(); q != 0 || n != 0 {
			t.Errorf("%d queues, %d bytes charged", q, n)
		}
	}()
	g.Return()
}

func TestNegativeTakePanics(t *testing.T) {
	b := New(Limits{Bytes: 10})
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
		if _, err := b.Take(10); err != nil {
			t.Errorf("the budget is not what it was: %v", err)
		}
	}()
	_, _ = b.Take(-1)
}

// What is charged is the sum of what is held, and never more than the limits.
func TestSum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Limits{Queues: rapid.IntRange(0, 5).Draw(t, "queues"), Bytes: rapid.Int64Range(0, 100).Draw(t, "bytes")}
		b := New(l)
		var held []*Grant
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				if g, err := b.Take(rapid.Int64Range(0, 60).Draw(t, "n")); err == nil {
					held = append(held, g)
				}
			},
			"return": func(t *rapid.T) {
				if len(held) == 0 {
					t.Skip("nothing held")
				}
				i := rapid.IntRange(0, len(held)-1).Draw(t, "i")
				held[i].Return()
				held = append(held[:i], held[i+1:]...)
			},
			"": func(t *rapid.T) {
				sum := int64(0)
				for _, g := range held {
					sum += g.bytes
				}
				q, n := b.Used()
				if q != len(held) || n != sum {
					t.Fatalf("used %d, %d; held %d, %d", q, n, len(held), sum)
				}
				if l.Queues > 0 && q > l.Queues || l.Bytes > 0 && n > l.Bytes {
					t.Fatalf("used %d, %d pass the limits %+v", q, n, l)
				}
			},
		})
	})
}

type takers struct{}

func TestTakeFromManyGoroutines(t *testing.T) {
	b := New(Limits{Queues: 3, Bytes: 300})
	var wg lockdep.WaitGroup[takers]
	for range 8 {
		wg.Go(func() {
			for range 500 {
				g, err := b.Take(100)
				if err != nil {
					continue
				}
				if q, n := b.Used(); q > 3 || n > 300 {
					t.Errorf("%d queues, %d bytes", q, n)
				}
				g.Return()
			}
		})
	}
	wg.Wait()
	if q, n := b.Used(); q != 0 || n != 0 {
		t.Errorf("%d queues, %d bytes left", q, n)
	}
}
