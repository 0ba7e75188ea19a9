package nvme

import (
	"errors"
	"fmt"
	"testing"
)

// TestStatusValues holds the names against the values that are on the wire.
func TestStatusValues(t *testing.T) {
	for _, tt := range []struct {
		s    Status
		v    uint16
		text string
	}{
		{Success, 0, "successful completion (0x0000)"},
		{InvalidOpcode, 0x001, "invalid command opcode (0x0001)"},
		{InvalidField, 0x002, "invalid field in command (0x0002)"},
		{CommandIDConflict, 0x003, "command ID conflict (0x0003)"},
		{DataTransferError, 0x004, "data transfer error (0x0004)"},
		{InternalError, 0x006, "internal error (0x0006)"},
		{AbortRequested, 0x007, "command abort requested (0x0007)"},
		{InvalidNamespace, 0x00B, "invalid namespace or format (0x000b)"},
		{CommandSequenceError, 0x00C, "command sequence error (0x000c)"},
		{SGLInvalidLastSegment, 0x00D, "invalid SGL segment descriptor (0x000d)"},
		{SGLInvalidCount, 0x00E, "invalid number of SGL descriptors (0x000e)"},
		{SGLInvalidDataLength, 0x00F, "data SGL length invalid (0x000f)"},
		{SGLInvalidMetadataLength, 0x010, "metadata SGL length invalid (0x0010)"},
		{SGLInvalidType, 0x011, "SGL descriptor type invalid (0x0011)"},
		{SGLInvalidOffset, 0x016, "SGL offset invalid (0x0016)"},
		{HostIDInconsistent, 0x018, "host identifier inconsistent format (0x0018)"},
		{KeepAliveExpired, 0x019, "keep alive timer expired (0x0019)"},
		{KeepAliveInvalid, 0x01A, "keep alive timeout invalid (0x001a)"},
		{NamespaceWriteProtected, 0x020, "namespace is write protected (0x0020)"},
		{CommandInterrupted, 0x021, "command interrupted (0x0021)"},
		{TransientTransportError, 0x022, "transient transport error (0x0022)"},
		{AdminCommandMediaNotReady, 0x024, "admin command media not ready (0x0024)"},
		{InvalidIOCommandSetGeneric, 0x02C, "invalid I/O command set (0x002c)"},
		{LBAOutOfRange, 0x080, "LBA out of range (0x0080)"},
		{CapacityExceeded, 0x081, "capacity exceeded (0x0081)"},
		{NamespaceNotReady, 0x082, "namespace not ready (0x0082)"},
		{ReservationConflict, 0x083, "reservation conflict (0x0083)"},
		{InvalidQueueIdentifier, 0x101, "invalid queue identifier (0x0101)"},
		{InvalidQueueSize, 0x102, "invalid queue size (0x0102)"},
		{AsyncEventLimitExceeded, 0x105, "asynchronous event request limit exceeded (0x0105)"},
		{InvalidLogPage, 0x109, "invalid log page (0x0109)"},
		{FeatureNotSaveable, 0x10D, "feature identifier not saveable (0x010d)"},
		{FeatureNotChangeable, 0x10E, "feature not changeable (0x010e)"},
		{ConnectIncompatibleFormat, 0x180, "connect incompatible format, or conflicting attributes (0x0180)"},
		{ConnectControllerBusy, 0x181, "connect controller busy, or invalid protection information (0x0181)"},
		{ConnectInvalidParameters, 0x182, "connect invalid parameters, or attempted write to read only range (0x0182)"},
		{ConnectRestartDiscovery, 0x183, "connect restart discovery, or command size limit exceeded (0x0183)"},
		{ConnectInvalidHost, 0x184, "connect invalid host (0x0184)"},
		{DiscoveryRestart, 0x190, "discover restart (0x0190)"},
		{AuthenticationRequired, 0x191, "authentication required (0x0191)"},
		{ConflictingAttributes, 0x180, ""}, {InvalidProtectionInformation, 0x181, ""}, {WriteToReadOnlyRange, 0x182, ""},
		{WriteFault, 0x280, "write fault (0x0280)"},
		{UnrecoveredReadError, 0x281, "unrecovered read error (0x0281)"},
		{GuardCheckError, 0x282, "end-to-end guard check error (0x0282)"},
		{ApplicationTagCheckError, 0x283, "end-to-end application tag check error (0x0283)"},
		{ReferenceTagCheckError, 0x284, "end-to-end reference tag check error (0x0284)"},
		{CompareFailure, 0x285, "compare failure (0x0285)"},
		{AccessDenied, 0x286, "access denied (0x0286)"},
		{DeallocatedOrUnwritten, 0x287, "deallocated or unwritten logical block (0x0287)"},
		{InternalPathError, 0x300, "internal path error (0x0300)"},
		{ANAPersistentLoss, 0x301, "asymmetric access persistent loss (0x0301)"},
		{ANAInaccessible, 0x302, "asymmetric access inaccessible (0x0302)"},
		{ANATransition, 0x303, "asymmetric access transition (0x0303)"},
		{ControllerPathingError, 0x360, "controller pathing error (0x0360)"},
		{HostPathingError, 0x370, "host pathing error (0x0370)"},
		{AbortedByHost, 0x371, "command aborted by host (0x0371)"},
		{InvalidField.WithDNR(), 0x4002, "invalid field in command (0x4002, DNR)"},
		{Status(0x7C3), 0x7C3, "status type 7 code 0xc3 (0x07c3)"},
	} {
		if uint16(tt.s) != tt.v {
			t.Errorf("%v: %#x, want %#x", tt.s, uint16(tt.s), tt.v)
		}
		if tt.text != "" && tt.s.String() != tt.text {
			t.Errorf("%q, want %q", tt.s.String(), tt.text)
		}
	}
}

func TestStatusTwoMeanings(t *testing.T) {
	s := ConnectInvalidParameters.WithDNR()
	if got := s.FabricsName(); got != "connect invalid parameters" {
		t.Errorf("Fabrics: %q", got)
	}
	if got := s.NVMName(); got != "attempted write to read only range" {
		t.Errorf("NVM: %q", got)
	}
}

func TestStatusFields(t *testing.T) {
	// The CQE halfword of a controller that refused a host for good.
	s := StatusFromField(0x8304)
	if s != ConnectInvalidParameters.WithDNR() || !s.DNR() || s.More() || s.Type() != SCTCommandSpecific || s.Code() != 0x82 {
		t.Errorf("%v: type %d code %#x", s, s.Type(), s.Code())
	}
	if got := s.Field(); got != 0x8304 {
		t.Errorf("field %#x", got)
	}
	s = CommandInterrupted.WithCRD(2).WithMore()
	if s.CRD() != 2 || !s.More() || s.DNR() || s.Base() != CommandInterrupted || uint16(s) != 0x3021 {
		t.Errorf("%v: CRD %d", s, s.CRD())
	}
	if got := s.WithCRD(1).CRD(); got != 1 {
		t.Errorf("CRD %d, want 1", got)
	}
	if Success.WithDNR() != Success || InvalidField.WithDNR().WithoutDNR() != InvalidField {
		t.Error("DNR")
	}
	for v := range 1 << 16 {
		if got := StatusFromField(uint16(v)).Field(); got != uint16(v)&^1 {
			t.Fatalf("%#x became %#x", v, got)
		}
	}
}

func TestStatusAsError(t *testing.T) {
	if err := Success.Err(); err != nil {
		t.Errorf("Success.Err() = %v", err)
	}
	err := fmt.Errorf("host: read: %w", InvalidField.WithDNR().Err())
	if !errors.Is(err, InvalidField) || errors.Is(err, InvalidOpcode) || errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("errors.Is on %v", err)
	}
	// Same code, another type.
	if errors.Is(error(LBAOutOfRange), WriteFault) {
		t.Error("codes of two types are the same")
	}
}

func TestFieldError(t *testing.T) {
	err := fmt.Errorf("target: connect: %w", ConnectDataError("SUBNQN", OffDataSUBNQN))
	if got := err.Error(); got != "target: connect: SUBNQN at data byte 256: connect invalid parameters, or attempted write to read only range (0x4182, DNR)" {
		t.Errorf("%q", got)
	}
	fe, ok := errors.AsType[*FieldError](err)
	if !ok || fe.Field != "SUBNQN" || !errors.Is(err, ConnectInvalidParameters) {
		t.Fatalf("%v", err)
	}
	for _, tt := range []struct {
		err  *FieldError
		want uint32
	}{
		{fe, 0x10100}, {ConnectDataError("HOSTNQN", OffDataHOSTNQN), 0x10200}, {ConnectDataError("CNTLID", OffDataCNTLID), 0x10010},
		{ConnectCommandError("SQSIZE", OffSQSize), 44}, {ConnectCommandError("QID", OffQID), 42},
	} {
		got := tt.err.ConnectResult()
		if got != tt.want {
			t.Errorf("%v: result %#x, want %#x", tt.err, got, tt.want)
		}
		if off, inData := InvalidConnectParameter(got); off != tt.err.Offset || inData != tt.err.InData {
			t.Errorf("%#x: offset %d in data %v", got, off, inData)
		}
	}
	if got := ConnectCommandError("SQSIZE", 44).Error(); got != "SQSIZE at byte 44: connect invalid parameters, or attempted write to read only range (0x4182, DNR)" {
		t.Errorf("%q", got)
	}
}

func TestStatusOf(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want Status
	}{
		{nil, Success},
		{LBAOutOfRange, LBAOutOfRange},
		{fmt.Errorf("bdev: %w", CapacityExceeded.WithDNR()), CapacityExceeded.WithDNR()},
		{&FieldError{Status: InvalidField.WithDNR(), Field: "CNS", Offset: OffCNS}, InvalidField.WithDNR()},
		{errors.Join(errors.New("x"), WriteFault), WriteFault},
		{errors.New("disk on fire"), InternalError},
	} {
		if got := StatusOf(tt.err); got != tt.want {
			t.Errorf("StatusOf(%v) = %v, want %v", tt.err, got, tt.want)
		}
	}
}

// TestStatusNamesComplete: each code has a name, and each name one code.
func TestStatusNamesComplete(t *testing.T) {
	for _, names := range []map[Status]string{statusNames, fabricsStatusNames, nvmStatusNames} {
		seen := map[string]Status{}
		for s, n := range names {
			if other, ok := seen[n]; ok && s.Base() != InvalidIOCommandSet && other != InvalidIOCommandSet {
				t.Errorf("%#x and %#x are both %q", uint16(s), uint16(other), n)
			}
			seen[n] = s
			if s.Base() != s || n == "" {
				t.Errorf("%#x: %q", uint16(s), n)
			}
		}
	}
}
