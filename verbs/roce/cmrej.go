package roce

import (
	"encoding/binary"
	"fmt"
)

// A rejReason says why a connection was rejected.
type rejReason uint16

const (
	rejNoQP                     rejReason = 1
	rejNoEEC                    rejReason = 2
	rejNoResources              rejReason = 3
	rejTimeout                  rejReason = 4 // info is the sender's CA GUID
	rejUnsupported              rejReason = 5
	rejInvalidCommID            rejReason = 6
	rejInvalidCommInstance      rejReason = 7
	rejInvalidServiceID         rejReason = 8 // nobody listens
	rejInvalidTransportType     rejReason = 9
	rejStaleConn                rejReason = 10
	rejRDCNotExist              rejReason = 11
	rejInvalidGID               rejReason = 12
	rejInvalidLID               rejReason = 13
	rejInvalidSL                rejReason = 14
	rejInvalidTrafficClass      rejReason = 15
	rejInvalidHopLimit          rejReason = 16
	rejInvalidPacketRate        rejReason = 17
	rejInvalidAltGID            rejReason = 18
	rejInvalidAltLID            rejReason = 19
	rejInvalidAltSL             rejReason = 20
	rejInvalidAltTrafficClass   rejReason = 21
	rejInvalidAltHopLimit       rejReason = 22
	rejInvalidAltPacketRate     rejReason = 23
	rejPortCMRedirect           rejReason = 24
	rejPortRedirect             rejReason = 25
	rejInvalidMTU               rejReason = 26
	rejInsufficientRespRes      rejReason = 27
	rejConsumerDefined          rejReason = 28 // the private data says more
	rejInvalidRNRRetry          rejReason = 29
	rejDuplicateLocalCommID     rejReason = 30
	rejInvalidClassVersion      rejReason = 31
	rejInvalidFlowLabel         rejReason = 32
	rejInvalidAltFlowLabel      rejReason = 33
	rejVendorOptionNotSupported rejReason = 35
)

var rejNames = [...]string{
	rejNoQP:                     "no QP",
	rejNoEEC:                    "no EEC",
	rejNoResources:              "no resources",
	rejTimeout:                  "timeout",
	rejUnsupported:              "unsupported request",
	rejInvalidCommID:            "invalid communication ID",
	rejInvalidCommInstance:      "invalid communication instance",
	rejInvalidServiceID:         "invalid service ID",
	rejInvalidTransportType:     "invalid transport service type",
	rejStaleConn:                "stale connection",
	rejRDCNotExist:              "RDC does not exist",
	rejInvalidGID:               "invalid GID",
	rejInvalidLID:               "invalid LID",
	rejInvalidSL:                "invalid SL",
	rejInvalidTrafficClass:      "invalid traffic class",
	rejInvalidHopLimit:          "invalid hop limit",
	rejInvalidPacketRate:        "invalid packet rate",
	rejInvalidAltGID:            "invalid alternate GID",
	rejInvalidAltLID:            "invalid alternate LID",
	rejInvalidAltSL:             "invalid alternate SL",
	rejInvalidAltTrafficClass:   "invalid alternate traffic class",
	rejInvalidAltHopLimit:       "invalid alternate hop limit",
	rejInvalidAltPacketRate:     "invalid alternate packet rate",
	rejPortCMRedirect:           "port and CM redirection",
	rejPortRedirect:             "port redirection",
	rejInvalidMTU:               "invalid path MTU",
	rejInsufficientRespRes:      "insufficient responder resources",
	rejConsumerDefined:          "consumer defined",
	rejInvalidRNRRetry:          "invalid RNR retry",
	rejDuplicateLocalCommID:     "duplicate local communication ID",
	rejInvalidClassVersion:      "invalid class version",
	rejInvalidFlowLabel:         "invalid flow label",
	rejInvalidAltFlowLabel:      "invalid alternate flow label",
	rejVendorOptionNotSupported: "vendor option not supported",
}

func (r rejReason) String() string {
	if int(r) < len(rejNames) && rejNames[r] != "" {
		return rejNames[r]
	}
	return fmt.Sprintf("reason %d", uint16(r))
}

// A cmREJ refuses a connection, or gives one up that is being made.
//
//	byte  0..3          4..7           8             9            10..11
//	    +-------------+--------------+-------------+------------+--------+
//	    | LocalCommID | RemoteCommID | REJed:2 ... | InfoLen:7. | Reason |
//	    +-------------+--------------+-------------+------------+--------+
//	      12..83                            84..231
//	    +---------------------------------+---------------------------+
//	    | additional reject information   | private                   |
//	    +---------------------------------+---------------------------+
type cmREJ struct {
	localCommID     uint32 // 0 if the sender has none
	remoteCommID    uint32
	messageRejected uint8 // 2 bits, cmAbout…
	infoLen         uint8 // 7 bits, as sent: may be more than there is, see rejectInfo
	reason          rejReason
	info            [rejInfoLen]byte
	privateData     [rejPrivateLen]byte
}

func (*cmREJ) attr() cmAttr { return cmAttrREJ }

// rejectInfo returns the part of m.info that the sender says is there.
func (m *cmREJ) rejectInfo() []byte { return m.info[:min(int(m.infoLen), rejInfoLen)] }

func (m *cmREJ) parse(b []byte) error {
	if err := checkCMLen(cmAttrREJ, b); err != nil {
		return err
	}
	m.localCommID = binary.BigEndian.Uint32(b)
	m.remoteCommID = binary.BigEndian.Uint32(b[4:])
	m.messageRejected = b[8] >> 6
	m.infoLen = b[9] >> 1
	m.reason = rejReason(binary.BigEndian.Uint16(b[10:]))
	copy(m.info[:], b[12:])
	copy(m.privateData[:], b[84:])
	return nil
}

func (m *cmREJ) appendTo(b []byte) []byte {
	b, p := grow(b)
	binary.BigEndian.PutUint32(p, m.localCommID)
	binary.BigEndian.PutUint32(p[4:], m.remoteCommID)
	p[8] = m.messageRejected << 6
	p[9] = m.infoLen << 1
	binary.BigEndian.PutUint16(p[10:], uint16(m.reason))
	copy(p[12:], m.info[:])
	copy(p[84:], m.privateData[:])
	return b
}
