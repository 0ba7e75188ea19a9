package main

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/rdmacm/rdmacmtest"
)

// What the log shows of an event is what Linux's shows: its name, number and
// status, and the ID; and who it is about.
func TestCMEventsAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		cm := rdmacm.New(rdmacm.Config{Events: cmEvents(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))})
		here, peer := netip.MustParseAddrPort("192.0.2.1:4420"), netip.MustParseAddrPort("192.0.2.2:50000")
		p := &rdmacmtest.Provider{Local: here.Addr()}
		l, err := cm.NewID(func(*rdmacm.ID, *rdmacm.Event) error { return nil })
		if err == nil {
			err = l.Listen(p, here)
		}
		if err != nil {
			t.Fatal(err)
		}
		c := p.Request(here, peer, rdmacm.ConnParam{})
		synctest.Wait()
		c.Emit(rdmacm.Event{Type: rdmacm.Rejected, Status: rdmacm.RejTimeout, Err: errors.New("gave up")})
		synctest.Wait()
		if err := cm.Close(); err != nil {
			t.Error(err)
		}
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		for i, want := range []string{
			`msg="cm event" event="connect request" number=4 status=0 id=1 local=192.0.2.1:4420 remote="" conn=2 conn_remote=192.0.2.2:50000`,
			`msg="cm event" event=rejected number=8 status=4 id=2 local=192.0.2.1:4420 remote=192.0.2.2:50000 err="gave up"`,
		} {
			if i >= len(lines) || !strings.HasSuffix(lines[i], want) {
				t.Errorf("logged\n%s\nwant, as line %d,\n%s", log.String(), i, want)
			}
		}
	})
}
