//go:build interop

package interop

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A guest is a Linux machine in the lab. Its methods are for one goroutine.
type guest struct {
	t    *testing.T
	name string
	vm   *process
	conn net.Conn // to the agent, see lab/guest/agent
	in   []byte   // received and not yet taken by line
	ids  int
}

// guest boots guest n, 10.77.0.n, and waits until it takes commands. It is
// stopped at the end of the test; if that has failed, its kernel log and its
// console are in the test's log.
func (l *lab) guest(n int, name string) *guest {
	l.t.Helper()
	began := time.Now()
	dir := runDir(l.t, name)
	g := &guest{t: l.t, name: name, vm: start(l.t, "guest "+name, dir, "lab/vm", name, strconv.Itoa(n))}
	l.t.Cleanup(g.cleanup)

	eventually(2*time.Minute, func() bool { return g.vm.ended(0) || strings.Contains(g.console(), "LAB-READY") })
	if g.vm.ended(0) || !strings.Contains(g.console(), "LAB-READY") {
		l.t.Fatalf("guest %s: not up after %v", name, time.Since(began))
	}
	var err error
	if g.conn, err = net.Dial("unix", filepath.Join(dir, "agent.sock")); err != nil {
		l.t.Fatalf("guest %s: %v", name, err)
	}
	if !eventually(30*time.Second, func() bool { return g.ping() == nil }) {
		l.t.Fatalf("guest %s: the agent does not answer", name)
	}
	l.t.Logf("guest %s: up after %v", name, time.Since(began).Round(100*time.Millisecond))
	return g
}

// console returns what the guest's serial console has shown so far.
func (g *guest) console() string {
	b, err := os.ReadFile(filepath.Join(g.vm.dir, "serial.log"))
	if err != nil {
		return ""
	}
	return string(b)
}

func (g *guest) cleanup() {
	if g.t.Failed() {
		g.t.Logf("guest %s: console\n%s", g.name, tail(g.console()))
		if g.conn != nil {
			out, _, err := g.run(10*time.Second, dmesg)
			g.t.Logf("guest %s: kernel log (%v)\n%s", g.name, err, tail(out))
		}
	}
	if g.conn != nil {
		g.conn.Close()
	}
	g.vm.kill() // there is no state to save
}

// dmesg prints what the guest's kernel has logged since it was up, with levels.
const dmesg = "dmesg -x | sed '1,/LAB-READY/d'\n"

// trouble is any line of level err and above, what Linux says when it loses a
// target, and warnings from what is under test; others are about an emulated
// processor being slow, and so is that of a long round trip of a keep-alive,
// which did come back. A reset is asked for by the tests alone.
var (
	trouble  = regexp.MustCompile(`^\w+ *:(emerg|alert|crit|err) |^\w+ *:warn .*(nvme|rdma|rxe|infiniband|EXT4|I/O)|(?i)reconnect|error recovery|time(d )?out|WARNING:`)
	expected = regexp.MustCompile(`resetting controller$|long keepalive RTT|enabling unsafe global rkey`)
)

// quiet checks that the guest's kernel has had nothing to complain of.
func (g *guest) quiet() {
	g.t.Helper()
	for line := range strings.SplitSeq(g.must(time.Minute, dmesg), "\n") {
		if trouble.MatchString(line) && !expected.MatchString(line) {
			g.t.Errorf("guest %s: kernel log: %s", g.name, line)
		}
	}
}

// must runs a shell script in the guest and returns its output, both streams
// together. The test ends here unless the script exits with 0 in time.
func (g *guest) must(within time.Duration, script string) string {
	g.t.Helper()
	out, code, err := g.run(within, script)
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d", code)
	}
	if err != nil {
		g.t.Fatalf("guest %s: %v\n--- script\n%s\n--- output\n%s", g.name, err, script, tail(out))
	}
	return out
}

// mustJSON is must for a script that prints JSON, which goes to v.
func (g *guest) mustJSON(v any, script string) string {
	g.t.Helper()
	out := g.must(2*time.Minute, script)
	decode(g.t, out, v)
	return out
}

// run runs a shell script in the guest, with the functions of lab/guest/lib.sh,
// and returns its output and exit code. A script that does not end in time is
// left running.
func (g *guest) run(within time.Duration, script string) (output string, code int, err error) {
	deadline := time.Now().Add(within)
	id := g.nextID()
	script = base64.StdEncoding.EncodeToString([]byte(". /lab/lib.sh\n" + script))
	if _, err := fmt.Fprintf(g.conn, "RUN %s %s\n", id, script); err != nil {
		return "", 0, err
	}
	var out strings.Builder
	for {
		line, err := g.readLine(deadline)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = fmt.Errorf("no end after %v", within)
		}
		if err != nil {
			return out.String(), 0, err
		}
		if text, ok := strings.CutPrefix(line, id+" O "); ok {
			out.WriteString(text + "\n")
		} else if end, ok := strings.CutPrefix(line, id+" E "); ok {
			code, err := strconv.Atoi(end)
			return out.String(), code, err
		}
	}
}

// ping asks the agent for an answer. What is sent before the agent has opened
// its port is lost, so the first commands are pings.
func (g *guest) ping() error {
	id := g.nextID()
	if _, err := fmt.Fprintf(g.conn, "PING %s\n", id); err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Second); ; {
		line, err := g.readLine(deadline)
		if err != nil || line == id+" PONG" {
			return err
		}
	}
}

func (g *guest) nextID() string {
	g.ids++
	return "c" + strconv.Itoa(g.ids)
}

// readLine returns the next line from the agent, without its end.
func (g *guest) readLine(deadline time.Time) (string, error) {
	if err := g.conn.SetReadDeadline(deadline); err != nil {
		return "", err
	}
	for {
		if line, rest, ok := strings.Cut(string(g.in), "\n"); ok {
			g.in = []byte(rest)
			return strings.TrimSuffix(line, "\r"), nil
		}
		var buf [64 << 10]byte
		n, err := g.conn.Read(buf[:])
		g.in = append(g.in, buf[:n]...)
		if err != nil {
			return "", err
		}
	}
}
