package host

import (
	"context"
	"fmt"
	stdio "io"

	"github.com/fabrid/fabrid/nvme"
)

// ReadAt implements [io.ReaderAt], for any offset and length.
func (n *Namespace) ReadAt(p []byte, off int64) (int, error) {
	return n.ReadAtContext(context.Background(), p, off)
}

// WriteAt implements [io.WriterAt], for any offset and length. A block of which
// it writes a part it reads and writes whole: of all calls on this Namespace one
// at a time does so, so that calls that do not overlap may share a block. Against
// what is written to the block meanwhile in other ways (Write, [Queue.Submit],
// another Namespace or host) nothing protects it; who cannot exclude that writes
// whole blocks.
func (n *Namespace) WriteAt(p []byte, off int64) (int, error) {
	return n.WriteAtContext(context.Background(), p, off)
}

// ReadAtContext is ReadAt that ends early, as [Namespace.Read] does.
func (n *Namespace) ReadAtContext(ctx context.Context, p []byte, off int64) (int, error) {
	f := n.format.Load()
	size := f.size()
	if off < 0 {
		return 0, fmt.Errorf("host: read of namespace %d: offset %d", n.nsid, off)
	}
	if off >= size {
		return 0, stdio.EOF
	}
	var end error
	if int64(len(p)) > size-off {
		p, end = p[:size-off], stdio.EOF
	}
	done, err := n.parts(f, p, off,
		func(lba uint64, whole []byte) (int, error) { return n.transfer(ctx, nvme.IORead, lba, whole) },
		func(lba uint64, at int, part []byte) error {
			block := make([]byte, f.blockSize())
			_, err := n.transfer(ctx, nvme.IORead, lba, block)
			if err == nil {
				copy(part, block[at:])
			}
			return err
		})
	if err != nil {
		return done, err
	}
	return done, end
}

// WriteAtContext is WriteAt that ends early, as [Namespace.Write] does.
func (n *Namespace) WriteAtContext(ctx context.Context, p []byte, off int64) (int, error) {
	f := n.format.Load()
	if off < 0 || off > f.size() || int64(len(p)) > f.size()-off {
		return 0, fmt.Errorf("host: write of namespace %d: %d bytes at offset %d of %d: %w", n.nsid, len(p), off, f.size(), nvme.LBAOutOfRange)
	}
	return n.parts(f, p, off,
		func(lba uint64, whole []byte) (int, error) { return n.transfer(ctx, nvme.IOWrite, lba, whole) },
		func(lba uint64, at int, part []byte) error {
			select {
			case n.partial <- struct{}{}:
				defer func() { <-n.partial }()
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			block := make([]byte, f.blockSize())
			if _, err := n.transfer(ctx, nvme.IORead, lba, block); err != nil {
				return err
			}
			copy(block[at:], part)
			_, err := n.transfer(ctx, nvme.IOWrite, lba, block)
			return err
		})
}

// parts runs whole for the whole blocks of p at an offset, and part for what is
// less: from byte at of its block on. It returns how many bytes, from the first
// on, have succeeded.
func (n *Namespace) parts(f *format, p []byte, off int64, whole func(lba uint64, p []byte) (int, error), part func(lba uint64, at int, p []byte) error) (int, error) {
	mask := int64(f.blockSize() - 1)
	for done := 0; done < len(p); {
		rest := p[done:]
		pos := off + int64(done)
		lba := uint64(pos) >> f.shift
		if pos&mask == 0 && len(rest) >= f.blockSize() {
			k, err := whole(lba, rest[:len(rest)&^int(mask)])
			done += k
			if err != nil {
				return done, err
			}
			continue
		}
		k := min(len(rest), f.blockSize()-int(pos&mask))
		if err := part(lba, int(pos&mask), rest[:k]); err != nil {
			return done, err
		}
		done += k
	}
	return len(p), nil
}
