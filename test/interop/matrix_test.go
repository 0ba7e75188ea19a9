//go:build interop

package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A point is what one run of the matrix is made of.
type point struct {
	kernel  string
	mtu     int
	address string
	srq     bool
	inline  int    // bytes of in-capsule data
	backend string // what the namespace is kept in
	fs      string
}

// points has every pair of values of two factors in one point at least.
var points = []point{
	{"6.12", 1500, nativeAddress, true, 4096, "memory", "xfs"},
	{"6.12", 4200, nativeAddress6, false, 0, "file", "ext4"},
	{"6.12", 9000, nativeAddress6, false, 16384, "device", "ext4"},
	{"6.1", 1500, nativeAddress6, true, 0, "device", "ext4"},
	{"6.1", 4200, nativeAddress6, false, 16384, "memory", "xfs"},
	{"6.1", 9000, nativeAddress, false, 4096, "file", "ext4"},
	{"7.3", 1500, nativeAddress, true, 16384, "file", "xfs"},
	{"7.3", 1500, nativeAddress6, false, 4096, "memory", "ext4"},
	{"7.3", 4200, nativeAddress, true, 4096, "device", "xfs"},
	{"7.3", 9000, nativeAddress, true, 0, "memory", "xfs"},
}

func (p point) String() string {
	srq := map[bool]string{false: "plain", true: "srq"}[p.srq]
	return fmt.Sprintf("linux%s/mtu%d/%s/%s/inline%d/%s/%s", p.kernel, p.mtu, family(p.address), srq, p.inline, p.backend, p.fs)
}

func (p point) factors() []string { return strings.Split(p.String(), "/") }

func TestMatrixCoversPairs(t *testing.T) {
	values := make([]map[string]bool, len(points[0].factors()))
	pairs := make(map[[2]string]bool)
	for _, p := range points {
		f := p.factors()
		for i := range f {
			if values[i] == nil {
				values[i] = make(map[string]bool)
			}
			values[i][f[i]] = true
			for j := range i {
				pairs[[2]string{f[j], f[i]}] = true
			}
		}
	}
	for j := range values {
		for i := range j {
			for a := range values[i] {
				for b := range values[j] {
					if !pairs[[2]string{a, b}] {
						t.Errorf("no point has both %s and %s", a, b)
					}
				}
			}
		}
	}
}

// Linux hosts of every kind on fabrid targets of every kind: a file system,
// files, a check, verified blocks of 512 bytes to 4 MiB.
func TestMatrix(t *testing.T) {
	for _, p := range points {
		t.Run(p.String(), func(t *testing.T) {
			const size = 320 * mib // xfs takes no less than 300
			l := newLab(t, p.mtu)
			flags := []string{"--block-size", "512", "--inline-data-size", fmt.Sprint(p.inline)}
			if p.srq {
				flags = append(flags, "--use-srq")
			}
			switch p.backend {
			case "file":
				flags = append(flags, "--file", l.file(size))
			case "device":
				flags = append(flags, "--device", l.loop(l.file(size)))
			}
			target := l.serve(p.address, size, flags...)
			t.Setenv("KERNEL", p.kernel)
			host := &linuxHost{guest: l.guest(3, "host"), address: p.address}
			host.discover()
			host.connect()
			host.filesystem(p.fs)
			host.verifiedIO(every, shortTime(t))
			host.admin("fabrid", size)
			host.disconnect()
			host.quiet()
			l.lossless(3)
			target.noQueues()
			target.stop()
		})
	}
}

// fabrid hosts on Linux targets.
func TestMatrixOfTargets(t *testing.T) {
	for i, p := range []point{
		{kernel: "6.12", mtu: 1500, address: targetAddress6},
		{kernel: "6.12", mtu: 4200, address: targetAddress},
		{kernel: "6.1", mtu: 4200, address: targetAddress6},
		{kernel: "6.1", mtu: 9000, address: targetAddress},
		{kernel: "7.3", mtu: 9000, address: targetAddress6},
		{kernel: "7.3", mtu: 1500, address: targetAddress},
	} {
		t.Run(strings.Join(p.factors()[:3], "/"), func(t *testing.T) {
			l := newLab(t, p.mtu)
			t.Setenv("KERNEL", p.kernel)
			target := &linuxTarget{l.guest(2, "target"), p.address}
			target.up(64 * mib)
			for _, size := range []string{"4k", "1m"} {
				l.bench(p.address, size, shortTime(t)/2)
			}
			target.noControllers()
			if i < 4 { // 7.3 has warnings of its own
				target.quiet()
			}
			l.lossless(2)
		})
	}
}

// shortTime is how long verified I/O lasts where there are many runs.
func shortTime(t *testing.T) time.Duration { return max(ioTime(t)/3, time.Second) }

// file makes a file of size bytes, until the end of the test.
func (l *lab) file(size int64) string {
	l.t.Helper()
	f, err := os.Create(filepath.Join(runDir(l.t, "namespace"), "file"))
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { os.Remove(f.Name()) })
	if err := f.Truncate(size); err != nil {
		l.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		l.t.Fatal(err)
	}
	return f.Name()
}

// loop makes a block device of a file, until the end of the test.
func (l *lab) loop(file string) string {
	l.t.Helper()
	device := strings.TrimSpace(l.command("losetup", "--find", "--show", "--direct-io=on", file))
	l.t.Cleanup(func() { l.command("losetup", "--detach", device) })
	return device
}
