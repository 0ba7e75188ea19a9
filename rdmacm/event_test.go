package rdmacm_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fabrid/fabrid/rdmacm"
)

// The names and numbers are those that Linux logs.
func TestEventNames(t *testing.T) {
	for want, typ := range []rdmacm.EventType{
		rdmacm.AddrResolved, rdmacm.AddrError, rdmacm.RouteResolved, rdmacm.RouteError, rdmacm.ConnectRequest,
		rdmacm.ConnectResponse, rdmacm.ConnectError, rdmacm.Unreachable, rdmacm.Rejected, rdmacm.Established,
		rdmacm.Disconnected, rdmacm.DeviceRemoval, 12, 13, rdmacm.AddrChange, rdmacm.TimewaitExit,
	} {
		if int(typ) != want {
			t.Errorf("%v is number %d, want %d", typ, typ, want)
		}
	}
	for typ, want := range map[rdmacm.EventType]string{
		rdmacm.ConnectRequest: "connect request", rdmacm.ConnectError: "connect error", rdmacm.Unreachable: "unreachable",
		rdmacm.Rejected: "rejected", rdmacm.Established: "established", rdmacm.Disconnected: "disconnected",
		rdmacm.DeviceRemoval: "device removal", rdmacm.AddrChange: "address change", rdmacm.TimewaitExit: "timewait exit",
		12: "EventType(12)",
	} {
		if got := typ.String(); got != want {
			t.Errorf("event %d is %q, want %q", typ, got, want)
		}
	}
}

// Every event that is handled is told to the hook before, with all that the
// reference's log shows, whoever it is about and however it came; one that
// comes too late is told to neither.
func TestHookIsToldEveryEvent(t *testing.T) {
	var hook []string
	cfg := rdmacm.Config{RequestTimeout: time.Second}
	var mu sync.Mutex // IDs have handlers of their own, which run side by side
	cfg.Events = func(id *rdmacm.ID, ev *rdmacm.Event) {
		mu.Lock()
		defer mu.Unlock()
		hook = append(hook, fmt.Sprintf("%v (%d): status %d id %d", ev.Type, ev.Type, ev.Status, id.Num()))
	}
	run(t, cfg, func(b *bench) {
		told := func(want ...string) {
			t.Helper()
			synctest.Wait()
			if !slices.Equal(hook, want) {
				t.Errorf("the hook was told %q, want %q", hook, want)
			}
			b.mu.Lock()
			n := len(b.log)
			b.log = nil
			b.mu.Unlock()
			if n != len(want) {
				t.Errorf("%d events were handled, the hook was told %d", n, len(want))
			}
			hook = nil
		}
		l := b.listen()
		accepted, c := b.request()
		b.ok(accepted.Accept(stubQP{}, rdmacm.ConnParam{}))
		for _, typ := range []rdmacm.EventType{rdmacm.Established, rdmacm.Disconnected, rdmacm.Disconnected, rdmacm.TimewaitExit} {
			c.Emit(rdmacm.Event{Type: typ})
		}
		told("connect request (4): status 0 id 1", "established (9): status 0 id 2",
			"disconnected (10): status 0 id 2", "timewait exit (15): status 0 id 2")
		for _, ev := range []rdmacm.Event{
			{Type: rdmacm.Rejected, Status: rdmacm.RejTimeout},
			{Type: rdmacm.Unreachable, Status: -110},
			{Type: rdmacm.ConnectError, Status: -22},
		} {
			id, c := b.request()
			c.Emit(ev)
			told("connect request (4): status 0 id 1", fmt.Sprintf("%v (%d): status %d id %d", ev.Type, ev.Type, ev.Status, id.Num()))
		}
		id, _ := b.request()
		time.Sleep(time.Second) // nobody answers
		told("connect request (4): status 0 id 1", fmt.Sprintf("connect error (6): status 0 id %d", id.Num()))
		b.p.LoseAddr(local.Addr(), errors.New("gone"))
		told("address change (14): status 0 id 1")
		b.ok(l.Destroy())
		id = b.id()
		b.ok(id.Listen(b.p, local))
		b.ok(id.Destroy())
		b.p.LoseAddr(local.Addr(), errors.New("gone"))
		told()
		l = b.listen()
		ids := []*rdmacm.ID{accepted}
		b.p.Remove(errors.New("unplugged"))
		synctest.Wait()
		if len(hook) != 6 || !slices.Contains(hook, fmt.Sprintf("device removal (11): status 0 id %d", l.Num())) ||
			!slices.Contains(hook, fmt.Sprintf("device removal (11): status 0 id %d", ids[0].Num())) {
			t.Errorf("the hook was told %q", hook)
		}
	})
}

// Requests that nobody answers are refused each in its own time, however many
// were answered between them; a request that was answered is not.
func TestRequestsExpireInTurn(t *testing.T) {
	run(t, rdmacm.Config{RequestTimeout: time.Second}, func(b *bench) {
		b.listen()
		const step = 100 * time.Millisecond
		var ids []*rdmacm.ID
		for i := range 8 {
			id, _ := b.request()
			ids = append(ids, id)
			if i%2 == 1 {
				b.ok(id.Accept(stubQP{}, rdmacm.ConnParam{}))
			}
			time.Sleep(step)
		}
		b.mu.Lock()
		b.log = nil
		b.mu.Unlock()
		time.Sleep(200*time.Millisecond - time.Nanosecond)
		b.want()
		for i := range ids {
			time.Sleep(time.Nanosecond)
			if i%2 == 0 {
				b.want(fmt.Sprintf("%d connect error", ids[i].Num()))
			} else {
				b.want()
				b.state(ids[i], rdmacm.StateAccepting)
			}
			time.Sleep(step - time.Nanosecond)
		}
		// The timer rests, and begins again.
		time.Sleep(time.Minute)
		id, c := b.request()
		time.Sleep(time.Second)
		b.want(`1 connect request 10 "please"`, "10 connect error")
		b.calls(c, `reject 3 ""`)
		b.ok(id.Destroy())
		gone, _ := b.request() // the first in the list goes, the second stays
		last, _ := b.request()
		b.ok(gone.Destroy())
		time.Sleep(time.Second)
		synctest.Wait()
		b.state(last, rdmacm.StateDisconnected)
	})
}
