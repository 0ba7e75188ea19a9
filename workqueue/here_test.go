package workqueue

import "testing"

// Only the work's own function is here, and only while it runs.
func TestHere(t *testing.T) {
	q := New(Config{Name: "here", MaxActive: 2})
	defer q.Destroy()
	var w, other Work
	in, out, seen := make(chan bool), make(chan bool), make(chan bool, 1)
	w.Init("w", func() { in <- w.Here(); <-out })
	other.Init("other", func() { seen <- w.Here() })
	if w.Here() {
		t.Error("here before it was queued")
	}
	q.Queue(&w)
	if !<-in {
		t.Error("not here in its own function")
	}
	if w.Here() {
		t.Error("here on another goroutine")
	}
	q.Queue(&other)
	if <-seen {
		t.Error("here in another work")
	}
	close(out)
	w.Flush()
	if w.Here() {
		t.Error("here after it has run")
	}
}
