package bdev_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"unsafe"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/fabrid/fabrid/bdev"
	"github.com/fabrid/fabrid/bdev/bdevtest"
	"github.com/fabrid/fabrid/shard"
)

// refuse is set in the environment of a process in which the kernel refuses the
// system call of that name.
const refuse = "FABRID_TEST_REFUSE"

var refusals = map[string]uint32{"io_uring_setup": unix.SYS_IO_URING_SETUP, "io_uring_enter": unix.SYS_IO_URING_ENTER}

func TestMain(m *testing.M) {
	if name := os.Getenv(refuse); name != "" {
		if err := refuseCall(refusals[name]); err != nil {
			fmt.Fprintln(os.Stderr, "seccomp:", err)
			os.Exit(2)
		}
	}
	goleak.VerifyTestMain(m)
}

// refuseCall has the kernel answer a system call with EPERM from now on, as
// container runtimes do.
func refuseCall(nr uint32) error {
	const (
		filterFlagTSYNC = 1
		setModeFilter   = 1
		allow           = 0x7fff0000
		errno           = 0x00050000
	)
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: nr, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: errno | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: allow},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if _, _, err := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, filterFlagTSYNC, uintptr(unsafe.Pointer(&prog))); err != 0 {
		return err
	}
	return nil
}

// The device uses io_uring exactly if the kernel has it and allows it.
func TestURingWhereAllowed(t *testing.T) {
	var params [120]byte
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
	allowed := errno == 0
	if allowed {
		unix.Close(int(fd))
		if os.Getenv(refuse) == "io_uring_enter" {
			allowed = false
			errno = unix.EPERM
		}
	}
	path := filepath.Join(t.TempDir(), "disk")
	f := openFile(t, bdev.FileConfig{Path: path, Size: 1 << 20, Create: true})
	m := f.Mode()
	if m.URing != allowed {
		t.Errorf("%+v, and io_uring_setup said %v", m, errno)
	}
	if !allowed && !errors.Is(m.URingErr, errno) {
		t.Errorf("URingErr %v, want %v", m.URingErr, errno)
	}
	b := bdevtest.NewBench(t, f)
	b.Write(0, bdevtest.Fill(8192, 1))
	b.Flush()
	if err := f.Close(); err != nil {
		t.Error(err)
	}

	off := openFile(t, bdev.FileConfig{Path: path, NoURing: true})
	defer off.Close()
	if m := off.Mode(); m.URing || m.URingErr != nil {
		t.Errorf("with NoURing: %+v", m)
	}
}

// Where the kernel refuses, workers do it all.
func TestURingRefused(t *testing.T) {
	if os.Getenv(refuse) != "" {
		return // that is the process below
	}
	for call := range refusals {
		run := "^(TestURingWhereAllowed|TestFileKeeps|TestFileCutShort|TestConformance/file/512/(WriteRead|Many|CloseUnderWay))$"
		cmd := exec.Command(os.Args[0], "-test.short", "-test.v", "-test.run", run)
		cmd.Env = append(os.Environ(), refuse+"="+call)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s refused: %v\n%s", call, err, out)
		}
	}
}

// I/O is direct exactly if the file can do it in blocks of the size.
func TestDirectWhereSupported(t *testing.T) {
	memfd, err := unix.MemfdCreate("disk", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(memfd)
	for _, path := range []string{filepath.Join(t.TempDir(), "disk"), fmt.Sprintf("/proc/self/fd/%d", memfd)} {
		for _, bs := range []int{512, 4096} {
			f := openFile(t, bdev.FileConfig{Path: path, Size: 1 << 20, Create: true, BlockSize: bs})
			m := f.Mode()
			fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECT, 0)
			if err == nil {
				buf, merr := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
				if merr != nil {
					t.Fatal(merr)
				}
				_, err = unix.Pread(fd, buf[:bs], 0)
				unix.Munmap(buf)
				unix.Close(fd)
			}
			if m.Direct != (err == nil) || m.Direct == (m.DirectErr != nil) {
				t.Errorf("%s, %d: %+v, and a direct read says %v", path, bs, m, err)
			}
			b := bdevtest.NewBench(t, f)
			b.Write(4096, bdevtest.Fill(4096, 5))
			b.OK(&bdev.Op{Kind: bdev.Write, Length: 4096, Data: [][]byte{bdevtest.Fill(4096, 6)}, FUA: true})
			if got := b.Read(0, 8192); got[0] != 6 || got[4096] != 5 {
				t.Errorf("%s, %d: read something else than was written", path, bs)
			}
			f.Close()
		}
	}
}

// A simulated shard has no descriptors for a ring, and one with too many files
// open neither: workers serve it.
func TestSimulatedShard(t *testing.T) {
	f := openFile(t, bdev.FileConfig{Path: filepath.Join(t.TempDir(), "disk"), Size: 1 << 20, Create: true})
	s := shard.NewSim(shard.Config{Name: t.Name()})
	done := make(chan error)
	op := &bdev.Op{Kind: bdev.Write, Length: 4096, Data: [][]byte{bdevtest.Fill(4096, 1)}, Shard: s, Done: func(op *bdev.Op) { done <- op.Err }}
	for range 3 {
		if err := s.Run(func() { f.Submit(op) }); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	s.Close()
}

// After a flush has failed none succeeds: nobody knows what has been lost.
func TestFlushFailsForGood(t *testing.T) {
	for _, noURing := range []bool{false, true} {
		f := openFile(t, bdev.FileConfig{Path: filepath.Join(t.TempDir(), "disk"), Size: 1 << 20, Create: true, NoURing: noURing})
		b := bdevtest.NewBench(t, f)
		if err := f.FailedFlush(unix.EIO); !errors.Is(err, unix.EIO) {
			t.Error(err)
		}
		for _, op := range []*bdev.Op{
			{Kind: bdev.Flush},
			{Kind: bdev.Write, Length: 4096, Data: [][]byte{make([]byte, 4096)}, FUA: true},
			{Kind: bdev.WriteZeroes, Length: 4096, FUA: true},
		} {
			if err := b.Do(op); !errors.Is(err, unix.EIO) {
				t.Errorf("%v, FUA %v: %v, want EIO", op.Kind, op.FUA, err)
			}
		}
		b.Write(0, bdevtest.Fill(4096, 1))
		b.Read(0, 4096)
		if err := f.Close(); !errors.Is(err, unix.EIO) {
			t.Errorf("Close: %v, want EIO", err)
		}
	}
}
