package nvme

// SupportedLogPagesSize is the size of the Supported Log Pages log page.
const SupportedLogPagesSize = 1024

// LogPageSupport says whether a log page is supported, and how.
type LogPageSupport uint32

// Bits of LogPageSupport; 31:16 are specific to the log page.
const (
	LogSupported   LogPageSupport = 1 << 0 // LSUPP
	LogIndexOffset LogPageSupport = 1 << 1 // IOS: the offset may be an index (OT)
)

// SupportedLogPages is the Supported Log Pages log page, LID 00h [Base,
// Supported Log Pages log page].
type SupportedLogPages struct {
	LID [256]LogPageSupport // by LID
}

func (s *SupportedLogPages) layout(l layout) {
	for i := range s.LID {
		u32(l, 4*i, &s.LID[i])
	}
}

// AppendTo appends the page, [SupportedLogPagesSize] bytes, to b.
func (s *SupportedLogPages) AppendTo(b []byte) []byte {
	b, p := extend(b, SupportedLogPagesSize)
	s.layout(layout{p, true})
	return b
}

// Parse reads the page from b, which must have exactly [SupportedLogPagesSize]
// bytes.
func (s *SupportedLogPages) Parse(b []byte) error {
	if err := exactly("Supported Log Pages log", b, SupportedLogPagesSize); err != nil {
		return err
	}
	s.layout(layout{b, false})
	return nil
}
