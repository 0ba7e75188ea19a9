package nvme

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// MaxNQN is the longest NVMe Qualified Name in bytes, without the NUL
	// that ends it on the wire [Base, NVMe Qualified Names].
	MaxNQN = 223

	// NQNFieldSize is the size of a field that holds an NQN.
	NQNFieldSize = 256

	// DiscoveryNQN is the well-known name of every discovery subsystem.
	DiscoveryNQN = "nqn.2014-08.org.nvmexpress.discovery"

	// uuidNQN precedes the UUID in an NQN that is made of one.
	uuidNQN = "nqn.2014-08.org.nvmexpress:uuid:"
)

// UUIDNQN returns the NQN made of u, the form of a host that has no other
// name.
func UUIDNQN(u UUID) string { return uuidNQN + u.String() }

// CheckNQN checks s against the forms of an NQN [Base, NVMe Qualified Names]:
//
//	nqn.yyyy-mm.reverse.domain:string
//	nqn.yyyy-mm.reverse.domain            (such as DiscoveryNQN)
//	nqn.2014-08.org.nvmexpress:uuid:…     (with a UUID)
//
// It is for names that an operator gives. Names from the wire need only be
// what a field can hold, which [ParseNQN] checks: Linux, too, takes any.
func CheckNQN(s string) error {
	if err := checkNQNText(s); err != nil {
		return fmt.Errorf("nvme: NQN %q: %w", s, err)
	}
	rest, ok := strings.CutPrefix(s, "nqn.")
	if !ok {
		return fmt.Errorf("nvme: NQN %q: does not start with \"nqn.\"", s)
	}
	if len(rest) < 8 || !yearMonth(rest[:7]) || rest[7] != '.' {
		return fmt.Errorf("nvme: NQN %q: no date yyyy-mm and dot after \"nqn.\"", s)
	}
	domain, tail, hasTail := strings.Cut(rest[8:], ":")
	if domain == "" {
		return fmt.Errorf("nvme: NQN %q: no domain after the date", s)
	}
	for label := range strings.SplitSeq(domain, ".") {
		if label == "" {
			return fmt.Errorf("nvme: NQN %q: empty label in domain %q", s, domain)
		}
	}
	if hasTail && tail == "" {
		return fmt.Errorf("nvme: NQN %q: nothing after the colon", s)
	}
	if u, ok := strings.CutPrefix(s, uuidNQN); ok {
		if _, err := ParseUUID(u); err != nil {
			return fmt.Errorf("nvme: NQN %q: %w", s, err)
		}
	}
	return nil
}

// checkNQNText checks what holds for every name, of whatever form.
func checkNQNText(s string) error {
	switch {
	case s == "":
		return errors.New("empty")
	case len(s) > MaxNQN:
		return fmt.Errorf("%d bytes, at most %d allowed", len(s), MaxNQN)
	case !utf8.ValidString(s):
		return errors.New("not UTF-8")
	}
	if i := strings.IndexFunc(s, unicode.IsControl); i >= 0 {
		return fmt.Errorf("control character %#02x at byte %d", s[i], i)
	}
	return nil
}

func yearMonth(s string) bool {
	for i, c := range []byte(s) {
		if i == 4 && c != '-' || i != 4 && (c < '0' || c > '9') {
			return false
		}
	}
	return "01" <= s[5:] && s[5:] <= "12"
}

// ParseNQN returns the name in b, an NQN field of [NQNFieldSize] bytes: it
// must end with a NUL, have 1 to [MaxNQN] bytes, be UTF-8 and free of control
// characters. What follows the NUL is not looked at.
func ParseNQN(b []byte) (string, error) {
	if err := exactly("NQN field", b, NQNFieldSize); err != nil {
		return "", err
	}
	n := bytes.IndexByte(b, 0)
	if n < 0 {
		return "", fmt.Errorf("nvme: NQN field: no NUL in %d bytes", len(b))
	}
	s := string(b[:n])
	if err := checkNQNText(s); err != nil {
		return "", fmt.Errorf("nvme: NQN field: %w", err)
	}
	return s, nil
}
