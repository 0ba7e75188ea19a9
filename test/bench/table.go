package main

import (
	"fmt"
	"io"
	"slices"
)

// A row is what was measured of a workload.
type row struct {
	workload
	fabrid, udp figures
}

type figures []figure

func (f *figures) add(one figure, err error) error {
	*f = append(*f, one)
	return err
}

// median returns the middle of what of returns for each figure: of an even
// number the lower one.
func (f figures) median(of func(figure) float64) float64 {
	var all []float64
	for _, one := range f {
		all = append(all, of(one))
	}
	slices.Sort(all)
	return all[(len(all)-1)/2]
}

// table prints medians, and the range of IOPS.
func table(w io.Writer, rows []*row) {
	iops := func(f figure) float64 { return f.IOPS }
	fmt.Fprintln(w, "| workload | fabrid IOPS [range] | MiB/s | p50 µs | p99 µs | UDP IOPS [range] | MiB/s | p50 µs | p99 µs | fabrid / UDP |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|---|")
	lost := uint64(0)
	for _, r := range rows {
		fmt.Fprintf(w, "| %v ", r.workload)
		for _, f := range []figures{r.fabrid, r.udp} {
			first, last := f[0].IOPS, f[0].IOPS
			for _, one := range f {
				first, last = min(first, one.IOPS), max(last, one.IOPS)
				lost += one.Lost
			}
			fmt.Fprintf(w, "| %.0f [%.0f-%.0f] | %.0f | %.1f | %.1f ", f.median(iops), first, last,
				f.median(func(f figure) float64 { return f.MiBs }),
				f.median(func(f figure) float64 { return f.Latency.P50 }),
				f.median(func(f figure) float64 { return f.Latency.P99 }))
		}
		fmt.Fprintf(w, "| %.2f |\n", r.fabrid.median(iops)/r.udp.median(iops))
	}
	if lost > 0 {
		fmt.Fprintf(w, "\nbare UDP lost %d requests or parts of them, and sent them again after %v\n", lost, resendAfter)
	}
}
