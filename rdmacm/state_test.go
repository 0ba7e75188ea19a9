package rdmacm

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// What leads where; what does not stand here is refused, or dropped.
const stateTable = `
idle           listen               -> listening
idle           resolve              -> resolved
idle           destroy              -> destroying
listening      listen failed        -> idle
listening      destroy              -> destroying
listening      connect request      -> listening
listening      device removal       -> removed
listening      address change       -> listening
resolved       connect              -> connecting
resolved       disconnect           -> disconnecting
resolved       destroy              -> destroying
resolved       device removal       -> removed
resolved       address change       -> resolved
connecting     disconnect           -> disconnecting
connecting     destroy              -> destroying
connecting     connect error        -> disconnected
connecting     unreachable          -> disconnected
connecting     rejected             -> disconnected
connecting     established          -> connected
connecting     device removal       -> removed
connecting     address change       -> connecting
requested      accept               -> accepting
requested      reject               -> refused
requested      expire               -> expired
requested      disconnect           -> disconnecting
requested      destroy              -> destroying
requested      connect error        -> disconnected
requested      unreachable          -> disconnected
requested      rejected             -> disconnected
requested      device removal       -> removed
accepting      disconnect           -> disconnecting
accepting      destroy              -> destroying
accepting      connect error        -> disconnected
accepting      unreachable          -> disconnected
accepting      rejected             -> disconnected
accepting      established          -> connected
accepting      device removal       -> removed
accepting      address change       -> accepting
connected      disconnect           -> disconnecting
connected      destroy              -> destroying
connected      disconnected         -> disconnected
connected      device removal       -> removed
connected      address change       -> connected
disconnecting  disconnect           -> disconnecting
disconnecting  destroy              -> destroying
disconnecting  disconnected         -> disconnected
disconnecting  device removal       -> removed
disconnected   disconnect           -> disconnected
disconnected   destroy              -> destroying
disconnected   device removal       -> removed
disconnected   timewait exit        -> disconnected
refused        disconnect           -> refused
refused        destroy              -> destroying
refused        device removal       -> removed
expired        disconnect           -> expired
expired        destroy              -> destroying
expired        connect error        -> disconnected
expired        device removal       -> removed
removed        disconnect           -> removed
removed        destroy              -> destroying
`

func TestStateTable(t *testing.T) {
	var b strings.Builder
	b.WriteString("\n")
	for s := range numStates {
		for m := range numMoves {
			if to, ok := s.after(m); ok {
				fmt.Fprintf(&b, "%-14v %-20v -> %v\n", s, m, to)
			}
		}
	}
	if b.String() != stateTable {
		t.Errorf("the table is%swant%s", b.String(), stateTable)
	}
	if _, ok := StateConnected.after(on(EventType(200))); ok {
		t.Error("an event out of range is a move")
	}
}

// Nothing but Destroy ends an ID, and it can be called in every state, once.
func TestEveryStateLeadsToDestroying(t *testing.T) {
	for s := range numStates {
		to, ok := s.after(callDestroy)
		if want := s != StateDestroying; ok != want || ok && to != StateDestroying {
			t.Errorf("destroy when %v: %v, %v", s, to, ok)
		}
	}
}

func TestStateErrorNamesTheCall(t *testing.T) {
	cm := New(Config{})
	defer cm.Close()
	id, err := cm.NewID(func(*ID, *Event) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	err = id.Reject(nil)
	var se *StateError
	if !errors.As(err, &se) || se.State != StateIdle {
		t.Fatalf("Reject: %v", err)
	}
	if got, want := err.Error(), "rdmacm: ID 1: reject: not allowed when idle"; got != want {
		t.Errorf("error %q, want %q", got, want)
	}
}
