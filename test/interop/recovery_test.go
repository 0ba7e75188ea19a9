//go:build interop

package interop

import (
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// under starts verified I/O of the host's and has happen do its worst when it is
// on its way. The I/O must come to its end as if nothing had been, and within
// two minutes of what it would have taken.
func (h *linuxHost) under(l load, d time.Duration, happen func()) {
	h.t.Helper()
	end := h.begin(d+2*time.Minute, l.fio(h.device, d)+" && cat /tmp/fio.json")
	time.Sleep(d / 4) // a quarter of its time: what is to happen happens in its midst
	happen()
	o := <-end
	if o.err != nil || o.code != 0 {
		h.t.Fatalf("guest %s: fio: exit code %d, %v\n%s", h.name, o.code, o.err, tail(o.output))
	}
	h.verified(l, o.output)
}

// The target dies and another takes its place, with the same file: the host
// comes back by itself, and what it was told had been written is there.
func TestFaultTargetKilled(t *testing.T) {
	l := newLab(t, 1500)
	file := []string{"--file", l.file(128 * mib)}
	target := l.serve(nativeAddress, 128*mib, file...)
	host := &linuxHost{guest: l.guest(3, "host"), address: nativeAddress}
	host.discover()
	host.connect()
	host.under(usual, max(ioTime(t)/2, 20*time.Second), func() {
		target.kill()
		target = l.serve(nativeAddress, 128*mib, file...)
	})
	host.disconnect()
	target.noQueues()
	target.stop()
}

// A target that does nothing for more than a second loses nothing.
func TestFaultTargetStopped(t *testing.T) {
	l := newLab(t, 1500)
	target := l.serve(nativeAddress, 128*mib)
	host := &linuxHost{guest: l.guest(3, "host"), address: nativeAddress}
	host.discover()
	host.connect()
	host.under(usual, shortTime(t), func() {
		target.signal(syscall.SIGSTOP)
		time.Sleep(1200 * time.Millisecond) // the length of the pause is the test
		target.signal(syscall.SIGCONT)
	})
	host.quiet()
	host.disconnect()
	target.noQueues()
	target.stop()
}

// The link is down for 20 s, with I/O and without. Both ends give up on the
// other by deadlines of their own, and the host comes back.
func TestFaultLinkDown(t *testing.T) {
	l := newLab(t, 1500)
	target := l.serve(nativeAddress, 128*mib)
	host := &linuxHost{guest: l.guest(3, "host"), address: nativeAddress}
	host.discover()
	host.connect()
	down := func() {
		l.command("ip", "-n", netnsName, "link", "set", "tap3", "down")
		time.Sleep(20 * time.Second) // the length of the outage is the test
		target.noQueues()
		l.command("ip", "-n", netnsName, "link", "set", "tap3", "up")
	}
	host.under(usual, max(ioTime(t)/2, 20*time.Second), down)
	down()
	host.must(2*time.Minute, "until [ $(cat /sys/class/nvme/nvme*/state) = live ]; do sleep 0.5; done")
	host.verifiedIO(usual, shortTime(t)/2)
	host.disconnect()
	target.noQueues()
	target.stop()
}

// A host that is gone without a word is forgotten within its keep-alive timeout
// and the target's own deadlines.
func TestFaultGuestKilled(t *testing.T) {
	l := newLab(t, 1500)
	target := l.serve(nativeAddress, 128*mib)
	host := &linuxHost{guest: l.guest(3, "host"), address: nativeAddress}
	host.discover()
	host.connect()
	kato, err := strconv.Atoi(strings.TrimSpace(host.must(time.Minute, "cat /sys/class/nvme/nvme*/kato")))
	if err != nil {
		t.Fatal(err)
	}
	end := host.begin(time.Minute, usual.fio(host.device, time.Minute))
	if !eventually(20*time.Second, func() bool { return strings.Contains(target.counters(), `"live":3`) }) {
		t.Fatalf("serve: want three queues: %s", target.counters())
	}
	host.vm.kill()
	<-end
	killed := time.Now()
	host.conn.Close()
	host.conn = nil // there is nobody to ask for its log
	if !eventually(time.Duration(kato)*time.Second+15*time.Second, func() bool { return strings.Contains(target.counters(), `"live":0`) }) {
		t.Errorf("serve: want no live queue, has %s", target.counters())
	}
	t.Logf("KATO %d s: no live queue %v after the host", kato, time.Since(killed).Round(100*time.Millisecond))
	target.noQueues()
	target.stop()
}
