package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/fabrid/fabrid/lockdep"
)

// logBurst is how many records of one message may be logged in a second. A storm
// has thousands of them, which cost more than what they tell of; the counters
// have them all.
const logBurst = 20

type limitMu struct{} // innermost

// A limiter is a [slog.Handler] that passes on so many records of each message
// in a second, and with the first of a later one how many it kept back. Errors
// always pass. Messages are constants of the program, so there are few.
type limiter struct {
	slog.Handler
	*limits
}

type limits struct {
	mu   lockdep.Mutex[limitMu]
	seen map[string]*second // guarded by mu
}

// A second is what came of a message in a second.
type second struct {
	begin        time.Time
	passed, kept int
}

func limitLog(h slog.Handler) slog.Handler {
	return limiter{h, &limits{seen: make(map[string]*second)}}
}

// Handle implements [slog.Handler].
func (l limiter) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelError {
		kept, pass := l.pass(r.Message, r.Time)
		if !pass {
			return nil
		}
		if kept > 0 {
			r.AddAttrs(slog.Int("suppressed", kept))
		}
	}
	return l.Handler.Handle(ctx, r)
}

// spared reports whether a record of the message would be kept back now, and
// counts it as kept: for those that are many, and cost something to make.
func spared(log *slog.Logger, message string) bool {
	l, ok := log.Handler().(limiter)
	if !ok {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.seen[message]
	if s == nil || s.passed < logBurst || time.Since(s.begin) >= time.Second {
		return false
	}
	s.kept++
	return true
}

func (l *limits) pass(message string, now time.Time) (kept int, pass bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.seen[message]
	if s == nil {
		s = &second{begin: now}
		l.seen[message] = s
	}
	if now.Sub(s.begin) >= time.Second {
		kept = s.kept
		*s = second{begin: now}
	}
	if s.passed == logBurst {
		s.kept++
		return 0, false
	}
	s.passed++
	return kept, true
}

// WithAttrs implements [slog.Handler].
func (l limiter) WithAttrs(a []slog.Attr) slog.Handler {
	return limiter{l.Handler.WithAttrs(a), l.limits}
}

// WithGroup implements [slog.Handler].
func (l limiter) WithGroup(name string) slog.Handler {
	return limiter{l.Handler.WithGroup(name), l.limits}
}
