package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fabrid/fabrid/metrics"
	"github.com/fabrid/fabrid/workqueue"
)

// An adminSocket is a Unix socket that answers who administers a server: the
// user whose process it is, and root.
type adminSocket struct {
	path     string
	file     os.FileInfo // that was made at path
	listener net.Listener
	server   http.Server
	done     sync.WaitGroup
}

// adminTimeout bounds what a client may take to ask.
const adminTimeout = 5 * time.Second

// listenAdmin makes the socket. One that nobody answers at is left over from a
// process that was killed, and is replaced.
func listenAdmin(path string) (*adminSocket, error) {
	bad := func(err error) error { return fmt.Errorf("--admin-socket %s: %w", path, err) }
	if strings.HasPrefix(path, "@") {
		return nil, bad(errors.New("a socket without a file has no mode that keeps others out"))
	}
	if err := removeStale(path); err != nil {
		return nil, bad(err)
	}
	// The mode is right from the start: a change afterwards would be too late for
	// those who were quick. What else is made meanwhile gets less, not more.
	mask := unix.Umask(0o177)
	l, err := net.Listen("unix", path)
	unix.Umask(mask)
	if err != nil {
		if errors.Is(err, syscall.EINVAL) {
			err = errors.New("a path of more than 107 bytes")
		}
		return nil, bad(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // it may be another's then
	file, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(bad(err), l.Close())
	}
	return &adminSocket{path: path, file: file, listener: l}, nil
}

// removeStale removes a socket that is no process's.
func removeStale(path string) error {
	file, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case file.Mode().Type() != os.ModeSocket:
		return errors.New("there is a file that is no socket")
	}
	c, err := net.DialTimeout("unix", path, adminTimeout)
	if err == nil {
		return errors.Join(errors.New("another process answers there"), c.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return removeIf(path, file)
}

// removeIf removes what is at path if it still is that file.
func removeIf(path string, file os.FileInfo) error {
	now, err := os.Lstat(path)
	if err == nil && os.SameFile(now, file) {
		err = os.Remove(path)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// serve answers until close.
func (a *adminSocket) serve(h http.Handler) {
	a.server = http.Server{Handler: h, ReadTimeout: adminTimeout, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	a.done.Go(func() { _ = a.server.Serve(a.listener) }) // it ends by being closed
}

// close ends it, and all that is being answered, and removes the file.
func (a *adminSocket) close() error {
	err := errors.Join(a.server.Close(), a.listener.Close())
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	a.done.Wait()
	return errors.Join(err, removeIf(a.path, a.file))
}

// administer has the socket answer for the server.
func (s *server) administer(f serveFlags) error {
	del, connect := s.node.Workqueues()
	h, err := metrics.NewHandler(metrics.Sources{
		Queues:     s.node.Queues(),
		Budget:     s.node.Budget(),
		Workqueues: []*workqueue.Queue{del, connect, s.node.CMWorkqueue()},
		Target:     s.target,
		More:       s.collectors(f),
	})
	if err == nil {
		s.admin.serve(h)
	}
	return err
}
