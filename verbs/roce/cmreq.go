package roce

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Transport service types of a REQ.
const (
	cmTransportRC uint8 = 0
	cmTransportUC uint8 = 1
	cmTransportRD uint8 = 2
)

// permissiveLID stands where RoCE has no LIDs.
const permissiveLID uint16 = 0xffff

// A cmREQ asks for a connection. "Local" is its sender, "remote" its receiver.
//
//	byte  0..3          4       5..7       8..15       16..23        24..27
//	    +-------------+------+----------+-----------+-------------+------+
//	    | LocalCommID | resv | VendorID | ServiceID | LocalCAGUID | resv |
//	    +-------------+------+----------+-----------+-------------+------+
//	      28..31       32..34     35        36..38      39        40..42
//	    +------------+----------+---------+-----------+---------+-----------+
//	    | LocalQ_Key | LocalQPN | RespRes | LocalEECN | InitDep | RemoteEECN|
//	    +------------+----------+---------+-----------+---------+-----------+
//	      43                             44..46        47
//	    +------------------------------+-------------+----------------------+
//	    |RemoteTimeout:5 Transport:2 F | StartingPSN |LocalTimeout:5 Retry:3|
//	    +------------------------------+-------------+----------------------+
//	      48..49   50                      51                       52..95
//	    +--------+-----------------------+------------------------+---------+
//	    | P_Key  | MTU:4 RDC:1 RNRRetry:3| CMRetries:4 SRQ:1 Ext:3| primary |
//	    +--------+-----------------------+------------------------+---------+
//	      96..139     140..231
//	    +-----------+---------+
//	    | alternate | private |
//	    +-----------+---------+
type cmREQ struct {
	localCommID uint32
	vendorID    uint32 // 24 bits, 0
	serviceID   uint64 // cmServiceID
	localCAGUID uint64 // with localQPN the key of the connection at the receiver
	localQKey   uint32
	localQPN    uint32 // 24 bits
	localEECN   uint32 // 24 bits, RD only
	remoteEECN  uint32 // 24 bits, RD only

	responderResources uint8 // READs that the sender of the REQ answers at a time
	initiatorDepth     uint8 // READs that it has outstanding at a time

	// The CM response timeouts are 5 bits; cmTimeout gives the time. The local
	// one is what the receiver waits for our answer to its REP.
	remoteCMResponseTimeout uint8
	localCMResponseTimeout  uint8

	transportType uint8 // 2 bits, cmTransportRC
	flowControl   bool

	// startingPSN is the first PSN that the sender of the REQ expects to
	// receive: the passive side sends from it on.
	startingPSN PSN

	retryCount       uint8 // 3 bits: for the passive side's requests
	pkey             uint16
	pathMTU          uint8 // 4 bits, a code: mtuBytes
	rdcExists        bool
	rnrRetryCount    uint8 // 3 bits: for the passive side's requests
	maxCMRetries     uint8 // 4 bits
	srq              bool
	extTransportType uint8 // 3 bits

	primary   cmPath
	alternate cmPath // none if its GIDs are unspecified
	sap       bool   // "SAP supported", behind the alternate path

	privateData [reqPrivateLen]byte // a cmaHeader, then the consumer's
}

// A cmPath is a path of a REQ.
//
//	byte  0..1        2..3         4..19       20..35
//	    +-----------+------------+-----------+------------+
//	    | Local LID | Remote LID | Local GID | Remote GID |
//	    +-----------+------------+-----------+------------+
//	      36..39                          40      41      42          43
//	    +-------------------------------+-------+-------+-----------+-----------+
//	    |FlowLabel:20 resv:6 PktRate:6  | TClass| HopLim|SL:4 Sub:1.|AckTmout:5.|
//	    +-------------------------------+-------+-------+-----------+-----------+
type cmPath struct {
	localLID, remoteLID uint16

	// localGID and remoteGID are the addresses of the sender of the REQ and of
	// its receiver. An IPv4 GID (::ffff:a.b.c.d) is given as the IPv4 address,
	// and taken as either.
	localGID, remoteGID netip.Addr

	flowLabel       uint32 // 20 bits: udpSport makes the source port of it
	packetRate      uint8  // 6 bits
	trafficClass    uint8
	hopLimit        uint8
	sl              uint8 // 4 bits
	subnetLocal     bool
	localAckTimeout uint8 // 5 bits; ackTimeout gives the time
}

const cmPathLen = 44

// parse reads the path at the start of b; the low three bits of its last byte
// are not its own.
func (p *cmPath) parse(b []byte) {
	_ = b[cmPathLen-1]
	*p = cmPath{
		localLID:        binary.BigEndian.Uint16(b),
		remoteLID:       binary.BigEndian.Uint16(b[2:]),
		localGID:        netip.AddrFrom16([16]byte(b[4:20])).Unmap(),
		remoteGID:       netip.AddrFrom16([16]byte(b[20:36])).Unmap(),
		flowLabel:       binary.BigEndian.Uint32(b[36:]) >> 12,
		packetRate:      b[39] & 0x3f,
		trafficClass:    b[40],
		hopLimit:        b[41],
		sl:              b[42] >> 4,
		subnetLocal:     b[42]&8 != 0,
		localAckTimeout: b[43] >> 3,
	}
}

func (p *cmPath) put(b []byte) {
	_ = b[cmPathLen-1]
	binary.BigEndian.PutUint16(b, p.localLID)
	binary.BigEndian.PutUint16(b[2:], p.remoteLID)
	local, remote := p.localGID.As16(), p.remoteGID.As16()
	copy(b[4:20], local[:])
	copy(b[20:36], remote[:])
	binary.BigEndian.PutUint32(b[36:], p.flowLabel<<12|uint32(p.packetRate&0x3f))
	b[40], b[41] = p.trafficClass, p.hopLimit
	b[42] = p.sl<<4 | bit(p.subnetLocal, 3)
	b[43] = p.localAckTimeout << 3
}

func (*cmREQ) attr() cmAttr { return cmAttrREQ }

func (m *cmREQ) parse(b []byte) error {
	if err := checkCMLen(cmAttrREQ, b); err != nil {
		return err
	}
	*m = cmREQ{
		localCommID:             binary.BigEndian.Uint32(b),
		vendorID:                uint24(b[5:]),
		serviceID:               binary.BigEndian.Uint64(b[8:]),
		localCAGUID:             binary.BigEndian.Uint64(b[16:]),
		localQKey:               binary.BigEndian.Uint32(b[28:]),
		localQPN:                uint24(b[32:]),
		responderResources:      b[35],
		localEECN:               uint24(b[36:]),
		initiatorDepth:          b[39],
		remoteEECN:              uint24(b[40:]),
		remoteCMResponseTimeout: b[43] >> 3,
		transportType:           b[43] >> 1 & 3,
		flowControl:             b[43]&1 != 0,
		startingPSN:             PSN(uint24(b[44:])),
		localCMResponseTimeout:  b[47] >> 3,
		retryCount:              b[47] & 7,
		pkey:                    binary.BigEndian.Uint16(b[48:]),
		pathMTU:                 b[50] >> 4,
		rdcExists:               b[50]&8 != 0,
		rnrRetryCount:           b[50] & 7,
		maxCMRetries:            b[51] >> 4,
		srq:                     b[51]&8 != 0,
		extTransportType:        b[51] & 7,
		sap:                     b[139]&4 != 0,
	}
	m.primary.parse(b[52:])
	m.alternate.parse(b[96:])
	copy(m.privateData[:], b[140:])
	return nil
}

func (m *cmREQ) appendTo(b []byte) []byte {
	b, p := grow(b)
	binary.BigEndian.PutUint32(p, m.localCommID)
	put24(p[5:], m.vendorID)
	binary.BigEndian.PutUint64(p[8:], m.serviceID)
	binary.BigEndian.PutUint64(p[16:], m.localCAGUID)
	binary.BigEndian.PutUint32(p[28:], m.localQKey)
	put24(p[32:], m.localQPN)
	p[35] = m.responderResources
	put24(p[36:], m.localEECN)
	p[39] = m.initiatorDepth
	put24(p[40:], m.remoteEECN)
	p[43] = m.remoteCMResponseTimeout<<3 | m.transportType&3<<1 | bit(m.flowControl, 0)
	put24(p[44:], uint32(m.startingPSN))
	p[47] = m.localCMResponseTimeout<<3 | m.retryCount&7
	binary.BigEndian.PutUint16(p[48:], m.pkey)
	p[50] = m.pathMTU<<4 | bit(m.rdcExists, 3) | m.rnrRetryCount&7
	p[51] = m.maxCMRetries<<4 | bit(m.srq, 3) | m.extTransportType&7
	m.primary.put(p[52:])
	m.alternate.put(p[96:])
	p[139] |= bit(m.sap, 2)
	copy(p[140:], m.privateData[:])
	return b
}

// portSpaceTCP is the RDMA CM's port space for reliable connections, as it
// stands in a service ID.
const portSpaceTCP uint64 = 0x0106

// cmServiceID returns the service ID of a port of the TCP port space.
func cmServiceID(port uint16) uint64 { return portSpaceTCP<<16 | uint64(port) }

// cmServicePort returns the port of a service ID, false if it is of another
// port space or not the RDMA CM's at all.
func cmServicePort(id uint64) (port uint16, ok bool) {
	return uint16(id), id>>16 == portSpaceTCP
}

// A cmaHeader is the RDMA CM's own part of a REQ's private data. No other
// message has one.
//
//	byte  0         1             2..3   4..19     20..35
//	    +---------+-------------+------+---------+---------+
//	    | version | IPversion:4.| port | source  | dest    |
//	    +---------+-------------+------+---------+---------+
type cmaHeader struct {
	srcPort uint16 // the active side's; the service ID has the other

	// src and dst are of one family, which is that of the connection.
	src, dst netip.Addr
}

const (
	cmaHeaderLen = 36
	cmaVersion   = 0
)

// parse reads the header at the start of a REQ's private data.
func (h *cmaHeader) parse(b []byte) error {
	if len(b) < cmaHeaderLen {
		return fmt.Errorf("roce: CMA header: %d bytes, need %d", len(b), cmaHeaderLen)
	}
	if b[0] != cmaVersion {
		return fmt.Errorf("roce: CMA header: version %d, need %d", b[0], cmaVersion)
	}
	h.srcPort = binary.BigEndian.Uint16(b[2:])
	switch b[1] >> 4 {
	case 4:
		h.src = netip.AddrFrom4([4]byte(b[16:20]))
		h.dst = netip.AddrFrom4([4]byte(b[32:36]))
	case 6:
		h.src = netip.AddrFrom16([16]byte(b[4:20]))
		h.dst = netip.AddrFrom16([16]byte(b[20:36]))
	default:
		return fmt.Errorf("roce: CMA header: IP version %d, need 4 or 6", b[1]>>4)
	}
	return nil
}

// put writes the header to the start of b, a REQ's private data. The
// consumer's begins at cmaHeaderLen.
func (h *cmaHeader) put(b []byte) {
	clear(b[:cmaHeaderLen])
	b[0], b[1] = cmaVersion, 6<<4
	binary.BigEndian.PutUint16(b[2:], h.srcPort)
	if h.src.Is4() && h.dst.Is4() {
		b[1] = 4 << 4
		src, dst := h.src.As4(), h.dst.As4()
		copy(b[16:20], src[:])
		copy(b[32:36], dst[:])
		return
	}
	src, dst := h.src.As16(), h.dst.As16()
	copy(b[4:20], src[:])
	copy(b[20:36], dst[:])
}
