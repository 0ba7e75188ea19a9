// Bench measures fabrid beside bare UDP: a target and a host, each a process on
// a core of its own, over loopback, and between those runs two programs that do
// nothing but exchange datagrams of the same sizes, with the same system calls
// (sendmmsg and recvmmsg, UDP_SEGMENT and UDP_GRO) and as little as can be
// around them. What they reach is what the machine has; the ratio is what
// fabrid makes of it.
//
//	go run ./test/bench                     # make bench
//	go run ./test/bench -rounds 5 -runtime 5s -only randread
//
// Compare figures of one run only, of a machine that does nothing else. README.md
// has more.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// A load is what is measured: by fabrid, and by datagrams.
type workload struct {
	rw    string
	bytes int
	depth int
}

var workloads = []workload{
	{"randread", 4 << 10, 1},
	{"randread", 4 << 10, 32},
	{"randwrite", 4 << 10, 1},
	{"randwrite", 4 << 10, 32},
	{"read", 128 << 10, 32},
	{"write", 128 << 10, 32},
}

func (w workload) String() string { return fmt.Sprintf("%s %dk depth %d", w.rw, w.bytes>>10, w.depth) }

func (w workload) writes() bool { return strings.HasSuffix(w.rw, "write") }

// A figure is what one run reached.
type figure struct {
	IOPS    float64 `json:"iops"`
	MiBs    float64 `json:"mib_s"`
	Latency struct {
		P50  float64 `json:"p50"`
		P99  float64 `json:"p99"`
		P999 float64 `json:"p999"`
	} `json:"lat_us"`
	Errors uint64 `json:"errors"`
	Lost   uint64 `json:"lost"` // requests that were sent again; of datagrams only
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "udp" {
		exit(datagrams(os.Args[2:]))
	}
	rounds := flag.Int("rounds", 3, "rounds; the figures are medians")
	length := flag.Duration("runtime", 2*time.Second, "of each measurement")
	only := flag.String("only", "", "measure the workloads whose name has this in it")
	spin := flag.Duration("spin", 0, "let fabrid look for work for so long before it sleeps")
	program := flag.String("fabrid", "", "fabrid to measure (default: this tree's)")
	flag.Parse()
	exit(measure(*rounds, *length, *only, *spin, *program))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// measure runs everything and prints the table.
func measure(rounds int, length time.Duration, only string, spin time.Duration, program string) error {
	if rounds < 1 || length < 100*time.Millisecond {
		return fmt.Errorf("%d rounds of %v: want at least one of 100ms", rounds, length)
	}
	cores, err := cores()
	if err != nil {
		return err
	}
	if program == "" {
		dir, err := os.MkdirTemp("", "fabrid-bench")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		program = filepath.Join(dir, "fabrid")
		if out, err := exec.Command("go", "build", "-o", program, "github.com/fabrid/fabrid/cmd/fabrid").CombinedOutput(); err != nil {
			return fmt.Errorf("go build cmd/fabrid: %w\n%s", err, out)
		}
	}
	b := &bench{program: program, cores: cores, length: length, spin: spin}
	if err := b.serve(); err != nil {
		return err
	}
	defer b.stop()
	var rows []*row
	for _, w := range workloads {
		if strings.Contains(w.String(), only) {
			rows = append(rows, &row{workload: w})
		}
	}
	if len(rows) == 0 {
		return fmt.Errorf("no workload has %q in its name", only)
	}
	fmt.Printf("%s, %s/%s, target on core %d, host on core %d, load average %s; %d rounds of %v\n\n",
		kernel(), runtime.GOOS, runtime.GOARCH, cores[0], cores[1], loadAverage(), rounds, length)
	for round := range rounds {
		for _, r := range rows {
			fmt.Fprintf(os.Stderr, "round %d of %d: %v\n", round+1, rounds, r.workload)
			// Whatever comes and goes on the machine meets both.
			for i := range 2 {
				if (round+i)%2 == 0 {
					err = r.fabrid.add(b.fabrid(r.workload))
				} else {
					err = r.udp.add(b.udp(r.workload))
				}
				if err != nil {
					return fmt.Errorf("%v: %w", r.workload, err)
				}
			}
		}
	}
	table(os.Stdout, rows)
	return nil
}

func kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown kernel"
	}
	return "Linux " + strings.TrimSpace(string(b))
}

func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	one, _, _ := strings.Cut(string(b), " ")
	return one
}

var errTooFewCores = errors.New("one core: two are needed, one for each end")
