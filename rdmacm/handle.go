package rdmacm

import "fmt"

// notify takes an event from the provider, on any goroutine.
func (id *ID) notify(ev Event) {
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.state == StateDestroying {
		return
	}
	id.pendLocked(ev)
}

// pendLocked adds an event for the handler. The work is queued under the lock:
// once the ID is destroying, none is queued any more, and the workqueue may go.
func (id *ID) pendLocked(ev Event) {
	if id.pending == nil {
		id.pending = id.room[:0]
	}
	id.pending = append(id.pending, ev)
	if !id.held {
		id.cm.wq.Queue(&id.work)
	}
}

// request takes a connect request from the provider, on any goroutine.
func (id *ID) request(conn Conn, param ConnParam) {
	c := id.cm.newID(id.fn)
	c.Context = id.Context
	c.state, c.provider, c.conn, c.held = StateRequested, id.provider, conn, true
	conn.Notify(c.notify)
	taken, full := false, false
	id.mu.Lock()
	if id.state == StateListening {
		full = id.requests >= id.cm.cfg.Backlog
		taken = !full && id.cm.addRequest(c)
	}
	if taken {
		id.requests++
		id.pendLocked(Event{Type: ConnectRequest, Param: param, Conn: c})
	}
	id.mu.Unlock()
	if taken {
		return
	}
	if full {
		conn.Reject(RejNoResources, nil)
	}
	conn.Close(func() {})
}

// expire refuses a connect request that nobody has answered.
func (id *ID) expire() {
	id.mu.Lock()
	err := id.moveLocked(expire)
	if err == nil {
		id.pendLocked(Event{Type: ConnectError, Err: fmt.Errorf(
			"rdmacm: %v: connect request not answered within %v", id, id.cm.cfg.RequestTimeout)})
	}
	id.mu.Unlock()
	if err == nil {
		id.conn.Reject(RejNoResources, nil)
	}
}

// run handles what is pending. It is the ID's work, so it never runs twice at a
// time.
func (id *ID) run() {
	for {
		id.handler.Lock()
		ev := &id.current
		if !id.take(ev) {
			id.handler.Unlock()
			return
		}
		if ev.Type == ConnectRequest {
			id.handleRequest(ev)
			continue
		}
		if id.handle(id, ev) == nil {
			id.handler.Unlock()
			continue
		}
		mine := id.retire()
		id.handler.Unlock()
		if mine {
			id.dismantle()
		}
		return
	}
}

// take sets ev to the next event that the state allows, having made its move,
// or returns false. Events that come too late are dropped, but not connect
// requests, which have an ID that is to go. The handler mutex is held.
func (id *ID) take(ev *Event) bool {
	id.mu.Lock()
	defer id.mu.Unlock()
	for !id.held && len(id.pending) > 0 {
		*ev = id.pending[0]
		id.pending[0] = Event{}
		if id.pending = id.pending[1:]; len(id.pending) == 0 {
			id.pending = nil
		}
		if ev.Type == ConnectRequest {
			id.requests--
		}
		if _, ok := id.state.after(on(ev.Type)); !ok && ev.Type != ConnectRequest {
			continue
		}
		_ = id.moveLocked(on(ev.Type))
		return true
	}
	*ev = Event{} // what was told is its handler's
	return false
}

// handle runs the handler, with the handler mutex of id held, and of about,
// which the event is about.
func (id *ID) handle(about *ID, ev *Event) error {
	if id.cm.cfg.Events != nil {
		id.cm.cfg.Events(id, ev)
	}
	id.runner.Store(&id.work)
	about.runner.Store(&id.work)
	defer about.runner.Store(nil)
	defer id.runner.Store(nil)
	return id.fn(id, ev)
}

// handleRequest tells the listener's handler of a new connection, with the
// handler mutexes of both held: the listener's, which it unlocks, so that no
// request is told after the listener's Destroy has returned; the connection's,
// so that nothing that happens to it is told before.
func (id *ID) handleRequest(ev *Event) {
	c := ev.Conn
	c.handler.LockNested(1)
	mine := false
	if id.State() != StateListening || !c.worthTelling() || id.handle(c, ev) != nil {
		mine = c.retire()
	}
	id.handler.Unlock()
	c.release()
	c.handler.Unlock()
	if mine {
		c.dismantle()
	}
}

// worthTelling reports whether a connect request still waits for an answer. Of
// one whose peer has given up before its turn came nobody need hear.
func (id *ID) worthTelling() bool {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.state == StateRequested && len(id.pending) == 0
}

// release lets through what has happened to a connection while its request was
// being handled.
func (id *ID) release() {
	id.mu.Lock()
	defer id.mu.Unlock()
	id.held = false
	if len(id.pending) > 0 && id.state != StateDestroying {
		id.cm.wq.Queue(&id.work)
	}
}
