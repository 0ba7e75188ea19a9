package roce

// batchPackets is how many packets gather before they are sent.
const batchPackets = 256

// A txPacket is a packet on its way out: a range of the batch's segments.
type txPacket struct {
	path   *path
	lo, hi int // of txBatch.segs: headers, payload, pad and ICRC
	size   int // bytes
}

// A txBatch gathers packets to be sent together. Headers lie in an array of
// its own, payload wherever it is: nothing is copied but by the kernel, unless
// packets have to wait (see own).
//
// The ICRC depends on the place of a packet in its train, so that seal makes
// it, when that place is known; it may be called again.
type txBatch struct {
	pkts  []txPacket
	segs  [][]byte
	heads []byte // headRoom bytes for each packet
	sent  int    // packets of pkts that are gone
	held  []byte // holdRoom bytes for each packet, once some had to wait
	owned int    // packets of pkts whose payload is in held
}

const (
	headRoom = 64 // headers, then pad and ICRC at tailOff
	tailOff  = 56
	holdRoom = 4096 // the largest path MTU
)

func newTxBatch() *txBatch { return newTxBatchOf(batchPackets) }

func newTxBatchOf(packets int) *txBatch {
	return &txBatch{
		pkts:  make([]txPacket, 0, packets),
		segs:  make([][]byte, 0, 4*packets),
		heads: make([]byte, packets*headRoom),
	}
}

func (b *txBatch) empty() bool { return len(b.pkts) == b.sent }
func (b *txBatch) full() bool  { return len(b.pkts) == cap(b.pkts) }

// reset empties the batch. What its segments name is forgotten, so that the
// collector can have it.
func (b *txBatch) reset() {
	clear(b.segs)
	clear(b.pkts)
	b.pkts, b.segs, b.sent, b.owned = b.pkts[:0], b.segs[:0], 0, 0
}

// own copies the payload of what has not been sent, which is not nothing: the
// batch has to wait, and until it goes on, owners of memory may get it back, reuse
// and unmap it.
func (b *txBatch) own() {
	if b.held == nil {
		b.held = make([]byte, cap(b.pkts)*holdRoom)
	}
	for i := max(b.sent, b.owned); i < len(b.pkts); i++ {
		p := &b.pkts[i]
		room := b.held[i*holdRoom : (i+1)*holdRoom : (i+1)*holdRoom]
		for j := p.lo + 1; j < p.hi-1; j++ {
			n := copy(room, b.segs[j])
			b.segs[j], room = room[:n:n], room[n:]
		}
	}
	b.owned = len(b.pkts)
	clear(b.segs[:b.pkts[b.sent].lo]) // what they name is on the wire
}

// begin starts a packet with h's headers; the payload follows by payload, and
// end ends it. The batch is not full. n is the length of the payload.
func (b *txBatch) begin(p *path, h *packet, n int) {
	i := len(b.pkts)
	h.pad = padLen(n)
	h.pkey = defaultPKey
	head := b.heads[i*headRoom : i*headRoom+tailOff : i*headRoom+tailOff]
	head = h.appendHeaders(head[:0])
	b.pkts = append(b.pkts, txPacket{path: p, lo: len(b.segs), size: len(head) + n + int(h.pad) + icrcLen})
	b.segs = append(b.segs, head)
}

// payload appends a piece of the payload.
func (b *txBatch) payload(buf []byte) {
	if len(buf) > 0 {
		b.segs = append(b.segs, buf)
	}
}

// end ends the packet that begin began.
func (b *txBatch) end(pad uint8) {
	i := len(b.pkts) - 1
	tail := b.heads[i*headRoom+tailOff:][: int(pad)+icrcLen : headRoom-tailOff]
	clear(tail[:pad])
	b.segs = append(b.segs, tail)
	b.pkts[i].hi = len(b.segs)
}

// seal writes the ICRC of packet i, which is segment k of its train.
func (b *txBatch) seal(i, k int) {
	p := &b.pkts[i]
	segs := b.segs[p.lo:p.hi]
	tail := segs[len(segs)-1]
	r := p.path.icrc.begin(segs[0], p.size, uint16(k))
	for _, s := range segs[1 : len(segs)-1] {
		r = crcBytes(r, s)
	}
	r = crcBytes(r, tail[:len(tail)-icrcLen])
	putICRC(tail[len(tail)-icrcLen:], ^r)
}

// bytes appends packet i, sealed, to buf in one piece.
func (b *txBatch) bytes(i int, buf []byte) []byte {
	for _, s := range b.segs[b.pkts[i].lo:b.pkts[i].hi] {
		buf = append(buf, s...)
	}
	return buf
}
