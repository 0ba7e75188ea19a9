package bdev_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/bdev/bdevtest"
)

// An op that is taken back is not carried out and not told to have ended; any
// other is both, once.
func TestCancel(t *testing.T) {
	const n = 64
	for _, d := range devices {
		if d.long && testing.Short() {
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			b := bdevtest.NewBench(t, d.cfg.Make(t, bdevtest.Size, 4096))
			dev, ok := b.Dev.(bdev.Canceler)
			if !ok {
				return
			}
			if f, ok := b.Dev.(*bdev.Faulty); ok {
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
				err := b.Shard.Run(func() {
					for i := range ops {
						ops[i] = bdev.Op{Kind: bdev.Write, Offset: uint64(i) * 4096, Length: 4096, Data: bdevtest.Cut(bdevtest.Fill(4096, byte(i+1))), Shard: b.Shard}
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
				if f, ok := b.Dev.(*bdev.Faulty); ok {
					if got := fmt.Sprint(canceled[0], canceled[1], canceled[n-1]); got != fmt.Sprint(order != "every other", true, true) {
						t.Errorf("%s: of what was held, taken back: %s", order, got)
					}
					f.Release()
				}
				<-ended
				for i := range n {
					want := bdevtest.Fill(4096, byte(i+1))
					if canceled[i] {
						want = make([]byte, 4096)
					}
					if got := b.Read(uint64(i)*4096, 4096); !bytes.Equal(got, want) {
						t.Errorf("%s: op %d, taken back %v: the block begins with %d", order, i, canceled[i], got[0])
					}
				}
				b.OK(&bdev.Op{Kind: bdev.WriteZeroes, Length: n * 4096})
				if f, ok := b.Dev.(*bdev.Faulty); ok {
					f.Hold(bdev.Write)
				}
			}
		})
	}
}

// Ops that overlap are done in the order of their submission, also around those
// that are taken back while they wait.
func TestCancelOverlap(t *testing.T) {
	const n = 600 // more than are looked at together
	for _, d := range devices {
		if d.long && testing.Short() {
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			b := bdevtest.NewBench(t, d.cfg.Make(t, bdevtest.Size, 4096))
			f, ok := b.Dev.(*bdev.File)
			if !ok {
				return
			}
			ops := make([]bdev.Op, n)
			last, taken := 0, 0
			left := n
			canceled := make([]bool, n)
			ended := make(chan struct{})
			err := b.Shard.Run(func() {
				for i := range ops {
					// Of 3 blocks each, and each beginning at one of 3.
					ops[i] = bdev.Op{Kind: bdev.Write, Offset: uint64(i%3) * 4096, Length: 3 * 4096,
						Data: [][]byte{bdevtest.Fill(3*4096, byte(i+1))}, Shard: b.Shard}
					ops[i].Done = func(op *bdev.Op) {
						if op.Err != nil || canceled[i] {
							t.Errorf("op %d is done, %v, taken back %v", i, op.Err, canceled[i])
						}
						if left--; left == 0 {
							close(ended)
						}
					}
					f.Submit(&ops[i])
				}
				for i := range ops {
					if i%3 != 2 && f.Cancel(&ops[i]) {
						canceled[i] = true
						taken++
						left--
					} else if i%3 == 2 {
						last = i
					}
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			<-ended
			// Workers may be done before; a ring begins at the end of the round.
			if want := (n+2)/3*2 - 1; f.Mode().URing && taken != want {
				t.Errorf("%d taken back, want %d", taken, want)
			}
			if got := b.Read(3*4096, 4096); !bytes.Equal(got, bdevtest.Fill(4096, byte(last+1))) {
				t.Errorf("the last op to have written the block is another than %d", last)
			}
		})
	}
}
