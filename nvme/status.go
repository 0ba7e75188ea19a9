package nvme

import (
	"errors"
	"fmt"
)

// Status is the status of a completion without the phase tag: the upper 15
// bits of the halfword at bytes 14 and 15, shifted right by one
// [Base, Status Field Definition]. As an error, [errors.Is] compares the code and its type
// alone; == compares CRD, More and DNR too.
//
//	bit  14    13   12..11  10..8   7..0
//	   +-----+------+-----+-------+------+
//	   | DNR | More | CRD |  SCT  |  SC  |
//	   +-----+------+-----+-------+------+
//
// A Status must not be formatted with %x or %X: fmt would call Error for the
// digits. Use its String, or uint16(s).
type Status uint16

const (
	statusCode = 0x07FF // SCT and SC
	statusCRD  = 0x1800
	statusMore = 0x2000
	statusDNR  = 0x4000
	statusMask = 0x7FFF
)

// Status Code Types, as [Status.Type] returns them.
const (
	SCTGeneric         = 0
	SCTCommandSpecific = 1
	SCTMedia           = 2 // Media and Data Integrity Errors
	SCTPath            = 3 // Path Related Status
	SCTVendor          = 7
)

// StatusFromField returns the status in the halfword at bytes 14 and 15 of a
// completion, ignoring the phase tag.
func StatusFromField(h uint16) Status { return Status(h >> 1) }

// Field returns the halfword for bytes 14 and 15 of a completion, with a
// phase tag of 0.
func (s Status) Field() uint16 { return uint16(s) << 1 }

// Type returns the Status Code Type (SCT).
func (s Status) Type() uint8 { return uint8(s >> 8 & 7) }

// Code returns the Status Code (SC), which means something only with its
// type.
func (s Status) Code() uint8 { return uint8(s) }

// CRD returns the Command Retry Delay: 0 for none, else which of CRDT1 to
// CRDT3 of Identify Controller.
func (s Status) CRD() uint8 { return uint8(s & statusCRD >> 11) }

// More reports whether the Error Information log has more about this.
func (s Status) More() bool { return s&statusMore != 0 }

// DNR reports whether the command, sent again, is expected to fail again (Do
// Not Retry).
func (s Status) DNR() bool { return s&statusDNR != 0 }

// Base returns s without CRD, More and DNR: a value to switch on.
func (s Status) Base() Status { return s & statusCode }

// WithDNR returns s with DNR set. On success it returns s: DNR says nothing
// there.
func (s Status) WithDNR() Status {
	if s.OK() {
		return s
	}
	return s | statusDNR
}

// WithoutDNR returns s with DNR clear.
func (s Status) WithoutDNR() Status { return s &^ statusDNR }

// WithMore returns s with More set.
func (s Status) WithMore() Status { return s | statusMore }

// WithCRD returns s with the given Command Retry Delay, 0 ≤ crd ≤ 3.
func (s Status) WithCRD(crd uint8) Status {
	return s&^statusCRD | Status(crd&3)<<11
}

// OK reports whether s is successful completion.
func (s Status) OK() bool { return s&statusCode == 0 }

// Err returns nil if s is success, and s otherwise.
func (s Status) Err() error {
	if s.OK() {
		return nil
	}
	return s
}

// Is makes errors.Is compare the code alone, whatever CRD, DNR and More say.
func (s Status) Is(target error) bool {
	t, ok := target.(Status)
	return ok && s&statusCode == t&statusCode
}

// Error describes the status: its name, its value, and DNR if set.
func (s Status) Error() string { return s.String() }

// String describes the status: its name, its value, and DNR if set. Codes
// that mean one thing for Fabrics commands and another for the NVM command
// set show both; [Status.FabricsName] and [Status.NVMName] tell them apart.
func (s Status) String() string {
	n := s.FabricsName()
	if nvm := s.NVMName(); nvm != n {
		n += ", or " + nvm
	}
	if s.DNR() {
		return fmt.Sprintf("%s (%#04x, DNR)", n, uint16(s))
	}
	return fmt.Sprintf("%s (%#04x)", n, uint16(s))
}

// FabricsName returns the name of the code as a Fabrics command means it.
func (s Status) FabricsName() string { return s.name(fabricsStatusNames) }

// NVMName returns the name of the code as a command of the NVM Command Set
// means it.
func (s Status) NVMName() string { return s.name(nvmStatusNames) }

// name prefers the meaning in special to the common one.
func (s Status) name(special map[Status]string) string {
	for _, names := range []map[Status]string{special, statusNames, nvmStatusNames, fabricsStatusNames} {
		if n, ok := names[s.Base()]; ok {
			return n
		}
	}
	return fmt.Sprintf("status type %d code %#02x", s.Type(), s.Code())
}

// A FieldError is a Status together with the field that caused it. The target
// reports the place in the Error Information log and, of a Connect, in the
// result of the completion. It cannot accompany success, because it exists
// only as an error.
type FieldError struct {
	Status Status
	Field  string // the specification's name, such as "SQSIZE"
	Offset int    // byte offset in the command, or in the data if InData
	Bit    uint8  // first bit of the field in that byte, 0 to 7
	InData bool   // the field is in the data of the command
}

// Error describes the field, its place and the status.
func (e *FieldError) Error() string {
	where := "byte"
	if e.InData {
		where = "data byte"
	}
	return fmt.Sprintf("%s at %s %d: %v", e.Field, where, e.Offset, e.Status)
}

// Unwrap returns the Status.
func (e *FieldError) Unwrap() error { return e.Status }

// StatusOf is the one place where a Go error becomes a Status: [Success] for
// nil, the Status anywhere in err's tree, else [InternalError].
func StatusOf(err error) Status {
	if err == nil {
		return Success
	}
	if s, ok := errors.AsType[Status](err); ok {
		return s & statusMask
	}
	return InternalError
}
