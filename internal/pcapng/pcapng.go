// Package pcapng writes captures that Wireshark opens, and reads the classic
// pcap files that tcpdump writes.
//
// A [Writer] makes pcapng: several interfaces, nanoseconds, a comment on any
// packet. A [Reader] reads classic pcap of either byte order and either
// resolution. Neither buffers beyond one packet, and neither is safe for
// concurrent use.
package pcapng

import "time"

// A LinkType says with what header the packets of an interface begin. The
// numbers are those of the tcpdump.org registry.
type LinkType uint16

const (
	Ethernet LinkType = 1   // an Ethernet header, without FCS
	RawIP    LinkType = 101 // an IPv4 or IPv6 header
)

// MaxPacket is the largest packet that is written or read, in bytes, as
// captured. It is what Wireshark accepts.
const MaxPacket = 256 << 10

// A Direction says which way a packet went, seen from the interface.
type Direction uint8

const (
	Unknown Direction = iota // which way is not known; it is not written
	Inbound
	Outbound
)

// A Packet is one packet of a capture.
type Packet struct {
	// Time is when it was seen, to the nanosecond, from 1970 on.
	Time time.Time

	// Data is what was captured of it, link header first.
	Data []byte

	// Length is its length on the wire, if that was more than len(Data). The
	// Writer takes anything below len(Data), such as 0, for len(Data).
	Length int

	// Direction and Comment are the Writer's only: classic pcap has neither.
	// A comment is of at most 65,535 bytes of UTF-8.
	Direction Direction
	Comment   string
}
