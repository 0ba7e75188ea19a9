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
