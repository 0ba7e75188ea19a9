package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A bench is what measurements have in common.
type bench struct {
	program string
	cores   [2]int // of the target, of the host
	length  time.Duration
	spin    time.Duration
	server  *exec.Cmd
	output  *watched
}

// Addresses of the ends.
const (
	targetAddress = "127.0.0.1"
	hostAddress   = "127.0.0.2"
	benchNQN      = "nqn.2014-08.org.example:bench"
	namespaceSize = "256MiB"
)

// cores returns two cores that this process may use.
func cores() (c [2]int, err error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return c, fmt.Errorf("sched_getaffinity: %w", err)
	}
	n := 0
	for i := 0; i < len(set)*64 && n < 2; i++ {
		if set.IsSet(i) {
			c[n] = i
			n++
		}
	}
	if n < 2 {
		return c, errTooFewCores
	}
	return c, nil
}

// start starts a command on one core. A process inherits the core from the
// thread that makes it.
func start(core int, cmd *exec.Cmd) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends with the goroutine
		var set unix.CPUSet
		set.Set(core)
		err := unix.SchedSetaffinity(0, &set)
		if err == nil {
			err = cmd.Start()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("%s on core %d: %w", cmd.Path, core, err)
	}
	return nil
}

// watched collects output and tells when it has a word.
type watched struct {
	word string
	seen chan struct{}
	text bytes.Buffer
	told bool
}

func (w *watched) Write(p []byte) (int, error) {
	w.text.Write(p)
	if !w.told && strings.Contains(w.text.String(), w.word) {
		w.told = true
		close(w.seen)
	}
	return len(p), nil
}

// serve starts the target and waits until it is ready.
func (b *bench) serve() error {
	b.server = exec.Command(b.program, "serve", "--addr", targetAddress, "--size", namespaceSize, "--nqn", benchNQN,
		"--log-level", "warn", "--spin", b.spin.String())
	b.output = &watched{word: "ready", seen: make(chan struct{})}
	b.server.Stdout, b.server.Stderr = b.output, os.Stderr
	if err := start(b.cores[0], b.server); err != nil {
		return err
	}
	select {
	case <-b.output.seen:
		return nil
	case <-time.After(10 * time.Second):
		b.stop()
		return fmt.Errorf("fabrid serve is not ready:\n%s", b.output.text.String())
	}
}

// stop ends the target.
func (b *bench) stop() {
	_ = b.server.Process.Signal(syscall.SIGTERM) // an error: it has ended
	if err := b.server.Wait(); err != nil {
		fmt.Fprintln(os.Stderr, "bench: fabrid serve:", err)
	}
}

// run runs a command on a core and decodes the JSON that it prints.
func run(core int, cmd *exec.Cmd, to any) error {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := start(core, cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out.String())
	}
	if err := json.Unmarshal(out.Bytes(), to); err != nil {
		return fmt.Errorf("%s: %w in %s", strings.Join(cmd.Args, " "), err, out.String())
	}
	return nil
}

// fabrid measures a workload with fabrid.
func (b *bench) fabrid(w workload) (f figure, err error) {
	cmd := exec.Command(b.program, "bench", "-a", targetAddress, "--host-traddr", hostAddress, "-n", benchNQN,
		"--rw", w.rw, "--bs", strconv.Itoa(w.bytes), "--iodepth", strconv.Itoa(w.depth), "--runtime", b.length.String(),
		"--json", "--log-level", "warn", "--spin", b.spin.String())
	if err := run(b.cores[1], cmd, &f); err != nil {
		return f, err
	}
	if f.Errors != 0 || f.IOPS == 0 {
		return f, fmt.Errorf("fabrid bench: %d errors, %.0f IOPS", f.Errors, f.IOPS)
	}
	return f, nil
}

// udp measures a workload with datagrams.
func (b *bench) udp(w workload) (f figure, err error) {
	self, err := os.Executable()
	if err != nil {
		return f, err
	}
	args := func(role string) []string {
		return []string{"udp", "-role", role, "-bytes", strconv.Itoa(w.bytes), "-depth", strconv.Itoa(w.depth),
			"-write=" + strconv.FormatBool(w.writes()), "-runtime", b.length.String()}
	}
	server := exec.Command(self, args("server")...)
	out := &watched{word: "ready", seen: make(chan struct{})}
	server.Stdout, server.Stderr = out, os.Stderr
	if err := start(b.cores[0], server); err != nil {
		return f, err
	}
	defer func() {
		_ = server.Process.Kill() // an error: it has ended
		_ = server.Wait()         // killed
	}()
	select {
	case <-out.seen:
	case <-time.After(10 * time.Second):
		return f, fmt.Errorf("the server of datagrams is not ready")
	}
	err = run(b.cores[1], exec.Command(self, args("client")...), &f)
	if err == nil && f.IOPS == 0 {
		err = fmt.Errorf("no datagram came back")
	}
	return f, err
}
