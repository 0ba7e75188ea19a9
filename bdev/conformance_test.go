package bdev_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/bdev/bdevtest"
)

// devices is every device there is.
var devices = []struct {
	name string
	cfg  bdevtest.Config
	long bool // not in short runs: others do the same together
}{
	{name: "memory", cfg: bdevtest.Config{Make: makeMemory}},
	{name: "null", cfg: bdevtest.Config{Forgets: true, Make: func(t *testing.T, size uint64, bs int) bdev.Device {
		return must(bdev.NewNull(bdev.NullConfig{Size: size, BlockSize: bs}))(t)
	}}},
	{name: "faulty", cfg: bdevtest.Config{Make: func(t *testing.T, size uint64, bs int) bdev.Device {
		return bdev.NewFaulty(makeMemory(t, size, bs))
	}}},
	{name: "delayed", cfg: bdevtest.Config{Make: func(t *testing.T, size uint64, bs int) bdev.Device {
		f := bdev.NewFaulty(makeMemory(t, size, bs))
		f.Delay(time.Microsecond)
		return f
	}}},
	{name: "powerloss", cfg: bdevtest.Config{Make: func(t *testing.T, size uint64, bs int) bdev.Device {
		return bdev.NewPowerLoss(makeMemory(t, size, bs), 1)
	}}},
	{name: "file", cfg: bdevtest.Config{Make: file(bdev.FileConfig{})}},
	{name: "file-workers", cfg: bdevtest.Config{Make: file(bdev.FileConfig{NoURing: true, Workers: 3})}},
	{name: "file-buffered", cfg: bdevtest.Config{Make: file(bdev.FileConfig{Buffered: true})}},
	{name: "block", cfg: bdevtest.Config{Make: block(bdev.FileConfig{})}},
	{name: "block-workers", cfg: bdevtest.Config{Make: block(bdev.FileConfig{NoURing: true})}, long: true},
	{name: "file-buffered-workers", cfg: bdevtest.Config{Make: file(bdev.FileConfig{Buffered: true, NoURing: true})}, long: true},
}

func makeMemory(t *testing.T, size uint64, bs int) bdev.Device {
	return must(bdev.NewMemory(bdev.MemoryConfig{Size: size, BlockSize: bs}))(t)
}

// file returns a maker of file devices.
func file(cfg bdev.FileConfig) bdevtest.Maker {
	return func(t *testing.T, size uint64, bs int) bdev.Device {
		cfg := cfg
		cfg.Path, cfg.Create = filepath.Join(t.TempDir(), "disk"), true
		cfg.Size, cfg.BlockSize = size, bs
		return openFile(t, cfg)
	}
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestConformance(t *testing.T) {
	for _, d := range devices {
		if d.long && testing.Short() {
			continue
		}
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			bdevtest.Run(t, d.cfg)
		})
	}
}
