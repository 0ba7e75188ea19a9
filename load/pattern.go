package load

import (
	"fmt"
	"strings"
)

// A Pattern is the order and the direction of I/O, by fio's names.
type Pattern uint8

// Patterns.
const (
	Read      Pattern = iota // one block after the other
	Write                    //
	RandRead                 // blocks by chance
	RandWrite                //
	RandRW                   // both, mixed as [BenchConfig.ReadPercent] says
	numPatterns
)

var patternNames = [numPatterns]string{"read", "write", "randread", "randwrite", "randrw"}

func (p Pattern) String() string {
	if p < numPatterns {
		return patternNames[p]
	}
	return fmt.Sprintf("Pattern(%d)", uint8(p))
}

// ParsePattern returns the pattern of that name.
func ParsePattern(s string) (Pattern, error) {
	for p, name := range patternNames {
		if s == name {
			return Pattern(p), nil
		}
	}
	return 0, fmt.Errorf("load: pattern %q: want one of %s", s, strings.Join(patternNames[:], ", "))
}

func (p Pattern) random() bool { return p >= RandRead }

// readPercent is how many of 100 commands read.
func (p Pattern) readPercent(mixed int) int {
	switch p {
	case Read, RandRead:
		return 100
	case RandRW:
		return mixed
	}
	return 0
}
