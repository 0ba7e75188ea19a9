package bdev

import (
	"fmt"
	"time"
)

// watch looks at the size now and then: it costs a system call, and works where
// no event of the kernel's arrives.
func (f *File) watch() {
	t := time.NewTicker(f.cfg.ResizePoll)
	defer t.Stop()
	for {
		select {
		case <-f.stop:
			return
		case <-t.C:
			_, _ = f.Refresh() // the next time may go better
		}
	}
}

// Refresh looks at the size of the file or block device, if FileConfig.Size did
// not fix it, and tells FileConfig.Resized if it has changed. It reports
// whether it has. Ops under way beyond a new end fail by themselves. It must
// not be called after Close.
func (f *File) Refresh() (changed bool, err error) {
	if f.cfg.Size != 0 {
		return false, nil
	}
	f.refresh.Lock()
	size, err := f.store.size(f.fd)
	if err != nil {
		f.refresh.Unlock()
		return false, fmt.Errorf("bdev: file: size: %w", err)
	}
	blocks := size / uint64(f.info.BlockSize)
	changed = f.blocks.Swap(blocks) != blocks
	f.refresh.Unlock()
	if changed && f.cfg.Resized != nil {
		f.cfg.Resized(f.Info())
	}
	return changed, nil
}
