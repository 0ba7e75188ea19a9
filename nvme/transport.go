package nvme

// TransportType is a Transport Type (TRTYPE).
type TransportType uint8

// Transport types.
const (
	TransportRDMA TransportType = 1
	TransportFC   TransportType = 2
	TransportTCP  TransportType = 3
	TransportLoop TransportType = 254 // within one host
)

// String returns the word that Linux has for the transport.
func (t TransportType) String() string {
	if t == TransportLoop {
		return "loop"
	}
	return name([]string{"", "rdma", "fc", "tcp"}, uint8(t), "transport type")
}

// AddressFamily is an Address Family (ADRFAM).
type AddressFamily uint8

// Address families.
const (
	AddressIPv4 AddressFamily = 1
	AddressIPv6 AddressFamily = 2
	AddressIB   AddressFamily = 3
	AddressFC   AddressFamily = 4
	AddressLoop AddressFamily = 254
)

// String returns the word that Linux has for the family.
func (f AddressFamily) String() string {
	if f == AddressLoop {
		return "loop"
	}
	return name([]string{"", "ipv4", "ipv6", "ib", "fc"}, uint8(f), "address family")
}

// SubsystemType is a Subsystem Type (SUBTYPE): what a discovery log page
// entry points to.
type SubsystemType uint8

// Subsystem types.
const (
	SubsystemReferral         SubsystemType = 1 // another discovery subsystem
	SubsystemNVM              SubsystemType = 2
	SubsystemCurrentDiscovery SubsystemType = 3 // the discovery subsystem that was asked
)

// String returns the type in words.
func (t SubsystemType) String() string {
	return name([]string{"", "discovery subsystem referral", "nvme subsystem", "current discovery subsystem"}, uint8(t), "subsystem type")
}

// TREQ values: Transport Requirements, the secure channel in bits 1:0.
const (
	TREQNotSpecified    = 0
	TREQRequired        = 1
	TREQNotRequired     = 2
	TREQDisableSQFlowOK = 1 << 2 // SQ flow control may be disabled
)

// RDMA transport specific address values.
const (
	RDMAQPTypeRC = 1 // reliable connected
	RDMAQPTypeRD = 2 // reliable datagram

	RDMAProviderNone   = 1 // not specified
	RDMAProviderIB     = 2
	RDMAProviderRoCE   = 3
	RDMAProviderRoCEv2 = 4
	RDMAProviderIWARP  = 5

	RDMACMSRDMACM = 1 // RDMA_CM
)

// TCP transport specific address values (SECTYPE).
const (
	TCPSecurityNone  = 0
	TCPSecurityTLS12 = 1
	TCPSecurityTLS13 = 2
)

// Ports that the transports have by default.
const (
	PortNVMe      = 4420 // NVMe/RDMA, and NVMe/TCP I/O controllers by custom
	PortDiscovery = 8009 // NVMe/TCP discovery controllers
)
