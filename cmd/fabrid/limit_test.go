package main

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLogIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b strings.Builder
		log := slog.New(limitLog(slog.NewTextHandler(&b, nil)))
		for range 3 * logBurst {
			log.Info("queue refused")
			log.With("a", 1).WithGroup("g").Info("queue refused")
			log.Error("bad")
		}
		log.Info("another")
		lines := func(message string) int { return strings.Count(b.String(), "msg="+message) }
		if r, a, e := lines(`"queue refused"`), lines("another"), lines("bad"); r != logBurst || a != 1 || e != 3*logBurst {
			t.Errorf("%d refusals, %d others, %d errors", r, a, e)
		}
		if !spared(log, "queue refused") || spared(log, "another") || spared(log, "unknown") {
			t.Error("what is spared is not what would be kept back")
		}
		time.Sleep(time.Second)
		b.Reset()
		if spared(log, "queue refused") {
			t.Error("spared a second later")
		}
		log.Info("queue refused")
		log.Info("queue refused")
		if got := b.String(); strings.Count(got, "suppressed=101") != 1 || lines(`"queue refused"`) != 2 {
			t.Errorf("a second later:\n%s", got)
		}
	})
}
