package roce

// A PSN is a packet sequence number: 24 bits, circular. A PSN never holds more
// than 24 bits; whatever makes one masks it.
type PSN uint32

const psnMask = 1<<24 - 1

// Add returns the PSN n packets after p, or before it if n is negative.
func (p PSN) Add(n int) PSN { return (p + PSN(n)) & psnMask }

// Sub returns how far p is after q, in -2²³ … 2²³-1.
func (p PSN) Sub(q PSN) int { return int(int32(p-q)<<8) >> 8 }
