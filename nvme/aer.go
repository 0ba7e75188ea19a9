package nvme

import "fmt"

// AsyncEventType is the type of an asynchronous event.
type AsyncEventType uint8

// Asynchronous event types.
const (
	AsyncError        AsyncEventType = 0
	AsyncSMART        AsyncEventType = 1
	AsyncNotice       AsyncEventType = 2
	AsyncImmediate    AsyncEventType = 3
	AsyncOneShot      AsyncEventType = 4
	AsyncIOCommandSet AsyncEventType = 6
	AsyncVendor       AsyncEventType = 7
)

// String returns the specification's name.
func (t AsyncEventType) String() string {
	return name([]string{"Error Status", "SMART / Health Status", "Notice", "Immediate",
		"One-Shot", "", "I/O Command Specific Status", "Vendor Specific"}, uint8(t), "asynchronous event type")
}

// Asynchronous event information of type [AsyncError].
const (
	AsyncErrorInvalidDoorbell      = 0x00
	AsyncErrorInvalidDoorbellValue = 0x01
	AsyncErrorDiagnosticFailure    = 0x02
	AsyncErrorPersistentInternal   = 0x03 // the host resets the controller
	AsyncErrorTransientInternal    = 0x04
	AsyncErrorFirmwareImageLoad    = 0x05
)

// Asynchronous event information of type [AsyncNotice].
const (
	AsyncNoticeNamespaceChanged = 0x00 // Attached Namespace Attribute Changed
	AsyncNoticeFirmwareStarting = 0x01 // Firmware Activation Starting
	AsyncNoticeTelemetryChanged = 0x02
	AsyncNoticeANAChange        = 0x03 // Asymmetric Namespace Access Change
	AsyncNoticeEnduranceGroup   = 0x06 // Endurance Group Event Aggregate Log Page Change
	AsyncNoticeDiscoveryChange  = 0xF0 // Discovery Log Page Change
)

// AsyncEvent is dword 0 of the completion of an Asynchronous Event Request
// [Base, Asynchronous Event Request command].
//
//	bit  31..24     23..16     15..8   7..3       2..0
//	   +----------+----------+-------+----------+--------+
//	   | reserved |   LID    | info  | reserved |  type  |
//	   +----------+----------+-------+----------+--------+
type AsyncEvent uint32

// The events that a Fabrics target raises.
const (
	// EventNamespaceChanged: read LogChangedNamespaces and scan again.
	EventNamespaceChanged = AsyncEvent(AsyncNotice) | AsyncNoticeNamespaceChanged<<8 | AsyncEvent(LogChangedNamespaces)<<16
	// EventANAChange: read LogANA.
	EventANAChange = AsyncEvent(AsyncNotice) | AsyncNoticeANAChange<<8 | AsyncEvent(LogANA)<<16
	// EventDiscoveryChange: read LogDiscovery.
	EventDiscoveryChange = AsyncEvent(AsyncNotice) | AsyncNoticeDiscoveryChange<<8 | AsyncEvent(LogDiscovery)<<16
)

// MakeAsyncEvent returns the event of type t with the given information and
// the log page that the host is to read; reading it with RAE clear arms the
// event again.
func MakeAsyncEvent(t AsyncEventType, info uint8, lid LogPage) AsyncEvent {
	return AsyncEvent(t&7) | AsyncEvent(info)<<8 | AsyncEvent(lid)<<16
}

// Type returns the type.
func (e AsyncEvent) Type() AsyncEventType { return AsyncEventType(e & 7) }

// Info returns the information, which means something only with its type.
func (e AsyncEvent) Info() uint8 { return uint8(e >> 8) }

// LogPage returns the log page that goes with the event.
func (e AsyncEvent) LogPage() LogPage { return LogPage(e >> 16) }

// String describes the event.
func (e AsyncEvent) String() string {
	return fmt.Sprintf("%v %#02x, log page %v", e.Type(), e.Info(), e.LogPage())
}

// AsyncEventConfig is CDW11 of the Asynchronous Event Configuration feature,
// which events are on, and OAES of Identify Controller, which exist.
type AsyncEventConfig uint32

// Bits of AsyncEventConfig.
const (
	AsyncConfigSMART            AsyncEventConfig = 0xFF    // SMART / Health critical warnings, one bit each
	AsyncConfigNamespace        AsyncEventConfig = 1 << 8  // Attached Namespace Attribute Notices
	AsyncConfigFirmware         AsyncEventConfig = 1 << 9  // Firmware Activation Notices
	AsyncConfigTelemetry        AsyncEventConfig = 1 << 10 // Telemetry Log Notices
	AsyncConfigANA              AsyncEventConfig = 1 << 11 // Asymmetric Namespace Access Change Notices
	AsyncConfigPredictable      AsyncEventConfig = 1 << 12
	AsyncConfigLBAStatus        AsyncEventConfig = 1 << 13
	AsyncConfigEnduranceGroup   AsyncEventConfig = 1 << 14
	AsyncConfigShutdown         AsyncEventConfig = 1 << 15 // Normal NVM Subsystem Shutdown
	AsyncConfigZoneDescriptor   AsyncEventConfig = 1 << 27
	AsyncConfigDiscoveryLogPage AsyncEventConfig = 1 << 31 // Discovery Log Page Change Notification
)
