package rdmacm

import "fmt"

// An EventType says what happened to an ID, with rdma_cm_event_type's names and
// numbers.
type EventType uint8

// Event types.
const (
	AddrResolved    EventType = 0
	AddrError       EventType = 1
	RouteResolved   EventType = 2
	RouteError      EventType = 3
	ConnectRequest  EventType = 4 // a listener's: Event.Conn is the new ID
	ConnectResponse EventType = 5 // only without a queue pair
	ConnectError    EventType = 6 // the exchange failed on our side: Status
	Unreachable     EventType = 7 // no answer: Status
	Rejected        EventType = 8 // Status is the reason of the REJ
	Established     EventType = 9
	Disconnected    EventType = 10
	DeviceRemoval   EventType = 11
	AddrChange      EventType = 14
	TimewaitExit    EventType = 15
)

var eventNames = map[EventType]string{
	AddrResolved:    "address resolved",
	AddrError:       "address error",
	RouteResolved:   "route resolved",
	RouteError:      "route error",
	ConnectRequest:  "connect request",
	ConnectResponse: "connect response",
	ConnectError:    "connect error",
	Unreachable:     "unreachable",
	Rejected:        "rejected",
	Established:     "established",
	Disconnected:    "disconnected",
	DeviceRemoval:   "device removal",
	AddrChange:      "address change",
	TimewaitExit:    "timewait exit",
}

func (t EventType) String() string {
	if n, ok := eventNames[t]; ok {
		return n
	}
	return fmt.Sprintf("EventType(%d)", uint8(t))
}

// An Event is something that happened to an ID.
type Event struct {
	Type EventType
	// Status is the reason of a REJ for Rejected, otherwise 0 or a number that
	// the provider's Err explains.
	Status int
	// Err says what went wrong, for errors.
	Err error
	// Param is the peer's, for ConnectRequest, ConnectResponse, Established on
	// the active side, and Rejected (private data alone). Its private data
	// belongs to the handler.
	Param ConnParam
	// Conn is the new connection's ID, for ConnectRequest.
	Conn *ID
}

// ConnParam is what the ends tell each other when they connect, as
// rdma_conn_param has it, from the view of the end that sets it.
type ConnParam struct {
	// PrivateData is the consumer's. Where no length is sent, as on InfiniBand
	// and RoCE, what arrives is padded with zeros to the most that can be: 56
	// bytes of a request, 196 of an acceptance, 148 of a refusal.
	PrivateData        []byte
	ResponderResources uint8 // RDMA READs that this end answers at once
	InitiatorDepth     uint8 // RDMA READs that this end has outstanding
	FlowControl        bool
	RetryCount         uint8 // of the transport; active side
	RNRRetryCount      uint8
	SRQ                bool
	QPN                uint32

	// NodeGUID is the peer's CA GUID, in events only.
	NodeGUID uint64
}

// Reasons of a REJ that callers meet ([IBTA] 12.6.7.2).
const (
	RejNoQP             = 1
	RejNoResources      = 3
	RejTimeout          = 4
	RejInvalidServiceID = 8
	RejStaleConnection  = 10
	RejInvalidGID       = 12
	RejInvalidMTU       = 26
	RejConsumerDefined  = 28
)

var rejNames = map[int]string{
	RejNoQP:             "no QP available",
	RejNoResources:      "no resources available",
	RejTimeout:          "timeout",
	RejInvalidServiceID: "invalid service ID: nobody listens on that port",
	RejStaleConnection:  "stale connection",
	RejInvalidGID:       "invalid GID",
	RejInvalidMTU:       "invalid MTU",
	RejConsumerDefined:  "consumer defined",
}

// RejectReason names the reason of a REJ.
func RejectReason(status int) string {
	if n, ok := rejNames[status]; ok {
		return n
	}
	return fmt.Sprintf("reason %d", status)
}
