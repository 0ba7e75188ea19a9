package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/fabrid/fabrid/load"
)

// report prints what a run measured.
func report(w io.Writer, r *load.Result) {
	bs := size(r.BlockSize)
	runtime := time.Duration(r.RuntimeMS * float64(time.Millisecond)).Round(time.Millisecond)
	fmt.Fprintf(w, "%s of %s for %v: %s, %s each, %s outstanding each\n\n",
		r.Pattern, &bs, runtime, count(r.Queues, "I/O queue"), count(r.NumJobs, "job"), count(r.IODepth, "command"))
	fmt.Fprintf(w, "%-6s %10s %10s %10s   latency/µs: %8s %8s %8s %8s %8s %8s\n", "", "I/Os", "IOPS", "MiB/s", "mean", "p50", "p90", "p99", "p99.9", "max")
	row := func(name string, s *load.Summary) {
		if s == nil {
			return
		}
		l := s.Latency
		fmt.Fprintf(w, "%-6s %10d %10.0f %10.1f %23.1f %8.1f %8.1f %8.1f %8.1f %8.1f\n",
			name, s.Commands, s.IOPS, s.MiBs, l.Mean, l.P50, l.P90, l.P99, l.P999, l.Max)
	}
	row("read", r.Read)
	row("write", r.Write)
	if r.Read != nil && r.Write != nil {
		row("both", &r.Summary)
	}
	histogram(w, r.Histogram)
	fmt.Fprintf(w, "\nerrors %d, verify errors %d", r.Errors, r.VerifyErrors)
	if r.Verified > 0 || r.VerifyErrors > 0 {
		fmt.Fprintf(w, ", %d blocks verified", r.Verified)
	}
	fmt.Fprintln(w)
}

// count is 1 queue, or 2 queues.
func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

// histogram draws a distribution of times in ns, with a bar for each power of
// two of microseconds.
func histogram(w io.Writer, h *hdrhistogram.Histogram) {
	if h.TotalCount() == 0 {
		return
	}
	var counts []int64 // [i]: up to 2^i µs
	var most int64
	for _, bar := range h.Distribution() {
		i := 0
		for limit := int64(1000); bar.From >= limit; limit <<= 1 {
			i++
		}
		for len(counts) <= i {
			counts = append(counts, 0)
		}
		counts[i] += bar.Count
		most = max(most, counts[i])
	}
	fmt.Fprintf(w, "\nlatency below\n")
	const width = 50
	started := false
	for i, n := range counts {
		if started = started || n > 0; !started {
			continue
		}
		bar := int((n*width + most - 1) / most)
		fmt.Fprintf(w, "  %10v %6.2f %% %s\n", time.Duration(1<<i)*time.Microsecond, 100*float64(n)/float64(h.TotalCount()), strings.Repeat("#", bar))
	}
}
