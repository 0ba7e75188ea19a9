package roce

import "encoding/binary"

// Sizes of the extension headers. Their fields are big-endian.
const (
	rethLen         = 16
	aethLen         = 4
	immLen          = 4
	iethLen         = 4
	atomicETHLen    = 28
	atomicAckETHLen = 8
	dethLen         = 8
)

// A reth says where an RDMA WRITE or READ goes.
//
//	byte  0..7              8..11     12..15
//	    +-----------------+---------+------------+
//	    | virtual address |  R_Key  | DMA length |
//	    +-----------------+---------+------------+
type reth struct {
	va     uint64
	rkey   uint32
	length uint32
}

func (h *reth) parse(b []byte) {
	_ = b[rethLen-1]
	h.va = binary.BigEndian.Uint64(b)
	h.rkey = binary.BigEndian.Uint32(b[8:])
	h.length = binary.BigEndian.Uint32(b[12:])
}

func (h *reth) put(b []byte) {
	_ = b[rethLen-1]
	binary.BigEndian.PutUint64(b, h.va)
	binary.BigEndian.PutUint32(b[8:], h.rkey)
	binary.BigEndian.PutUint32(b[12:], h.length)
}

// An atomicETH is the request of an atomic operation.
//
//	byte  0..7              8..11     12..19       20..27
//	    +-----------------+---------+------------+-----------+
//	    | virtual address |  R_Key  | swap / add |  compare  |
//	    +-----------------+---------+------------+-----------+
type atomicETH struct {
	va      uint64
	rkey    uint32
	swapAdd uint64
	compare uint64
}

func (h *atomicETH) parse(b []byte) {
	_ = b[atomicETHLen-1]
	h.va = binary.BigEndian.Uint64(b)
	h.rkey = binary.BigEndian.Uint32(b[8:])
	h.swapAdd = binary.BigEndian.Uint64(b[12:])
	h.compare = binary.BigEndian.Uint64(b[20:])
}

func (h *atomicETH) put(b []byte) {
	_ = b[atomicETHLen-1]
	binary.BigEndian.PutUint64(b, h.va)
	binary.BigEndian.PutUint32(b[8:], h.rkey)
	binary.BigEndian.PutUint64(b[12:], h.swapAdd)
	binary.BigEndian.PutUint64(b[20:], h.compare)
}

// A deth stands in every UD packet.
//
//	byte  0..3     4      5..7
//	    +--------+------+--------+
//	    | Q_Key  | resv | SrcQP  |
//	    +--------+------+--------+
type deth struct {
	qkey  uint32
	srcQP uint32 // 24 bits
}

// gsiQKey is the well-known Q_Key of QP1.
const gsiQKey uint32 = 0x80010000

func (h *deth) parse(b []byte) {
	_ = b[dethLen-1]
	h.qkey = binary.BigEndian.Uint32(b)
	h.srcQP = binary.BigEndian.Uint32(b[4:]) & qpnMask
}

func (h *deth) put(b []byte) {
	_ = b[dethLen-1]
	binary.BigEndian.PutUint32(b, h.qkey)
	binary.BigEndian.PutUint32(b[4:], h.srcQP&qpnMask)
}
