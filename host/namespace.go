package host

import (
	"fmt"
	"math/bits"
	"sync/atomic"

	"github.com/fabrid/fabrid/nvme"
)

// A Namespace is a namespace that the controller has attached. Its methods may
// be called from any goroutine. It stays the same object as long as the
// namespace stays the same, by its identifiers; when that is removed every use
// fails with [ErrNamespaceGone].
type Namespace struct {
	ctrl   *Controller
	nsid   uint32
	format atomic.Pointer[format]
	gone   atomic.Bool
	// partial is held by who reads and writes a block to change a part of it.
	partial chan struct{}
}

// NamespaceInfo is what the controller says of a namespace.
type NamespaceInfo struct {
	NSID      uint32
	UUID      nvme.UUID // zero: none, as for the next two
	NGUID     nvme.NGUID
	EUI64     nvme.EUI64
	BlockSize int    // bytes
	Blocks    uint64 // NSZE
	ReadOnly  bool   // write protected
	// ReadsZeroes: deallocated blocks read as zeros.
	ReadsZeroes bool
	// MaxData is the most data of one command in bytes: MDTS, the fabric's
	// bound, and what NLB can count.
	MaxData int
	// Identify is the data structure as it came.
	Identify nvme.IdentifyNamespace
}

// Size returns the namespace's size in bytes.
func (i *NamespaceInfo) Size() uint64 { return i.Blocks * uint64(i.BlockSize) }

// format is what every command needs to know, as it is now.
type format struct {
	info    NamespaceInfo
	shift   uint // of the block size
	blocks  uint64
	maxData int
}

func (f *format) blockSize() int { return 1 << f.shift }

func (f *format) size() int64 { return int64(f.blocks << f.shift) }

// same reports whether two descriptions are of one namespace: none of their
// identifiers contradict, and the blocks are as long.
func (f *format) same(g *format) bool {
	return f.info.UUID == g.info.UUID && f.info.NGUID == g.info.NGUID && f.info.EUI64 == g.info.EUI64 && f.shift == g.shift
}

// Info returns what the controller said when the namespace was last identified.
func (n *Namespace) Info() NamespaceInfo { return n.format.Load().info }

// NSID returns the Namespace Identifier.
func (n *Namespace) NSID() uint32 { return n.nsid }

// BlockSize returns the size of a logical block in bytes.
func (n *Namespace) BlockSize() int { return n.format.Load().blockSize() }

// Blocks returns the number of logical blocks.
func (n *Namespace) Blocks() uint64 { return n.format.Load().blocks }

// Size returns the namespace's size in bytes.
func (n *Namespace) Size() int64 { return n.format.Load().size() }

// MaxData returns the most bytes that one [IO] may move.
func (n *Namespace) MaxData() int { return n.format.Load().maxData }

// makeFormat checks and digests what the controller says of a namespace.
func makeFormat(nsid uint32, id *nvme.IdentifyNamespace, ids nvme.NamespaceDescriptors, maxData int) (*format, error) {
	lba := id.Format()
	size := lba.BlockSize()
	switch {
	case size == 0 || size > uint64(maxData):
		return nil, fmt.Errorf("host: namespace %d: LBADS %d, want 9 to %d", nsid, lba.LBADS, bits.Len(uint(maxData))-1)
	case lba.MS != 0:
		return nil, fmt.Errorf("host: namespace %d: %d bytes of metadata per block are not supported", nsid, lba.MS)
	case id.NSZE > (1<<63-1)>>lba.LBADS:
		return nil, fmt.Errorf("host: namespace %d: NSZE %d blocks of %d bytes are more than 2^63", nsid, id.NSZE, size)
	}
	if ids.EUI64.IsZero() {
		ids.EUI64 = id.EUI64
	}
	if ids.NGUID.IsZero() {
		ids.NGUID = id.NGUID
	}
	f := &format{shift: uint(lba.LBADS), blocks: id.NSZE}
	f.maxData = min(maxData>>f.shift, maxNLB) << f.shift
	f.info = NamespaceInfo{
		NSID: nsid, UUID: ids.UUID, NGUID: ids.NGUID, EUI64: ids.EUI64,
		BlockSize: int(size), Blocks: id.NSZE,
		ReadOnly:    id.NSATTR&nvme.NSATTRWriteProtected != 0,
		ReadsZeroes: id.DLFEAT&7 == nvme.DLFEATReadZeroes,
		MaxData:     f.maxData,
		Identify:    *id,
	}
	return f, nil
}
