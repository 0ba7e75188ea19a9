package nvme

import (
	"encoding/binary"
	"fmt"
)

const (
	// NamespaceListSize is the size of a Namespace List in bytes.
	NamespaceListSize = 4096

	// MaxNamespaceList is the number of NSIDs in a full Namespace List.
	MaxNamespaceList = NamespaceListSize / 4

	// MaxControllerList is the number of CNTLIDs in a full Controller List.
	MaxControllerList = 2047
)

// AppendNamespaceList appends a Namespace List (CNS 02h, 07h, 10h), always
// [NamespaceListSize] bytes, to b. The NSIDs must be ascending and not zero;
// those beyond [MaxNamespaceList] do not fit and are left out: the host asks
// again from the last it got.
func AppendNamespaceList(b []byte, nsids []uint32) []byte {
	b, p := extend(b, NamespaceListSize)
	for i, nsid := range nsids[:min(len(nsids), MaxNamespaceList)] {
		binary.LittleEndian.PutUint32(p[4*i:], nsid)
	}
	return b
}

// ParseNamespaceList returns the NSIDs in b, which must have exactly
// [NamespaceListSize] bytes, up to the first zero. An order other than
// ascending is an error.
func ParseNamespaceList(b []byte) ([]uint32, error) {
	nsids, err := parseNSIDs("Namespace List", b)
	if err != nil {
		return nil, err
	}
	for i := 1; i < len(nsids); i++ {
		if nsids[i] <= nsids[i-1] {
			return nil, fmt.Errorf("nvme: Namespace List: NSID %d after %d", nsids[i], nsids[i-1])
		}
	}
	return nsids, nil
}

// parseNSIDs returns what comes before the first zero of a page of NSIDs.
func parseNSIDs(what string, b []byte) ([]uint32, error) {
	if err := exactly(what, b, NamespaceListSize); err != nil {
		return nil, err
	}
	var nsids []uint32
	for i := range MaxNamespaceList {
		nsid := binary.LittleEndian.Uint32(b[4*i:])
		if nsid == 0 {
			break
		}
		nsids = append(nsids, nsid)
	}
	return nsids, nil
}

// AppendControllerList appends a Controller List (CNS 12h, 13h), always
// [IdentifySize] bytes, to b: the number of identifiers and then they, which
// must be ascending. Those beyond [MaxControllerList] are left out.
func AppendControllerList(b []byte, cntlids []uint16) []byte {
	cntlids = cntlids[:min(len(cntlids), MaxControllerList)]
	b, p := extend(b, IdentifySize)
	binary.LittleEndian.PutUint16(p, uint16(len(cntlids)))
	for i, id := range cntlids {
		binary.LittleEndian.PutUint16(p[2+2*i:], id)
	}
	return b
}

// ParseControllerList returns the identifiers in b, which must have exactly
// [IdentifySize] bytes.
func ParseControllerList(b []byte) ([]uint16, error) {
	if err := exactly("Controller List", b, IdentifySize); err != nil {
		return nil, err
	}
	n := int(binary.LittleEndian.Uint16(b))
	if n > MaxControllerList {
		return nil, fmt.Errorf("nvme: Controller List: %d identifiers, at most %d fit", n, MaxControllerList)
	}
	cntlids := make([]uint16, n)
	for i := range cntlids {
		cntlids[i] = binary.LittleEndian.Uint16(b[2+2*i:])
	}
	return cntlids, nil
}
