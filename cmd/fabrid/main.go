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
	"os/signal"
	"runtime/debug"
	"runtime/pprof"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// run runs the program and returns its exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return runWith(ctx, args, os.Stdin, stdout, stderr)
}

// runWith is run with an input.
func runWith(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	out := &checkedWriter{w: stdout}
	p := &program{stdin: stdin, data: stdout, stdout: out, stderr: stderr, stopProfile: func() {}}
	root := &cobra.Command{
		Use:   "fabrid",
		Short: "NVMe over Fabrics with its own RDMA: a target and a host",
		Long: "fabrid serves storage over NVMe over Fabrics, and uses what others serve, with RoCEv2\n" +
			"over plain UDP sockets: no kernel module, no RNIC, no root.\n\n" +
			"The exit code is 0, or 1 with an error on stderr. A second SIGINT or SIGTERM ends it at once.",
		Version:       version(),
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
	root.AddCommand(p.serveCommand(), p.discoverCommand(), p.readCommand(), p.writeCommand(), p.benchCommand(), p.stormCommand(), p.demoCommand())
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(stderr)
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w; %s --help has the flags", err, cmd.CommandPath())
	})
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil && out.err != nil {
		err = fmt.Errorf("output: %w", out.err)
	}
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", cmd.CommandPath(), err)
		if h := hint(err); h != "" {
			fmt.Fprintf(stderr, "%s\n", h)
		}
		return 1
	}
	return 0
}

// version says what this program was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version + " " + info.GoVersion
}

// noArgs refuses arguments: everything is a flag.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := ""
	if cmd.Flags().Lookup("traddr") != nil {
		hint = ", an address with -a"
	}
	return fmt.Errorf("argument %q: want flags alone%s; %s --help has them", args[0], hint, cmd.CommandPath())
}

// untilSignal returns a context that ends with SIGINT or SIGTERM. A second one
// ends the process at once.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// A checkedWriter remembers the first error: output that nobody gets is one.
type checkedWriter struct {
	w   io.Writer
	err error
}

func (c *checkedWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	if c.err == nil {
		c.err = err
	}
	return n, err
}

// A program is what the commands have in common.
type program struct {
	stdin          io.Reader
	data           io.Writer // stdout, for who looks at errors
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
	p.log = slog.New(limitLog(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: level})))
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
