package nvme

import (
	"errors"
	"strings"
	"testing"
)

func TestConnectDataGolden(t *testing.T) {
	b := golden(t, "connect_data")
	var d ConnectData
	if err := d.Parse(b); err != nil {
		t.Fatal(err)
	}
	id, err := ParseUUID("e3e75fed-54cd-46a0-ac8f-9d0de9d4db3c")
	if err != nil {
		t.Fatal(err)
	}
	want := ConnectData{HostID: id, CNTLID: CNTLIDDynamic, SUBNQN: "nqn.2024-01.lab:sub1", HOSTNQN: UUIDNQN(id)}
	if d != want {
		t.Errorf("%+v, want %+v", d, want)
	}
	same(t, "appended", want.AppendTo(nil), b)
}

func TestConnectDataRefused(t *testing.T) {
	good := ConnectData{CNTLID: 7, SUBNQN: "nqn.2024-01.lab:sub1", HOSTNQN: "nqn.2024-01.lab:host1"}
	for _, tt := range []struct {
		name   string
		spoil  func(b []byte)
		field  string
		result uint32
	}{
		{"no SUBNQN", func(b []byte) { clear(b[256:512]) }, "SUBNQN", 0x10100},
		{"SUBNQN without end", func(b []byte) { fillBytes(b[256:512], 'x') }, "SUBNQN", 0x10100},
		{"SUBNQN too long", func(b []byte) { fillBytes(b[256:256+MaxNQN+1], 'x') }, "SUBNQN", 0x10100},
		{"HOSTNQN not UTF-8", func(b []byte) { b[520] = 0xFF }, "HOSTNQN", 0x10200},
		{"HOSTNQN with newline", func(b []byte) { b[520] = '\n' }, "HOSTNQN", 0x10200},
	} {
		b := good.AppendTo(nil)
		tt.spoil(b)
		var d ConnectData
		err := d.Parse(b)
		fe, ok := errors.AsType[*FieldError](err)
		if !ok || fe.Field != tt.field || fe.ConnectResult() != tt.result || StatusOf(err) != ConnectInvalidParameters.WithDNR() {
			t.Errorf("%s: %v", tt.name, err)
		}
		if d.CNTLID != 7 {
			t.Errorf("%s: CNTLID %d", tt.name, d.CNTLID)
		}
	}
	b := good.AppendTo(nil)
	fillBytes(b[256:256+MaxNQN], 'x') // the longest name is a name
	var d ConnectData
	if err := d.Parse(b); err != nil || d.SUBNQN != strings.Repeat("x", MaxNQN) {
		t.Errorf("longest name: %v", err)
	}
	if err := d.Parse(b[:1023]); err == nil || StatusOf(err) == ConnectInvalidParameters {
		t.Errorf("short data: %v", err)
	}
}

func fillBytes(b []byte, c byte) {
	for i := range b {
		b[i] = c
	}
}

func TestConnectResult(t *testing.T) {
	r := MakeConnectResult(0xFFEF) | ConnectATR
	if r != 0x2FFEF || r.CNTLID() != MaxCNTLID || !r.ATR() || r.ASCR() || !(r | ConnectASCR).ASCR() {
		t.Errorf("%#x", uint32(r))
	}
}

func FuzzConnectData(f *testing.F) {
	f.Add(golden(f, "connect_data"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var d, again ConnectData
		if err := d.Parse(b); err != nil {
			return
		}
		if len(d.SUBNQN) > MaxNQN || len(d.HOSTNQN) > MaxNQN || d.SUBNQN == "" || d.HOSTNQN == "" {
			t.Errorf("%+v", d)
		}
		if err := again.Parse(d.AppendTo(nil)); err != nil || again != d {
			t.Errorf("%+v, %v, want %+v", again, err, d)
		}
	})
}
