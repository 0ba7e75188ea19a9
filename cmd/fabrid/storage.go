package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/fabrid/fabrid/bdev"
)

// storageFlags say where the blocks of the namespace are.
type storageFlags struct {
	size       size
	file       string
	device     string
	null       bool
	blockSize  size
	ownBlocks  bool // blockSize is whatever the device has
	bufferedIO bool
	noIOUring  bool
}

func (f *storageFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.Var(&f.size, "size", "size of the namespace; of a file that exists, or a device, its own is the default, and the\nnamespace follows it when that changes; more makes a file grow, less serves the beginning")
	flags.StringVar(&f.file, "file", "", "keep the namespace in this file, not in memory; made if it does not exist")
	flags.StringVar(&f.device, "device", "", "serve this block device, which nothing else may be using")
	flags.BoolVar(&f.null, "null", false, "a namespace that forgets what is written and reads as zeros")
	flags.Var(&f.blockSize, "block-size", "logical block size, 512 or 4096 (of a device its own)")
	flags.BoolVar(&f.bufferedIO, "buffered-io", false, "use the page cache for --file and --device; otherwise O_DIRECT, where that can be")
	flags.BoolVar(&f.noIOUring, "no-io-uring", false, "have threads do the I/O of --file and --device; otherwise io_uring, where the kernel\nallows it")
	cmd.MarkFlagsMutuallyExclusive("file", "device", "null")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		sized := cmd.Flags().Changed("size")
		if f.file != "" && !sized {
			if s, err := os.Stat(f.file); err == nil && s.Size() > 0 {
				f.size = 0 // the file's own
			}
		}
		if f.device != "" {
			f.ownBlocks = !cmd.Flags().Changed("block-size")
			if !sized {
				f.size = 0
			}
		}
		return nil
	}
}

// path names the file or device, the same from everywhere; it may be empty.
func (f *storageFlags) path() string {
	path := f.file
	if f.device != "" {
		path = f.device
	}
	if abs, err := filepath.Abs(path); path != "" && err == nil {
		path = abs
	}
	return path
}

// open opens the storage and says in words what it is. resized is told when
// its size has changed.
func (f *storageFlags) open(resized func(bdev.Info)) (bdev.Device, string, error) {
	block := int(f.blockSize)
	if block == 0 {
		return nil, "", errors.New("--block-size 0: want 512 or 4096")
	}
	if f.ownBlocks {
		block = 0
	}
	cfg := bdev.FileConfig{Size: uint64(f.size), BlockSize: block, Buffered: f.bufferedIO, NoURing: f.noIOUring, Resized: resized}
	switch {
	case f.null:
		d, err := bdev.NewNull(bdev.NullConfig{Size: uint64(f.size), BlockSize: block})
		return d, "that forgets what is written", err
	case f.file != "":
		cfg.Path, cfg.Create = f.file, true
		if s, err := os.Stat(f.file); err == nil && s.Mode()&os.ModeDevice != 0 {
			return nil, "", fmt.Errorf("--file %s: it is a device: --device serves those", f.file)
		}
		d, err := bdev.OpenFile(cfg)
		return d, "in " + f.file, err
	case f.device != "":
		cfg.Path = f.device
		d, err := bdev.OpenBlock(cfg)
		return d, "on " + f.device, err
	}
	d, err := bdev.NewMemory(bdev.MemoryConfig{Size: uint64(f.size), BlockSize: block})
	return d, "in memory", err
}

// ioMode says in words how a file or block device is read and written.
func ioMode(m bdev.Mode) string {
	cache, by := "around the page cache", "by io_uring"
	if !m.Direct {
		cache = "through the page cache" + because(m.DirectErr)
	}
	if !m.URing {
		by = "by threads" + because(m.URingErr)
	}
	return cache + ", " + by
}

func because(err error) string {
	if err == nil {
		return ""
	}
	return fmt.Sprintf(" (%v)", err)
}

// resized has the namespace follow its device, which has another size than it
// had, and the hosts told.
func (s *server) resized(log *slog.Logger, now bdev.Info) {
	sub := s.serving.Load()
	if sub == nil {
		return // AddNamespace, or who called it, will look
	}
	if _, err := sub.RefreshNamespace(nsid); err != nil {
		log.Error("the namespace's device has changed", "bytes", now.Size(), "err", err)
		return
	}
	log.Info("the namespace has another size", "bytes", now.Size())
}
