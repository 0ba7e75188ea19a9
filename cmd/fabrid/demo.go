package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/fabric"
	"github.com/fabrid/fabrid/host"
	"github.com/fabrid/fabrid/load"
	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/verbs/roce"
)

const (
	demoSize  = 64 << 20
	demoWrite = 16 << 20
)

func (p *program) demoCommand() *cobra.Command {
	runtime := span(2 * time.Second)
	asJSON := false
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "A target and a host in this process, over RoCEv2 on loopback",
		Long: "Have a target and a host in this process, over RoCEv2 on loopback: write, read back, compare, and\n" +
			"measure six loads. The errors are counted; any makes the exit code 1.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return p.demo(cmd.Context(), time.Duration(runtime), asJSON)
		},
	}
	cmd.Flags().Var(&runtime, "runtime", "how long each measurement takes")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// A demoResult is what a demo prints as JSON.
type demoResult struct {
	Target       string         `json:"target"`
	Host         string         `json:"host"`
	Subsystem    string         `json:"subsystem"`
	Compared     int            `json:"compared_bytes"` // written, read back, and the same
	Bench        []*load.Result `json:"bench"`
	Errors       uint64         `json:"errors"`
	VerifyErrors uint64         `json:"verify_errors"`
}

func (p *program) demo(ctx context.Context, runtime time.Duration, asJSON bool) (err error) {
	ctx, stop := untilSignal(ctx)
	defer stop()
	say := func(format string, args ...any) {
		if !asJSON {
			fmt.Fprintf(p.stdout, format, args...)
		}
	}

	// Away from the addresses of a target that may be running.
	addr, err := roce.ChooseAddr(netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		return err
	}
	r := &demoResult{Subsystem: nvme.UUIDNQN(machineUUID("demo"))}
	s, _, err := p.startServer(serveFlags{
		addrs: []string{addr.String()}, port: fabric.DefaultPort, udpPort: roce.Port, nqn: r.Subsystem,
		storage: storageFlags{size: demoSize, blockSize: bdev.DefaultBlockSize}, inline: 4096, maxQueueSize: 128,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	r.Target = s.listens[0].Addr().String()
	say("target: %s at %s\n", r.Subsystem, r.Target)

	f := hostFlags{transport: "rdma", traddr: addr.String(), nqn: r.Subsystem, trsvcid: fabric.DefaultPort, udpPort: roce.Port, keepAlive: 5, reconnectDelay: 1}
	i, err := p.openInitiator(ctx, &f)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, i.close()) }()
	r.Host = i.device.Device.Addr().Addr().String()
	c, err := p.connect(ctx, &f, i)
	if err != nil {
		return err
	}
	defer func() {
		if derr := disconnect(c); err == nil {
			err = derr
		}
	}()
	info := c.Info()
	say("host: connected from %s: controller %d, %s of %d entries\n", r.Host, info.CNTLID, count(info.Queues, "I/O queue"), info.QueueSize)

	if r.Compared, err = writeAndCompare(ctx, c); err != nil {
		return err
	}
	n := size(r.Compared)
	say("data: %s written, read back and the same\n\n", &n)

	for _, b := range []benchFlags{
		{rw: "randread", bs: 4 << 10, ioDepth: 1},
		{rw: "randread", bs: 4 << 10, ioDepth: 32},
		{rw: "randwrite", bs: 4 << 10, ioDepth: 32},
		{rw: "read", bs: 128 << 10, ioDepth: 32},
		{rw: "write", bs: 128 << 10, ioDepth: 32},
		{rw: "randrw", bs: 16 << 10, ioDepth: 32, verify: true},
	} {
		b.nsid, b.numJobs, b.runtime, b.rwMixRead, b.noProgress = 1, 1, span(runtime), 50, asJSON
		res, err := p.runBench(ctx, c, &b)
		if err != nil {
			return err
		}
		r.Bench = append(r.Bench, res)
		r.Errors += res.Errors
		r.VerifyErrors += res.VerifyErrors
		if !asJSON {
			demoLine(p, res)
		}
		if err := benchError(res); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	say("\nerrors %d, verify errors %d\n", r.Errors, r.VerifyErrors)
	if asJSON {
		return json.NewEncoder(p.stdout).Encode(r)
	}
	return nil
}

func demoLine(p *program, r *load.Result) {
	bs := size(r.BlockSize)
	l := r.Latency
	fmt.Fprintf(p.stdout, "%-9s %7s depth %2d: %8.0f IOPS %8.1f MiB/s, latency p50 %6.1f p99 %6.1f p99.9 %6.1f µs", r.Pattern, &bs, r.IODepth,
		r.IOPS, r.MiBs, l.P50, l.P99, l.P999)
	if r.Verified > 0 {
		fmt.Fprintf(p.stdout, ", %d blocks verified", r.Verified)
	}
	fmt.Fprintln(p.stdout)
}

// writeAndCompare writes rubbish, reads it back and returns how much was the
// same.
func writeAndCompare(ctx context.Context, c *host.Controller) (int, error) {
	ns, err := c.Namespace(1)
	if err != nil {
		return 0, err
	}
	data := make([]byte, demoWrite)
	seed := maphash.MakeSeed()
	for at := 0; at < len(data); at += 8 {
		v := maphash.Comparable(seed, at)
		for i := range 8 {
			data[at+i] = byte(v >> (8 * i))
		}
	}
	if err := ns.Write(ctx, 0, data); err != nil {
		return 0, err
	}
	if err := ns.Flush(ctx); err != nil {
		return 0, err
	}
	back := make([]byte, len(data))
	if err := ns.Read(ctx, 0, back); err != nil {
		return 0, err
	}
	if !bytes.Equal(data, back) {
		for i := range data {
			if data[i] != back[i] {
				return 0, fmt.Errorf("data: byte %d is %#02x, written was %#02x", i, back[i], data[i])
			}
		}
	}
	return len(data), nil
}
