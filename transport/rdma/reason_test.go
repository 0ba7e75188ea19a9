package rdma

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"

	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/verbs"
)

// The words for ends that come from here: dashboards know them.
func TestWordsOfCauses(t *testing.T) {
	event := func(t rdmacm.EventType, err error) error { return eventError(&rdmacm.Event{Type: t, Err: err}) }
	status := func(s verbs.WCStatus) error { return &transport.Cause{Word: word(s.String())} }
	for _, c := range []struct {
		err  error
		want string
	}{
		{errListenerClosed, "listener_closed"},
		{errShutdown, "listener_shutdown"},
		{errPortGone, "port_gone"},
		{errNotEstablished, "not_established"},
		{errNoConnect, "no_connect"},
		{errFlushed, "flushed"},
		{errStalled, "stalled"},
		{event(rdmacm.Disconnected, nil), "disconnected"},
		{event(rdmacm.DeviceRemoval, errors.New("unplugged")), "device_removal"},
		{event(rdmacm.AddrChange, errors.New("gone")), "address_change"},
		{event(rdmacm.ConnectError, errors.New("no answer")), "connect_error"},
		{event(rdmacm.Unreachable, errors.New("no answer")), "unreachable"},
		{event(rdmacm.Rejected, nil), "rejected"},
		{status(verbs.WCRetryExcErr), "transport_retry_counter_exceeded"},
		{status(verbs.WCRNRRetryExcErr), "rnr_retry_counter_exceeded"},
		{status(verbs.WCRemAccessErr), "remote_access_error"},
		{status(verbs.WCLocLenErr), "local_length_error"},
	} {
		if got := transport.Reason(fmt.Errorf("queue 1: %w", c.err)); got != c.want {
			t.Errorf("%v is %q, want %q", c.err, got, c.want)
		}
	}
}

// Whoever has a queue of a target go down says why with a word: what is passed
// to fail, lose and reject is a cause that is handed on, or has one.
func TestEndsHaveWords(t *testing.T) {
	calls := 0
	fset := token.NewFileSet()
	for _, file := range []string{"admit.go", "listener.go", "queue.go", "receive.go", "send.go", "refuse.go"} {
		f, err := parser.ParseFile(fset, file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) != 1 {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || !strings.Contains("fail lose reject BeginRelease", sel.Sel.Name) {
				return true
			}
			calls++
			if made, ok := call.Args[0].(*ast.CallExpr); ok {
				if s, ok := made.Fun.(*ast.SelectorExpr); ok && (s.Sel.Name == "Errorf" || s.Sel.Name == "New") {
					t.Errorf("%v: an end without a word: use a transport.Cause or transport.WithReason", fset.Position(call.Pos()))
				}
			}
			return true
		})
	}
	if calls < 10 {
		t.Errorf("%d ends found", calls)
	}
}
