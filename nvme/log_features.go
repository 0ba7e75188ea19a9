package nvme

// Sizes of the log pages of effects beside that of commands.
const (
	FeatureEffectsLogSize = 1024
	MIEffectsLogSize      = 4096
)

// FeatureEffects says whether a feature is supported and what setting it does.
type FeatureEffects uint32

// Bits of FeatureEffects.
const (
	FeatureSupported FeatureEffects = 1 << 0 // FSUPP
	FeatureUDCC      FeatureEffects = 1 << 1 // User Data Content Change
	FeatureNCC       FeatureEffects = 1 << 2 // Namespace Capability Change
	FeatureNIC       FeatureEffects = 1 << 3 // Namespace Inventory Change
	FeatureCCC       FeatureEffects = 1 << 4 // Controller Capability Change

	FeatureScope           FeatureEffects = 0xFFF << 20 // FSP: what it is a feature of; 0: not reported
	FeatureScopeNamespace  FeatureEffects = 1 << 20
	FeatureScopeController FeatureEffects = 1 << 21
)

// FeatureEffectsLog is the Feature Identifiers Supported and Effects log page,
// LID 12h [Base, Feature Identifiers Supported and Effects log page].
type FeatureEffectsLog struct {
	FIS [256]FeatureEffects // by FID
}

func (f *FeatureEffectsLog) layout(l layout) {
	for i := range f.FIS {
		u32(l, 4*i, &f.FIS[i])
	}
}

// AppendTo appends the page, [FeatureEffectsLogSize] bytes, to b.
func (f *FeatureEffectsLog) AppendTo(b []byte) []byte {
	b, p := extend(b, FeatureEffectsLogSize)
	f.layout(layout{p, true})
	return b
}

// Parse reads the page from b, which must have exactly [FeatureEffectsLogSize]
// bytes.
func (f *FeatureEffectsLog) Parse(b []byte) error {
	if err := exactly("Feature Identifiers Supported and Effects log", b, FeatureEffectsLogSize); err != nil {
		return err
	}
	f.layout(layout{b, false})
	return nil
}

// MIEffectsLog is the NVMe-MI Commands Supported and Effects log page, LID 13h
// [Base, NVMe-MI Commands Supported and Effects log page]. All zero: there is
// no such command.
type MIEffectsLog struct {
	MICS [256]CommandEffects // by opcode
}

func (m *MIEffectsLog) layout(l layout) {
	for i := range m.MICS {
		u32(l, 4*i, &m.MICS[i])
	}
}

// AppendTo appends the page, [MIEffectsLogSize] bytes, to b.
func (m *MIEffectsLog) AppendTo(b []byte) []byte {
	b, p := extend(b, MIEffectsLogSize)
	m.layout(layout{p, true})
	return b
}

// Parse reads the page from b, which must have exactly [MIEffectsLogSize]
// bytes.
func (m *MIEffectsLog) Parse(b []byte) error {
	if err := exactly("NVMe-MI Commands Supported and Effects log", b, MIEffectsLogSize); err != nil {
		return err
	}
	m.layout(layout{b, false})
	return nil
}
