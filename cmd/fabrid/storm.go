package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fabrid/fabrid/fabric"
	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/load"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/verbs/roce"
)

// stormFlags are the flags of storm.
type stormFlags struct {
	hostFlags
	hosts      int
	queues     int
	depth      int
	rate       float64
	runtime    span
	cycles     uint64
	hold       span
	abortAt    string
	vanish     float64
	timeout    span
	seed       uint64
	asJSON     bool
	noProgress bool
}

func (p *program) stormCommand() *cobra.Command {
	f := stormFlags{
		runtime: span(10 * time.Second), timeout: span(load.DefaultStormTimeout),
		hosts: 1, queues: 1, depth: load.DefaultStormDepth,
	}
	cmd := &cobra.Command{
		Use:   "storm",
		Short: "Connect many hosts to a target and leave it, again and again, and measure",
		Long: "Connect many hosts to a target and leave it, again and again, and measure: for any NVMe/RDMA\n" +
			"target. Each host has an address, a node GUID and a name of its own. A cycle is the admin queue\n" +
			"(connection, Connect, CC.EN, CSTS.RDY, Set Features), the I/O queues, and the leave. A host that\n" +
			"is refused tries again at once, or when it is its turn with --rate.\n\n" +
			"--rate counts hosts, not queues: each is a connection of an admin queue and, if it is let in,\n" +
			"--queues more. With --queues 4 a rate of 200 is 1,000 connections of queues in a second.\n\n" +
			"Refusals and failures are what it counts: the exit code is 1 only if no host got anywhere. SIGINT or\n" +
			"SIGTERM has the hosts leave, with the report.",
		Example: "  fabrid storm -a 127.0.0.1 --hosts 256 --runtime 10s\n" +
			"  fabrid storm -a 127.0.0.1 --hosts 1000 --queues 4 --rate 1000 --runtime 60s --json\n" +
			"  fabrid storm -a 127.0.0.1 --hosts 100 --abort-at random --vanish 0.5\n" +
			"  fabrid storm -a 192.0.2.1 --hosts 50 --host-traddr 192.0.2.100-192.0.2.149",
		Args: noArgs,
		PreRun: func(cmd *cobra.Command, _ []string) {
			// Who stops dead does not say so.
			if !cmd.Flags().Changed("vanish") && f.abortAt != load.StageLive.String() {
				f.vanish = 1
			}
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return p.storm(cmd.Context(), &f) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.transport, "transport", "t", "rdma", "fabric: rdma")
	flags.StringVarP(&f.traddr, "traddr", "a", "", "address of the target (required)")
	f.trsvcid, f.udpPort, f.keepAlive = fabric.DefaultPort, roce.Port, 5
	flags.VarP((*port)(&f.trsvcid), "trsvcid", "s", "port of the target")
	flags.StringVarP(&f.nqn, "nqn", "n", "", "name of the subsystem (default the only one that discovery finds)")
	flags.StringVarP(&f.hostTraddr, "host-traddr", "w", "", "addresses of the hosts: FIRST, FIRST-LAST or a prefix (default on loopback: some of 127.0.0.0/8)")
	flags.Var((*port)(&f.udpPort), "udp-port", "UDP port of RoCEv2, if the target is a fabrid with another")
	flags.VarP(number{&f.keepAlive, 1, math.MaxUint32 / 1000}, "keep-alive-tmo", "k", "keep alive timeout in seconds, after which a target notices hosts that vanished")
	flags.Var((*span)(&f.spin), "spin", spinUsage)
	flags.Var(number{&f.hosts, 1, 1 << 16}, "hosts", "hosts")
	flags.Var(number{&f.queues, 0, load.MaxStormQueues}, "queues", "I/O queues of each host")
	flags.Var(number{&f.depth, 2, math.MaxUint16}, "depth", "size of an I/O queue")
	flags.Float64Var(&f.rate, "rate", 0, "hosts that begin to connect in a second, over all of them; each has an admin queue and\n--queues I/O queues to connect (default as many as can be)")
	flags.Var(&f.runtime, "runtime", "how long to run")
	flags.Uint64Var(&f.cycles, "cycles", 0, "end after so many cycles, if that is earlier")
	flags.Var(&f.hold, "hold", "how long a host stays that has connected all of its queues")
	flags.StringVar(&f.abortAt, "abort-at", load.StageLive.String(), "how far hosts get: "+strings.Join(load.StormStages(), ", "))
	flags.Float64Var(&f.vanish, "vanish", 0, "part of the leaves, 0 to 1, in which a host does not say that it leaves (with --abort-at default 1)")
	flags.Var(&f.timeout, "timeout", "how long a step of a host may take")
	flags.Uint64Var(&f.seed, "seed", 0, "make the same choices as another run with that seed, with the same names of hosts")
	flags.BoolVar(&f.asJSON, "json", false, "print JSON")
	flags.BoolVar(&f.noProgress, "no-progress", false, "no line of progress on a terminal")
	if err := cmd.MarkFlagRequired("traddr"); err != nil {
		cobra.CheckErr(err)
	}
	return cmd
}

func (p *program) storm(ctx context.Context, f *stormFlags) (err error) {
	ctx, stop := untilSignal(ctx)
	defer stop()
	if f.transport != "rdma" {
		return fmt.Errorf("--transport %s: only rdma is supported", f.transport)
	}
	stage, err := load.ParseStormStage(f.abortAt)
	if err != nil {
		return fmt.Errorf("--abort-at: %w", err)
	}
	if f.seed == 0 {
		f.seed = rand.Uint64()
	}
	remote, err := resolve(ctx, f.traddr)
	if err != nil {
		return err
	}
	addrs, err := stormAddrs(remote, f.hostTraddr, f.hosts)
	if err != nil {
		return err
	}
	var ports []netip.AddrPort
	for _, a := range addrs {
		ports = append(ports, netip.AddrPortFrom(a, f.udpPort))
	}
	if err := checkPortFree(ports...); err != nil {
		return err
	}
	node, err := fabric.NewNode(fabric.Config{CMEvents: cmEvents(p.log), Spin: f.spin})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close(context.Background())) }()
	devices, err := node.OpenRoCEs(addrs, roce.Config{UDPPort: f.udpPort}, f.nodeGUID)
	if err != nil {
		return err
	}
	cfg := load.StormConfig{
		Shard: node.Shard(), Remote: netip.AddrPortFrom(remote, f.trsvcid), NQN: f.nqn,
		Queues: f.queues, Depth: f.depth, KATO: time.Duration(f.keepAlive) * time.Second,
		Rate: f.rate, Hold: time.Duration(f.hold), AbortAt: stage, Vanish: f.vanish,
		Runtime: time.Duration(f.runtime), Cycles: f.cycles, Timeout: time.Duration(f.timeout), Seed: f.seed,
	}
	for _, d := range devices {
		cfg.Devices = append(cfg.Devices, d.Device)
	}
	if cfg.NQN == "" {
		dialer, err := devices[0].Dialer()
		if err != nil {
			return err
		}
		if cfg.NQN, err = onlySubsystem(ctx, host.Config{Dialer: dialer, Remote: cfg.Remote, HostID: machineUUID("host")}); err != nil {
			return err
		}
	}
	if !f.noProgress && isTerminal(p.stderr) {
		cfg.Progress = func(g load.StormProgress) { p.stormLine(g, cfg.Runtime) }
	}
	r, err := load.Storm(ctx, cfg)
	if cfg.Progress != nil {
		fmt.Fprint(p.stderr, clearLine)
	}
	if r == nil {
		return err
	}
	if f.asJSON {
		err = errors.Join(err, json.NewEncoder(p.stdout).Encode(r))
	} else {
		stormReport(p.stdout, r)
	}
	if err == nil && r.Cycles == 0 && r.Refused == 0 && r.Failed > 0 {
		err = fmt.Errorf("no host connected in %d attempts: %s", r.Attempts, r.FirstFailure)
	}
	return err
}

// nodeGUID is that of host i, locally administered.
func (f *stormFlags) nodeGUID(i int) uint64 {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], f.seed)
	binary.BigEndian.PutUint64(seed[8:], uint64(i))
	const local, group = 1 << 57, 1 << 56
	return rand.NewChaCha8(seed).Uint64()&^group | local
}

// stormAddrs returns addresses for n hosts that are to reach remote: those that
// the user named, or on loopback some that nobody else takes by himself.
func stormAddrs(remote netip.Addr, named string, n int) ([]netip.Addr, error) {
	first, last, err := addrRange(named)
	switch {
	case err != nil:
		return nil, err
	case named != "":
	case remote.Is4() && remote.IsLoopback():
		// Other hosts of this machine take theirs of 127.64.0.0/10.
		first = netip.AddrFrom4([4]byte{127, 128 + byte(rand.IntN(126)), byte(rand.IntN(128)), 1})
	case n == 1:
		a, err := roce.ChooseAddr(remote)
		return []netip.Addr{a}, err
	default:
		return nil, fmt.Errorf("%d hosts need as many addresses of this machine: name them with --host-traddr FIRST-LAST or PREFIX", n)
	}
	if first.Is4() != remote.Is4() {
		return nil, fmt.Errorf("--host-traddr %s: %v cannot reach %v", named, first, remote)
	}
	all := make([]netip.Addr, 0, n)
	for a := first; len(all) < n; a = a.Next() {
		if !a.IsValid() || last.IsValid() && last.Less(a) {
			return nil, fmt.Errorf("--host-traddr %s: %d addresses for %d hosts", named, len(all), n)
		}
		all = append(all, a)
	}
	return all, nil
}

// addrRange reads FIRST, FIRST-LAST or a prefix, whose first and, for IPv4, last
// addresses are no hosts'. Without an end last is invalid.
func addrRange(s string) (first, last netip.Addr, err error) {
	bad := fmt.Errorf("--host-traddr %q: want an IP address, FIRST-LAST or a prefix", s)
	if s == "" {
		return first, last, nil
	}
	if prefix, perr := netip.ParsePrefix(s); perr == nil {
		first, last = prefix.Masked().Addr().Unmap(), lastAddr(prefix)
		if prefix.Bits() < first.BitLen()-1 {
			first = first.Next()
			if first.Is4() {
				last = last.Prev()
			}
		}
		return first, last, nil
	}
	from, to, isRange := strings.Cut(s, "-")
	if first, err = netip.ParseAddr(from); err != nil {
		return first, last, bad
	}
	first = first.Unmap()
	if isRange {
		if last, err = netip.ParseAddr(to); err != nil || last.Unmap().Less(first) {
			return first, last, bad
		}
		last = last.Unmap()
	}
	return first, last, nil
}

// lastAddr is the last address of a prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b) // it has an address's length
	return a.Unmap()
}

func (p *program) stormLine(g load.StormProgress, runtime time.Duration) {
	what := fmt.Sprintf("%v of %v", g.Elapsed.Round(time.Second), runtime)
	if g.Ending {
		what = "the last hosts leave"
	}
	fmt.Fprintf(p.stderr, "%s%s: %d hosts live, %.0f connected/s, %.0f cycles/s, %.0f refused/s, %.0f failed/s", clearLine,
		what, g.Live, g.Rate.Connected, g.Rate.Cycles, g.Rate.Refused, g.Rate.Failed)
}

// stormReport prints what became of a storm.
func stormReport(w io.Writer, r *load.StormResult) {
	runtime := time.Duration(r.RuntimeMS * float64(time.Millisecond)).Round(time.Millisecond)
	fmt.Fprintf(w, "storm of %d hosts for %v: %d I/O queues each, seed %d\n\n", r.Hosts, runtime, r.Queues, r.Seed)
	fmt.Fprintf(w, "attempts  %10d\nconnected %10d, %d queues, at most %d hosts at once\n", r.Attempts, r.Connected, r.QueuesConnected, r.MaxLive)
	fmt.Fprintf(w, "cycles    %10d, %.0f/s\n", r.Cycles, r.CyclesSec)
	if r.Vanished > 0 {
		fmt.Fprintf(w, "vanished  %10d\n", r.Vanished)
	}
	if r.Short > 0 {
		fmt.Fprintf(w, "short     %10d were granted fewer I/O queues\n", r.Short)
	}
	for _, stage := range slices.Sorted(maps.Keys(r.Aborted)) {
		fmt.Fprintf(w, "aborted   %10d at %s\n", r.Aborted[stage], stage)
	}
	stormCounts(w, "refused", r.Refused, r.Refusals)
	stormCounts(w, "failed", r.Failed, r.Failures)
	if r.FirstFailure != "" {
		fmt.Fprintf(w, "  the first: %s\n", r.FirstFailure)
	}
	fmt.Fprintf(w, "\n%-8s latency/ms: %9s %9s %9s %9s %9s\n", "", "mean", "p50", "p90", "p99", "max")
	row := func(name string, l load.Latency) {
		fmt.Fprintf(w, "%-8s %21.3f %9.3f %9.3f %9.3f %9.3f\n", name, l.Mean/1e3, l.P50/1e3, l.P90/1e3, l.P99/1e3, l.Max/1e3)
	}
	row("connect", r.Connect)
	row("cycle", r.Cycle)
}

func stormCounts(w io.Writer, name string, total uint64, all []load.StormCount) {
	fmt.Fprintf(w, "%-9s %10d\n", name, total)
	for _, c := range all {
		what := c.What
		switch {
		case c.Reason == nvme.RDMACMConsumerReject:
			what = fmt.Sprintf("REJ reason %d status %d, %s", c.Reason, c.Status, what)
		case c.Reason != 0:
			what = fmt.Sprintf("REJ reason %d, %s", c.Reason, what)
		case c.Status != 0:
			what = fmt.Sprintf("status %#03x, %s", c.Status, what)
		}
		fmt.Fprintf(w, "  %10d %s: %s\n", c.Count, c.Step, what)
	}
}
