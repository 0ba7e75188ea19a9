package lockdep

// Goroutines returns how many goroutines the registry knows.
func Goroutines() int {
	n := 0
	for i := range goroutines {
		s := &goroutines[i]
		s.mu.Lock()
		n += len(s.m)
		s.mu.Unlock()
	}
	return n
}
