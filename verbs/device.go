package verbs

import "net/netip"

// A Device is an RDMA device: one provider on one set of local addresses. It
// may be used from any goroutine.
type Device interface {
	// Attr returns what the device can do. It does not change.
	Attr() DeviceAttr

	// AllocPD makes a protection domain.
	AllocPD() (PD, error)
}

// DeviceAttr says what a device can do ([IBTA] 11.2.1.2, ibv_query_device).
type DeviceAttr struct {
	Name           string
	NodeGUID       uint64 // in host order; unique per device, stable while it exists
	NumCompVectors int    // completion vectors, one event loop each
	MaxQPWR        int    // send or receive work requests of a queue pair
	MaxSGE         int    // elements of a work request
	MaxCQE         int    // entries of a completion queue
	MaxSRQWR       int    // receives of a shared receive queue
	MaxQPRdAtom    int    // RDMA READs a QP may answer at once
	MaxQPInitRd    int    // RDMA READs a QP may have outstanding
	MaxMRSize      uint64 // bytes of a memory region
	MaxFastRegLen  int    // bytes a fast registration may cover
}

// A PD is a protection domain: keys of one are of no use in another
// ([IBTA] 10.2.3).
type PD interface {
	// LocalDMALKey is a local key that covers all of the process's memory, for
	// local use only: what the peer may reach is a matter of RegMR alone.
	// ok is false where a provider has none; then memory must be registered.
	LocalDMALKey() (lkey uint32, ok bool)

	// RegMR registers buf at address iova. The memory stays the caller's, but
	// must not be unmapped before Dereg has returned.
	RegMR(buf []byte, iova uint64, access Access) (MR, error)

	// AllocMR makes a region for fast registration ([WRRegMR]): invalid until
	// registered, for at most maxLen bytes.
	AllocMR(maxLen int) (MR, error)

	// CreateCQ makes a completion queue; on the loop of the attr's vector.
	CreateCQ(attr CQAttr) (CQ, error)

	// CreateSRQ makes a shared receive queue; on its vector's loop.
	CreateSRQ(attr SRQAttr) (SRQ, error)

	// CreateQP makes a reliable-connection queue pair in state Reset; on the
	// loop of its CQs, which must be of one vector.
	CreateQP(attr QPInitAttr) (QP, error)

	// Dealloc gives the domain back. It fails while anything is left in it.
	Dealloc() error
}

// Access is what a memory region, or a queue pair, allows.
type Access uint8

// Access flags ([IBTA] 10.6.3). Local reads are always allowed.
const (
	AccessLocalWrite Access = 1 << iota
	AccessRemoteWrite
	AccessRemoteRead
)

// An MR is a memory region.
type MR interface {
	LKey() uint32
	// RKey is the remote key as of the last registration. The low 8 bits are the
	// consumer's to vary from one fast registration to the next.
	RKey() uint32
	// Dereg ends the registration: when it has returned, no peer reaches the
	// memory any more. It may be called from any goroutine but the device's
	// loops, and may wait for them.
	Dereg() error
}

// An SGE is a scatter/gather element.
type SGE struct {
	Buf  []byte
	LKey uint32
}

// A Path is where a connected queue pair's packets go.
type Path struct {
	Local, Remote netip.Addr
	MTU           int    // payload bytes of a packet: 256, 512, 1024, 2048 or 4096
	FlowLabel     uint32 // 20 bits; providers derive the UDP source port from it
	TrafficClass  uint8
	HopLimit      uint8
}
