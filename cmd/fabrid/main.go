// Fabrid serves storage over NVMe over Fabrics, and uses what others serve. See
// README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/pprof"

	"github.com/spf13/cobra"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// run runs the program and returns its exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	p := &program{stdout: stdout, stderr: stderr, stopProfile: func() {}}
	root := &cobra.Command{
		Use:   "fabrid",
		Short: "NVMe over Fabrics with its own RDMA: a target and a host",
		Long: "fabrid serves storage over NVMe over Fabrics, and uses what others serve, with RoCEv2\n" +
			"over plain UDP sockets: no kernel module, no RNIC, no root.",
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("log-level") && cmd.Name() == "serve" {
				p.logLevel = "info" // an operator wants to know who comes and goes
			}
			if err := p.openLog(); err != nil {
				return err
			}
			return p.startProfile()
		},
	}
	defer func() { p.stopProfile() }()
	root.PersistentFlags().StringVar(&p.logLevel, "log-level", "warn", "what to log on stderr: debug, info, warn or error; serve: info")
	root.PersistentFlags().StringVar(&p.cpuProfile, "cpuprofile", "", "write a CPU profile for go tool pprof to this file")
	root.AddCommand(p.serveCommand(), p.discoverCommand(), p.benchCommand(), p.demoCommand())
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", cmd.CommandPath(), err)
		if h := hint(err); h != "" {
			fmt.Fprintf(stderr, "%s\n", h)
		}
		return 1
	}
	return 0
}

// A program is what the commands have in common.
type program struct {
	stdout, stderr io.Writer
	logLevel       string
	log            *slog.Logger
	cpuProfile     string
	stopProfile    func()
}

func (p *program) openLog() error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(p.logLevel)); err != nil {
		return fmt.Errorf("--log-level %q: want debug, info, warn or error", p.logLevel)
	}
	p.log = slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: level}))
	return nil
}

func (p *program) startProfile() error {
	if p.cpuProfile == "" {
		return nil
	}
	f, err := os.Create(p.cpuProfile)
	if err != nil {
		return fmt.Errorf("--cpuprofile: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return errors.Join(fmt.Errorf("--cpuprofile: %w", err), f.Close())
	}
	p.stopProfile = func() {
		pprof.StopCPUProfile()
		if err := f.Close(); err != nil {
			p.log.Error("CPU profile", "err", err)
		}
	}
	return nil
}
