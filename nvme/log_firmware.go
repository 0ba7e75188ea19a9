package nvme

// FirmwareSlotLogSize is the size of the Firmware Slot Information log page.
const FirmwareSlotLogSize = 512

// FirmwareSlotLog is the Firmware Slot Information log page, LID 03h [Base,
// Firmware Slot Information log page].
type FirmwareSlotLog struct {
	AFI uint8     // active slot in bits 2:0, next active one in bits 6:4
	FRS [7]string // revisions in slots 1 to 7, at most 8 ASCII characters; "" is an empty slot
}

func (f *FirmwareSlotLog) layout(l layout) {
	u8(l, 0, &f.AFI)
	for i := range f.FRS {
		// An empty slot is all zero, not spaces.
		if l.put && f.FRS[i] == "" {
			continue
		}
		ascii(l, 8+8*i, 8, &f.FRS[i])
	}
}

// AppendTo appends the page, [FirmwareSlotLogSize] bytes, to b.
func (f FirmwareSlotLog) AppendTo(b []byte) []byte {
	b, p := extend(b, FirmwareSlotLogSize)
	f.layout(layout{p, true})
	return b
}

// Parse reads the page from b, which must have exactly [FirmwareSlotLogSize]
// bytes.
func (f *FirmwareSlotLog) Parse(b []byte) error {
	if err := exactly("Firmware Slot Information log", b, FirmwareSlotLogSize); err != nil {
		return err
	}
	f.layout(layout{b, false})
	return nil
}
