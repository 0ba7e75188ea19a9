package rdma

import (
	"fmt"

	"github.com/fabrid/fabrid/verbs"
)

// A memory is bytes that local work requests may name: what a queue receives
// into and sends small things from.
type memory struct {
	buf  []byte
	lkey uint32
	mr   verbs.MR // nil where a local DMA key covers all memory
}

// newMemory allocates n bytes. It may be called from any goroutine.
func newMemory(pd verbs.PD, n int) (memory, error) {
	m := memory{buf: make([]byte, n)}
	if lkey, ok := pd.LocalDMALKey(); ok {
		m.lkey = lkey
		return m, nil
	}
	mr, err := pd.RegMR(m.buf, 0, verbs.AccessLocalWrite)
	if err != nil {
		return memory{}, fmt.Errorf("rdma: register %d bytes: %w", n, err)
	}
	m.mr, m.lkey = mr, mr.LKey()
	return m, nil
}

// registered is the number of regions that the memory has.
func (m *memory) registered() int64 {
	if m.mr != nil {
		return 1
	}
	return 0
}

// free ends the registration. It is not for shards.
func (m *memory) free() error {
	if m.mr == nil {
		return nil
	}
	err := m.mr.Dereg()
	m.mr = nil
	return err
}
