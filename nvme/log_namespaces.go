package nvme

// changedOverflow is the one entry of a Changed Attached Namespace List that
// cannot name them all.
const changedOverflow = 0xFFFFFFFF

// AppendChangedNamespaces appends the Changed Attached Namespace List log
// page, LID 04h, always [NamespaceListSize] bytes, to b. The NSIDs must be
// ascending. More than fit become the one entry that says so.
func AppendChangedNamespaces(b []byte, nsids []uint32) []byte {
	if len(nsids) > MaxNamespaceList {
		nsids = []uint32{changedOverflow}
	}
	return AppendNamespaceList(b, nsids)
}

// ParseChangedNamespaces returns the NSIDs in b, a Changed Attached Namespace
// List log page of exactly [NamespaceListSize] bytes. If overflow, there were
// more than fit and any namespace may have changed.
func ParseChangedNamespaces(b []byte) (nsids []uint32, overflow bool, err error) {
	nsids, err = parseNSIDs("Changed Attached Namespace List", b)
	if err != nil {
		return nil, false, err
	}
	if len(nsids) > 0 && nsids[0] == changedOverflow {
		return nil, true, nil
	}
	return nsids, false, nil
}
