package verbs

import "fmt"

// CQAttr describes a completion queue to be.
type CQAttr struct {
	Vector int // completion vector, 0 ≤ Vector < NumCompVectors
	Size   int // entries; the consumer sees to it that they never run out

	// Handler takes the completions of a batch, in order, on the vector's loop.
	// wcs is valid during the call only. The handler may post, modify and
	// destroy; it does not block.
	Handler func(wcs []WC)
}

// A CQ is a completion queue.
type CQ interface {
	// Destroy frees the queue. It fails while a QP or an SRQ uses it. No call of
	// the handler begins after it.
	Destroy() error
}

// A WC is a work completion ([IBTA] 11.4.2.1). If Status is not [WCSuccess],
// only WRID, Status and QPN are valid, and Opcode for sends.
type WC struct {
	WRID    uint64
	Status  WCStatus
	Opcode  WCOpcode
	Flags   WCFlags
	QPN     uint32
	ByteLen uint32 // received bytes
	Imm     uint32 // if Flags has WCWithImm
	InvRKey uint32 // if Flags has WCWithInvalidate: the key the peer invalidated
}

// WCFlags qualify a completion.
type WCFlags uint8

// Completion flags.
const (
	WCWithImm WCFlags = 1 << iota
	WCWithInvalidate
)

// A WCStatus is the status of a completion, with ibv_wc_status's numbers.
type WCStatus uint8

// Completion statuses.
const (
	WCSuccess        WCStatus = 0
	WCLocLenErr      WCStatus = 1
	WCLocQPOpErr     WCStatus = 2
	WCLocProtErr     WCStatus = 4
	WCWRFlushErr     WCStatus = 5
	WCBadRespErr     WCStatus = 7
	WCLocAccessErr   WCStatus = 8
	WCRemInvReqErr   WCStatus = 9
	WCRemAccessErr   WCStatus = 10
	WCRemOpErr       WCStatus = 11
	WCRetryExcErr    WCStatus = 12
	WCRNRRetryExcErr WCStatus = 13
	WCRemAbortErr    WCStatus = 16
	WCFatalErr       WCStatus = 19
	WCGeneralErr     WCStatus = 21
)

var wcStatusNames = map[WCStatus]string{
	WCSuccess:        "success",
	WCLocLenErr:      "local length error",
	WCLocQPOpErr:     "local QP operation error",
	WCLocProtErr:     "local protection error",
	WCWRFlushErr:     "work request flushed",
	WCBadRespErr:     "bad response",
	WCLocAccessErr:   "local access error",
	WCRemInvReqErr:   "remote invalid request",
	WCRemAccessErr:   "remote access error",
	WCRemOpErr:       "remote operation error",
	WCRetryExcErr:    "transport retry counter exceeded",
	WCRNRRetryExcErr: "RNR retry counter exceeded",
	WCRemAbortErr:    "remote aborted",
	WCFatalErr:       "fatal error",
	WCGeneralErr:     "general error",
}

func (s WCStatus) String() string {
	if n, ok := wcStatusNames[s]; ok {
		return n
	}
	return fmt.Sprintf("WCStatus(%d)", uint8(s))
}

// A WCOpcode says what completed.
type WCOpcode uint8

// Completion opcodes.
const (
	WCSend WCOpcode = iota
	WCRDMAWrite
	WCRDMARead
	WCRegMR
	WCLocalInv
	WCRecv
)

var wcOpcodeNames = [...]string{"SEND", "RDMA_WRITE", "RDMA_READ", "REG_MR", "LOCAL_INV", "RECV"}

func (o WCOpcode) String() string {
	if int(o) < len(wcOpcodeNames) {
		return wcOpcodeNames[o]
	}
	return fmt.Sprintf("WCOpcode(%d)", uint8(o))
}
