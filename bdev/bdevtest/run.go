// Package bdevtest holds devices to the contract of [bdev.Device]. It is for
// tests: every device, every wrapper and every fake runs it.
package bdevtest

import (
	"fmt"
	"testing"

	"github.com/fabrid/fabrid/bdev"
)

// Size is that of the devices in the suite, in bytes: not a multiple of
// anything that a device divides itself by.
const Size = 1<<20 + 3*4096

// A Maker makes a device of so many bytes that reads as zeros.
type Maker func(t *testing.T, size uint64, blockSize int) bdev.Device

// Config says what the suite may expect of a device.
type Config struct {
	Make    Maker
	Forgets bool // what was written reads as zeros
}

// Run runs the suite, with both block sizes; in a short run with one, and less of
// it.
func Run(t *testing.T, cfg Config) {
	sizes := []int{512, 4096}
	if testing.Short() {
		sizes = sizes[:1]
	}
	for _, bs := range sizes {
		t.Run(fmt.Sprint(bs), func(t *testing.T) {
			for _, c := range checks {
				t.Run(c.name, func(t *testing.T) {
					b := NewBench(t, cfg.Make(t, Size, bs))
					b.forgets = cfg.Forgets
					if got := b.Dev.Info().BlockSize; got != bs {
						t.Fatalf("BlockSize %d, want %d", got, bs)
					}
					c.run(b)
				})
			}
		})
	}
}

var checks = []struct {
	name string
	run  func(*Bench)
}{
	{"Geometry", checkGeometry},
	{"StartsZero", checkStartsZero},
	{"WriteRead", checkWriteRead},
	{"Alignment", checkAlignment},
	{"Ends", checkEnds},
	{"Nothing", checkNothing},
	{"Compare", checkCompare},
	{"Flush", checkFlush},
	{"Zeroes", checkZeroes},
	{"Random", checkRandom},
	{"Range", checkRange},
	{"ShortData", checkShortData},
	{"UnknownKind", checkUnknownKind},
	{"Many", checkMany},
	{"Again", checkAgain},
	{"Overlap", checkOverlap},
	{"Torn", checkTorn},
	{"CloseTwice", checkCloseTwice},
	{"CloseUnderWay", checkCloseUnderWay},
	{"ShardClosed", checkShardClosed},
}
