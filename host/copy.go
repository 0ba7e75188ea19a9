package host

import (
	"context"
	"errors"
	"fmt"
	stdio "io"

	"github.com/fabrid/fabrid/nvme"
)

// CopyConfig says how [Namespace.CopyTo] and [Namespace.CopyFrom] go about it.
type CopyConfig struct {
	// Depth is how many commands are outstanding at a time, for each I/O queue;
	// 0 is DefaultCopyDepth. What exceeds the size of the queues waits.
	Depth int
	// Bytes is the data of a command: whole blocks, at most
	// [Namespace.MaxData], to which it is cut. 0 is DefaultCopyBytes.
	Bytes int
	// Progress is told, by the goroutine of the call, how many bytes have been
	// copied, after each command's.
	Progress func(done int64)
}

// Defaults of [CopyConfig].
const (
	DefaultCopyDepth = 16
	DefaultCopyBytes = 128 << 10
)

// MaxCopyMemory bounds the memory of one copy, whatever its depth.
const MaxCopyMemory = 256 << 20

// A copying is one CopyTo or CopyFrom: a ring of calls, each with memory for one
// command, that begin and end in the order of the bytes.
type copying struct {
	n       *Namespace
	cfg     CopyConfig
	ctx     context.Context
	cancel  context.CancelFunc
	ring    []*part
	started int
	ended   int
	done    int64 // bytes, from the first on
}

// A part is what one command copies.
type part struct {
	call *call
	buf  []byte
	skip int // bytes of buf before those that count
	n    int // that count
	err  error
	busy bool // the call has been started
}

// newCopying checks a range and makes what it needs.
func (n *Namespace) newCopying(ctx context.Context, off, length int64, cfg CopyConfig) (*copying, error) {
	f := n.format.Load()
	if off < 0 || length < 0 || off > f.size() || length > f.size()-off {
		return nil, fmt.Errorf("host: copy %d bytes at offset %d of namespace %d: it has %d: %w", length, off, n.nsid, f.size(), nvme.LBAOutOfRange)
	}
	cfg.Depth = orDefault(cfg.Depth, DefaultCopyDepth)
	cfg.Bytes = min(orDefault(cfg.Bytes, max(DefaultCopyBytes, f.blockSize())), f.maxData)
	switch {
	case cfg.Depth < 1:
		return nil, fmt.Errorf("host: copy: depth %d", cfg.Depth)
	case cfg.Bytes < f.blockSize() || cfg.Bytes%f.blockSize() != 0:
		return nil, fmt.Errorf("host: copy: %d bytes of a command are not whole blocks of %d", cfg.Bytes, f.blockSize())
	}
	depth := int64(cfg.Depth) * int64(max(len(n.ctrl.queues), 1))
	depth = min(depth, length/int64(cfg.Bytes)+2, max(MaxCopyMemory/int64(cfg.Bytes), 1))
	c := &copying{n: n, cfg: cfg, ring: make([]*part, depth)}
	c.ctx, c.cancel = context.WithCancel(ctx)
	return c, nil
}

func (c *copying) full() bool { return c.started-c.ended == len(c.ring) }

// next returns the part to be started, which is free.
func (c *copying) next() *part {
	p := &c.ring[c.started%len(c.ring)]
	if *p == nil {
		*p = &part{call: newCall(), buf: make([]byte, c.cfg.Bytes)}
	}
	return *p
}

// start submits the command of a part: the blocks of data at an offset.
func (c *copying) start(p *part, op nvme.IOOpcode, off int64, data []byte) {
	io := &p.call.io
	io.Op, io.Namespace, io.LBA, io.Data = op, c.n, uint64(off)>>c.n.format.Load().shift, data
	p.err = p.call.start(c.ctx, c.n.ctrl)
	p.busy = p.err == nil
	c.started++
}

// end waits for the oldest part.
func (c *copying) end() (*part, error) {
	p := c.ring[c.ended%len(c.ring)]
	c.ended++
	if p.busy {
		p.busy = false
		p.err = p.call.wait()
		if errors.Is(p.err, ErrQueueGone) {
			p.err = p.call.run(c.ctx, c.n.ctrl)
		}
	}
	return p, p.err
}

// count counts a part that has been copied.
func (c *copying) count(p *part) {
	c.done += int64(p.n)
	if c.cfg.Progress != nil {
		c.cfg.Progress(c.done)
	}
}

// drain ends all that has been started, which nobody wants any more: after an
// error it must not wait for a connection. The memory is given up.
func (c *copying) drain() {
	c.cancel()
	for c.ended < c.started {
		_, _ = c.end()
	}
}

// span returns how many of length bytes at an offset one command copies, so that
// the next begins at a multiple of Bytes.
func (c *copying) span(off, length int64) int {
	size := int64(c.cfg.Bytes)
	return int(min(length, size-off%size))
}

// CopyTo writes length bytes of the namespace, from byte off on, to w, in order,
// with many reads outstanding. It returns how many bytes w has taken, and the
// first error. A context that is done ends it as it ends [Namespace.Read]; a
// Write of w's it does not end.
func (n *Namespace) CopyTo(ctx context.Context, w stdio.Writer, off, length int64, cfg CopyConfig) (int64, error) {
	c, err := n.newCopying(ctx, off, length, cfg)
	if err != nil {
		return 0, err
	}
	defer c.drain()
	mask := int64(n.BlockSize() - 1)
	for end := off + length; off < end || c.ended < c.started; {
		if off < end && !c.full() {
			p := c.next()
			k := c.span(off, end-off)
			p.skip, p.n = int(off&mask), k
			whole := (int64(p.skip+k) + mask) &^ mask
			c.start(p, nvme.IORead, off&^mask, p.buf[:whole])
			off += int64(k)
			continue
		}
		p, err := c.end()
		if err != nil {
			return c.done, err
		}
		k, err := w.Write(p.buf[p.skip : p.skip+p.n])
		if err == nil && k < p.n {
			err = stdio.ErrShortWrite
		}
		if err != nil {
			return c.done + int64(max(k, 0)), err
		}
		c.count(p)
	}
	return c.done, nil
}

// CopyFrom writes what r has, until its end but at most length bytes, to the
// namespace from byte off on, with many writes outstanding; what is less than a
// block, at the beginning and at the end, as [Namespace.WriteAt] does. It returns
// how many bytes, from the first on, have been written, and the first error;
// of those that follow any may have been written too. Who needs them to last
// calls Flush. A context that is done ends it as it ends [Namespace.Write]; a
// Read of r's it does not end.
func (n *Namespace) CopyFrom(ctx context.Context, r stdio.Reader, off, length int64, cfg CopyConfig) (int64, error) {
	c, err := n.newCopying(ctx, off, length, cfg)
	if err != nil {
		return 0, err
	}
	defer c.drain()
	mask := int64(n.BlockSize() - 1)
	var failed error // of r; what it had is written all the same
	for end := off + length; off < end || c.ended < c.started; {
		if off >= end || c.full() {
			p, err := c.end()
			if err != nil {
				return c.done, err
			}
			c.count(p)
			continue
		}
		p := c.next()
		k, err := stdio.ReadFull(r, p.buf[:c.span(off, end-off)])
		if err != nil {
			end = off + int64(k)
			if !errors.Is(err, stdio.EOF) && !errors.Is(err, stdio.ErrUnexpectedEOF) {
				failed = err
			}
		}
		if k == 0 {
			continue
		}
		p.n = k
		if off&mask == 0 && int64(k)&mask == 0 {
			c.start(p, nvme.IOWrite, off, p.buf[:k])
		} else {
			p.n, p.err = n.WriteAtContext(ctx, p.buf[:k], off)
			c.started++
		}
		off += int64(k)
	}
	return c.done, failed
}
