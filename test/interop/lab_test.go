//go:build interop

package interop

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Addresses in the lab: native processes have the bridge's, guest n has its own.
const (
	nativeAddress  = "10.77.0.1"
	nativeAddress6 = "fd77::1"
	targetAddress  = "10.77.0.2" // guest 2
	targetAddress6 = "fd77::2"
	nvmePort       = "4420"
	nqn            = "nqn.2014-08.org.example:lab"
)

// A lab is a network namespace with a bridge and a tap for each guest. It
// belongs to one test and is gone, with all that runs in it, when that ends.
type lab struct {
	t     *testing.T
	build func() (path string, err error) // of the program under test
}

// newLab makes the namespace afresh. MTU is that of the bridge and the guests.
// The program under test has the lock-order validator in it, unless the test
// says otherwise.
func newLab(t *testing.T, mtu int) *lab {
	t.Helper()
	down := func() {
		if out, err := exec.Command("lab/netns", "down").CombinedOutput(); err != nil {
			t.Errorf("lab: netns down: %v\n%s", err, out)
		}
	}
	t.Cleanup(down)
	t.Setenv("MTU", strconv.Itoa(mtu))
	if out, err := exec.Command("lab/netns", "up", strconv.Itoa(mtu)).CombinedOutput(); err != nil {
		t.Fatalf("lab: netns up: %v\n%s", err, out)
	}
	return &lab{t, fabridLockdep}
}

// lossless checks that the tap of guest n has dropped nothing since the lab was
// made. What was on the way to the guest is dropped when the tap's queue is full.
func (l *lab) lossless(n int) {
	l.t.Helper()
	tap := "tap" + strconv.Itoa(n)
	out, err := exec.Command("ip", "-n", netnsName, "-s", "-j", "link", "show", tap).Output()
	if err != nil {
		l.t.Fatalf("lab: counters of %s: %v", tap, err)
	}
	type counters struct{ Packets, Errors, Dropped uint64 }
	var links []struct{ Stats64 struct{ RX, TX *counters } }
	if err := json.Unmarshal(out, &links); err != nil || len(links) != 1 || links[0].Stats64.RX == nil || links[0].Stats64.TX == nil {
		l.t.Fatalf("lab: counters of %s: %v in %s", tap, err, out)
	}
	from, to := *links[0].Stats64.RX, *links[0].Stats64.TX
	l.t.Logf("%s: %d packets from the guest, %d to it", tap, from.Packets, to.Packets)
	if from.Packets == 0 || to.Packets == 0 || from.Errors+from.Dropped+to.Errors+to.Dropped != 0 {
		l.t.Errorf("%s: from the guest %+v, to it %+v; want packets and no loss", tap, from, to)
	}
}

// start runs the program under test in the lab, beside the test. See [start].
func (l *lab) start(name string, args ...string) *process {
	l.t.Helper()
	path, err := l.build()
	if err != nil {
		l.t.Fatal(err)
	}
	return start(l.t, name, runDir(l.t, name), append([]string{"ip", "netns", "exec", netnsName, path}, args...)...)
}

// must runs the program under test in the lab and returns what it printed on
// stdout. The test ends here unless it exits with 0 in time.
func (l *lab) must(within time.Duration, name string, args ...string) string {
	l.t.Helper()
	p := l.start(name, args...)
	if !p.ended(within) {
		l.t.Fatalf("%s: fabrid %s: no end after %v", name, strings.Join(args, " "), within)
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		l.t.Fatalf("%s: fabrid %s: exit code %d", name, strings.Join(args, " "), code)
	}
	return p.stdout()
}

// command runs a command of the machine's and returns what it printed on stdout.
func (l *lab) command(name string, args ...string) string {
	l.t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			out = append(out, exit.Stderr...)
		}
		l.t.Fatalf("lab: %s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// runDir returns a new directory for the files of a guest or process, kept
// until the next of that name.
func runDir(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(stateDir, "run", name)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// eventually asks done until it says yes, and reports whether it did in time.
func eventually(within time.Duration, done func() bool) bool {
	for end := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		if done() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// decode decodes JSON.
func decode(t *testing.T, text string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
}
