package roce

import (
	"testing"
	"time"
)

func TestSyndromes(t *testing.T) {
	for s := range 256 {
		kind := [...]bool{isAck(uint8(s)), isRNR(uint8(s)), isNAK(uint8(s))}
		want := [...]bool{s <= 0x1f, s >= 0x20 && s <= 0x3f, s >= 0x60 && s <= 0x7f}
		if kind != want {
			t.Errorf("syndrome %#02x: ACK, RNR, NAK are %v, want %v", s, kind, want)
		}
	}
	for _, s := range []uint8{synNAKSequence, synNAKInvalid, synNAKAccess, synNAKOperational, synNAKInvalidRDReq} {
		if !isNAK(s) {
			t.Errorf("syndrome %#02x is no NAK", s)
		}
	}
	if got := ackCredits(synAck); got != noCredits {
		t.Errorf("credits of %#02x: %d, want none", synAck, got)
	}
	for s, want := range map[uint8]int{0: 0, 4: 4, 5: 6, 0x1e: 32768} {
		if got := ackCredits(s); got != want {
			t.Errorf("credits of %#02x: %d, want %d", s, got, want)
		}
	}
}

func TestRNRTimer(t *testing.T) {
	for code, want := range map[uint8]time.Duration{
		0:  655_360 * time.Microsecond,
		1:  10 * time.Microsecond,
		7:  120 * time.Microsecond,
		14: 1280 * time.Microsecond,
		25: 61_440 * time.Microsecond,
		31: 491_520 * time.Microsecond,
	} {
		if got := rnrDelay(code); got != want {
			t.Errorf("rnrDelay(%d): %v, want %v", code, got, want)
		}
		if got := rnrDelay(synRNR(code)); got != want {
			t.Errorf("rnrDelay of syndrome %#02x: %v, want %v", synRNR(code), got, want)
		}
		if got := rnrCode(want); got != code {
			t.Errorf("rnrCode(%v): %d, want %d", want, got, code)
		}
	}
	for code := uint8(2); code < 32; code++ {
		if rnrDelay(code) <= rnrDelay(code-1) {
			t.Errorf("rnrDelay(%d) is %v, not above that of %d", code, rnrDelay(code), code-1)
		}
	}
	for d, want := range map[time.Duration]uint8{0: 1, 11 * time.Microsecond: 2, 500 * time.Millisecond: 0, time.Hour: 0} {
		if got := rnrCode(d); got != want {
			t.Errorf("rnrCode(%v): %d, want %d", d, got, want)
		}
	}
}
