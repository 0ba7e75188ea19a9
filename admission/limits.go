package admission

import (
	"fmt"
	"net/netip"
)

// A Host is who connects, as far as it is known before it has sent a command:
// the address it comes from, and the GUID of its adapter where the fabric has
// one. It is good against accidents; a host that wants to can be many.
type Host struct {
	Addr netip.Addr
	GUID uint64
}

// A Resource is something of which there is a bounded amount.
type Resource uint8

// The resources.
const (
	Queues     Resource = iota // charged: connecting, live, reserved, being released
	Bytes                      // of those
	Connecting                 // queues charged and without a successful Connect command
	Waiting                    // who waits for room, and is charged nothing
	numResources
)

var resourceNames = [numResources]string{"queues", "bytes", "connecting", "waiting"}

func (r Resource) String() string { return resourceNames[r] }

// Limits bounds each resource. Zero means no bound.
type Limits struct {
	Queues     int
	Bytes      int64
	Connecting int
	Waiting    int
}

func (l Limits) of(r Resource) int64 {
	return [numResources]int64{int64(l.Queues), l.Bytes, int64(l.Connecting), int64(l.Waiting)}[r]
}

// A Scope is whom a bound is for.
type Scope uint8

// The scopes.
const (
	OfTarget Scope = iota
	OfPort
	OfHost
)

var scopeNames = [...]string{"target", "port", "host"}

func (s Scope) String() string { return scopeNames[s] }

// An Error says which bound a charge would have passed.
type Error struct {
	Scope              Scope
	What               Resource
	Asked, Used, Limit int64
}

func (e *Error) Error() string {
	return fmt.Sprintf("admission: %d more %v on top of %d pass the limit of %d of the %v", e.Asked, e.What, e.Used, e.Limit, e.Scope)
}

// Reason is the error in a word, for counters: "target_queues", "host_bytes".
func (e *Error) Reason() string { return e.Scope.String() + "_" + e.What.String() }

// Usage is how much there is of each resource.
type Usage struct {
	Queues     int   `json:"queues"`
	Bytes      int64 `json:"bytes"`
	Connecting int   `json:"connecting"`
	Waiting    int   `json:"waiting"`
	Reserved   int   `json:"reserved"` // of the queues, those that do not exist yet
}

// A charge is what is asked for, or given back.
type charge [numResources]int64

func (c charge) negative() charge {
	for i := range c {
		c[i] = -c[i]
	}
	return c
}

// An account is what is charged in one scope.
type account struct {
	scope    Scope
	limits   Limits
	used     charge
	reserved int
}

// fits reports whether c passes no bound, or which. It does so by value: looking
// whether somebody can be let in is part of a release, which needs no memory.
func (a *account) fits(c charge) (Error, bool) {
	for r, n := range c {
		if l := a.limits.of(Resource(r)); n > 0 && l > 0 && n > l-a.used[r] {
			return Error{a.scope, Resource(r), n, a.used[r], l}, false
		}
	}
	return Error{}, true
}

func (a *account) add(c charge, reserved int) {
	for r, n := range c {
		a.used[r] += n
		if a.used[r] < 0 {
			panic(fmt.Sprintf("admission: %d %v charged to a %v", a.used[r], Resource(r), a.scope))
		}
	}
	a.reserved += reserved
}

func (a *account) usage() Usage {
	return Usage{
		Queues: int(a.used[Queues]), Bytes: a.used[Bytes],
		Connecting: int(a.used[Connecting]), Waiting: int(a.used[Waiting]), Reserved: a.reserved,
	}
}
