package roce

// BTH opcodes: a transport in the high three bits, an operation in the low
// five. Those of the reliable connection, then UD's, then RoCEv2's CNP.
const (
	opSendFirst     uint8 = 0x00
	opSendMiddle    uint8 = 0x01
	opSendLast      uint8 = 0x02
	opSendLastImm   uint8 = 0x03
	opSendOnly      uint8 = 0x04
	opSendOnlyImm   uint8 = 0x05
	opWriteFirst    uint8 = 0x06
	opWriteMiddle   uint8 = 0x07
	opWriteLast     uint8 = 0x08
	opWriteLastImm  uint8 = 0x09
	opWriteOnly     uint8 = 0x0a
	opWriteOnlyImm  uint8 = 0x0b
	opReadRequest   uint8 = 0x0c
	opReadRespFirst uint8 = 0x0d
	opReadRespMid   uint8 = 0x0e
	opReadRespLast  uint8 = 0x0f
	opReadRespOnly  uint8 = 0x10
	opAcknowledge   uint8 = 0x11
	opAtomicAck     uint8 = 0x12
	opCompareSwap   uint8 = 0x13
	opFetchAdd      uint8 = 0x14
	opSendLastInv   uint8 = 0x16
	opSendOnlyInv   uint8 = 0x17

	opUDSendOnly    uint8 = 0x64
	opUDSendOnlyImm uint8 = 0x65

	opCNP uint8 = 0x81
)

// opFlags are the properties of an opcode.
type opFlags uint32

const (
	opIsSend     opFlags = 1 << iota // SEND of any kind, UD included
	opIsWrite                        // RDMA WRITE
	opIsReadReq                      // RDMA READ request
	opIsReadResp                     // RDMA READ response
	opIsAck                          // ACKNOWLEDGE and ATOMIC ACKNOWLEDGE
	opIsAtomic                       // COMPARE SWAP and FETCH ADD
	opIsUD                           // unreliable datagram
	opIsCNP                          // congestion notification, of no QP's sequence

	opIsFirst
	opIsMiddle
	opIsLast
	opIsOnly

	opHasRETH
	opHasAETH
	opHasImm
	opHasIETH
	opHasAtomicETH
	opHasAtomicAckETH
	opHasDETH

	opHasPayload // may carry a payload; without it a payload is an error
)

const (
	// opStarts: the packet begins a message.
	opStarts = opIsFirst | opIsOnly
	// opEnds: the packet completes a message.
	opEnds = opIsLast | opIsOnly
	// opIsRequest: for the responder; the rest but for CNP is for the completer.
	opIsRequest = opIsSend | opIsWrite | opIsReadReq | opIsAtomic
	// opIsResponse: for the completer, in the requester's PSN space.
	opIsResponse = opIsReadResp | opIsAck
)

// An opcodeInfo is all there is to know of an opcode before its packet is read.
type opcodeInfo struct {
	name      string // the specification's
	valid     bool   // false: unknown, the packet is dropped silently
	headerLen uint8  // BTH and extension headers, in bytes
	flags     opFlags
}

// opcodes is the list of what is understood; nothing else gives a meaning to
// an opcode. headerLen is computed from the flags, so that the two agree.
var opcodes = func() (t [256]opcodeInfo) {
	const send = opIsSend | opHasPayload
	const write = opIsWrite | opHasPayload
	const resp = opIsReadResp | opHasPayload
	for op, o := range map[uint8]opcodeInfo{
		opSendFirst:     {name: "SEND_FIRST", flags: send | opIsFirst},
		opSendMiddle:    {name: "SEND_MIDDLE", flags: send | opIsMiddle},
		opSendLast:      {name: "SEND_LAST", flags: send | opIsLast},
		opSendLastImm:   {name: "SEND_LAST_IMM", flags: send | opIsLast | opHasImm},
		opSendOnly:      {name: "SEND_ONLY", flags: send | opIsOnly},
		opSendOnlyImm:   {name: "SEND_ONLY_IMM", flags: send | opIsOnly | opHasImm},
		opSendLastInv:   {name: "SEND_LAST_INV", flags: send | opIsLast | opHasIETH},
		opSendOnlyInv:   {name: "SEND_ONLY_INV", flags: send | opIsOnly | opHasIETH},
		opWriteFirst:    {name: "WRITE_FIRST", flags: write | opIsFirst | opHasRETH},
		opWriteMiddle:   {name: "WRITE_MIDDLE", flags: write | opIsMiddle},
		opWriteLast:     {name: "WRITE_LAST", flags: write | opIsLast},
		opWriteLastImm:  {name: "WRITE_LAST_IMM", flags: write | opIsLast | opHasImm},
		opWriteOnly:     {name: "WRITE_ONLY", flags: write | opIsOnly | opHasRETH},
		opWriteOnlyImm:  {name: "WRITE_ONLY_IMM", flags: write | opIsOnly | opHasRETH | opHasImm},
		opReadRequest:   {name: "READ_REQUEST", flags: opIsReadReq | opIsOnly | opHasRETH},
		opReadRespFirst: {name: "READ_RESP_FIRST", flags: resp | opIsFirst | opHasAETH},
		opReadRespMid:   {name: "READ_RESP_MIDDLE", flags: resp | opIsMiddle},
		opReadRespLast:  {name: "READ_RESP_LAST", flags: resp | opIsLast | opHasAETH},
		opReadRespOnly:  {name: "READ_RESP_ONLY", flags: resp | opIsOnly | opHasAETH},
		opAcknowledge:   {name: "ACKNOWLEDGE", flags: opIsAck | opIsOnly | opHasAETH},
		opAtomicAck:     {name: "ATOMIC_ACKNOWLEDGE", flags: opIsAck | opIsOnly | opHasAETH | opHasAtomicAckETH},
		opCompareSwap:   {name: "COMPARE_SWAP", flags: opIsAtomic | opIsOnly | opHasAtomicETH},
		opFetchAdd:      {name: "FETCH_ADD", flags: opIsAtomic | opIsOnly | opHasAtomicETH},
		opUDSendOnly:    {name: "UD_SEND_ONLY", flags: send | opIsUD | opIsOnly | opHasDETH},
		opUDSendOnlyImm: {name: "UD_SEND_ONLY_IMM", flags: send | opIsUD | opIsOnly | opHasDETH | opHasImm},
		opCNP:           {name: "CNP", flags: opIsCNP | opIsOnly | opHasPayload},
	} {
		o.valid = true
		o.headerLen = bthLen
		for _, x := range extHeaders {
			if o.flags&x.flag != 0 {
				o.headerLen += x.size
			}
		}
		t[op] = o
	}
	return t
}()

// extHeaders are the sizes of the extension headers, in the order in which
// they stand on the wire.
var extHeaders = [...]struct {
	flag opFlags
	size uint8
}{
	{opHasDETH, dethLen},
	{opHasRETH, rethLen},
	{opHasAETH, aethLen},
	{opHasAtomicETH, atomicETHLen},
	{opHasAtomicAckETH, atomicAckETHLen},
	{opHasImm, immLen},
	{opHasIETH, iethLen},
}
