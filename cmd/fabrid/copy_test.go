package main

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"
)

func randomBytes(n int) []byte {
	r := rand.NewChaCha8([32]byte{7})
	b := make([]byte, n)
	_, _ = r.Read(b)
	return b
}

// fabridWith is fabrid with an input.
func fabridWith(t *testing.T, stdin io.Reader, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, err bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	code = runWith(ctx, args, stdin, &out, &err)
	return out.String(), err.String(), code
}

// What write has written read reads: files and pipes, any range.
func TestWriteRead(t *testing.T) {
	s := serve(t)
	dir := t.TempDir()
	model := make([]byte, 16<<20)
	data := randomBytes(3<<20 + 777)
	in := filepath.Join(dir, "in")
	if err := os.WriteFile(in, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		stdin  io.Reader
		offset int
		n      int
		flags  []string
	}{
		{nil, 0, len(data), []string{"--file", in, "-i", "2"}},
		{bytes.NewReader(data), 5<<20 + 13, len(data), []string{"--depth", "3", "--bs", "64k"}},
		{iotest.OneByteReader(bytes.NewReader(data)), 9 << 20, 10000, []string{"--length", "10000", "--no-flush"}},
		{nil, 10<<20 + 1, 100, []string{"--file", in, "--length", "100", "--queues", "2", "--depth", "1"}},
		{bytes.NewReader(nil), 11 << 20, 0, nil},
		{nil, 16<<20 - len(data), len(data), []string{"-f", in}}, // to the end
	} {
		args := append([]string{"write", "-a", s.addr, "--offset", strconv.Itoa(x.offset)}, x.flags...)
		if out, errs, code := fabridWith(t, x.stdin, args...); code != 0 || out != "" || !strings.Contains(errs, strconv.Itoa(x.n)+" bytes at ") {
			t.Fatalf("%v: code %d\n%s%s", args, code, out, errs)
		}
		copy(model[x.offset:], data[:x.n])
	}
	out, errs, code := fabrid(t, "read", "-a", s.addr, "-i", "2")
	if code != 0 || out != string(model) {
		t.Fatalf("read: code %d, %d bytes\n%s", code, len(out), errs)
	}
	out, errs, code = fabrid(t, "read", "-a", s.addr, "--offset", "5MiB", "--length", "12345", "--bs", "4k", "--no-progress")
	if code != 0 || out != string(model[5<<20:][:12345]) || errs != "" {
		t.Fatalf("read of a range: code %d, %d bytes\n%s", code, len(out), errs)
	}
	file := filepath.Join(dir, "out")
	_, errs, code = fabrid(t, "read", "-a", s.addr, "--offset", "1", "--file", file)
	got, err := os.ReadFile(file)
	if code != 0 || err != nil || !bytes.Equal(got, model[1:]) {
		t.Fatalf("read to a file: code %d, %v, %d bytes\n%s", code, err, len(got), errs)
	}
	if c := nothingLeft(t, s); c.Commands.Writes == 0 {
		t.Errorf("counters: %+v", c)
	}
}

func TestCopyErrors(t *testing.T) {
	s := serve(t)
	long := filepath.Join(t.TempDir(), "long")
	if err := os.WriteFile(long, make([]byte, 16<<20+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		stdin io.Reader
		args  []string
		want  string
	}{
		{nil, []string{"read", "--offset", "17MiB"}, "LBA out of range"},
		{nil, []string{"read", "--length", "17MiB"}, "LBA out of range"},
		{nil, []string{"read", "--offset", "17MiB", "--file", long}, "of the 16777216 that"},
		{nil, []string{"read", "--length", "17MiB", "--file", long}, "of the 16777216 that"},
		{nil, []string{"read", "--bs", "0"}, "want the bytes of a command"},
		{nil, []string{"read", "--bs", "1000"}, "not whole blocks"},
		{nil, []string{"read", "--nsid", "9"}, "not attached"},
		{nil, []string{"read", "--file", "/nonexistent/x"}, "no such file"},
		{nil, []string{"read", "--depth", "0"}, "want a number from 1"},
		{nil, []string{"write", "--file", long}, "has room for 16777216"},
		{bytes.NewReader(make([]byte, 100)), []string{"write", "--length", "101"}, "ended after 100 of 101 bytes"},
		{bytes.NewReader(make([]byte, 100)), []string{"write", "--offset", "16777117"}, "longer than the 99 bytes"},
		{iotest.ErrReader(io.ErrNoProgress), []string{"write"}, "after 0 bytes: multiple Read calls"},
	} {
		out, errs, code := fabridWith(t, x.stdin, append(x.args, "-a", s.addr)...)
		if code != 1 || !strings.Contains(errs, x.want) || out != "" {
			t.Errorf("%v: code %d, want %q\n%s", x.args, code, x.want, errs)
		}
	}
	if code := runWith(t.Context(), []string{"read", "-a", s.addr}, nil, full{}, io.Discard); code != 1 {
		t.Errorf("read to a full disk: code %d", code)
	}
	nothingLeft(t, s)
}

// A signal ends what waits for a pipe at either end, and the controller is
// disconnected.
func TestCopyInterrupted(t *testing.T) {
	s := serve(t)
	for _, args := range [][]string{{"read"}, {"write"}} {
		ctx, cancel := context.WithCancel(t.Context())
		r, w := io.Pipe()
		stuck := make(chan struct{})
		var once atomic.Bool
		reached := func() {
			if !once.Swap(true) {
				close(stuck)
			}
		}
		errs := newOutput()
		code := make(chan int, 1)
		go func() {
			code <- runWith(ctx, append(args, "-a", s.addr),
				readerFunc(func(p []byte) (int, error) { reached(); return r.Read(p) }),
				writerFunc(func(p []byte) (int, error) { reached(); return w.Write(p) }), errs)
		}()
		<-stuck
		cancel()
		if c := <-code; c != 1 || !strings.Contains(errs.String(), "interrupted: context canceled") {
			t.Errorf("%v: code %d\n%s", args, c, errs)
		}
		_ = r.Close()
		_ = w.Close()
	}
	nothingLeft(t, s)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
