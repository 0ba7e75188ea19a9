package verbs

import "fmt"

// A QPState is the state of a queue pair ([IBTA] 10.3.1).
type QPState uint8

// Queue pair states.
const (
	Reset QPState = iota
	Init
	RTR // ready to receive
	RTS // ready to send
	SQD // send queue drained
	SQE // send queue error
	Err
	numQPStates
)

var qpStateNames = [numQPStates]string{"RESET", "INIT", "RTR", "RTS", "SQD", "SQE", "ERR"}

func (s QPState) String() string {
	if s < numQPStates {
		return qpStateNames[s]
	}
	return fmt.Sprintf("QPState(%d)", uint8(s))
}

// qpNext[from][to] says which moves Modify QP may make. It is the whole rule:
// code that changes a state asks it, and the test draws it.
var qpNext = [numQPStates][numQPStates]bool{
	Reset: {Reset: true, Init: true},
	Init:  {Reset: true, Err: true, Init: true, RTR: true},
	RTR:   {Reset: true, Err: true, RTS: true},
	RTS:   {Reset: true, Err: true, RTS: true, SQD: true},
	SQD:   {Reset: true, Err: true, RTS: true, SQD: true},
	SQE:   {Reset: true, Err: true, RTS: true},
	Err:   {Reset: true, Err: true},
}

// A StateError is an attempt at a move that the state table does not have, or
// at an operation that the state does not allow.
type StateError struct {
	Op       string // "modify QP", "post send", ...
	From, To QPState
}

func (e *StateError) Error() string {
	if e.From == e.To {
		return fmt.Sprintf("verbs: %s: not allowed in %v", e.Op, e.From)
	}
	return fmt.Sprintf("verbs: %s: %v to %v not allowed", e.Op, e.From, e.To)
}

// CheckMove returns a [*StateError] unless a QP may go from one state to
// another.
func CheckMove(from, to QPState) error {
	if from < numQPStates && to < numQPStates && qpNext[from][to] {
		return nil
	}
	return &StateError{"modify QP", from, to}
}
