package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/fabric"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/target"
	"github.com/fabrid/fabrid/transport/rdma"
	"github.com/fabrid/fabrid/verbs/roce"
)

// Bounds of the way out: for taking leave of hosts that answer, for the release
// of all queues, and for everything.
const (
	leaveInOrderTimeout = 1500 * time.Millisecond
	shutdownTimeout     = 4 * time.Second
	exitTimeout         = 4500 * time.Millisecond
)

// nsid is the namespace that serve has.
const nsid = 1

// serveFlags are the flags of serve.
type serveFlags struct {
	addrs   []string
	port    uint16
	udpPort uint16
	nqn     string
	storage storageFlags

	useSRQ       bool
	srqSize      int
	inline       size
	maxQueueSize int
	spin         time.Duration

	maxQueues        int
	maxQueuesPerPort int
	maxQueuesPerHost int
	memoryBudget     size
	memoryPerPort    size
	memoryPerHost    size
	maxConnecting    int

	adminSocket string
}

func (p *program) serveCommand() *cobra.Command {
	f := serveFlags{
		port: fabric.DefaultPort, udpPort: roce.Port,
		storage: storageFlags{size: 256 << 20, blockSize: bdev.DefaultBlockSize},
		srqSize: rdma.DefaultSRQSize, inline: rdma.DefaultInlineDataSize, maxQueueSize: rdma.DefaultMaxQueueSize,
		maxQueues: 1024, memoryBudget: 1 << 30,
	}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve a namespace",
		Long: "Serve a namespace over NVMe/RDMA, on RoCEv2 over UDP, until SIGINT or SIGTERM. SIGUSR1 prints\n" +
			"counters, a line of JSON on stderr. Any host that reaches it may connect, read and write.",
		Example: "  fabrid serve\n  fabrid serve --addr 192.0.2.1 --file disk.img --size 10GiB\n  fabrid serve --device /dev/vdb",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return p.serve(cmd.Context(), f) },
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&f.addrs, "addr", nil, "addresses to serve at, 0.0.0.0 and :: for all of a family (default all of both)")
	flags.Var((*port)(&f.port), "port", "port of NVMe/RDMA (trsvcid)")
	flags.Var((*port)(&f.udpPort), "udp-port", "UDP port of RoCEv2; Linux and hardware know no other")
	flags.StringVar(&f.nqn, "nqn", "", "name of the subsystem (default one made of this machine, the addresses, ports, and --file or --device)")
	flags.BoolVar(&f.useSRQ, "use-srq", false, "let the queues share their receives")
	flags.Var(number{&f.srqSize, 16, 1<<15 - 1}, "srq-size", "receives that --use-srq has the I/O queues share, at each address")
	flags.Var(&f.inline, "inline-data-size", "data that a write command may carry in its capsule, 0 for none")
	flags.Var(number{&f.maxQueueSize, 2, 1<<16 - 1}, "max-queue-size", "largest I/O queue")
	flags.Var(number{&f.maxQueues, 1, math.MaxInt32}, "max-queues", "queues that may exist at once, of all hosts; admin queues count")
	flags.Var(number{&f.maxQueuesPerPort, 0, math.MaxInt32}, "max-queues-per-port", "queues that may exist at each address, of all hosts, 0 for no bound")
	flags.Var(number{&f.maxQueuesPerHost, 0, math.MaxInt32}, "max-queues-per-host", "queues that a host may have, by its address and adapter, 0 for no bound")
	flags.Var(number{&f.maxConnecting, 0, math.MaxInt32}, "max-connecting", "queues that may exist without a successful Connect command, a quarter of it of one host\n(default a quarter of what --max-queues and --memory-budget have room for)")
	flags.Var(&f.memoryBudget, "memory-budget", "memory for queues and their data, without the namespace, 0 for no bound;\nwith the program itself no more than 48 MiB above it is resident")
	flags.Var(&f.memoryPerPort, "memory-per-port", "memory that the queues at each address may take, 0 for no bound")
	flags.Var(&f.memoryPerHost, "memory-per-host", "memory that the queues of a host may take, 0 for no bound")
	flags.StringVar(&f.adminSocket, "admin-socket", "", "Unix socket, for the user alone, with /metrics, /debug/queues and /debug/workqueues\n(default none; curl --unix-socket PATH http://fabrid/metrics)")
	flags.Var((*span)(&f.spin), "spin", spinUsage)
	f.storage.add(cmd)
	return cmd
}

// defaultNQN is a name that stays the same when the same is served again. What
// else a machine serves has another: hosts take subsystems and namespaces of one
// name for one, and would mix up their data.
func (f *serveFlags) defaultNQN() string {
	return nvme.UUIDNQN(machineUUID(fmt.Sprintf("target %q %d %d %q", slices.Sorted(slices.Values(f.addrs)), f.port, f.udpPort, f.storage.path())))
}

// A server is a running target.
type server struct {
	node    *fabric.Node
	target  *target.Target
	sub     *target.Subsystem
	dev     bdev.Device
	serving atomic.Pointer[target.Subsystem] // sub, when it has the namespace
	roce    []*fabric.RoCE
	listens []*rdma.Listener
	plan    plan
	admin   *adminSocket // nil without
}

func (p *program) serve(ctx context.Context, f serveFlags) error {
	ctx, stop := untilSignal(ctx)
	defer stop()
	usr1 := make(chan os.Signal, 1)
	signal.Notify(usr1, syscall.SIGUSR1)
	defer signal.Stop(usr1)

	if f.nqn == "" {
		f.nqn = f.defaultNQN()
	}
	s, what, err := p.startServer(f)
	if err != nil {
		return err
	}
	info := s.dev.Info()
	bytes := size(info.Size())
	fmt.Fprintf(p.stdout, "serving %s: %s %s, blocks of %d bytes\n", f.nqn, &bytes, what, info.BlockSize)
	var at []netip.Addr
	if d, ok := s.dev.(*bdev.File); ok {
		fmt.Fprintf(p.stdout, "  %s\n", ioMode(d.Mode()))
	}
	for _, l := range s.listens {
		fmt.Fprintf(p.stdout, "  at %v, RoCEv2 on UDP port %d\n", l.Addr(), f.udpPort)
		at = append(at, l.Addr().Addr())
	}
	printLines(p.stdout, at, f)
	fmt.Fprintln(p.stdout, "\nready")

	for {
		select {
		case <-usr1:
			if err := s.printCounters(p.stderr); err != nil {
				p.log.Error("counters", "err", err)
			}
		case <-ctx.Done():
			p.log.Info("shutting down")
			return s.stop()
		}
	}
}

// startServer makes a target and has it listen.
func (p *program) startServer(f serveFlags) (s *server, what string, err error) {
	pl, err := f.plan()
	if err != nil {
		return nil, "", err
	}
	srv := &server{plan: pl}
	srv.dev, what, err = f.storage.open(func(i bdev.Info) { srv.resized(p.log, i) })
	if err != nil {
		return nil, "", err
	}
	s = srv
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	if f.adminSocket != "" {
		if s.admin, err = listenAdmin(f.adminSocket); err != nil {
			return s, "", err
		}
	}
	s.plan.apply()
	s.target = target.New(target.Config{Events: targetEvents(p.log), LeaveTimeout: leaveInOrderTimeout / 3, CloseTimeout: leaveInOrderTimeout})
	if s.sub, err = s.target.AddSubsystem(target.SubsystemConfig{NQN: f.nqn, AllowAnyHost: true, MaxQueueDepth: f.maxQueueSize}); err != nil {
		return s, "", err
	}
	ns, err := s.sub.AddNamespace(target.NamespaceConfig{NSID: nsid, Device: s.dev})
	if err != nil {
		return s, "", err
	}
	s.serving.Store(s.sub)
	if now := s.dev.Info(); now != ns.Info() {
		s.resized(p.log, now)
	}
	port, err := s.target.AddPort(target.PortConfig{ID: 1})
	if err != nil {
		return s, "", err
	}
	if err = port.Link(s.sub); err != nil {
		return s, "", err
	}
	if s.node, err = fabric.NewNode(fabric.Config{Limits: s.plan.limits, CMEvents: cmEvents(p.log), Spin: f.spin}); err != nil {
		return s, "", err
	}
	if err = s.listen(p, f, port); err != nil {
		return s, "", err
	}
	if s.admin != nil {
		err = s.administer(f)
	}
	return s, what, err
}

// addresses returns where to listen.
func (f *serveFlags) addresses() []string {
	if len(f.addrs) == 0 {
		return []string{"0.0.0.0", "::"}
	}
	return f.addrs
}

// listen opens a device at each address and listens there.
func (s *server) listen(p *program, f serveFlags, port *target.Port) error {
	everywhere := len(f.addrs) == 0
	for _, text := range f.addresses() {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("--addr %q: want an IP address of this machine; 0.0.0.0 and :: stand for all", text)
		}
		err = s.listenAt(p, f, port, addr.Unmap())
		if err != nil && everywhere && addr.Is6() && len(s.listens) > 0 {
			p.log.Debug("no IPv6", "err", err)
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *server) listenAt(p *program, f serveFlags, port *target.Port, addr netip.Addr) error {
	if err := checkPortFree(netip.AddrPortFrom(addr, f.udpPort)); err != nil {
		return err
	}
	device, err := s.node.OpenRoCE(roce.Config{Addr: addr, UDPPort: f.udpPort})
	if err != nil {
		return err
	}
	s.roce = append(s.roce, device)
	cfg := s.plan.listener
	cfg.Core, cfg.Addr, cfg.Events = port, netip.AddrPortFrom(addr, f.port), rdmaEvents(p.log)
	cfg.Gate = s.node.NewGate(s.plan.port)
	l, err := device.Listen(cfg)
	if err != nil {
		return err
	}
	s.listens = append(s.listens, l)
	return nil
}

// printLines prints how to reach what listens at the addresses.
func printLines(w io.Writer, listens []netip.Addr, f serveFlags) {
	var reach []netip.Addr
	for _, a := range listens {
		if a.Is4() && a.IsUnspecified() {
			reach = append(reach, netip.MustParseAddr("127.0.0.1"))
		}
		reach = append(reach, addresses(a)...)
	}
	others := slices.DeleteFunc(slices.Clone(reach), netip.Addr.IsLoopback)
	if f.udpPort == roce.Port && len(others) > 0 {
		fmt.Fprintln(w, "\nfrom a Linux host (eth0 is its interface; it needs no rxe0 if it has an RDMA NIC):")
		fmt.Fprintln(w, "  modprobe -a nvme-rdma rdma_rxe; rdma link add rxe0 type rxe netdev eth0")
		for _, a := range others {
			fmt.Fprintf(w, "  nvme discover -t rdma -a %v -s %d\n", fromOutside(a), f.port)
			fmt.Fprintf(w, "  nvme connect -t rdma -a %v -s %d -n %s\n", fromOutside(a), f.port, f.nqn)
		}
	}
	fmt.Fprintln(w, "\nwithout a kernel that knows RDMA (this overwrites what is there):")
	udp := ""
	if f.udpPort != roce.Port {
		udp = fmt.Sprintf(" --udp-port %d", f.udpPort)
	}
	for _, a := range reach {
		where := ""
		if a.IsLoopback() {
			where = " # on this machine"
		}
		fmt.Fprintf(w, "  fabrid bench -t rdma -a %v -s %d -n %s --rw randrw --verify%s%s\n", fromOutside(a), f.port, f.nqn, udp, where)
	}
}

// fromOutside is an address of this machine as another has it: a link-local one
// is reached by an interface of that.
func fromOutside(a netip.Addr) netip.Addr {
	if a.Is6() && a.IsLinkLocalUnicast() {
		return a.WithZone("eth0")
	}
	return a
}

// stop takes leave of the hosts and frees everything, in order: no new
// connection, leave of those there are, the releases of their queues, the rest.
// It returns within exitTimeout, with an error if something is left then.
func (s *server) stop() error {
	done := make(chan error, 1)
	go func() { done <- s.stopInOrder() }()
	select {
	case err := <-done:
		return err
	case <-time.After(exitTimeout):
		if s.admin != nil {
			_ = removeIf(s.admin.path, s.admin.file) // close has not come to it
		}
		return fmt.Errorf("shutdown is not done after %v", exitTimeout)
	}
}

func (s *server) stopInOrder() error {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	var errs []error
	for _, l := range s.listens {
		errs = append(errs, l.Close())
	}
	var late error
	if s.target != nil {
		late = s.target.Close()
	}
	if s.node != nil {
		errs = append(errs, s.node.Close(ctx))
	}
	if late != nil {
		// Hosts that do not answer have been left without a word by now.
		errs = append(errs, s.target.Close())
	}
	if s.admin != nil {
		errs = append(errs, s.admin.close()) // so late that what hangs could be seen
	}
	s.plan.undo()
	return errors.Join(append(errs, s.dev.Close())...)
}

// counters is the line that SIGUSR1 prints. Scripts depend on its names; queues
// comes first.
type counters struct {
	fabric.Counts
	Controllers int               `json:"controllers"`
	Commands    target.Stats      `json:"commands"`
	RoCE        map[string]uint64 `json:"roce"` // those that are not zero
	Delete      deleteCounters    `json:"delete_workqueue"`
}

// deleteCounters is what the workqueue that releases queues is doing.
type deleteCounters struct {
	Pending   int    `json:"pending"`
	Running   int    `json:"running"`
	Completed uint64 `json:"completed"`
}

func (s *server) counters() counters {
	del, _ := s.node.Workqueues()
	wq := del.Stats()
	c := counters{
		Counts:      s.node.Counts(),
		Controllers: s.target.Counts().Controllers,
		Commands:    s.sub.Stats(),
		RoCE:        make(map[string]uint64),
		Delete:      deleteCounters{wq.Pending, len(wq.Running), wq.Completed},
	}
	for _, r := range s.roce {
		addStats(c.RoCE, r.Device.Stats())
	}
	return c
}

func (s *server) printCounters(w io.Writer) error {
	return json.NewEncoder(w).Encode(s.counters())
}
