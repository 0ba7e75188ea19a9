package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/nvme"
)

func (p *program) discoverCommand() *cobra.Command {
	var f hostFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "discover",
		Short:   "Show what a target offers",
		Long:    "Show what a target offers, as nvme discover does: its discovery log page.",
		Example: "  fabrid discover -t rdma -a 192.0.2.1 -s 4420",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return p.discover(cmd.Context(), &f, asJSON) },
	}
	f.register(cmd, false)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (p *program) discover(ctx context.Context, f *hostFlags, asJSON bool) (err error) {
	ctx, stop := untilSignal(ctx)
	defer stop()
	i, err := p.openInitiator(ctx, f)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, i.close()) }()
	defer p.sayUnanswered(i)()
	log, err := host.Discover(ctx, host.Config{Dialer: i.dialer, Remote: i.remote, HostNQN: f.hostNQN, HostID: machineUUID("host"), Events: hostEvents(p.log)})
	if err != nil {
		return err
	}
	d := describe(log)
	if asJSON {
		out := json.NewEncoder(p.stdout)
		out.SetIndent("", "  ")
		return out.Encode(d)
	}
	d.print(p.stdout)
	return nil
}

// A discoveryLog is the discovery log page as nvme-cli shows it.
type discoveryLog struct {
	GENCTR  uint64           `json:"genctr"`
	Records []discoveryEntry `json:"records"`
}

type discoveryEntry struct {
	TRTYPE  string `json:"trtype"`
	ADRFAM  string `json:"adrfam"`
	SUBTYPE string `json:"subtype"`
	TREQ    string `json:"treq"`
	PORTID  uint16 `json:"portid"`
	TRSVCID string `json:"trsvcid"`
	SUBNQN  string `json:"subnqn"`
	TRADDR  string `json:"traddr"`
	EFLAGS  string `json:"eflags"`

	// Of RDMA alone.
	PRTYPE string `json:"rdma_prtype,omitempty"`
	QPTYPE string `json:"rdma_qptype,omitempty"`
	CMS    string `json:"rdma_cms,omitempty"`
	PKEY   string `json:"rdma_pkey,omitempty"`
}

func describe(log *nvme.DiscoveryLog) discoveryLog {
	d := discoveryLog{GENCTR: log.GENCTR, Records: []discoveryEntry{}}
	for _, e := range log.Entries {
		r := discoveryEntry{
			TRTYPE: e.TRTYPE.String(), ADRFAM: e.ADRFAM.String(), SUBTYPE: e.SUBTYPE.String(), TREQ: treq(e.TREQ),
			PORTID: e.PORTID, TRSVCID: e.TRSVCID, SUBNQN: e.SUBNQN, TRADDR: e.TRADDR, EFLAGS: eflags(e.EFLAGS),
		}
		if e.TRTYPE == nvme.TransportRDMA {
			t := e.TSAS.RDMA()
			r.PRTYPE = word(t.PRTYPE, map[uint8]string{
				nvme.RDMAProviderNone: "not specified", nvme.RDMAProviderIB: "infiniband", nvme.RDMAProviderRoCE: "roce",
				nvme.RDMAProviderRoCEv2: "roce-v2", nvme.RDMAProviderIWARP: "iwarp",
			})
			r.QPTYPE = word(t.QPTYPE, map[uint8]string{nvme.RDMAQPTypeRC: "connected", nvme.RDMAQPTypeRD: "datagram"})
			r.CMS = word(t.CMS, map[uint8]string{nvme.RDMACMSRDMACM: "rdma-cm"})
			r.PKEY = fmt.Sprintf("%#04x", t.PKEY)
		}
		d.Records = append(d.Records, r)
	}
	return d
}

func word(v uint8, words map[uint8]string) string {
	if w, ok := words[v]; ok {
		return w
	}
	return fmt.Sprintf("%d", v)
}

func treq(t uint8) string {
	s := word(t&3, map[uint8]string{nvme.TREQNotSpecified: "not specified", nvme.TREQRequired: "required", nvme.TREQNotRequired: "not required"})
	if t&nvme.TREQDisableSQFlowOK != 0 {
		s += ", sq flow control disable supported"
	}
	return s
}

func eflags(f uint16) string {
	s := ""
	for _, e := range []struct {
		bit  uint16
		name string
	}{
		{nvme.EFLAGSDuplicate, "duplicate discovery information"},
		{nvme.EFLAGSPersistent, "explicit discovery connections"},
		{nvme.EFLAGSNoCDC, "no cdc"},
	} {
		if f&e.bit != 0 {
			if s != "" {
				s += ", "
			}
			s += e.name
		}
	}
	if s == "" {
		return "none"
	}
	return s
}

func (d discoveryLog) print(w io.Writer) {
	fmt.Fprintf(w, "\nDiscovery Log Number of Records %d, Generation counter %d\n", len(d.Records), d.GENCTR)
	for i, e := range d.Records {
		fmt.Fprintf(w, "=====Discovery Log Entry %d======\n", i)
		for _, f := range [][2]string{
			{"trtype", e.TRTYPE}, {"adrfam", e.ADRFAM}, {"subtype", e.SUBTYPE}, {"treq", e.TREQ},
			{"portid", fmt.Sprint(e.PORTID)}, {"trsvcid", e.TRSVCID}, {"subnqn", e.SUBNQN}, {"traddr", e.TRADDR}, {"eflags", e.EFLAGS},
			{"rdma_prtype", e.PRTYPE}, {"rdma_qptype", e.QPTYPE}, {"rdma_cms", e.CMS}, {"rdma_pkey", e.PKEY},
		} {
			if f[1] != "" {
				fmt.Fprintf(w, "%-12s %s\n", f[0]+":", f[1])
			}
		}
	}
}
