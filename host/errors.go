package host

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/transport"
)

// Errors that callers act upon; they are in the chain of what is returned.
var (
	// ErrClosed: the controller has been disconnected by its user.
	ErrClosed = errors.New("controller disconnected")
	// ErrLost: the connection was lost and the command was not, or not known to
	// be, executed. I/O commands tell which by a [*PathError].
	ErrLost = errors.New("connection to the controller lost")
	// ErrNamespaceGone: the namespace is not there any more.
	ErrNamespaceGone = errors.New("namespace removed")
	// ErrQueueGone: after a reconnect the controller grants fewer queues.
	ErrQueueGone = errors.New("queue not granted any more")
)

// A ConnectError says at what point a connection failed, and what to do. A
// refusal by status has an [nvme.Status] in its chain, one by the fabric a
// [*transport.RefusedError].
type ConnectError struct {
	Remote netip.AddrPort
	NQN    string
	Step   string // what was done: "Connect of queue 0", "Identify Controller"
	Err    error
	Hint   string // what to do, if anything can be said
}

func (e *ConnectError) Error() string {
	s := fmt.Sprintf("host: connect %s at %v: %s: %v", e.NQN, e.Remote, e.Step, e.Err)
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

// Unwrap returns Err.
func (e *ConnectError) Unwrap() error { return e.Err }

// DNR reports whether err carries a status that says Do Not Retry: trying again
// would fail again.
func DNR(err error) bool {
	s, ok := errors.AsType[nvme.Status](err)
	return ok && s.DNR()
}

// hint says what a user can do about err, a failure to connect.
func hint(cfg *Config, err error) string {
	if r, ok := errors.AsType[*transport.RefusedError](err); ok {
		switch {
		case !r.Listening:
			return "check address and port, and that the target is running"
		case r.Busy:
			return "the target has no resources now: try again later"
		}
		return ""
	}
	if f, ok := errors.AsType[*nvme.FieldError](err); ok && f.InData && f.Offset == nvme.OffDataSUBNQN {
		return "no subsystem of that name is offered there: run discovery to see which are"
	}
	switch {
	case errors.Is(err, nvme.ConnectInvalidHost):
		return fmt.Sprintf("the subsystem does not admit host %s: allow it at the target", cfg.HostNQN)
	case errors.Is(err, nvme.ConnectControllerBusy):
		return "the subsystem has no controller to spare: try again later"
	case errors.Is(err, nvme.AuthenticationRequired):
		return "the subsystem wants authentication, which is not supported"
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time: check address, network and firewall"
	}
	return ""
}

// A CommandError is a command that the controller answered with a status other
// than success, which is in its chain.
type CommandError struct {
	Command string // the specification's name
	QID     uint16
	NSID    uint32 // 0 if the command has none
	LBA     uint64 // with Blocks, if the command names blocks
	Blocks  uint64
	Status  nvme.Status
	Result  uint64 // dwords 0 and 1 of the completion
	io      bool
}

func (e *CommandError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "host: %s", e.Command)
	if e.NSID != 0 {
		fmt.Fprintf(&b, " of namespace %d", e.NSID)
	}
	if e.Blocks != 0 {
		fmt.Fprintf(&b, ", %d blocks from %d", e.Blocks, e.LBA)
	}
	name := e.Status.FabricsName()
	if e.io {
		name = e.Status.NVMName()
	}
	fmt.Fprintf(&b, ": %s (status %#04x", name, uint16(e.Status))
	if e.Status.DNR() {
		b.WriteString(", do not retry")
	}
	b.WriteString(")")
	return b.String()
}

// Unwrap returns the Status.
func (e *CommandError) Unwrap() error { return e.Status }

// A PathError is an I/O command for which there was no way to the namespace in
// the time that [Config] gives it: because the connection was lost ([ErrLost] is
// in its chain), or because the controller has no path to the namespace (a
// [*CommandError] is). It is never sent again.
type PathError struct {
	Command string // the specification's name
	NSID    uint32
	LBA     uint64 // with Blocks, if the command names blocks
	Blocks  uint64
	// Unknown: the command was outstanding when a connection was lost. It may
	// have been executed, in whole or in part, or not at all. Otherwise it was
	// not executed.
	Unknown bool
	Err     error
}

func (e *PathError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "host: %s of namespace %d", e.Command, e.NSID)
	if e.Blocks != 0 {
		fmt.Fprintf(&b, ", %d blocks from %d", e.Blocks, e.LBA)
	}
	b.WriteString(": no path")
	if e.Unknown {
		b.WriteString(", and it may have been executed or not")
	}
	fmt.Fprintf(&b, ": %v", e.Err)
	return b.String()
}

// Unwrap returns Err.
func (e *PathError) Unwrap() error { return e.Err }

// connectFields names what the result of a refused Connect points at.
var connectFields = map[bool]map[int]string{
	false: {
		nvme.OffRecFmt: "RECFMT", nvme.OffQID: "QID", nvme.OffSQSize: "SQSIZE",
		nvme.OffCATTR: "CATTR", nvme.OffKATO: "KATO",
	},
	true: {
		nvme.OffDataHostID: "HOSTID", nvme.OffDataCNTLID: "CNTLID",
		nvme.OffDataSUBNQN: "SUBNQN", nvme.OffDataHOSTNQN: "HOSTNQN",
	},
}

// connectRefusal makes the error of a Connect that was refused: with the field,
// if the completion names one.
func connectRefusal(c nvme.Completion) error {
	if !errors.Is(c.Status, nvme.ConnectInvalidParameters) {
		return c.Status
	}
	offset, inData := nvme.InvalidConnectParameter(c.DW0())
	name := connectFields[inData][offset]
	if name == "" {
		return c.Status
	}
	return &nvme.FieldError{Status: c.Status, Field: name, Offset: offset, InData: inData}
}
