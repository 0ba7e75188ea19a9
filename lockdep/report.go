package lockdep

import (
	"fmt"
	"iter"
	"reflect"
	"runtime"
	"strings"
)

// A Kind says what a report is about.
type Kind uint8

const (
	// Circular: the order closes a cycle with orders seen before.
	Circular Kind = iota + 1
	// Recursive: the goroutine holds the class and level already.
	Recursive
	// NotHeld: the goroutine unlocks or asserts a lock that it does not hold;
	// perhaps another goroutine does.
	NotHeld
	// StillHeld: the goroutine holds a lock where it must hold none.
	StillHeld
)

func (k Kind) String() string {
	switch k {
	case Circular:
		return "possible circular locking dependency detected"
	case Recursive:
		return "possible recursive locking detected"
	case NotHeld:
		return "lock is not held by this goroutine"
	case StillHeld:
		return "lock still held"
	}
	return fmt.Sprintf("lockdep report %d", uint8(k))
}

// A Report is what a validator found. It is an error, so that a panic with it
// prints it whole.
type Report struct {
	Kind      Kind
	Goroutine uint64 // that caused it, as stack traces number it

	// Classes names the classes concerned. For Circular it is the cycle: the
	// class that is being acquired first, then in the order in which they have
	// been taken, the one that is held last; each was held when the next was
	// taken. For Recursive and NotHeld it is one, for StillHeld all, oldest first.
	Classes []string

	text string
}

// Error returns the report in full: what is acquired, what is held, and the
// chain of orders that makes it a cycle, newest first, each with its stack.
func (r *Report) Error() string { return r.text }

// A reportKey is what makes two reports the same.
type reportKey struct {
	kind    Kind
	classes string
}

func (r *Report) key() reportKey {
	return reportKey{r.Kind, strings.Join(r.Classes, "\x00")}
}

// circular reports that h, taken while p is held, closes the cycle with path,
// which leads from h's class to p's.
func circular(g *goroutine, p, h *hold, path []*edge) *Report {
	r := &Report{Kind: Circular, Goroutine: GoroutineID(), Classes: []string{h.class.String()}}
	for _, e := range path {
		r.Classes = append(r.Classes, e.to.class.String())
	}
	b := r.begin()
	if p.mode == ending {
		fmt.Fprintf(b, "goroutine %d is ending the wait for:\n", r.Goroutine)
		writeHold(b, p)
		b.WriteString("but it has come here only with what it is holding:\n")
		writeHold(b, h)
		b.WriteString("which somebody holds, or waits for, who waits for this.\n")
	} else {
		fmt.Fprintf(b, "goroutine %d is trying to acquire:\n", r.Goroutine)
		writeHold(b, h)
		b.WriteString("but it is already holding:\n")
		writeHold(b, p)
		b.WriteString("which already depends on the new one.\n")
	}
	b.WriteString("the existing dependency chain, newest first, is:\n")
	for i := len(path) - 1; i >= 0; i-- {
		writeEdge(b, i+1, path[i])
	}
	what := "while it holds"
	if p.mode == ending {
		what = "while it ends"
	}
	fmt.Fprintf(b, "-> #0 %v, by goroutine %d %s %v, now\n", h.class, r.Goroutine, what, p.class)
	r.end(b, g.held)
	return r
}

func recursive(g *goroutine, p, h *hold) *Report {
	r := &Report{Kind: Recursive, Goroutine: GoroutineID(), Classes: []string{h.class.String()}}
	b := r.begin()
	fmt.Fprintf(b, "goroutine %d is trying to acquire:\n", r.Goroutine)
	writeHold(b, h)
	if p.object == h.object {
		b.WriteString("but it is already holding it:\n")
	} else {
		b.WriteString("but it is already holding another of the same class and level:\n")
	}
	writeHold(b, p)
	r.end(b, g.held)
	return r
}

func notHeld(g *goroutine, k key, holder *hold, what string) *Report {
	r := &Report{Kind: NotHeld, Goroutine: GoroutineID(), Classes: []string{k.String()}}
	b := r.begin()
	fmt.Fprintf(b, "goroutine %d: %s of %v, which it does not hold, at:\n", r.Goroutine, what, k)
	writeStack(b, callers())
	if holder != nil {
		who := "another goroutine"
		if holder.goroutine == g.key {
			who = "this goroutine, for another validator"
		}
		fmt.Fprintf(b, "it is held by %s:\n", who)
		writeHold(b, holder)
	}
	r.end(b, g.held)
	return r
}

func stillHeld(held []*hold, where string) *Report {
	r := &Report{Kind: StillHeld, Goroutine: GoroutineID()}
	for _, h := range held {
		r.Classes = append(r.Classes, h.class.String())
	}
	b := r.begin()
	fmt.Fprintf(b, "goroutine %d must hold nothing here: %s\n", r.Goroutine, where)
	writeStack(b, callers())
	r.end(b, held)
	return r
}

const rule = "======================================================\n"

// begin writes the head of the report.
func (r *Report) begin() *strings.Builder {
	b := new(strings.Builder)
	fmt.Fprintf(b, "lockdep: %v\n%sWARNING: %v\n%s", r.Kind, rule, r.Kind, strings.ReplaceAll(rule, "=", "-"))
	return b
}

// end writes all that the goroutine holds and keeps the text.
func (r *Report) end(b *strings.Builder, held []*hold) {
	fmt.Fprintf(b, "goroutine %d holds %d:\n", r.Goroutine, len(held))
	for i, h := range held {
		fmt.Fprintf(b, " #%d: %v (%p)", i, h.class, h.object)
		for f := range h.stack.frames() {
			fmt.Fprintf(b, ", at %s:%d", f.File, f.Line)
			break
		}
		b.WriteByte('\n')
	}
	r.text = b.String()
}

func writeEdge(b *strings.Builder, n int, e *edge) {
	what, where := "while it held", "which it had acquired at"
	if e.from.mode == ending {
		what, where = "before it ended", "which it ended at"
	}
	fmt.Fprintf(b, "-> #%d %v, by goroutine %d %s %v\n", n, e.to.class, e.goroutine, what, e.from.class)
	writeStack(b, e.to.stack)
	fmt.Fprintf(b, "   %s\n", where)
	writeStack(b, e.from.stack)
}

func writeHold(b *strings.Builder, h *hold) {
	fmt.Fprintf(b, "%v (%p), at:\n", h.class, h.object)
	writeStack(b, h.stack)
}

func writeStack(b *strings.Builder, s stack) {
	for f := range s.frames() {
		fmt.Fprintf(b, "       %s\n           %s:%d\n", f.Function, f.File, f.Line)
	}
}

// ours is the prefix of this package's functions, which stacks leave out.
var ours = reflect.TypeFor[Validator]().PkgPath() + "."

// frames yields the frames of s that are not this package's, innermost first.
func (s stack) frames() iter.Seq[runtime.Frame] {
	return func(yield func(runtime.Frame) bool) {
		frames := runtime.CallersFrames(s)
		for more := len(s) > 0; more; {
			var f runtime.Frame
			f, more = frames.Next()
			if f.Function == "runtime.goexit" || strings.HasPrefix(f.Function, ours) {
				continue
			}
			if !yield(f) {
				return
			}
		}
	}
}
