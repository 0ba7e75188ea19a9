//go:build interop

package interop

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What a bad network does, in the words of netem: reordering takes a delay.
const impairment = "delay 500us reorder 95% loss 1% duplicate 0.5% corrupt 0.1%"

// Verified I/O through a bad network. What comes to the host may be lost at any
// depth. What it sends may at depth 1, and at any depth when it registers no
// memory: rxe fails a connection when a registration and a lost packet meet, and
// the host reconnects.
func TestFaultBadNetwork(t *testing.T) {
	for _, address := range []string{nativeAddress, nativeAddress6} {
		t.Run(family(address), func(t *testing.T) {
			l := newLab(t, 1500)
			target := l.serve(address, 128*mib)
			host := &linuxHost{guest: l.guest(3, "host"), address: address}
			host.discover()
			host.connect()
			host.impairedIO("in", usual)
			host.impairedIO("out", load{"--bsrange=4k-256k", 256 << 10, 1})
			host.quiet()
			host.disconnect()

			host.must(time.Minute, "modprobe -r nvme-rdma && modprobe nvme-rdma register_always=N")
			host.connect()
			host.impairedIO("out", load{"--bs=4k", 4 << 10, 16})
			host.quiet()
			host.disconnect()

			host.must(time.Minute, "modprobe -r nvme-rdma && modprobe nvme-rdma")
			host.connect()
			// With reconnects, ten seconds each.
			host.must(time.Minute, fmt.Sprintf("impair out %q", impairment))
			out := host.must(ioTime(t)+3*time.Minute, load{"--bs=4k", 4 << 10, 4}.fio(host.device, ioTime(t))+" && cat /tmp/fio.json")
			host.verified(load{most: 256 << 10, depth: 1 << 10}, out)
			host.must(time.Minute, "impair off")
			host.disconnect()
			target.noQueues()
			target.stop()
		})
	}
}

// impairedIO is verifiedIO through a bad network.
func (h *linuxHost) impairedIO(direction string, l load) {
	h.t.Helper()
	h.must(time.Minute, fmt.Sprintf("impair %s %q", direction, impairment))
	h.verifiedIO(l, shortTime(h.t))
	out := h.must(time.Minute, "impaired; impair off")
	m := dropped.FindStringSubmatch(out)
	if m == nil {
		h.t.Fatalf("guest %s: what netem did: %s", h.name, out)
	}
	h.t.Logf("depth %d, %s: netem let pass %s packets and dropped %s", l.depth, direction, m[1], m[2])
	if m[2] == "0" {
		h.t.Errorf("guest %s: netem dropped nothing:\n%s", h.name, out)
	}
}

var dropped = regexp.MustCompile(`(\d+) pkt \(dropped (\d+)`)

// What loss costs, printed.
func TestFaultLossThroughput(t *testing.T) {
	l := newLab(t, 1500)
	target := l.serve(nativeAddress, 128*mib)
	host := &linuxHost{guest: l.guest(3, "host"), address: nativeAddress}
	host.discover()
	host.connect()
	for _, loss := range []string{"0%", "0.1%", "1%"} {
		for _, size := range []string{"4k", "128k"} {
			out := host.must(2*time.Minute, fmt.Sprintf(`impair in "loss %s"
fio --name=x --filename=%s --rw=randread --bs=%s --ioengine=libaio --direct=1 --iodepth=16 --time_based --runtime=%d --output-format=terse |
  cut -d';' -f7,8
impair off`, loss, host.device, size, int((shortTime(t)/2).Seconds())))
			kib, iops, _ := strings.Cut(strings.TrimSpace(out), ";")
			if n, err := strconv.Atoi(iops); err != nil || n == 0 {
				t.Errorf("fio: %q", out)
			}
			t.Logf("loss %s, randread of %s at depth 16: %s KiB/s, %s IOPS", loss, size, kib, iops)
		}
	}
	host.quiet()
	host.disconnect()
	target.noQueues()
	target.stop()
}

// Two hosts write and read the same blocks through a network that loses, with
// a path MTU of 1024 in blocks of 4096: a block is always of one write.
func TestFaultTwoHostsOneBlock(t *testing.T) {
	l := newLab(t, 1500)
	target := l.serve(nativeAddress, 64*mib)
	var hosts [2]*linuxHost
	var ends [2]chan outcome
	for i := range hosts {
		h := &linuxHost{guest: l.guest(3+i, fmt.Sprint("host", i)), address: nativeAddress}
		h.discover()
		h.connect()
		tool := filepath.Join(h.vm.dir, "share", "hammer")
		build := exec.Command("go", "build", "-o", tool, "./hammer")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
		h.must(time.Minute, `impair "delay 500us reorder 95% loss 1% duplicate 0.5%"`)
		hosts[i] = h
	}
	d := shortTime(t)
	for i, h := range hosts {
		ends[i] = h.begin(d+2*time.Minute, fmt.Sprintf("/host/hammer %s 4096 8 %d %d", h.device, int(d.Seconds()), i+1))
	}
	for i, h := range hosts {
		o := <-ends[i]
		var writes, reads, others int
		if _, err := fmt.Sscan(o.output, &writes, &reads, &others); err != nil || o.code != 0 || o.err != nil {
			t.Fatalf("guest %s: exit code %d, %v\n%s", h.name, o.code, o.err, o.output)
		}
		t.Logf("guest %s: %d writes, %d reads, %d of what the other wrote", h.name, writes, reads, others)
		if writes == 0 || others == 0 {
			t.Errorf("guest %s: they did not meet", h.name)
		}
	}
	for _, h := range hosts {
		h.must(time.Minute, "impair off")
		h.disconnect()
	}
	target.noQueues()
	target.stop()
}
