package host

import (
	"context"
	"errors"
	"fmt"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/shard"
)

// A call is an IO that a goroutine waits for. Calls are kept for use again.
type call struct {
	io       IO
	queue    *Queue
	ctx      context.Context
	post     shard.Task  // submits
	recall   shard.Task  // withdraws what the fabric does not have yet
	aborting *abort      // the queue's shard's: of what it has
	done     chan error  // one element
	recalled chan *abort // one element: what to send, or nil
}

func newCall() *call {
	c := &call{done: make(chan error, 1), recalled: make(chan *abort, 1)}
	c.io.Done = func(io *IO) {
		if c.aborting != nil {
			c.aborting.over.Store(true)
			c.aborting = nil
		}
		c.done <- io.Err
	}
	c.post.Fn = func() {
		if err := c.queue.Submit(&c.io); err != nil {
			c.done <- err
		}
	}
	c.recall.Fn = func() {
		c.aborting = c.queue.cancel(&c.io.cmd, context.Cause(c.ctx))
		c.recalled <- c.aborting
	}
	return c
}

// start submits the call on one of the controller's queues.
func (c *call) start(ctx context.Context, ctrl *Controller) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	q, err := ctrl.pick()
	if err != nil {
		return err
	}
	c.queue, c.ctx = q, ctx
	if !q.shard.Post(&c.post) {
		return shard.ErrClosed
	}
	return nil
}

// wait returns when the command has ended. When ctx is done the controller is
// asked to abort a command that the fabric has. It belongs to the fabric all the
// same, with its data, and is waited for: at most until the loss of the
// connection that its timeout leads to.
func (c *call) wait() error {
	select {
	case err := <-c.done:
		return err
	case <-c.ctx.Done():
	}
	if c.queue.shard.Post(&c.recall) {
		if a := <-c.recalled; a != nil {
			c.io.Namespace.ctrl.abort(a)
		}
	}
	return <-c.done
}

// run submits the call and waits; if its queue ends, it goes to another.
func (c *call) run(ctx context.Context, ctrl *Controller) error {
	for {
		if err := c.start(ctx, ctrl); err != nil {
			return err
		}
		if err := c.wait(); !errors.Is(err, ErrQueueGone) {
			return err
		}
	}
}

// parallel is how many parts of one call are under way at once.
const parallel = 8

// split runs an operation on count units in parts of at most most units each.
// part sets the fields of one. It returns how many units, from the first on,
// have succeeded, and the first error.
func (n *Namespace) split(ctx context.Context, count, most uint64, part func(io *IO, first, units uint64)) (uint64, error) {
	var calls [parallel]*call
	get := func(i uint64) *call {
		p := &calls[i%parallel]
		if *p == nil {
			*p = n.ctrl.calls.Get().(*call)
		}
		return *p
	}
	defer func() {
		for _, c := range calls {
			if c != nil {
				c.io.Data, c.io.Namespace, c.ctx = nil, nil, nil
				n.ctrl.calls.Put(c)
			}
		}
	}()
	parts := (count + most - 1) / most
	started, ended := uint64(0), uint64(0)
	var failed error
	for ended < parts && (failed == nil || ended < started) {
		if started < parts && started-ended < parallel && failed == nil {
			c := get(started)
			first := started * most
			part(&c.io, first, min(most, count-first))
			c.io.Namespace = n
			if err := c.start(ctx, n.ctrl); err != nil {
				failed = err
				continue
			}
			started++
			continue
		}
		c := get(ended)
		err := c.wait()
		if errors.Is(err, ErrQueueGone) {
			err = c.run(ctx, n.ctrl)
		}
		if err != nil {
			// The rest is waited for: the data belongs to it.
			for i := ended + 1; i < started; i++ {
				_ = get(i).wait()
			}
			return ended * most, err
		}
		ended++
	}
	return min(ended*most, count), failed
}

// transfer runs a Read, Write or Compare of whole blocks.
func (n *Namespace) transfer(ctx context.Context, op nvme.IOOpcode, lba uint64, p []byte) (int, error) {
	f := n.format.Load()
	if len(p)&(f.blockSize()-1) != 0 {
		return 0, fmt.Errorf("host: %v of namespace %d: %d bytes are not whole blocks of %d", op, n.nsid, len(p), f.blockSize())
	}
	done, err := n.split(ctx, uint64(len(p)), uint64(f.maxData), func(io *IO, first, units uint64) {
		io.Op, io.LBA, io.Data = op, lba+first>>f.shift, p[first:first+units]
		io.FUA, io.Deallocate = false, false
	})
	return int(done), err
}

// Read reads whole blocks, from lba on. Like the other methods that take a
// context it splits what one command cannot do and waits for the connection while
// that is lost. When ctx is done, what waits ends at once, and the controller is
// asked to abort what it has; that is waited for, because until it has ended the
// memory is the fabric's: until the controller answers, or the connection is
// given up after [Config.IOTimeout]. So p is not touched after Read has returned.
func (n *Namespace) Read(ctx context.Context, lba uint64, p []byte) error {
	_, err := n.transfer(ctx, nvme.IORead, lba, p)
	return err
}

// Write writes whole blocks, from lba on. What it wrote is safe from a loss of
// power after the next Flush. If it fails any part may have been written.
func (n *Namespace) Write(ctx context.Context, lba uint64, p []byte) error {
	_, err := n.transfer(ctx, nvme.IOWrite, lba, p)
	return err
}

// Compare compares whole blocks, from lba on, with p; a difference is
// [nvme.CompareFailure].
func (n *Namespace) Compare(ctx context.Context, lba uint64, p []byte) error {
	_, err := n.transfer(ctx, nvme.IOCompare, lba, p)
	return err
}

// Flush makes durable all that was written before it was called.
func (n *Namespace) Flush(ctx context.Context) error {
	_, err := n.split(ctx, 1, 1, func(io *IO, _, _ uint64) {
		io.Op, io.LBA, io.Blocks, io.Data, io.FUA, io.Deallocate = nvme.IOFlush, 0, 0, nil, false, false
	})
	return err
}

// WriteZeroes makes blocks read as zeros; deallocate allows the controller to
// deallocate them for that.
func (n *Namespace) WriteZeroes(ctx context.Context, lba, blocks uint64, deallocate bool) error {
	f := n.format.Load()
	// MDTS is not for commands without data, but controllers exist that think
	// so; Linux is as cautious.
	_, err := n.split(ctx, blocks, uint64(f.maxData)>>f.shift, func(io *IO, first, units uint64) {
		io.Op, io.LBA, io.Blocks, io.Data = nvme.IOWriteZeroes, lba+first, units, nil
		io.FUA, io.Deallocate = false, deallocate
	})
	return err
}

// Deallocate tells that the content of blocks is not needed any more; what they
// read as until they are written is the controller's to say
// ([NamespaceInfo.ReadsZeroes]).
func (n *Namespace) Deallocate(ctx context.Context, lba, blocks uint64) error {
	_, err := n.split(ctx, blocks, maxDSMBlocks, func(io *IO, first, units uint64) {
		io.Op, io.LBA, io.Blocks, io.Data = nvme.IODatasetManagement, lba+first, units, nil
		io.FUA, io.Deallocate = false, false
	})
	return err
}
