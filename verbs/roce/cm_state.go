package roce

import "fmt"

// A cmState is the state of a connection on the wire ([IBTA] 12.9). MRA and
// DREQ received have none of their own: the first only moves a timer, the
// second is answered at once.
type cmState uint8

const (
	cmIdle        cmState = iota // opened by us, nothing sent
	cmREQSent                    // active
	cmREQRcvd                    // passive, the owner decides
	cmREPSent                    // passive
	cmEstablished                // both
	cmDREQSent                   // both
	cmDone                       // the wire knows it no more
	numCMStates
)

var cmStateNames = [numCMStates]string{"IDLE", "REQ-SENT", "REQ-RCVD", "REP-SENT", "ESTABLISHED", "DREQ-SENT", "DONE"}

func (s cmState) String() string {
	if s < numCMStates {
		return cmStateNames[s]
	}
	return fmt.Sprintf("cmState(%d)", uint8(s))
}

// cmNext[from][to] says which moves there are. It is the whole rule; the test
// draws it.
var cmNext = [numCMStates][numCMStates]bool{
	cmIdle:        {cmREQSent: true, cmREQRcvd: true, cmDone: true},
	cmREQSent:     {cmEstablished: true, cmDone: true},
	cmREQRcvd:     {cmREPSent: true, cmDone: true},
	cmREPSent:     {cmEstablished: true, cmDone: true},
	cmEstablished: {cmDREQSent: true, cmDone: true},
	cmDREQSent:    {cmDone: true},
}

// halfOpen reports whether a connection in the state counts as half open.
func (s cmState) halfOpen() bool { return s == cmREQRcvd || s == cmREPSent }

// move changes the state. A move that the table does not have is a mistake in
// this package: callers look at the state before.
func (c *cmConn) move(to cmState) {
	if !cmNext[c.state][to] {
		panic(fmt.Sprintf("roce: cm: %v to %v", c.state, to))
	}
	if c.state.halfOpen() {
		c.cm.halfOpen--
	}
	if to.halfOpen() {
		c.cm.halfOpen++
	}
	if c.state == cmREQSent {
		c.cm.request(-1)
	}
	if to == cmREQSent {
		c.cm.request(1)
	}
	c.state = to
}

// request counts a request of ours that is in flight from now on, or no more.
func (m *cm) request(n int) {
	if m.requests += n; m.requests == 0 || m.requests == 1 && n == 1 {
		m.cfg.link.hearErrors(m.requests > 0)
	}
}
