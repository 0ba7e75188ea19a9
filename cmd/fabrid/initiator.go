package main

import (
	"context"
	"errors"
	"fmt"
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
	localAddr         string
	udpPort           uint16
	spin              time.Duration
}

// register adds the flags: those that say where to, and with io those of a
// controller that does I/O.
func (f *hostFlags) register(cmd *cobra.Command, io bool) {
	flags := cmd.Flags()
	flags.StringVarP(&f.transport, "transport", "t", "rdma", "fabric: rdma")
	flags.StringVarP(&f.traddr, "traddr", "a", "", "address of the target (required)")
	flags.Uint16VarP(&f.trsvcid, "trsvcid", "s", fabric.DefaultPort, "port of the target")
	flags.StringVarP(&f.hostNQN, "hostnqn", "q", "", "name of this host (default one of this machine's)")
	flags.StringVar(&f.localAddr, "local-addr", "", "address of this host (default: the one that leads to the target)")
	flags.Uint16Var(&f.udpPort, "udp-port", roce.Port, "UDP port of RoCEv2, if the target is a fabrid with another")
	flags.IntVarP(&f.keepAlive, "keep-alive-tmo", "k", 5, "keep alive timeout in seconds, 0 for none")
	if io {
		flags.StringVarP(&f.nqn, "nqn", "n", "", "name of the subsystem (default the only one that discovery finds)")
		flags.IntVarP(&f.nrIOQueues, "nr-io-queues", "i", 1, "I/O queues")
		flags.IntVarP(&f.queueSize, "queue-size", "Q", host.DefaultQueueSize, "size of an I/O queue")
		flags.IntVarP(&f.reconnectDelay, "reconnect-delay", "c", 10, "seconds between attempts to reconnect")
		flags.IntVarP(&f.ctrlLoss, "ctrl-loss-tmo", "l", 600, "seconds until a lost controller is given up, 0 for at once, -1 for never")
		flags.DurationVar(&f.spin, "spin", 0, "look for work for so long before sleeping, such as 20us: lower latency for a busy core")
	}
	if err := cmd.MarkFlagRequired("traddr"); err != nil {
		cobra.CheckErr(err)
	}
}

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
	if f.localAddr != "" {
		if cfg.Addr, err = netip.ParseAddr(f.localAddr); err != nil {
			return nil, fmt.Errorf("--local-addr %q: want an IP address of this machine", f.localAddr)
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

// config describes the controller that the flags name.
func (p *program) config(f *hostFlags, i *initiator) host.Config {
	return host.Config{
		Dialer: i.dialer, Remote: i.remote,
		NQN: f.nqn, HostNQN: f.hostNQN, HostID: machineUUID("host"),
		NrIOQueues: f.nrIOQueues, QueueSize: f.queueSize,
		KATO:           seconds(f.keepAlive),
		ReconnectDelay: time.Duration(f.reconnectDelay) * time.Second,
		CtrlLossTMO:    seconds(f.ctrlLoss),
		Events:         hostEvents(p.log),
	}
}

// connect connects to the subsystem that the flags name, or to the only one
// that there is.
func (p *program) connect(ctx context.Context, f *hostFlags, i *initiator) (*host.Controller, error) {
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
