package shard

import "time"

// A Timer calls Fn on the shard when the shard's time has reached a deadline.
// It is part of what it times, so that arming allocates nothing in steady
// state, and belongs to one shard. The zero value with Fn set is ready.
type Timer struct {
	// Fn runs on the shard, with the timer disarmed.
	Fn func()

	at    time.Duration
	index int // in the heap, plus one; zero: not armed
}

// Armed reports whether the timer waits for its deadline. On the shard.
func (t *Timer) Armed() bool { return t.index != 0 }

// Deadline returns the shard time the timer was last armed for. On the shard.
func (t *Timer) Deadline() time.Duration { return t.at }

// timers is a binary heap by deadline.
type timers []*Timer

func (h timers) swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i+1, j+1
}

func (h timers) up(i int) {
	for i > 0 {
		p := (i - 1) / 2
		if h[p].at <= h[i].at {
			return
		}
		h.swap(i, p)
		i = p
	}
}

func (h timers) down(i int) {
	for {
		c := 2*i + 1
		if c >= len(h) {
			return
		}
		if c+1 < len(h) && h[c+1].at < h[c].at {
			c++
		}
		if h[i].at <= h[c].at {
			return
		}
		h.swap(i, c)
		i = c
	}
}

func (h *timers) arm(t *Timer, at time.Duration) {
	t.at = at
	if t.index == 0 {
		*h = append(*h, t)
		t.index = len(*h)
	}
	i := t.index - 1
	h.up(i)
	h.down(t.index - 1)
}

func (h *timers) disarm(t *Timer) {
	if t.index == 0 {
		return
	}
	i, last := t.index-1, len(*h)-1
	h.swap(i, last)
	(*h)[last] = nil
	*h = (*h)[:last]
	t.index = 0
	if i < last {
		moved := (*h)[i]
		h.up(i)
		h.down(moved.index - 1)
	}
}
