package nvme

import (
	"strings"
	"testing"
)

func TestCheckNQN(t *testing.T) {
	long := "nqn.2014-08.com.example:"
	long += strings.Repeat("x", MaxNQN-len(long))
	for _, s := range []string{
		DiscoveryNQN, UUIDNQN(UUID{1}), "nqn.2014-08.com.example:nvme.host.sys.xyz", "nqn.2024-12.lab:s", "nqn.2024-01.lab",
		"nqn.2024-01.lab:a:b:c", "nqn.2024-01.lab:häuser", long,
		"nqn.2014-08.org.nvmexpress:uuid:E3E75FED-54cd-46a0-ac8f-9d0de9d4db3c",
	} {
		if err := CheckNQN(s); err != nil {
			t.Error(err)
		}
	}
	for _, tt := range []struct{ s, want string }{
		{"", "empty"},
		{long + "x", "224 bytes, at most 223"},
		{"iqn.2014-08.com.example:x", "does not start"},
		{"nqn.2014-8.com.example:x", "no date"},
		{"nqn.2014-13.com.example:x", "no date"},
		{"nqn.2014-00.com.example:x", "no date"},
		{"nqn.201a-01.com.example:x", "no date"},
		{"nqn.2014-01", "no date"},
		{"nqn.2014-01:x", "no date"},
		{"nqn.2014-01.", "no domain"},
		{"nqn.2014-01.:x", "no domain"},
		{"nqn.2014-01.com..example:x", "empty label"},
		{"nqn.2014-01.com.:x", "empty label"},
		{"nqn.2014-01.com.example:", "nothing after the colon"},
		{"nqn.2014-01.com.example:a\nb", "control character 0x0a at byte 25"},
		{"nqn.2014-01.com.example:a\x00b", "control character"},
		{"nqn.2014-01.com.example:\xff", "not UTF-8"},
		{"nqn.2014-08.org.nvmexpress:uuid:1234", "UUID"},
		{"nqn.2014-08.org.nvmexpress:uuid:e3e75fed-54cd-46a0-ac8f-9d0de9d4db3g", "UUID"},
	} {
		if err := CheckNQN(tt.s); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("CheckNQN(%q) = %v, want %q", tt.s, err, tt.want)
		}
	}
}

func TestIdentifiers(t *testing.T) {
	u, err := ParseUUID("01234567-89AB-cdef-0123-456789abcdef")
	if err != nil || u.String() != "01234567-89ab-cdef-0123-456789abcdef" || u[0] != 0x01 || u[15] != 0xEF || u.IsZero() {
		t.Errorf("%v, %v", u, err)
	}
	for _, s := range []string{"", "0123456789abcdef0123456789abcdef", "01234567-89ab-cdef-0123-456789abcde", "01234567-89ab-cdef-0123-456789abcdeg", "0123456-789ab-cdef-0123-456789abcdef"} {
		if _, err := ParseUUID(s); err == nil {
			t.Errorf("ParseUUID(%q): no error", s)
		}
	}
	r := MakeUUID([16]byte{0: 1, 6: 0xFF, 8: 0xFF})
	if r.String() != "01000000-0000-4f00-bf00-000000000000" {
		t.Errorf("random UUID %v", r)
	}
	n, err := ParseNGUID("00112233445566778899aabbccddeeff")
	if err != nil || n.String() != "00112233445566778899aabbccddeeff" || n[1] != 0x11 || n.IsZero() || !(NGUID{}).IsZero() {
		t.Errorf("%v, %v", n, err)
	}
	e, err := ParseEUI64("0011223344556677")
	if err != nil || e.String() != "0011223344556677" || e.IsZero() || !(EUI64{}).IsZero() {
		t.Errorf("%v, %v", e, err)
	}
	if _, err := ParseEUI64("00112233445566"); err == nil {
		t.Error("short EUI64")
	}
	if _, err := ParseNGUID("0011223344556677889 aabbccddeeff"); err == nil {
		t.Error("NGUID with a space")
	}
}

func FuzzNQN(f *testing.F) {
	f.Add(DiscoveryNQN)
	f.Add(UUIDNQN(UUID{}))
	f.Add("nqn.2014-01.com.example:\xff")
	f.Fuzz(func(t *testing.T, s string) {
		if CheckNQN(s) != nil {
			return
		}
		// A name that an operator may give comes back from a field.
		field := make([]byte, NQNFieldSize)
		copy(field, s)
		if got, err := ParseNQN(field); err != nil || got != s {
			t.Errorf("%q, %v, want %q", got, err, s)
		}
	})
}

func FuzzParseNQN(f *testing.F) {
	f.Add(golden(f, "connect_data")[256:512])
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseNQN(b)
		if err == nil && (s == "" || len(s) > MaxNQN || strings.ContainsRune(s, 0)) {
			t.Errorf("%q", s)
		}
	})
}

func FuzzParseUUID(f *testing.F) {
	f.Add("01234567-89ab-cdef-0123-456789abcdef")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseUUID(s)
		if err == nil && !strings.EqualFold(u.String(), s) {
			t.Errorf("%q became %v", s, u)
		}
	})
}
