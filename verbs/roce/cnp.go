package roce

import "time"

// Congestion notification [IBTA A17.9]. Whoever receives a packet that a switch
// has marked (ECN) tells the sender by a CNP, and hardware slows down for it.
// Software that sends to us does not ask for marks, and neither do we: we could
// slow down no better than for a loss.

// cnpInterval is how often a sender is told, at most: hardware expects no more.
const cnpInterval = 50 * time.Microsecond

// cnpPayload is reserved.
var cnpPayload [16]byte

// congested takes in that a packet of q's was marked.
func (q *queuePair) congested() {
	q.eng.stats.ECNMarked++
	if now := q.now(); now >= q.cnpAfter {
		q.cnp, q.cnpAfter = true, now+cnpInterval
		q.eng.wantAck(q)
	}
}

// sendCNP sends a CNP. The batch has room.
func (q *queuePair) sendCNP(b *txBatch) {
	q.cnp = false
	q.eng.stats.CNPsSent++
	h := packet{bth: bth{opcode: opCNP, becn: true, destQP: q.attr.DestQPN}}
	b.begin(q.path, &h, len(cnpPayload))
	b.payload(cnpPayload[:])
	b.end(h.pad)
}
