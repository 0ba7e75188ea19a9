package transport

import (
	"errors"
	"fmt"
	"io"
	"testing"
)

func TestReason(t *testing.T) {
	cable := &Cause{"cable", "somebody stumbled"}
	for _, c := range []struct {
		err        error
		word, text string
	}{
		{cable, "cable", "somebody stumbled"},
		{fmt.Errorf("queue 3: %w", cable), "cable", "queue 3: somebody stumbled"},
		{io.EOF, "other", "EOF"},
		{nil, "other", ""},
		{WithReason("eof", fmt.Errorf("queue 3: %w", io.EOF)), "eof", "queue 3: EOF"},
		{WithReason("eof", fmt.Errorf("queue 3: %w", cable)), "cable", "queue 3: somebody stumbled"},
		{WithReason("eof", nil), "other", ""},
	} {
		text := ""
		if c.err != nil {
			text = c.err.Error()
		}
		if got := Reason(c.err); got != c.word || text != c.text {
			t.Errorf("%q is %q, want %q and %q", text, got, c.text, c.word)
		}
	}
	if err := WithReason("eof", io.EOF); !errors.Is(err, io.EOF) {
		t.Error("what it was is lost")
	}
}
