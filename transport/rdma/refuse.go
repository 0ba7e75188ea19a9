package rdma

import (
	"fmt"

	"github.com/fabrid/fabrid/nvme"
	"github.com/fabrid/fabrid/rdmacm"
)

// A refusal is why a queue is not admitted: a status for the host and the
// reason for us.
type refusal struct {
	status nvme.RDMACMStatus
	why    string
}

func (e *refusal) Error() string { return fmt.Sprintf("rdma: refused: %v: %s", e.status, e.why) }
func (e *refusal) Unwrap() error { return e.status }

func refuse(status nvme.RDMACMStatus, format string, args ...any) error {
	return &refusal{status, fmt.Sprintf(format, args...)}
}

// An offer is what a host asks for, checked.
type offer struct {
	qid   uint16
	depth int // commands that the host may have outstanding
	reads int // RDMA READs that it answers at once
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
	return offer{qid: req.QID, depth: depth, reads: int(p.ResponderResources)}, nil
}
