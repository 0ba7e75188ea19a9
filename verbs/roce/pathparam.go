package roce

import "time"

// RoCEv2's UDP ports.
const (
	// udpPort is where every RoCEv2 peer receives.
	udpPort uint16 = 4791
	// udpSportMin is the lowest source port of a sender that picks it by rule.
	udpSportMin uint16 = 0xc000
	// gsiSport is the source port that Linux sends QP1's packets from.
	gsiSport uint16 = 55410

	flowLabelMask = 1<<20 - 1
)

// udpSport returns the source port of a connection: a function of the path's
// flow label, or of both QPNs, whichever way round, where that is 0. Receivers
// do not check it.
func udpSport(flowLabel, qpn1, qpn2 uint32) uint16 {
	fl := flowLabel & flowLabelMask
	if fl == 0 {
		v := uint64(qpn1&qpnMask) * uint64(qpn2&qpnMask)
		v ^= v >> 20
		v ^= v >> 40
		fl = uint32(v & flowLabelMask)
	}
	return uint16(fl&0x3fff^fl>>14) | udpSportMin
}

// cmaFlowLabel returns the flow label that the RDMA CM gives a connection
// between two ports of its TCP port space, for both directions. It goes into
// the REQ.
func cmaFlowLabel(sport, dport uint16) uint32 {
	return (uint32(sport)*31 + uint32(dport)) & flowLabelMask
}

// Path MTUs are codes on the wire: 1 for 256 bytes, each next the double.
const (
	mtuCodeMin uint8 = 1 // 256
	mtuCodeMax uint8 = 5 // 4096

	// linkOverhead is what Linux takes off a link's MTU before it picks the
	// path MTU: more than any packet needs, but both ends must agree.
	linkOverhead = ipv6Len + udpLen + bthLen + 4 + atomicETHLen + icrcLen
)

// mtuBytes returns the payload of a full packet in bytes, 0 for a bad code.
func mtuBytes(code uint8) int {
	if code < mtuCodeMin || code > mtuCodeMax {
		return 0
	}
	return 128 << code
}

// mtuCode returns the code of the largest path MTU of at most n bytes, 0 if n
// is below the least there is.
func mtuCode(n int) uint8 {
	for code := mtuCodeMax; code >= mtuCodeMin; code-- {
		if mtuBytes(code) <= n {
			return code
		}
	}
	return 0
}

// mtuCodeOfLink returns the code of the path MTU for a link's MTU in bytes, 0
// if the link is too small for any.
func mtuCodeOfLink(n int) uint8 { return mtuCode(n - linkOverhead) }

// ackTimeoutUnit is the ACK timeout of code 0, if that did not mean "none".
const ackTimeoutUnit = 4096 * time.Nanosecond

// timeoutCodeMax is the largest value of a 5-bit time field.
const timeoutCodeMax = 31

// ackTimeout returns the time of a 5-bit ACK timeout, ACK delay or packet
// lifetime code. As an ACK timeout, code 0 is "never" and the answer is 0.
func ackTimeout(code uint8) time.Duration {
	if code &= timeoutCodeMax; code == 0 {
		return 0
	}
	return ackTimeoutUnit << code
}

// ackTimeoutCode returns the code of the shortest ACK timeout not below d, or
// else of the longest; 0, "never", if d is 0.
func ackTimeoutCode(d time.Duration) uint8 {
	if d <= 0 {
		return 0
	}
	code := uint8(1)
	for code < timeoutCodeMax && ackTimeout(code) < d {
		code++
	}
	return code
}

// pathLifetimeCode is the packet lifetime that Linux takes for every RoCE path.
const pathLifetimeCode uint8 = 16

// cmAckTimeout returns the code of the ACK timeout of a connection, from the
// ACK delay of the peer's device and the packet lifetime of the path: the
// delay plus twice the lifetime, rounded as Linux's CM rounds it.
func cmAckTimeout(ackDelay, lifetime uint8) uint8 {
	ackDelay, lifetime = ackDelay&timeoutCodeMax, lifetime&timeoutCodeMax
	t := lifetime + 1
	switch {
	case t >= ackDelay:
		if ackDelay >= t-1 {
			t++
		}
	case t >= ackDelay-1:
		t = ackDelay + 1
	default:
		t = ackDelay
	}
	return min(t, timeoutCodeMax)
}

// cmTimeout returns the time of a 5-bit CM response timeout, in whole
// milliseconds as Linux's CM takes it.
func cmTimeout(code uint8) time.Duration {
	code &= timeoutCodeMax
	if code < 8 {
		return time.Millisecond
	}
	return time.Millisecond << (code - 8)
}
