package transport

import "errors"

// A Reasoner is an error that can say in a word what it is, for counters.
type Reasoner interface {
	error
	Reason() string
}

// Reason returns an error in a word: that of the first in its chain which has
// one, or "other".
func Reason(err error) string {
	if r, ok := errors.AsType[Reasoner](err); ok {
		return r.Reason()
	}
	return "other"
}

// A Cause is an error that is the same each time, with the word for it.
type Cause struct{ Word, Text string }

func (c *Cause) Error() string { return c.Text }

// Reason implements [Reasoner].
func (c *Cause) Reason() string { return c.Word }

// WithReason returns an error with the text of err and a word for it. An error
// that has a word keeps it.
func WithReason(word string, err error) error {
	if _, ok := errors.AsType[Reasoner](err); ok || err == nil {
		return err
	}
	return &reasoned{word, err}
}

type reasoned struct {
	word string
	err  error
}

func (e *reasoned) Error() string  { return e.err.Error() }
func (e *reasoned) Unwrap() error  { return e.err }
func (e *reasoned) Reason() string { return e.word }
