//go:build interop

package interop

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Hosts come and go, and others are reset under verified I/O; the target has
// the lock-order validator in it. In the end nothing is left.
func TestLinuxHostsComeAndGo(t *testing.T) {
	l := newLab(t, 1500)
	target := l.serve(nativeAddress, 128*mib)
	d := ioTime(t)
	restless := &linuxHost{guest: l.guest(3, "restless"), address: nativeAddress}
	busy := &linuxHost{guest: l.guest(4, "busy"), address: nativeAddress}
	restless.discover()
	busy.discover()
	busy.connect()

	times := restless.begin(d+2*time.Minute, fmt.Sprintf(`set -e
end=$(($(date +%%s) + %d)) n=0
while [ $(date +%%s) -lt $end ]; do
  connect %s -i 2 > /dev/null
  nvme disconnect -n %s > /dev/null
  n=$((n + 1))
done
echo $n`, int(d.Seconds()), nativeAddress, nqn))
	resets := busy.begin(d+3*time.Minute, fmt.Sprintf(`fio --name=verify --filename=%s --size=16m --rw=randwrite --bsrange=4k-64k \
  --ioengine=libaio --direct=1 --iodepth=8 --serialize_overlap=1 --verify=crc32c --verify_fatal=1 --verify_backlog=32 \
  --time_based --runtime=%d > /tmp/fio.out 2>&1 & fio=$!
n=0
while kill -0 $fio 2> /dev/null; do
  nvme reset %s || break
  n=$((n + 1))
  sleep 1
done
wait $fio || { tail -n 20 /tmp/fio.out; exit 1; }
echo $n`, busy.device, int(d.Seconds()), busy.controller()))
	for what, c := range map[string]chan outcome{"connects and disconnects": times, "resets under I/O": resets} {
		o := <-c
		n, err := strconv.Atoi(strings.TrimSpace(o.output))
		if o.err != nil || o.code != 0 || err != nil || n < 3 {
			t.Errorf("%s: exit code %d, %v\n%s", what, o.code, o.err, tail(o.output))
		}
		t.Logf("%d %s in %v", n, what, d)
	}
	busy.disconnect()
	restless.quiet()
	target.noQueues()
	target.stop()
}

// The storm that fabrid's target is tested with, on Linux's: hosts connect and
// leave as fast as they can, and in the end nothing is left. What it takes of
// either is logged, to be compared.
func TestStormOnLinuxTarget(t *testing.T) {
	l := newLab(t, 1500)
	const hosts = 16
	for n := range hosts {
		l.command("ip", "-n", netnsName, "addr", "add", fmt.Sprintf("10.77.0.%d/24", 100+n), "dev", "br0")
	}
	guest := &linuxTarget{l.guest(2, "target"), targetAddress}
	guest.up(64 * mib)
	free := func() int {
		t.Helper()
		kib, err := strconv.Atoi(strings.TrimSpace(guest.must(time.Minute, "awk '/^MemAvailable/ {print $2}' /proc/meminfo")))
		if err != nil {
			t.Fatal(err)
		}
		return kib
	}
	before := free()
	l.storm("Linux", targetAddress, hosts)
	after := free()
	t.Logf("Linux: %d KiB less available after the storm", before-after)
	guest.noControllers()

	native := l.serve(nativeAddress, 64*mib)
	l.storm("fabrid", nativeAddress, hosts)
	native.noQueues()
	native.stop()
}

// storm has hosts connect and leave for a while, from the bridge's addresses.
func (l *lab) storm(name, address string, hosts int) {
	l.t.Helper()
	out := l.must(2*time.Minute, "storm", "storm", "-a", address, "-s", nvmePort, "-n", nqn, "--hosts", strconv.Itoa(hosts), "--queues", "2",
		"--host-traddr", fmt.Sprintf("10.77.0.100-10.77.0.%d", 99+hosts), "--runtime", "10s", "--json")
	var r struct {
		Attempts, Connected, Refused, Failed uint64
		Connect                              struct{ P50, P99, Max float64 } `json:"connect_us"`
		FirstFailure                         string                          `json:"first_failure"`
	}
	decode(l.t, out, &r)
	l.t.Logf("storm on %s: %d attempts, %d connected, %d refused, %d failed; connect p50 %.1f ms, p99 %.1f ms, max %.1f ms",
		name, r.Attempts, r.Connected, r.Refused, r.Failed, r.Connect.P50/1000, r.Connect.P99/1000, r.Connect.Max/1000)
	if r.Connected == 0 {
		l.t.Errorf("storm on %s: nobody connected: %s", name, r.FirstFailure)
	}
}

// An outcome is what a script in a guest came to.
type outcome struct {
	output string
	code   int
	err    error
}

// begin runs a script and sends what it came to.
func (g *guest) begin(within time.Duration, script string) chan outcome {
	c := make(chan outcome, 1)
	go func() {
		output, code, err := g.run(within, script)
		c <- outcome{output, code, err}
	}()
	return c
}
