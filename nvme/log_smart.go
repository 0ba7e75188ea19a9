package nvme

// SMARTLogSize is the size of the SMART / Health Information log page.
const SMARTLogSize = 512

// Bits of the critical warning of a [SMARTLog].
const (
	SMARTSpareLow     = 1 << 0
	SMARTTemperature  = 1 << 1
	SMARTDegraded     = 1 << 2
	SMARTReadOnly     = 1 << 3
	SMARTBackupFailed = 1 << 4
	SMARTPMRReadOnly  = 1 << 5
)

// SMARTLog is the SMART / Health Information log page, LID 02h [Base,
// SMART / Health Information log page].
type SMARTLog struct {
	CriticalWarning     uint8  // SMART bits
	Temperature         uint16 // composite, K
	AvailableSpare      uint8  // percent
	SpareThreshold      uint8  // percent
	PercentageUsed      uint8
	EnduranceWarning    uint8
	DataUnitsRead       Uint128 // thousands of 512 bytes, rounded up
	DataUnitsWritten    Uint128 // the same
	HostReads           Uint128 // commands
	HostWrites          Uint128 // commands
	ControllerBusyTime  Uint128 // minutes
	PowerCycles         Uint128
	PowerOnHours        Uint128
	UnsafeShutdowns     Uint128
	MediaErrors         Uint128
	ErrorLogEntries     Uint128 // over the life of the controller
	WarningTempTime     uint32  // minutes
	CriticalTempTime    uint32  // minutes
	TemperatureSensors  [8]uint16
	ThermalTransitions1 uint32
	ThermalTransitions2 uint32
	ThermalTime1        uint32 // s
	ThermalTime2        uint32 // s
}

func (s *SMARTLog) layout(l layout) {
	u8(l, 0, &s.CriticalWarning)
	u16(l, 1, &s.Temperature)
	u8(l, 3, &s.AvailableSpare)
	u8(l, 4, &s.SpareThreshold)
	u8(l, 5, &s.PercentageUsed)
	u8(l, 6, &s.EnduranceWarning)
	u128(l, 32, &s.DataUnitsRead)
	u128(l, 48, &s.DataUnitsWritten)
	u128(l, 64, &s.HostReads)
	u128(l, 80, &s.HostWrites)
	u128(l, 96, &s.ControllerBusyTime)
	u128(l, 112, &s.PowerCycles)
	u128(l, 128, &s.PowerOnHours)
	u128(l, 144, &s.UnsafeShutdowns)
	u128(l, 160, &s.MediaErrors)
	u128(l, 176, &s.ErrorLogEntries)
	u32(l, 192, &s.WarningTempTime)
	u32(l, 196, &s.CriticalTempTime)
	for i := range s.TemperatureSensors {
		u16(l, 200+2*i, &s.TemperatureSensors[i])
	}
	u32(l, 216, &s.ThermalTransitions1)
	u32(l, 220, &s.ThermalTransitions2)
	u32(l, 224, &s.ThermalTime1)
	u32(l, 228, &s.ThermalTime2)
}

// AppendTo appends the page, [SMARTLogSize] bytes, to b.
func (s *SMARTLog) AppendTo(b []byte) []byte {
	b, p := extend(b, SMARTLogSize)
	s.layout(layout{p, true})
	return b
}

// Parse reads the page from b, which must have exactly [SMARTLogSize] bytes.
func (s *SMARTLog) Parse(b []byte) error {
	if err := exactly("SMART / Health Information log", b, SMARTLogSize); err != nil {
		return err
	}
	s.layout(layout{b, false})
	return nil
}
