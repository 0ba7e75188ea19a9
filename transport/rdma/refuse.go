package rdma

import (
	"errors"
	"fmt"
	"strings"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/rdmacm"
	"github.com/fabrid/fabrid/transport"
)

// A refusal is why a queue is not admitted: a status for the host and the
// reason for us.
type refusal struct {
	status nvme.RDMACMStatus
	why    error
}

func (e *refusal) Error() string   { return fmt.Sprintf("rdma: refused: %v: %v", e.status, e.why) }
func (e *refusal) Unwrap() []error { return []error{e.status, e.why} }

// Reason is the refusal in a word; see [transport.Reasoner].
func (e *refusal) Reason() string {
	if r, ok := errors.AsType[transport.Reasoner](e.why); ok {
		return r.Reason()
	}
	switch e.status {
	case nvme.RDMACMInvalidLength:
		return "invalid_length"
	case nvme.RDMACMInvalidRecFmt:
		return "invalid_recfmt"
	case nvme.RDMACMInvalidQID:
		return "invalid_qid"
	case nvme.RDMACMInvalidHSQSize:
		return "invalid_hsqsize"
	case nvme.RDMACMInvalidHRQSize:
		return "invalid_hrqsize"
	case nvme.RDMACMInvalidIRD:
		return "invalid_ird"
	case nvme.RDMACMInvalidORD:
		return "invalid_ord"
	case nvme.RDMACMInvalidCNTLID:
		return "invalid_cntlid"
	}
	return "no_resources"
}

// word is a name as counters have it.
func word(name string) string { return strings.ReplaceAll(strings.ToLower(name), " ", "_") }

func refuse(status nvme.RDMACMStatus, format string, args ...any) error {
	return &refusal{status, fmt.Errorf(format, args...)}
}

// An offer is what a host asks for, checked.
type offer struct {
	qid    uint16
	cntlid uint16 // of an I/O queue's controller; 0 from older hosts
	depth  int    // commands that the host may have outstanding
	reads  int    // RDMA READs that it answers at once
}

// parseOffer checks the private data of a REQ and what came with it [RDMA,
// Connection Management]. Its errors have an [nvme.RDMACMStatus] in the chain.
func parseOffer(p *rdmacm.ConnParam, maxQueueSize int) (offer, error) {
	var req nvme.RDMACMRequest
	if err := req.Parse(p.PrivateData); err != nil {
		if s, ok := err.(nvme.RDMACMStatus); ok {
			return offer{}, refuse(s, "%d bytes of private data", len(p.PrivateData))
		}
		return offer{}, err
	}
	// HSQSIZE is 0-based, HRQSIZE is not.
	depth, limit := int(req.HSQSIZE)+1, maxQueueSize
	if req.QID == 0 {
		limit = adminQueueSize
	}
	switch {
	case depth < 2 || depth > limit:
		return offer{}, refuse(nvme.RDMACMInvalidHSQSize, "queue %d: HSQSIZE %d, want 1 to %d", req.QID, req.HSQSIZE, limit-1)
	case int(req.HRQSIZE) < depth:
		// Each command has a response: some would find no receive.
		return offer{}, refuse(nvme.RDMACMInvalidHRQSize, "queue %d: HRQSIZE %d, HSQSIZE %d", req.QID, req.HRQSIZE, req.HSQSIZE)
	case p.ResponderResources == 0:
		// The host would never let us read what it writes.
		return offer{}, refuse(nvme.RDMACMInvalidIRD, "queue %d: responder resources 0", req.QID)
	}
	return offer{qid: req.QID, cntlid: req.CNTLID, depth: depth, reads: int(p.ResponderResources)}, nil
}
