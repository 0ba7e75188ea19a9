//go:build interop

package interop

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

var (
	// stateDir is where lab/setup put the kernels and where guests run.
	stateDir = envOr("FABRID_LAB", "/var/tmp/fabrid-lab")
	// kernel is the series of Linux that runs in guests where a test names no other.
	kernel = envOr("KERNEL", "6.12")
	// netnsName is the network namespace of the lab.
	netnsName = envOr("FABRID_LAB_NETNS", "fabrid-lab")
	// buildDir is for the program under test, see fabrid.
	buildDir string
)

// fabrid builds the program under test, once, and returns its path.
var fabrid = sync.OnceValues(func() (string, error) { return build("fabrid") })

// fabridLockdep is the program with the lock-order validator: a report ends it.
var fabridLockdep = sync.OnceValues(func() (string, error) { return build("fabrid-lockdep", "-tags", "lockdep") })

func build(name string, flags ...string) (string, error) {
	path := filepath.Join(buildDir, name)
	args := append(append([]string{"build", "-o", path}, flags...), "github.com/fabrid/fabrid/cmd/fabrid")
	out, err := exec.Command("go", args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("interop: go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return path, nil
}

// ioTime is how long the long run of verified I/O lasts.
func ioTime(t *testing.T) time.Duration {
	t.Helper()
	s, err := strconv.Atoi(envOr("FABRID_INTEROP_SECONDS", "60"))
	if err != nil || s < 1 {
		t.Fatalf("interop: FABRID_INTEROP_SECONDS=%q, want a positive number", os.Getenv("FABRID_INTEROP_SECONDS"))
	}
	return time.Duration(s) * time.Second
}

func envOr(name, value string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return value
}

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if _, err := os.Stat(filepath.Join(stateDir, "kernels", kernel, "initrd")); err != nil {
		return 0, fmt.Errorf("interop: no lab (run test/interop/lab/setup): %w", err)
	}
	// There is one lab on a machine: a second run waits here for the first.
	lock, err := os.Create(filepath.Join(stateDir, "run.lock"))
	if err != nil {
		return 0, fmt.Errorf("interop: %w", err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return 0, fmt.Errorf("interop: lock %s: %w", lock.Name(), err)
	}
	if buildDir, err = os.MkdirTemp("", "fabrid-interop"); err != nil {
		return 0, fmt.Errorf("interop: %w", err)
	}
	defer os.RemoveAll(buildDir)
	if code = m.Run(); code == 0 {
		err = goleak.Find()
	}
	return code, err
}
