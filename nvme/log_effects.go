package nvme

// EffectsLogSize is the size of the Commands Supported and Effects log page.
const EffectsLogSize = 4096

// CommandEffects says whether a command is supported and what it does.
type CommandEffects uint32

// Bits of CommandEffects; CSE is a field of three.
const (
	EffectCSUPP CommandEffects = 1 << 0 // Command Supported
	EffectLBCC  CommandEffects = 1 << 1 // Logical Block Content Change
	EffectNCC   CommandEffects = 1 << 2 // Namespace Capability Change
	EffectNIC   CommandEffects = 1 << 3 // Namespace Inventory Change
	EffectCCC   CommandEffects = 1 << 4 // Controller Capability Change
	EffectUUID  CommandEffects = 1 << 19

	EffectCSE          CommandEffects = 7 << 16 // Command Submission and Execution
	EffectCSENamespace CommandEffects = 1 << 16 // no other command to the namespace
	EffectCSEAny       CommandEffects = 2 << 16 // no other command to any namespace

	EffectScope           CommandEffects = 0xFFF << 20 // CSP: what the command acts on; 0: not reported
	EffectScopeNamespace  CommandEffects = 1 << 20
	EffectScopeController CommandEffects = 1 << 21
	EffectScopeSubsystem  CommandEffects = 1 << 25
)

// EffectsLog is the Commands Supported and Effects log page, LID 05h, of one
// command set [Base, Commands Supported and Effects log page].
type EffectsLog struct {
	ACS  [256]CommandEffects // by admin opcode
	IOCS [256]CommandEffects // by I/O opcode
}

func (e *EffectsLog) layout(l layout) {
	for i := range e.ACS {
		u32(l, 4*i, &e.ACS[i])
		u32(l, 1024+4*i, &e.IOCS[i])
	}
}

// AppendTo appends the page, [EffectsLogSize] bytes, to b.
func (e *EffectsLog) AppendTo(b []byte) []byte {
	b, p := extend(b, EffectsLogSize)
	e.layout(layout{p, true})
	return b
}

// Parse reads the page from b, which must have exactly [EffectsLogSize]
// bytes.
func (e *EffectsLog) Parse(b []byte) error {
	if err := exactly("Commands Supported and Effects log", b, EffectsLogSize); err != nil {
		return err
	}
	e.layout(layout{b, false})
	return nil
}
