package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/fabrid/fabrid/fabric"
	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
	"github.com/fabrid/fabrid/verbs/roce"
)

// hostFlags are the flags of who connects somewhere, with nvme-cli's names.
type hostFlags struct {
	transport, traddr string
	trsvcid           uint16
	nqn, hostNQN      string
	nrIOQueues        int
	queueSize         int
	keepAlive         int
	reconnectDelay    int
	ctrlLoss          int
	fastIOFail        int
	hostTraddr        string
	udpPort           uint16
	spin              time.Duration
}

// register adds the flags: those that say where to, and with io those of a
// controller that does I/O.
func (f *hostFlags) register(cmd *cobra.Command, io bool) {
	flags := cmd.Flags()
	flags.StringVarP(&f.transport, "transport", "t", "rdma", "fabric: rdma")
	flags.StringVarP(&f.traddr, "traddr", "a", "", "address of the target (required)")
	f.trsvcid, f.udpPort = fabric.DefaultPort, roce.Port
	flags.VarP((*port)(&f.trsvcid), "trsvcid", "s", "port of the target")
	flags.StringVarP(&f.hostNQN, "hostnqn", "q", "", "name of this host (default one of this machine's)")
	flags.StringVarP(&f.hostTraddr, "host-traddr", "w", "", "address of this host (default the one that leads to the target)")
	flags.Var((*port)(&f.udpPort), "udp-port", "UDP port of RoCEv2, if the target is a fabrid with another")
	if io {
		f.nrIOQueues, f.queueSize = 1, host.DefaultQueueSize
		f.keepAlive, f.reconnectDelay, f.ctrlLoss = 5, 10, 600
		flags.StringVarP(&f.nqn, "nqn", "n", "", "name of the subsystem (default the only one that discovery finds)")
		flags.VarP(number{&f.nrIOQueues, 1, 65534}, "nr-io-queues", "i", "I/O queues")
		flags.VarP(number{&f.queueSize, host.MinQueueSize, host.MaxQueueSize}, "queue-size", "Q", "size of an I/O queue; one command less can be outstanding on it")
		flags.VarP(number{&f.keepAlive, 0, math.MaxUint32 / 1000}, "keep-alive-tmo", "k", "keep alive timeout in seconds, 0 for none")
		flags.VarP(number{&f.reconnectDelay, 1, math.MaxInt32}, "reconnect-delay", "c", "seconds before each attempt to reconnect")
		flags.VarP(number{&f.ctrlLoss, -1, math.MaxInt32}, "ctrl-loss-tmo", "l",
			"seconds after a loss of the connection to give up; 0 for at once, -1 for never")
		f.fastIOFail = -1
		flags.Var(number{&f.fastIOFail, -1, math.MaxInt32}, "fast-io-fail-tmo",
			"seconds after a loss for which I/O waits before it fails, while attempts to reconnect go on; -1 for as long as they do")
		flags.Var((*span)(&f.spin), "spin", spinUsage)
	}
	if err := cmd.MarkFlagRequired("traddr"); err != nil {
		cobra.CheckErr(err)
	}
}

const spinUsage = "look for work for so long before sleeping, such as 20us: lower latency for a busy core"

// An initiator is a host's end of a fabric.
type initiator struct {
	node   *fabric.Node
	device *fabric.RoCE
	dialer transport.Dialer
	remote netip.AddrPort
}

// openInitiator opens the device that leads to the target.
func (p *program) openInitiator(ctx context.Context, f *hostFlags) (_ *initiator, err error) {
	if f.transport != "rdma" {
		return nil, fmt.Errorf("--transport %s: only rdma is supported", f.transport)
	}
	remote, err := resolve(ctx, f.traddr)
	if err != nil {
		return nil, err
	}
	cfg := roce.Config{UDPPort: f.udpPort}
	if f.hostTraddr != "" {
		if cfg.Addr, err = netip.ParseAddr(f.hostTraddr); err != nil {
			return nil, fmt.Errorf("--host-traddr %q: want an IP address of this machine", f.hostTraddr)
		}
		if err := checkPortFree(netip.AddrPortFrom(cfg.Addr.Unmap(), f.udpPort)); err != nil {
			return nil, err
		}
	}
	i := &initiator{remote: netip.AddrPortFrom(remote, f.trsvcid)}
	if i.node, err = fabric.NewNode(fabric.Config{CMEvents: cmEvents(p.log), Spin: f.spin}); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, i.close())
		}
	}()
	if i.device, err = i.node.OpenRoCETo(remote, cfg); err != nil {
		return nil, err
	}
	i.dialer, err = i.device.Dialer()
	return i, err
}

// unansweredAfter is when a user is told that there is no answer yet.
const unansweredAfter = 5 * time.Second

// sayUnanswered tells, after a while, what a connection waits for. The function
// that it returns ends that.
func (p *program) sayUnanswered(i *initiator) (stop func() bool) {
	return time.AfterFunc(unansweredAfter, func() { p.log.Warn("no answer yet", "remote", i.remote) }).Stop
}

func (i *initiator) close() error { return i.node.Close(context.Background()) }

// seconds turns a flag of seconds into a duration of host.Config, where zero is
// the default.
func seconds(n int) time.Duration {
	switch {
	case n < 0:
		return host.Forever
	case n == 0:
		return host.Off
	}
	return time.Duration(n) * time.Second
}

// fastIOFail is seconds for --fast-io-fail-tmo, where negative means not to fail,
// and zero at once.
func fastIOFail(n int) time.Duration {
	switch {
	case n < 0:
		return host.Off
	case n == 0:
		return time.Nanosecond
	}
	return time.Duration(n) * time.Second
}

// config describes the controller that the flags name.
func (p *program) config(f *hostFlags, i *initiator) host.Config {
	return host.Config{
		Dialer: i.dialer, Remote: i.remote,
		NQN: f.nqn, HostNQN: f.hostNQN, HostID: machineUUID("host"),
		NrIOQueues: f.nrIOQueues, QueueSize: f.queueSize,
		KATO:           seconds(f.keepAlive),
		ReconnectDelay: time.Duration(f.reconnectDelay) * time.Second,
		CtrlLossTMO:    seconds(f.ctrlLoss),
		FastIOFailTMO:  fastIOFail(f.fastIOFail),
		Events:         hostEvents(p.log),
	}
}

// connect connects to the subsystem that the flags name, or to the only one
// that there is.
func (p *program) connect(ctx context.Context, f *hostFlags, i *initiator) (*host.Controller, error) {
	defer p.sayUnanswered(i)()
	cfg := p.config(f, i)
	if cfg.NQN == "" {
		var err error
		if cfg.NQN, err = onlySubsystem(ctx, cfg); err != nil {
			return nil, err
		}
	}
	return host.Connect(ctx, cfg)
}

func onlySubsystem(ctx context.Context, cfg host.Config) (string, error) {
	log, err := host.Discover(ctx, cfg)
	if err != nil {
		return "", err
	}
	found := make(map[string]bool)
	nqn := ""
	for _, e := range log.Entries {
		if e.SUBTYPE == nvme.SubsystemNVM {
			found[e.SUBNQN], nqn = true, e.SUBNQN
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%d subsystems at %v: name one with --nqn; fabrid discover shows them", len(found), cfg.Remote)
	}
	return nqn, nil
}
