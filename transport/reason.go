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
