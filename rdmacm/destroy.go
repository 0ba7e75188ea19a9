package rdmacm

import (
	"errors"
	"fmt"
)

// Destroy ends the ID. It waits for a handler that is running, and none runs
// after it; a connection that is left is taken leave of, a request that waits
// refused. When it returns, the device touches neither the ID nor the queue
// pair of Connect or Accept any more. (Who destroys the queue pair first calls
// Disconnect before, on whichever goroutine: the device lets go of it then.)
//
// It waits for handlers and for the device's loop, so it must not be called on
// a loop, from a handler of another ID, or with a lock that either takes; from
// the ID's own handler it returns [ErrOwnHandler] and does nothing. Calls after
// the first wait for the end of it.
func (id *ID) Destroy() error {
	if w := id.runner.Load(); w != nil && w.Here() {
		return fmt.Errorf("rdmacm: %v: destroy: %w", id, ErrOwnHandler)
	}
	err := id.destroy()
	id.destroyed.Wait()
	return err
}

// destroy is Destroy without the wait for the device's loop.
func (id *ID) destroy() error {
	id.handler.Lock()
	mine := id.retire()
	id.handler.Unlock()
	if !mine {
		return nil
	}
	return id.dismantle()
}

// retire moves to StateDestroying, with the handler mutex held: from here on no
// event is taken. It returns true for the first to do so, who owes dismantle.
func (id *ID) retire() bool {
	id.handler.AssertHeld()
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.moveLocked(callDestroy) == nil
}

// dismantle takes a retired ID apart, once:
//
//  1. no new connect requests come: those that did are in pending, because
//     request looks at the state under mu
//  2. requests that nobody was told of are refused
//  3. the wire is taken leave of; when that is done with the queue pair, the ID
//     is gone
//
// The handler mutex is not held: the provider's unlisten waits for the loops.
func (id *ID) dismantle() error {
	id.mu.Lock()
	unlisten, conn, pending := id.unlisten, id.conn, id.pending
	id.unlisten, id.pending = nil, nil
	id.cm.answered(id)
	id.mu.Unlock()

	var errs []error
	if unlisten != nil {
		if err := unlisten(); err != nil {
			errs = append(errs, fmt.Errorf("rdmacm: %v: destroy: %w", id, err))
		}
	}
	for _, ev := range pending {
		if ev.Type == ConnectRequest {
			errs = append(errs, ev.Conn.destroy())
		}
	}
	if conn != nil {
		conn.Close(id.gone)
	} else {
		id.gone()
	}
	return errors.Join(errs...)
}

// gone runs when the provider has let go of the queue pair, on its loop, or at
// once.
func (id *ID) gone() {
	id.cm.remove(id)
	id.destroyed.Complete()
}
