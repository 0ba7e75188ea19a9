package verbs

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

const qpTable = `
from to RESET  INIT   RTR   RTS   SQD   SQE   ERR
RESET       x     x     .     .     .     .     .
INIT        x     x     x     .     .     .     x
RTR         x     .     .     x     .     .     x
RTS         x     .     .     x     x     .     x
SQD         x     .     .     x     x     .     x
SQE         x     .     .     x     .     .     x
ERR         x     .     .     .     .     .     x
`

func TestQPStateTable(t *testing.T) {
	var b strings.Builder
	b.WriteString("\nfrom to")
	for to := range numQPStates {
		fmt.Fprintf(&b, "%6v", to)
	}
	for from := range numQPStates {
		fmt.Fprintf(&b, "\n%-7v", from)
		for to := range numQPStates {
			c := "."
			if CheckMove(from, to) == nil {
				c = "x"
			}
			fmt.Fprintf(&b, "%6s", c)
		}
	}
	b.WriteString("\n")
	if b.String() != qpTable {
		t.Errorf("the table is%swant%s", b.String(), qpTable)
	}
}

func TestCheckMoveNamesBothStates(t *testing.T) {
	err := CheckMove(Reset, RTS)
	var se *StateError
	if !errors.As(err, &se) || se.From != Reset || se.To != RTS {
		t.Fatalf("CheckMove(Reset, RTS) = %v", err)
	}
	if got, want := err.Error(), "verbs: modify QP: RESET to RTS not allowed"; got != want {
		t.Errorf("error %q, want %q", got, want)
	}
	if CheckMove(numQPStates, Reset) == nil || CheckMove(Reset, numQPStates) == nil {
		t.Error("a state out of range passes")
	}
}
