package main

import (
	"errors"
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	of := func(iops ...float64) (f figures) {
		for _, v := range iops {
			if err := f.add(figure{IOPS: v, MiBs: v / 256}, nil); err != nil {
				t.Fatal(err)
			}
		}
		return f
	}
	var b strings.Builder
	r := &row{workload: workload{"randwrite", 4 << 10, 32}, fabrid: of(300, 100, 200), udp: of(500, 400, 900)}
	r.udp[1].Lost = 3
	table(&b, []*row{r})
	for _, want := range []string{
		"| randwrite 4k depth 32 | 200 [100-300] | 1 | 0.0 | 0.0 | 500 [400-900] | 2 | 0.0 | 0.0 | 0.40 |",
		"lost 3",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if m := of(4, 1, 3, 2).median(func(f figure) float64 { return f.IOPS }); m != 2 {
		t.Errorf("median of an even number: %v, want the lower", m)
	}
	var f figures
	if err := f.add(figure{}, errors.New("broken")); err == nil {
		t.Error("an error got lost")
	}
}

func TestWorkloads(t *testing.T) {
	for _, w := range workloads {
		if w.writes() != strings.Contains(w.String(), "write") || w.bytes%segment != 0 || w.bytes*w.depth > storeSize {
			t.Errorf("%v: writes %v, %d bytes", w, w.writes(), w.bytes)
		}
	}
}

// Every piece of a request has a place, of whole words, within the store.
func TestPlace(t *testing.T) {
	for _, w := range workloads {
		e := end{bytes: w.bytes}
		for slot := range w.depth {
			for at := 0; at < w.bytes; at += segment {
				if p := e.place(uint32(slot), uint32(at)); p < 0 || p%8 != 0 || p+segment > storeSize {
					t.Errorf("%v: slot %d, byte %d at %d", w, slot, at, p)
				}
			}
		}
	}
}
