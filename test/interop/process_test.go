//go:build interop

package interop

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A process runs beside the test, with its output in files.
type process struct {
	t    *testing.T
	name string
	dir  string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended and cmd.ProcessState is set
}

// start runs a command, with its output in dir. The end of the test kills it;
// if the test has failed by then, a process that still runs gets SIGQUIT, for
// which Go programs print their stacks, and the output goes to the test's log.
func start(t *testing.T, name, dir string, command ...string) *process {
	t.Helper()
	p := &process{t: t, name: name, dir: dir, cmd: exec.Command(command[0], command[1:]...), done: make(chan struct{})}
	for file, to := range map[string]func(*os.File){
		"stdout": func(f *os.File) { p.cmd.Stdout = f },
		"stderr": func(f *os.File) { p.cmd.Stderr = f },
	} {
		f, err := os.Create(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		to(f)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	go func() {
		defer close(p.done)
		p.cmd.Wait() // the outcome is in ProcessState
	}()
	t.Cleanup(func() {
		state := "was still running"
		if p.ended(0) {
			state = p.cmd.ProcessState.String()
		} else if t.Failed() {
			p.signal(syscall.SIGQUIT)
			p.ended(3 * time.Second)
		}
		p.kill()
		if t.Failed() {
			t.Logf("%s: %s\n--- stdout\n%s\n--- stderr\n%s", name, state, tail(p.stdout()), tail(p.stderr()))
		}
	})
	return p
}

func (p *process) signal(s syscall.Signal) {
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Errorf("%s: signal %v: %v", p.name, s, err)
	}
}

// kill ends the process at once, if it has not ended yet.
func (p *process) kill() {
	p.cmd.Process.Kill() // an error says that it has ended already
	<-p.done
}

// ended waits for the end of the process and reports whether it came in time.
func (p *process) ended(within time.Duration) bool {
	select {
	case <-p.done:
		return true
	default:
	}
	select {
	case <-p.done:
		return true
	case <-time.After(within):
		return false
	}
}

func (p *process) stdout() string { return p.file("stdout") }
func (p *process) stderr() string { return p.file("stderr") }

// file returns what a file of the process's directory has so far.
func (p *process) file(name string) string {
	b, err := os.ReadFile(filepath.Join(p.dir, name))
	if err != nil {
		return "(" + err.Error() + ")"
	}
	return string(b)
}

// tail returns the last lines of s.
func tail(s string) string {
	const lines = 100
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	if len(all) > lines {
		all = append([]string{"..."}, all[len(all)-lines:]...)
	}
	return strings.Join(all, "\n")
}
