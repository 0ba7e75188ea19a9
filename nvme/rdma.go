package nvme

import (
	"encoding/binary"
	"fmt"
)

// Sizes of the private data that NVMe/RDMA puts into messages of the RDMA
// connection manager [RDMA, Connection Management]. RoCE delivers it padded
// to the length of the message's field.
const (
	RDMACMRequestSize = 32
	RDMACMReplySize   = 32
	RDMACMRejectSize  = 4
)

// RDMACMConsumerReject is the reason of a REJ that carries an [RDMACMReject].
const RDMACMConsumerReject = 28

// RDMACMStatus is the STS of an [RDMACMReject]. It is an error: what a target
// refuses a queue with.
type RDMACMStatus uint16

// Reasons for refusing a queue.
const (
	RDMACMInvalidLength  RDMACMStatus = 1
	RDMACMInvalidRecFmt  RDMACMStatus = 2
	RDMACMInvalidQID     RDMACMStatus = 3
	RDMACMInvalidHSQSize RDMACMStatus = 4
	RDMACMInvalidHRQSize RDMACMStatus = 5
	RDMACMNoResources    RDMACMStatus = 6
	RDMACMInvalidIRD     RDMACMStatus = 7
	RDMACMInvalidORD     RDMACMStatus = 8
	RDMACMInvalidCNTLID  RDMACMStatus = 9
)

var rdmacmStatuses = []string{
	RDMACMInvalidLength:  "invalid length",
	RDMACMInvalidRecFmt:  "invalid RECFMT",
	RDMACMInvalidQID:     "invalid queue ID",
	RDMACMInvalidHSQSize: "invalid HSQSIZE",
	RDMACMInvalidHRQSize: "invalid HRQSIZE",
	RDMACMNoResources:    "no resources",
	RDMACMInvalidIRD:     "invalid IRD",
	RDMACMInvalidORD:     "invalid ORD",
	RDMACMInvalidCNTLID:  "invalid CNTLID",
}

// String returns the status in words.
func (s RDMACMStatus) String() string {
	if int(s) < len(rdmacmStatuses) && s != 0 {
		return rdmacmStatuses[s]
	}
	return fmt.Sprintf("NVMe/RDMA status %d", uint16(s))
}

// Error describes the refusal.
func (s RDMACMStatus) Error() string { return "nvme: RDMA connection refused: " + s.String() }

// RDMACMRequest is the private data of a host's REQ.
//
//	byte  0..1     2..3     4..5      6..7      8..9     10..31
//	    +--------+--------+---------+---------+--------+----------+
//	    | RECFMT |  QID   | HRQSIZE | HSQSIZE | CNTLID | reserved |
//	    +--------+--------+---------+---------+--------+----------+
type RDMACMRequest struct {
	QID     uint16
	HRQSIZE uint16 // host's receive queue: the most responses on their way, counted from 1
	HSQSIZE uint16 // host's send queue: the most commands on their way, 0-based
	CNTLID  uint16 // of an I/O queue; 0 from older hosts
}

// AppendTo appends the [RDMACMRequestSize] bytes to b, with RECFMT 0.
func (r RDMACMRequest) AppendTo(b []byte) []byte {
	b, p := extend(b, RDMACMRequestSize)
	binary.LittleEndian.PutUint16(p[2:], r.QID)
	binary.LittleEndian.PutUint16(p[4:], r.HRQSIZE)
	binary.LittleEndian.PutUint16(p[6:], r.HSQSIZE)
	binary.LittleEndian.PutUint16(p[8:], r.CNTLID)
	return b
}

// Parse reads the private data from the start of b. Errors are an
// [RDMACMStatus], ready to refuse the host with: [RDMACMInvalidLength] if b
// has fewer than [RDMACMRequestSize] bytes, [RDMACMInvalidRecFmt] if RECFMT is
// not 0. The other fields are the target's to check.
func (r *RDMACMRequest) Parse(b []byte) error {
	if len(b) < RDMACMRequestSize {
		return RDMACMInvalidLength
	}
	if binary.LittleEndian.Uint16(b) != 0 {
		return RDMACMInvalidRecFmt
	}
	*r = RDMACMRequest{
		QID:     binary.LittleEndian.Uint16(b[2:]),
		HRQSIZE: binary.LittleEndian.Uint16(b[4:]),
		HSQSIZE: binary.LittleEndian.Uint16(b[6:]),
		CNTLID:  binary.LittleEndian.Uint16(b[8:]),
	}
	return nil
}

// RDMACMReply is the private data of a target's REP.
//
//	byte  0..1     2..3      4..31
//	    +--------+---------+----------+
//	    | RECFMT | CRQSIZE | reserved |
//	    +--------+---------+----------+
type RDMACMReply struct {
	CRQSIZE uint16 // controller's receive queue: the commands it has room for, counted from 1
}

// AppendTo appends the [RDMACMReplySize] bytes to b, with RECFMT 0.
func (r RDMACMReply) AppendTo(b []byte) []byte {
	b, p := extend(b, RDMACMReplySize)
	binary.LittleEndian.PutUint16(p[2:], r.CRQSIZE)
	return b
}

// Parse reads the private data from the start of b; its errors are those of
// [RDMACMRequest.Parse]. (Linux hosts ignore a REP's private data.)
func (r *RDMACMReply) Parse(b []byte) error {
	if len(b) < RDMACMReplySize {
		return RDMACMInvalidLength
	}
	if binary.LittleEndian.Uint16(b) != 0 {
		return RDMACMInvalidRecFmt
	}
	r.CRQSIZE = binary.LittleEndian.Uint16(b[2:])
	return nil
}

// RDMACMReject is the private data of a target's REJ with reason
// [RDMACMConsumerReject].
//
//	byte  0..1     2..3
//	    +--------+-------+
//	    | RECFMT |  STS  |
//	    +--------+-------+
type RDMACMReject struct {
	Status RDMACMStatus
}

// AppendTo appends the [RDMACMRejectSize] bytes to b, with RECFMT 0.
func (r RDMACMReject) AppendTo(b []byte) []byte {
	b = append(b, 0, 0)
	return binary.LittleEndian.AppendUint16(b, uint16(r.Status))
}

// Parse reads the private data from the start of b; its errors are those of
// [RDMACMRequest.Parse].
func (r *RDMACMReject) Parse(b []byte) error {
	if len(b) < RDMACMRejectSize {
		return RDMACMInvalidLength
	}
	if binary.LittleEndian.Uint16(b) != 0 {
		return RDMACMInvalidRecFmt
	}
	r.Status = RDMACMStatus(binary.LittleEndian.Uint16(b[2:]))
	return nil
}
