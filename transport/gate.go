package transport

import (
	"fmt"
	"time"

	"github.com/fabrid/fabrid/admission"
	"github.com/fabrid/fabrid/workqueue"
)

// DefaultWait is the Wait of a gate that does not say.
const DefaultWait = 2 * time.Second

// A Gate is where the queues of a listener are admitted. An I/O queue is let in
// at once or not at all. An admin queue, with which all over-allocation begins,
// waits: first for the deletions that were queued before it, so that a storm of
// connects and disconnects goes no faster than deletion, and then for room in
// the budget, in its turn. Nobody blocks meanwhile; no goroutine waits.
type Gate struct {
	Queues  *Queues
	Delete  *workqueue.Queue // runs releases and nothing else
	Connect *workqueue.Queue // makes queues that have waited
	Budget  *admission.Port
	// Wait bounds both waits together. When it is over, deletions are waited for
	// no longer, and who finds no room then is refused. Zero: DefaultWait.
	Wait time.Duration
}

// Complete reports whether the gate has all that it needs.
func (g *Gate) Complete() bool {
	return g != nil && g.Queues != nil && g.Delete != nil && g.Connect != nil && g.Budget != nil
}

// A Claim is what a queue asks for.
type Claim struct {
	QID    uint16
	CNTLID uint16 // of an I/O queue, where the fabric knows it; else 0
	Host   admission.Host
	Bytes  int64 // what the queue will hold at most
	// IOBytes is, for an admin queue, what an I/O queue of this listener holds at
	// most.
	IOBytes int64
}

// An entry is a life's way through the gate.
type entry struct {
	barrier workqueue.Barrier
	work    workqueue.Work
	inside  bool  // guarded by Life.mu: Enter runs and looks at granted itself
	entered bool  // guarded by Life.mu: work may be queued
	refusal error // guarded by Life.mu
	granted bool  // guarded by Life.mu
	done    bool  // of Enter, and when that has returned, of work's function
}

// Enter asks for admission. An error is a refusal, and ends the life; else
// Admitted or Refused of the queue follows. Who need not wait is admitted before
// Enter returns, on its goroutine; all else is on the gate's connect workqueue.
func (l *Life) Enter() error {
	g, e := l.cfg.Gate, &l.entry
	e.work.Init("connect queue", l.runEntry)
	if l.claim.QID != 0 {
		if err := g.Budget.TakeReserved(&l.grant, l.claim.Host, l.claim.CNTLID, l.claim.Bytes); err != nil {
			l.Refuse(err)
			return err
		}
		l.mu.Lock()
		e.granted = true // from here on, nothing is withdrawn
		l.mu.Unlock()
		l.runEntry()
		return nil
	}
	e.inside = true // nobody knows the grant yet
	if err := g.Budget.Wait(&l.grant, l.claim.Host, l.claim.Bytes, l.claim.IOBytes, l.granted); err != nil {
		l.Refuse(err)
		return err
	}
	idle := g.Delete.Idle()
	if idle {
		l.grant.Ready() // a barrier would only take a worker's time to say so
	}
	if l.stay() {
		l.runEntry()
		return nil
	}
	if !idle {
		e.barrier.Init("admin connect", l.grant.Ready)
		g.Delete.FlushAsync(&e.barrier)
	}
	return nil
}

// stay ends what Enter does inside, and reports whether the queue is granted; if
// not, the work is queued that ends its wait.
func (l *Life) stay() (granted bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := &l.entry
	if e.inside = false; e.granted {
		return true
	}
	wait := l.cfg.Gate.Wait
	if wait == 0 {
		wait = DefaultWait
	}
	if e.refusal != nil {
		wait = 0 // withdrawn already
	}
	e.entered = true
	l.cfg.Gate.Connect.QueueAfter(&e.work, wait)
	return false
}

// granted is called when the budget has room, on whichever goroutine made it.
func (l *Life) granted() {
	l.mu.Lock()
	defer l.mu.Unlock() // after ModAfter: when runEntry sees granted, nothing is queued later
	l.entry.granted = true
	if !l.entry.inside {
		l.cfg.Gate.Connect.ModAfter(&l.entry.work, 0)
	}
}

// Withdraw has a queue that waits refused now, for its host has gone, or its
// listener goes. It does nothing if it waits no more.
func (l *Life) Withdraw(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state != Waiting || l.entry.granted || l.entry.refusal != nil {
		return
	}
	l.entry.refusal = cause
	if l.entry.entered {
		l.cfg.Gate.Connect.ModAfter(&l.entry.work, 0)
	}
}

var errLine = &Cause{"line", "others came before"}

// A waitError is the refusal of an admin queue that has waited in vain.
type waitError struct {
	wait time.Duration
	why  error // what was in its way
}

func (e *waitError) Error() string {
	return fmt.Sprintf("no room in %v: %v", e.wait.Round(time.Millisecond), e.why)
}

func (e *waitError) Unwrap() error { return e.why }

// runEntry is the end of the wait: admission, a withdrawal, or the bound. It may
// run a second time, when two of them met.
func (l *Life) runEntry() {
	e := &l.entry
	if e.done {
		return
	}
	l.mu.Lock()
	granted, refusal, waited := e.granted, e.refusal, time.Since(l.since)
	l.mu.Unlock()
	if !granted {
		if refusal == nil {
			l.grant.Ready() // deletions have had their time
		}
		why, was := l.grant.Cancel()
		if !was {
			return // granted meanwhile: then this is queued again
		}
		e.barrier.Cancel()
		e.done = true
		if why == nil {
			why = errLine
		}
		if refusal == nil {
			refusal = &waitError{waited, why}
		}
		l.Refuse(refusal)
		l.cfg.Queue.Refused(refusal)
		return
	}
	e.done = true
	e.barrier.Cancel()
	l.Move(Connecting)
	l.cfg.Queue.Admitted()
}

// Refuse ends the life of a queue that was never admitted.
func (l *Life) Refuse(cause error) {
	if l.move(Freed, cause) {
		l.cfg.Gate.Queues.Refused(cause)
	}
}

// Connected tells that the queue has had a successful Connect command. admin is
// the life of its controller's admin queue, nil if this is it.
func (l *Life) Connected(admin *Life) {
	if !l.charged() {
		return
	}
	l.grant.Connected()
	if admin != nil && admin.charged() {
		l.grant.Settle(&admin.grant)
	}
}

// Reserve reserves room for up to n I/O queues of the controller cntlid, whose
// admin queue this is, and returns for how many there is. Later calls replace
// what was reserved.
func (l *Life) Reserve(cntlid uint16, n int) int {
	if !l.charged() {
		return n
	}
	return l.grant.Reserve(cntlid, n)
}

// Unreserve gives back the room for I/O queues that have not come.
func (l *Life) Unreserve() {
	if l.charged() {
		l.grant.Unreserve()
	}
}

// charged reports whether the queue passed a gate: without a fabric, as in tests
// of a core, there is neither gate nor life.
func (l *Life) charged() bool { return l != nil && l.cfg.Gate != nil }
