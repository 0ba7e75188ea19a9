package bdev_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/fabrid/fabrid/bdev"
)

// An op that is taken back is not carried out and not told to have ended; any
// other is both, once.
func TestCancel(t *testing.T) {
	const n = 64
	for _, d := range devices {
		t.Run(d.name, func(t *testing.T) {
			b := newBench(t, d.make(t, size, 4096))
			dev, ok := b.dev.(bdev.Canceler)
			if !ok {
				return
			}
			if f, ok := b.dev.(*bdev.Faulty); ok {
				f.Hold(bdev.Write)
			}
			for _, order := range []string{"first to last", "last to first", "every other"} {
				var ops [n]bdev.Op
				var done, canceled [n]bool
				left := n
				ended := make(chan struct{})
				one := func() {
					if left--; left == 0 {
						close(ended)
					}
				}
				err := b.shard.Run(func() {
					for i := range ops {
						ops[i] = bdev.Op{Kind: bdev.Write, Offset: uint64(i) * 4096, Length: 4096, Data: cut(fill(4096, byte(i+1))), Shard: b.shard}
						ops[i].Done = func(*bdev.Op) {
							if done[i] || canceled[i] {
								t.Errorf("op %d: done, and before that done %v, taken back %v", i, done[i], canceled[i])
							}
							done[i] = true
							one()
						}
						dev.Submit(&ops[i])
					}
					for i := range n {
						switch order {
						case "last to first":
							i = n - 1 - i
						case "every other":
							if i%2 == 0 {
								continue
							}
						}
						if !done[i] && dev.Cancel(&ops[i]) {
							canceled[i] = true
							if dev.Cancel(&ops[i]) {
								t.Errorf("op %d taken back twice", i)
							}
							one()
						}
					}
				})
				if err != nil {
					t.Fatal(err)
				}
				if f, ok := b.dev.(*bdev.Faulty); ok {
					if got := fmt.Sprint(canceled[0], canceled[1], canceled[n-1]); got != fmt.Sprint(order != "every other", true, true) {
						t.Errorf("%s: of what was held, taken back: %s", order, got)
					}
					f.Release()
				}
				<-ended
				for i := range n {
					want := fill(4096, byte(i+1))
					if canceled[i] {
						want = make([]byte, 4096)
					}
					if got := b.read(uint64(i)*4096, 4096); !bytes.Equal(got, want) {
						t.Errorf("%s: op %d, taken back %v: the block begins with %d", order, i, canceled[i], got[0])
					}
				}
				b.ok(&bdev.Op{Kind: bdev.WriteZeroes, Length: n * 4096})
				if f, ok := b.dev.(*bdev.Faulty); ok {
					f.Hold(bdev.Write)
				}
			}
		})
	}
}
