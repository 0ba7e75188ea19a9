package target

import (
	"slices"
	"sort"
	"sync/atomic"

	"github.com/fabrid/fabrid/lockdep"
	"github.com/fabrid/fabrid/nvme"
)

// maxMarks bounds the ranges of marks: looking at them is the shard's time.
const maxMarks = 8192

type marksMu struct{} // innermost

func (marksMu) String() string { return "namespace marks" }

// marks is the blocks of a namespace that Write Uncorrectable has made invalid,
// until they are written. They are kept in memory alone: a target that is started
// again has forgotten them.
type marks struct {
	n atomic.Int32 // of spans: what the I/O path looks at

	mu    lockdep.Mutex[marksMu]
	spans []span // guarded by mu: ascending, with blocks between them
}

// A span is blocks [from, to).
type span struct{ from, to uint64 }

func (m *marks) any() bool { return m.n.Load() != 0 }

// first returns the first of blocks [lba, lba+n) that is marked.
func (m *marks) first(lba, n uint64) (uint64, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := m.after(lba)
	if i == len(m.spans) || m.spans[i].from >= lba+n {
		return 0, false
	}
	return max(lba, m.spans[i].from), true
}

// after returns the index of the first span that ends behind lba. With mu held.
func (m *marks) after(lba uint64) int {
	return sort.Search(len(m.spans), func(i int) bool { return m.spans[i].to > lba })
}

// add marks blocks [lba, lba+n), or returns false if there are too many ranges.
func (m *marks) add(lba, n uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := span{lba, lba + n}
	i := m.after(lba)
	if i > 0 && m.spans[i-1].to == lba {
		i-- // joins the one before
	}
	j := i
	for ; j < len(m.spans) && m.spans[j].from <= s.to; j++ {
		s.from, s.to = min(s.from, m.spans[j].from), max(s.to, m.spans[j].to)
	}
	if i == j && len(m.spans) >= maxMarks {
		return false
	}
	m.spans = slices.Replace(m.spans, i, j, s)
	m.n.Store(int32(len(m.spans)))
	return true
}

// clear unmarks blocks [lba, lba+n). Where that would make too many ranges, the
// shorter half of a range is forgotten: a block that reads as it was before it
// was made invalid does less harm than one that was written and cannot be read.
func (m *marks) clear(lba, n uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	end := lba + n
	i := m.after(lba)
	j := i
	var rest [2]span
	left := rest[:0]
	for ; j < len(m.spans) && m.spans[j].from < end; j++ {
		if s := m.spans[j]; s.from < lba {
			left = append(left, span{s.from, lba})
		}
		if s := m.spans[j]; s.to > end {
			left = append(left, span{end, s.to})
		}
	}
	if j-i < len(left) && len(m.spans) >= maxMarks {
		if a, b := left[0], left[1]; a.to-a.from < b.to-b.from {
			left = left[1:]
		} else {
			left = left[:1]
		}
	}
	m.spans = slices.Replace(m.spans, i, j, left...)
	m.n.Store(int32(len(m.spans)))
}

// writeUncorrectable is Write Uncorrectable. All blocks become invalid at once.
func (rq *request) writeUncorrectable() error {
	if !rq.ns.state.marks.add(rq.r.Command.SLBA(), uint64(rq.r.Command.Blocks())) {
		return nvme.WriteFault.WithDNR()
	}
	return nil
}
