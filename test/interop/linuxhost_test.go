//go:build interop

package interop

import (
	"fmt"
	"strings"
	"time"
)

// A linuxHost is a guest that is a host of the target at address. Its steps
// are in the order of a session; each ends the test if it cannot go on.
type linuxHost struct {
	*guest
	address string
	device  string // the namespace's, once connected
}

// family is the address family of a discovery record of address.
func family(address string) string {
	if strings.Contains(address, ":") {
		return "ipv6"
	}
	return "ipv4"
}

// discover finds the subsystem in the target's discovery log.
func (h *linuxHost) discover() {
	h.t.Helper()
	var log struct {
		Records []struct{ TrType, AdrFam, SubType, TrAddr, TrSvcID, SubNQN string }
	}
	out := h.mustJSON(&log, "rxe_up && nvme discover -o json -t rdma -s "+nvmePort+" -a "+h.address)
	for _, r := range log.Records {
		if r.SubNQN == nqn {
			if r.TrType != "rdma" || r.AdrFam != family(h.address) || r.TrAddr != h.address || r.TrSvcID != nvmePort || r.SubType != "nvme subsystem" {
				h.t.Errorf("discovery record of %s: %+v", nqn, r)
			}
			return
		}
	}
	h.t.Fatalf("no discovery record of %s in %s", nqn, out)
}

// connect connects with two I/O queues.
func (h *linuxHost) connect() {
	h.t.Helper()
	h.device = strings.TrimSpace(h.must(2*time.Minute, "connect "+h.address+" -i 2"))
}

// filesystem makes an ext4 or xfs, copies a tree of files to it, and looks at
// both after each of two mounts.
func (h *linuxHost) filesystem(fs string) {
	h.t.Helper()
	h.must(3*time.Minute, "dev="+h.device+" fs="+fs+`
set -e
mkdir -p /tmp/tree /tmp/mnt
for i in $(seq 24); do
  mkdir -p /tmp/tree/$((i % 5))
  head -c $((i * i * i * 61 + i)) /dev/urandom > /tmp/tree/$((i % 5))/$i
done
cd /tmp/tree; find . -type f -exec sha256sum {} + > /tmp/sums
mkfs.$fs -q $dev
mount $dev /tmp/mnt; cp -a /tmp/tree /tmp/mnt/; umount /tmp/mnt
case $fs in ext4) e2fsck -f -n $dev ;; xfs) xfs_repair -n $dev ;; esac
mount $dev /tmp/mnt; cd /tmp/mnt/tree
sha256sum --quiet -c /tmp/sums
[ $(find . -type f | wc -l) = 24 ]
cd /; umount /tmp/mnt
`)
}

// A load is writes to random places.
type load struct {
	blocks string // fio's options for their sizes
	most   int    // bytes of the largest
	depth  int
}

// usual is the load of the tests that are not about loads, every is blocks of
// every size.
var (
	usual = load{"--bsrange=4k-256k", 256 << 10, 16}
	every = load{"--bssplit=512/20:4k/30:68k/30:1m/15:4m/5 --blockalign=512", 4 << 20, 8}
)

// fio is the command that writes as l says for d, reading back and checking
// each block soon after. Its result is JSON in /tmp/fio.json.
func (l load) fio(device string, d time.Duration) string {
	// A time limit skips fio's phase of verification. A backlog makes it verify as it goes, all
	// but the last few blocks.
	return fmt.Sprintf(`fio --name=verify --filename=%s --size=64m --rw=randwrite %s \
  --ioengine=libaio --direct=1 --iodepth=%d --serialize_overlap=1 --verify=crc32c --verify_fatal=1 --verify_backlog=%d \
  --time_based --runtime=%d --output-format=json --output=/tmp/fio.json`, device, l.blocks, l.depth, l.backlog(), int(d.Seconds()))
}

func (l load) backlog() int { return 2 * l.depth }

// verifiedIO writes blocks at random for a time, reading back and checking each
// soon after.
func (h *linuxHost) verifiedIO(l load, d time.Duration) {
	h.t.Helper()
	out, code, err := h.run(d+3*time.Minute, l.fio(h.device, d)+" && cat /tmp/fio.json")
	if err != nil || code != 0 {
		h.t.Fatalf("guest %s: fio: exit code %d, %v\n%s", h.name, code, err, tail(out))
	}
	h.verified(l, out)
}

// verified checks fio's result.
func (h *linuxHost) verified(l load, out string) {
	h.t.Helper()
	type side struct {
		IOBytes  uint64 `json:"io_bytes"`
		TotalIOs uint64 `json:"total_ios"`
	}
	var result struct {
		Jobs []struct {
			Error       int
			Read, Write side
		}
	}
	decode(h.t, out, &result)
	if len(result.Jobs) != 1 {
		h.t.Fatalf("guest %s: fio: %d jobs, want 1", h.name, len(result.Jobs))
	}
	job := result.Jobs[0]
	h.t.Logf("fio: %d MiB in %d blocks written, %d MiB verified", job.Write.IOBytes>>20, job.Write.TotalIOs, job.Read.IOBytes>>20)
	last := uint64(2 * l.backlog() * l.most)
	if job.Error != 0 || job.Write.TotalIOs == 0 || job.Read.TotalIOs == 0 || job.Read.IOBytes+last < job.Write.IOBytes {
		h.t.Fatalf("guest %s: fio: error %d, %+v written, %+v verified; want no error and all but the last verified", h.name, job.Error, job.Write, job.Read)
	}
}

// reset resets the controller and reads from it again.
func (h *linuxHost) reset() {
	h.t.Helper()
	h.must(2*time.Minute, "nvme reset "+h.controller()+" && dd if="+h.device+" of=/dev/null bs=64k count=16 iflag=direct")
}

// admin looks at what the target says of itself: its model number, its
// namespace of size bytes, its health, its path.
func (h *linuxHost) admin(model string, size uint64) {
	h.t.Helper()
	var ctrl struct {
		MN, SubNQN                                      string
		CNTLID, Ver, CntrlType, KAS, SQES, CQES, MaxCmd int
		NN, IOCCSZ, IORCSZ, SGLS                        int
	}
	out := h.mustJSON(&ctrl, "nvme id-ctrl -o json "+h.controller())
	ok := strings.TrimSpace(ctrl.MN) == model && ctrl.SubNQN == nqn && ctrl.CNTLID >= 1 && ctrl.CNTLID <= 0xffef &&
		ctrl.Ver >= 0x10300 && ctrl.CntrlType == 1 && ctrl.KAS > 0 && ctrl.SQES == 0x66 && ctrl.CQES == 0x44 &&
		ctrl.NN >= 1 && ctrl.IOCCSZ >= 4 && ctrl.IORCSZ == 1 && ctrl.SGLS&(1<<2) != 0
	if !ok {
		h.t.Errorf("id-ctrl: %+v, want model %s and a sane I/O controller of %s\n%s", ctrl, model, nqn, out)
	}

	var ns struct {
		NSZE, NCAP, NUSE uint64
		FLBAS            int
		LBAFs            []struct{ MS, DS uint }
	}
	out = h.mustJSON(&ns, "nvme id-ns -o json "+h.device)
	if f := ns.FLBAS & 0xf; f >= len(ns.LBAFs) || ns.LBAFs[f].MS != 0 || ns.NSZE<<ns.LBAFs[f].DS != size || ns.NCAP != ns.NSZE || ns.NUSE > ns.NSZE {
		h.t.Errorf("id-ns: %+v, want %d bytes\n%s", ns, size, out)
	}

	var health struct {
		CriticalWarning *int   `json:"critical_warning"`
		MediaErrors     string `json:"media_errors"`
		PercentUsed     int    `json:"percent_used"`
	}
	out = h.mustJSON(&health, "nvme smart-log -o json "+h.controller())
	if health.CriticalWarning == nil || *health.CriticalWarning != 0 || health.MediaErrors != "0" || health.PercentUsed > 100 {
		h.t.Errorf("smart-log: want good health, got %s", out)
	}

	var hosts []struct {
		Subsystems []struct {
			NQN   string
			Paths []struct{ Name, Transport, Address, State string }
		}
	}
	out = h.mustJSON(&hosts, "nvme list-subsys -o json")
	ok = len(hosts) == 1 && len(hosts[0].Subsystems) == 1 && len(hosts[0].Subsystems[0].Paths) == 1
	if ok {
		s := hosts[0].Subsystems[0]
		p := s.Paths[0]
		ok = s.NQN == nqn && p.Transport == "rdma" && p.State == "live" && strings.Contains(p.Address, "traddr="+h.address+",trsvcid="+nvmePort)
	}
	if !ok {
		h.t.Errorf("list-subsys: want one live path to %s, got %s", nqn, out)
	}
}

// disconnect ends the session.
func (h *linuxHost) disconnect() {
	h.t.Helper()
	h.must(time.Minute, "nvme disconnect -n "+nqn+" && [ ! -e "+h.controller()+" ]")
}

// controller returns the path of the controller whose only namespace is device.
func (h *linuxHost) controller() string { return strings.TrimSuffix(h.device, "n1") }
