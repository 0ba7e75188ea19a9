package nvme

// Generic command status, type 0 [Base, Generic Command Status Definition],
// with those of the NVM Command Set from 0x80 on.
//
// InvalidIOCommandSetGeneric is the code without the type: Linux defines it so
// where the specification has [InvalidIOCommandSet].
const (
	Success                        Status = 0x000
	InvalidOpcode                  Status = 0x001
	InvalidField                   Status = 0x002
	CommandIDConflict              Status = 0x003
	DataTransferError              Status = 0x004
	AbortedPowerLoss               Status = 0x005
	InternalError                  Status = 0x006
	AbortRequested                 Status = 0x007
	AbortedSQDeletion              Status = 0x008
	AbortedFailedFused             Status = 0x009
	AbortedMissingFused            Status = 0x00A
	InvalidNamespace               Status = 0x00B
	CommandSequenceError           Status = 0x00C
	SGLInvalidLastSegment          Status = 0x00D
	SGLInvalidCount                Status = 0x00E
	SGLInvalidDataLength           Status = 0x00F
	SGLInvalidMetadataLength       Status = 0x010
	SGLInvalidType                 Status = 0x011
	InvalidUseOfCMB                Status = 0x012
	PRPInvalidOffset               Status = 0x013
	AtomicWriteUnitExceeded        Status = 0x014
	OperationDenied                Status = 0x015
	SGLInvalidOffset               Status = 0x016
	HostIDInconsistent             Status = 0x018
	KeepAliveExpired               Status = 0x019
	KeepAliveInvalid               Status = 0x01A
	AbortedPreempt                 Status = 0x01B
	SanitizeFailed                 Status = 0x01C
	SanitizeInProgress             Status = 0x01D
	SGLDataBlockGranularityInvalid Status = 0x01E
	CommandNotSupportedInCMB       Status = 0x01F
	NamespaceWriteProtected        Status = 0x020
	CommandInterrupted             Status = 0x021
	TransientTransportError        Status = 0x022
	CommandProhibitedByLockdown    Status = 0x023
	AdminCommandMediaNotReady      Status = 0x024
	InvalidIOCommandSetGeneric     Status = 0x02C
	LBAOutOfRange                  Status = 0x080
	CapacityExceeded               Status = 0x081
	NamespaceNotReady              Status = 0x082
	ReservationConflict            Status = 0x083
	FormatInProgress               Status = 0x084
)

// Command specific status, type 1 [Base, Command Specific Status Definition].
const (
	CompletionQueueInvalid          Status = 0x100
	InvalidQueueIdentifier          Status = 0x101
	InvalidQueueSize                Status = 0x102
	AbortLimitExceeded              Status = 0x103
	AsyncEventLimitExceeded         Status = 0x105
	InvalidFirmwareSlot             Status = 0x106
	InvalidFirmwareImage            Status = 0x107
	InvalidInterruptVector          Status = 0x108
	InvalidLogPage                  Status = 0x109
	InvalidFormat                   Status = 0x10A
	InvalidQueueDeletion            Status = 0x10C
	FeatureNotSaveable              Status = 0x10D
	FeatureNotChangeable            Status = 0x10E
	FeatureNotNamespaceSpecific     Status = 0x10F
	OverlappingRange                Status = 0x114
	NamespaceInsufficientCapacity   Status = 0x115
	NamespaceIdentifierUnavailable  Status = 0x116
	NamespaceAlreadyAttached        Status = 0x118
	NamespaceIsPrivate              Status = 0x119
	NamespaceNotAttached            Status = 0x11A
	ThinProvisioningNotSupported    Status = 0x11B
	ControllerListInvalid           Status = 0x11C
	DeviceSelfTestInProgress        Status = 0x11D
	InvalidControllerIdentifier     Status = 0x11F
	ANAGroupIdentifierInvalid       Status = 0x124
	ANAAttachFailed                 Status = 0x125
	IOCommandSetNotSupported        Status = 0x129
	IOCommandSetNotEnabled          Status = 0x12A
	IOCommandSetCombinationRejected Status = 0x12B
	InvalidIOCommandSet             Status = 0x12C
	IdentifierUnavailable           Status = 0x12D
	DiscoveryRestart                Status = 0x190
	AuthenticationRequired          Status = 0x191
)

// Command specific status of the Fabrics commands [Base, Command Specific Status Definition].
// The NVM Command Set uses some of the values otherwise.
const (
	ConnectIncompatibleFormat  Status = 0x180
	ConnectControllerBusy      Status = 0x181
	ConnectInvalidParameters   Status = 0x182
	ConnectRestartDiscovery    Status = 0x183
	ConnectInvalidHost         Status = 0x184
	DisconnectInvalidQueueType Status = 0x185
)

// Command specific status of the NVM Command Set [NVM, Status Codes] and of zoned
// namespaces.
const (
	ConflictingAttributes        Status = 0x180
	InvalidProtectionInformation Status = 0x181
	WriteToReadOnlyRange         Status = 0x182
	CommandSizeLimitExceeded     Status = 0x183
	IncompatibleNamespace        Status = 0x185
	ZoneBoundaryError            Status = 0x1B8
	ZoneIsFull                   Status = 0x1B9
	ZoneIsReadOnly               Status = 0x1BA
	ZoneIsOffline                Status = 0x1BB
	ZoneInvalidWrite             Status = 0x1BC
	TooManyActiveZones           Status = 0x1BD
	TooManyOpenZones             Status = 0x1BE
	InvalidZoneStateTransition   Status = 0x1BF
)

// Media and data integrity errors, type 2 [Base, Media and Data Integrity Errors Definition].
const (
	WriteFault               Status = 0x280
	UnrecoveredReadError     Status = 0x281
	GuardCheckError          Status = 0x282
	ApplicationTagCheckError Status = 0x283
	ReferenceTagCheckError   Status = 0x284
	CompareFailure           Status = 0x285
	AccessDenied             Status = 0x286
	DeallocatedOrUnwritten   Status = 0x287
	StorageTagCheckError     Status = 0x288
)

// Path related status, type 3 [Base, Path Related Status Definition].
const (
	InternalPathError      Status = 0x300
	ANAPersistentLoss      Status = 0x301
	ANAInaccessible        Status = 0x302
	ANATransition          Status = 0x303
	ControllerPathingError Status = 0x360
	HostPathingError       Status = 0x370
	AbortedByHost          Status = 0x371
)

// statusNames has the codes with one meaning.
var statusNames = map[Status]string{
	Success:                         "successful completion",
	InvalidOpcode:                   "invalid command opcode",
	InvalidField:                    "invalid field in command",
	CommandIDConflict:               "command ID conflict",
	DataTransferError:               "data transfer error",
	AbortedPowerLoss:                "commands aborted due to power loss notification",
	InternalError:                   "internal error",
	AbortRequested:                  "command abort requested",
	AbortedSQDeletion:               "command aborted due to SQ deletion",
	AbortedFailedFused:              "command aborted due to failed fused command",
	AbortedMissingFused:             "command aborted due to missing fused command",
	InvalidNamespace:                "invalid namespace or format",
	CommandSequenceError:            "command sequence error",
	SGLInvalidLastSegment:           "invalid SGL segment descriptor",
	SGLInvalidCount:                 "invalid number of SGL descriptors",
	SGLInvalidDataLength:            "data SGL length invalid",
	SGLInvalidMetadataLength:        "metadata SGL length invalid",
	SGLInvalidType:                  "SGL descriptor type invalid",
	InvalidUseOfCMB:                 "invalid use of controller memory buffer",
	PRPInvalidOffset:                "PRP offset invalid",
	AtomicWriteUnitExceeded:         "atomic write unit exceeded",
	OperationDenied:                 "operation denied",
	SGLInvalidOffset:                "SGL offset invalid",
	HostIDInconsistent:              "host identifier inconsistent format",
	KeepAliveExpired:                "keep alive timer expired",
	KeepAliveInvalid:                "keep alive timeout invalid",
	AbortedPreempt:                  "command aborted due to preempt and abort",
	SanitizeFailed:                  "sanitize failed",
	SanitizeInProgress:              "sanitize in progress",
	SGLDataBlockGranularityInvalid:  "SGL data block granularity invalid",
	CommandNotSupportedInCMB:        "command not supported for queue in CMB",
	NamespaceWriteProtected:         "namespace is write protected",
	CommandInterrupted:              "command interrupted",
	TransientTransportError:         "transient transport error",
	CommandProhibitedByLockdown:     "command prohibited by command and feature lockdown",
	AdminCommandMediaNotReady:       "admin command media not ready",
	InvalidIOCommandSetGeneric:      "invalid I/O command set",
	LBAOutOfRange:                   "LBA out of range",
	CapacityExceeded:                "capacity exceeded",
	NamespaceNotReady:               "namespace not ready",
	ReservationConflict:             "reservation conflict",
	FormatInProgress:                "format in progress",
	CompletionQueueInvalid:          "completion queue invalid",
	InvalidQueueIdentifier:          "invalid queue identifier",
	InvalidQueueSize:                "invalid queue size",
	AbortLimitExceeded:              "abort command limit exceeded",
	AsyncEventLimitExceeded:         "asynchronous event request limit exceeded",
	InvalidFirmwareSlot:             "invalid firmware slot",
	InvalidFirmwareImage:            "invalid firmware image",
	InvalidInterruptVector:          "invalid interrupt vector",
	InvalidLogPage:                  "invalid log page",
	InvalidFormat:                   "invalid format",
	InvalidQueueDeletion:            "invalid queue deletion",
	FeatureNotSaveable:              "feature identifier not saveable",
	FeatureNotChangeable:            "feature not changeable",
	FeatureNotNamespaceSpecific:     "feature not namespace specific",
	OverlappingRange:                "overlapping range",
	NamespaceInsufficientCapacity:   "namespace insufficient capacity",
	NamespaceIdentifierUnavailable:  "namespace identifier unavailable",
	NamespaceAlreadyAttached:        "namespace already attached",
	NamespaceIsPrivate:              "namespace is private",
	NamespaceNotAttached:            "namespace not attached",
	ThinProvisioningNotSupported:    "thin provisioning not supported",
	ControllerListInvalid:           "controller list invalid",
	DeviceSelfTestInProgress:        "device self-test in progress",
	InvalidControllerIdentifier:     "invalid controller identifier",
	ANAGroupIdentifierInvalid:       "ANA group identifier invalid",
	ANAAttachFailed:                 "ANA attach failed",
	IOCommandSetNotSupported:        "I/O command set not supported",
	IOCommandSetNotEnabled:          "I/O command set not enabled",
	IOCommandSetCombinationRejected: "I/O command set combination rejected",
	InvalidIOCommandSet:             "invalid I/O command set",
	IdentifierUnavailable:           "identifier unavailable",
	DiscoveryRestart:                "discover restart",
	AuthenticationRequired:          "authentication required",
	WriteFault:                      "write fault",
	UnrecoveredReadError:            "unrecovered read error",
	GuardCheckError:                 "end-to-end guard check error",
	ApplicationTagCheckError:        "end-to-end application tag check error",
	ReferenceTagCheckError:          "end-to-end reference tag check error",
	CompareFailure:                  "compare failure",
	AccessDenied:                    "access denied",
	DeallocatedOrUnwritten:          "deallocated or unwritten logical block",
	StorageTagCheckError:            "end-to-end storage tag check error",
	InternalPathError:               "internal path error",
	ANAPersistentLoss:               "asymmetric access persistent loss",
	ANAInaccessible:                 "asymmetric access inaccessible",
	ANATransition:                   "asymmetric access transition",
	ControllerPathingError:          "controller pathing error",
	HostPathingError:                "host pathing error",
	AbortedByHost:                   "command aborted by host",
}

// fabricsStatusNames has what Fabrics commands mean.
var fabricsStatusNames = map[Status]string{
	ConnectIncompatibleFormat:  "connect incompatible format",
	ConnectControllerBusy:      "connect controller busy",
	ConnectInvalidParameters:   "connect invalid parameters",
	ConnectRestartDiscovery:    "connect restart discovery",
	ConnectInvalidHost:         "connect invalid host",
	DisconnectInvalidQueueType: "invalid queue type",
}

// nvmStatusNames has what commands of the NVM and Zoned Namespace Command
// Sets mean.
var nvmStatusNames = map[Status]string{
	ConflictingAttributes:        "conflicting attributes",
	InvalidProtectionInformation: "invalid protection information",
	WriteToReadOnlyRange:         "attempted write to read only range",
	CommandSizeLimitExceeded:     "command size limit exceeded",
	IncompatibleNamespace:        "incompatible namespace or format",
	ZoneBoundaryError:            "zoned boundary error",
	ZoneIsFull:                   "zone is full",
	ZoneIsReadOnly:               "zone is read only",
	ZoneIsOffline:                "zone is offline",
	ZoneInvalidWrite:             "zone invalid write",
	TooManyActiveZones:           "too many active zones",
	TooManyOpenZones:             "too many open zones",
	InvalidZoneStateTransition:   "invalid zone state transition",
}
